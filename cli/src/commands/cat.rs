//! `dhtfs cat`: the content of a file on stdout.

use std::io::IsTerminal;

use dhtfs_node::{
    Role,
    api::types::{ApiError, CatDone, CatProgress, CatRequest, ErrorKind},
};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::{
    args::{CatArgs, LimitArgs},
    connection::{Content, Piece},
    context::{Context, check_cid},
    error::{CliError, Result},
    format,
    output::Output,
    waiting::Reasons,
};

pub(crate) async fn run(context: &Context, args: &CatArgs) -> Result<()> {
    let cid = check_cid(&args.cid)?;
    let hints = args.hints.resolve();
    let request = CatRequest { cid, offset: args.offset, len: args.length, hints };
    let limits = LimitArgs { limit_down: args.limit_down, limit_up: None };
    let node = context.connect_limited(Role::Client, &limits).await?;
    let content = node.content("/v0/cat-frames", &request).await?;
    let is_terminal = std::io::stdout().is_terminal();
    copy(&context.out, content, tokio::io::stdout(), is_terminal).await
}

/// Copies all of `content`, says meanwhile why nothing comes, and fails if it is less than was promised. What came is
/// written also then.
async fn copy(
    out: &Output,
    mut content: Content,
    mut to: impl AsyncWrite + Unpin,
    is_terminal: bool,
) -> Result<()> {
    let mut written: u64 = 0;
    let mut reasons = Reasons::default();
    loop {
        let piece = match content.next().await {
            Ok(piece) => piece,
            Err(error) => {
                // If that fails as well, the first error is the one to tell.
                let _ = to.flush().await;
                return Err(error);
            }
        };
        match piece {
            Piece::Bytes(bytes) => {
                // The terminal may be where these go, too.
                reasons.update(out, None, false);
                to.write_all(&bytes).await.map_err(CliError::Output)?;
                written = written.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
            }
            Piece::Progress(CatProgress { waiting }) => {
                reasons.update(out, waiting.as_ref(), may_draw(written, is_terminal));
            }
            Piece::Done(CatDone { len }) => {
                to.flush().await.map_err(CliError::Output)?;
                if written == len {
                    return Ok(());
                }
                let (written, len) = (format::thousands(written), format::thousands(len));
                let message = format!("the content broke off after {written} of {len} bytes; try again");
                return Err(ApiError::new(ErrorKind::Incomplete, message).into());
            }
        }
    }
}

/// Whether a line may come and go where so many bytes were written: on a terminal it would take with it what it is drawn
/// over, the part of a line that the content ended with.
fn may_draw(written: u64, is_terminal: bool) -> bool {
    written == 0 || !is_terminal
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

    use std::convert::Infallible;

    use axum::{Router, body::Body, routing::post};
    use tokio::io::BufWriter;

    use super::*;
    use crate::connection::Connection;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).unwrap();
        [&[kind], &len.to_be_bytes()[..], payload].concat()
    }

    /// What is printed of these frames, that come in pieces of `step` bytes, and how it ends. What is not flushed is lost.
    async fn printed(frames: &[Vec<u8>], step: usize) -> (String, Result<()>) {
        let body = frames.concat();
        let answer = move || async move {
            let pieces: Vec<_> = body.chunks(step).map(|piece| Ok::<_, Infallible>(piece.to_vec())).collect();
            Body::from_stream(futures::stream::iter(pieces))
        };
        let way = Connection::embedded(Router::new().route("/v0/cat-frames", post(answer)));
        let content = way.content("/v0/cat-frames", &CatRequest::default()).await.unwrap();
        let mut to = Vec::new();
        let ended = copy(&Output::new(false, true), content, BufWriter::new(&mut to), true).await;
        (String::from_utf8(to).unwrap(), ended)
    }

    fn waiting() -> Vec<u8> {
        frame(1, br#"{"event":"progress","data":{}}"#)
    }

    fn done(len: u64) -> Vec<u8> {
        frame(1, format!(r#"{{"event":"done","data":{{"len":{len}}}}}"#).as_bytes())
    }

    #[tokio::test]
    async fn all_of_the_content_is_printed_however_it_comes() {
        let frames = [waiting(), frame(0, b"he"), waiting(), frame(0, b""), frame(0, b"llo"), done(5)];
        for step in [1, 2, 3, 7, 1000] {
            let (text, ended) = printed(&frames, step).await;
            assert_eq!((text.as_str(), ended.is_ok()), ("hello", true), "in steps of {step}");
        }
    }

    #[tokio::test]
    async fn content_that_breaks_off_is_a_failure() {
        let (text, ended) = printed(&[frame(0, b"hello"), done(1024)], 9).await;
        let error = ended.unwrap_err();
        assert_eq!((text.as_str(), error.exit_code()), ("hello", 4));
        assert!(error.line().unwrap().contains("after 5 of 1,024 bytes"), "{error}");
        let cut = frame(0, b"hello")[..7].to_vec();
        for (frames, came) in [(vec![], ""), (vec![frame(0, b"hello")], "hello"), (vec![cut], "he")] {
            let (text, ended) = printed(&frames, 3).await;
            assert_eq!((text.as_str(), ended.unwrap_err().exit_code()), (came, 4), "{frames:?}");
        }
    }

    #[tokio::test]
    async fn a_failure_in_the_middle_says_why_and_nonsense_is_refused() {
        let error =
            frame(1, br#"{"event":"error","data":{"kind":"incomplete","message":"all unreachable"}}"#);
        let (text, ended) = printed(&[frame(0, b"hello"), error], 4).await;
        let error = ended.unwrap_err();
        assert_eq!((text.as_str(), error.exit_code()), ("hello", 4));
        assert_eq!(error.line().as_deref(), Some("all unreachable"));
        let too_long = [&[1], &u32::MAX.to_be_bytes()[..]].concat();
        for frames in [frame(7, b"x"), too_long, frame(1, b"{")] {
            let (_, ended) = printed(&[frames], 4).await;
            assert_eq!(ended.unwrap_err().exit_code(), 1);
        }
    }

    #[test]
    fn nothing_is_drawn_over_content_on_a_terminal() {
        assert!(may_draw(0, true) && may_draw(0, false) && may_draw(5, false));
        assert!(!may_draw(5, true));
    }
}
