//! `dhtfs cat`: the content of a file on stdout.

use dhtfs_node::{
    Role,
    api::types::{ApiError, CatRequest, ErrorKind},
};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::{
    args::CatArgs,
    connection::Content,
    context::{Context, check_cid},
    error::{CliError, Result},
    format,
};

pub(crate) async fn run(context: &Context, args: &CatArgs) -> Result<()> {
    let cid = check_cid(&args.cid)?;
    let hints = args.hints.resolve();
    let request = CatRequest { cid, offset: args.offset, len: args.length, hints };
    let node = context.connect(Role::Client).await?;
    let content = node.content("/v0/cat", &request).await?;
    copy(content, tokio::io::stdout()).await
}

/// Copies all of `content`, and fails if it is less than was promised.
async fn copy(mut content: Content, mut out: impl AsyncWrite + Unpin) -> Result<()> {
    let mut written: u64 = 0;
    while let Some(bytes) = content.next().await? {
        out.write_all(&bytes).await.map_err(CliError::Output)?;
        written = written.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    }
    out.flush().await.map_err(CliError::Output)?;
    if written != content.len {
        let (written, len) = (format::thousands(written), format::thousands(content.len));
        let message = format!("the content broke off after {written} of {len} bytes; try again");
        return Err(ApiError::new(ErrorKind::Incomplete, message).into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

    use axum::{Router, routing::post};

    use super::*;
    use crate::connection::Connection;

    async fn content(len: &'static str, body: &'static str) -> Content {
        let answer = move || async move { ([("x-dhtfs-len", len)], body) };
        let way = Connection::embedded(Router::new().route("/v0/cat", post(answer)));
        way.content("/v0/cat", &CatRequest::default()).await.unwrap()
    }

    #[tokio::test]
    async fn all_of_the_content_is_printed() {
        let mut out = Vec::new();
        copy(content("5", "hello").await, &mut out).await.unwrap();
        assert_eq!(out, b"hello");
    }

    #[tokio::test]
    async fn content_that_breaks_off_is_a_failure() {
        let error = copy(content("1024", "hello").await, &mut Vec::new()).await.unwrap_err();
        assert_eq!(error.exit_code(), 4);
        assert!(error.line().unwrap().contains("after 5 of 1,024 bytes"), "{error}");
    }
}
