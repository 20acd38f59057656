//! `dhtfs verify`: is this path what that CID names?

use dhtfs_node::{
    Role,
    api::types::{HashProgress, Verified, VerifyRequest},
};
use dhtfs_store::Link;

use crate::{
    args::VerifyArgs,
    context::{Context, absolute, check_cid},
    error::{CliError, Result},
    format,
    waiting::Reasons,
};

pub(crate) async fn run(context: &Context, args: &VerifyArgs) -> Result<()> {
    let cid = check_cid(&args.cid).map_err(|error| swapped(args).unwrap_or(error))?;
    let path = absolute(&args.path)?;
    let shown = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let request = VerifyRequest { path, cid, hints: args.hints.resolve() };
    let node = context.connect(Role::Client).await?;
    let events = node.events::<HashProgress, Verified>("/v0/verify", &request).await?;
    let mut bar = context.out.hash_bar("verifying", &shown);
    let mut reasons = Reasons::default();
    let on_progress = |progress: HashProgress| {
        bar.update(&progress);
        reasons.update(&context.out, progress.waiting.as_ref(), true);
    };
    let result = events.finish(on_progress).await;
    drop((reasons, bar));
    context.out.either(&result?, |verified| vec![sentence(verified)])
}

/// The mistake of giving the CID first.
fn swapped(args: &VerifyArgs) -> Option<CliError> {
    args.path.to_str()?.parse::<Link>().ok()?;
    Some(CliError::usage("the path comes first: dhtfs verify PATH CID"))
}

fn sentence(verified: &Verified) -> String {
    let files = match verified.files {
        1 => String::new(),
        files => format!(" in {}", format::count(files, "file")),
    };
    let path = format::clean(&verified.path.display().to_string());
    format!("ok {path}: {}{files}", format::bytes(verified.len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_same_is_ok() {
        let verified = Verified { cid: "bafy".to_owned(), path: "/d/f".into(), len: 1 << 30, files: 1 };
        assert_eq!(sentence(&verified), "ok /d/f: 1.0 GiB");
        assert_eq!(sentence(&Verified { files: 2_000, ..verified }), "ok /d/f: 1.0 GiB in 2,000 files");
    }

    #[test]
    fn a_cid_in_front_of_the_path_is_recognised() {
        let cid = "bafyreigdmqpykrgxyaxtlafqpqhzrb7qy2rh75nldvfd4tucqmqqme5yje";
        let args = |path: &str, cid: &str| VerifyArgs {
            path: path.into(),
            cid: cid.to_owned(),
            hints: crate::args::HintArgs::default(),
        };
        assert!(swapped(&args(cid, "file")).is_some_and(|e| e.exit_code() == 2));
        assert!(swapped(&args("file", "other")).is_none());
    }
}
