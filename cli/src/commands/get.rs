//! `dhtfs get`: fetch a file or directory.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use dhtfs_node::{
    Role,
    api::types::{GetProgress, GetReport, GetRequest, GetStage, Transfer},
};

use super::{cat, seed, transfers};
use crate::{
    args::{CatArgs, GetArgs},
    connection::Connection,
    context::{Context, absolute, check_cid},
    error::{CliError, Result},
    format,
    waiting::WaitLines,
};

/// Where the content is to go.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// Standard output.
    Stdout,
    /// This very path.
    Exactly(PathBuf),
    /// Under its own name into this directory, which exists or is to be made.
    Into { dir: PathBuf, exists: bool },
}

pub(crate) async fn run(context: &Context, args: &GetArgs) -> Result<()> {
    let cid = check_cid(&args.cid)?;
    let target = Target::resolve(args.output.as_deref())?;
    let (out, into) = match &target {
        Target::Stdout if args.detach => {
            return Err(CliError::usage("--detach writes to a file; standard output ends with this command"));
        }
        Target::Stdout => {
            let hints = args.hints.clone();
            let limit_down = args.limits.limit_down;
            let args = CatArgs { cid, offset: 0, length: None, limit_down, hints };
            return context.interrupt.guard(cat::run(context, &args)).await;
        }
        Target::Exactly(path) => (Some(path.clone()), None),
        Target::Into { dir, .. } => (None, Some(dir.clone())),
    };
    let request = GetRequest { cid, out, into, force: args.force, hints: args.hints.resolve() };
    if args.detach {
        if !args.limits.is_none() {
            return Err(CliError::usage(
                "the daemon fetches at its own limits; change them with `dhtfs limits`, or leave out --limit-up and \
                 --limit-down",
            ));
        }
        return hand_over(context, &target, &request).await;
    }
    let role = if args.seed { Role::Server } else { Role::Client };
    let node = context.connect_limited(role, &args.limits).await?;
    if let Some(node) = context.node().filter(|_| args.seed) {
        node.serve_socket()?;
    }
    let made = target.make_dir()?;
    let fetched = fetch(context, &node, &request).await;
    if let (Err(_), Some(made)) = (&fetched, made) {
        // Succeeds only if nothing came into it.
        let _ = fs::remove_dir(made);
    }
    let report = fetched?;
    context.out.note(summary(&report));
    if context.out.is_json() {
        context.out.json(&report)?;
    } else {
        context.out.path(&report.path)?;
    }
    if args.seed {
        seed::stay(context).await;
    }
    Ok(())
}

impl Target {
    fn resolve(output: Option<&OsStr>) -> Result<Self> {
        let Some(output) = output else {
            return Ok(Target::Into { dir: absolute(Path::new("."))?, exists: true });
        };
        if output == "-" {
            return Ok(Target::Stdout);
        }
        let path = absolute(Path::new(output))?;
        let exists = path.is_dir();
        if exists || output.as_bytes().ends_with(b"/") {
            return Ok(Target::Into { dir: path, exists });
        }
        Ok(Target::Exactly(path))
    }

    /// Makes the directory to write into if it is missing; only the last step, since a longer way that is missing
    /// is rather mistyped. Gives back what was made.
    fn make_dir(&self) -> Result<Option<&Path>> {
        let Target::Into { dir, exists: false } = self else { return Ok(None) };
        match fs::create_dir(dir) {
            Ok(()) => Ok(Some(dir)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(None),
            Err(error) => {
                Err(CliError::failed(format!("cannot make the directory {}: {error}", dir.display())))
            }
        }
    }
}

/// Fetches with a bar; an interruption tells what is kept.
async fn fetch(context: &Context, node: &Connection, request: &GetRequest) -> Result<GetReport> {
    let mut last = GetProgress::default();
    let mut bar = context.out.get_bar(&request.cid);
    let mut lines = WaitLines::default();
    let work = async {
        let events = node.events::<GetProgress, GetReport>("/v0/get", request).await?;
        let on_progress = |progress: GetProgress| {
            bar.update(&progress);
            lines.update(&context.out, progress.waiting.as_ref());
            last = progress;
        };
        events.finish(on_progress).await
    };
    let result = tokio::select! {
        biased;
        () = context.interrupt.wait() => None,
        result = work => Some(result),
    };
    drop(bar);
    // Somebody else may have aborted it, which the node says.
    result.unwrap_or_else(|| Err(CliError::interrupted(kept(&last))))
}

/// Hands the fetch over to the daemon; prints where the content will be.
async fn hand_over(context: &Context, target: &Target, request: &GetRequest) -> Result<()> {
    let daemon = transfers::daemon(context).await?;
    if let Target::Exactly(path) = target
        && path.exists()
        && !request.force
    {
        let path = path.display();
        return Err(CliError::failed(format!(
            "{path} exists; take another output, or --force to replace it"
        )));
    }
    target.make_dir()?;
    let handing = daemon.post::<Transfer>("/v0/get-detached", request);
    let transfer = context.interrupt.guard(handing).await?;
    context.out.note("handed over to the daemon; `dhtfs transfers` shows how far it is");
    if context.out.is_json() {
        return context.out.json(&transfer);
    }
    match (&transfer.path, &request.into) {
        (Some(path), _) => context.out.path(path),
        // Its name is not known before its manifest is here.
        (None, Some(dir)) => context.out.path(&dir.join("")),
        (None, None) => Ok(()),
    }
}

/// What an interrupted fetch leaves and how to go on.
fn kept(last: &GetProgress) -> String {
    if last.stage == GetStage::Finding || last.have_len == 0 {
        return "interrupted before anything was fetched".to_owned();
    }
    let (have, total) = (format::bytes(last.have_len), format::bytes(last.total_len));
    format!("interrupted; {have} of {total} are kept, the same command goes on from there")
}

/// The last line of a fetch that went well.
fn summary(report: &GetReport) -> String {
    let name = format::clean(&report.name);
    let files = match report.files {
        0 | 1 => String::new(),
        files => format!(" in {}", format::count(files, "file")),
    };
    let len = format::bytes(report.len);
    let time = format::seconds(report.seconds);
    if report.received_len == 0 {
        return format!("got {name}: {len}{files} in {time}, all of it was here already");
    }
    let speed = format::mean_mib(report.received_len, report.seconds);
    let peers =
        u64::try_from(report.sources.iter().filter(|source| source.chunks > 0).count()).unwrap_or(u64::MAX);
    let reused = match report.reused_len {
        0 => String::new(),
        reused => format!("; {} were here already", format::bytes(reused)),
    };
    format!(
        "got {name}: {len}{files} in {time} ({speed} MiB/s) from {}{}{reused}",
        format::count(peers, "peer"),
        relayed(report),
    )
}

/// How many of the peers are behind a relay, which slows them down.
fn relayed(report: &GetReport) -> String {
    let peers = report.sources.iter().filter(|source| source.chunks > 0);
    let (all, relayed) = (peers.clone().count(), peers.filter(|source| source.relayed).count());
    match relayed {
        0 => String::new(),
        _ if relayed == all => ", relayed".to_owned(),
        _ => format!(", {relayed} of them relayed"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

    use dhtfs_node::api::types::Source;

    use super::*;

    fn report() -> GetReport {
        let source = |chunks| Source { chunks, len: chunks << 20, ..Source::default() };
        GetReport {
            cid: "bafyrei".to_owned(),
            path: "/d/NAME".into(),
            name: "NAME".to_owned(),
            len: 1 << 30,
            files: 1,
            requested_len: 1 << 30,
            received_len: 1 << 30,
            wasted_len: 0,
            reused_len: 0,
            seconds: 2.13,
            sources: vec![source(500), source(300), source(224), source(0)],
            hops: Some(2),
        }
    }

    #[test]
    fn the_last_line_tells_size_time_speed_and_peers() {
        assert_eq!(summary(&report()), "got NAME: 1.0 GiB in 2.1 s (481 MiB/s) from 3 peers");
        let resumed = GetReport { received_len: 1 << 29, reused_len: 1 << 29, files: 2_000, ..report() };
        let text =
            "got NAME: 1.0 GiB in 2,000 files in 2.1 s (240 MiB/s) from 3 peers; 512 MiB were here already";
        assert_eq!(summary(&resumed), text);
        let local = GetReport { received_len: 0, reused_len: 1 << 30, ..report() };
        assert_eq!(summary(&local), "got NAME: 1.0 GiB in 2.1 s, all of it was here already");
    }

    #[test]
    fn an_interruption_tells_what_is_kept() {
        assert_eq!(kept(&GetProgress::default()), "interrupted before anything was fetched");
        let half = GetProgress {
            stage: GetStage::Fetching,
            have_len: 512 << 20,
            total_len: 1 << 30,
            ..GetProgress::default()
        };
        assert_eq!(
            kept(&half),
            "interrupted; 512 MiB of 1.0 GiB are kept, the same command goes on from there"
        );
    }

    #[test]
    fn the_output_is_a_path_a_directory_or_stdout() {
        let dir = tempfile::tempdir().unwrap();
        let resolve = |text: &str| Target::resolve(Some(OsStr::new(text))).unwrap();
        let at = |name: &str| dir.path().join(name);
        assert_eq!(resolve("-"), Target::Stdout);
        assert_eq!(
            resolve(dir.path().to_str().unwrap()),
            Target::Into { dir: dir.path().to_owned(), exists: true }
        );
        assert_eq!(resolve(at("f").to_str().unwrap()), Target::Exactly(at("f")));
        let new = resolve(&format!("{}/", at("new").to_str().unwrap()));
        let Target::Into { dir: made, exists: false } = &new else { panic!("{new:?}") };
        assert_eq!(made, &at("new"));
        assert_eq!(new.make_dir().unwrap(), Some(at("new").as_path()));
        assert_eq!(new.make_dir().unwrap(), None);
        let far = resolve(&format!("{}/", at("no/where").to_str().unwrap()));
        assert_eq!(far.make_dir().unwrap_err().exit_code(), 1);
        let here = std::env::current_dir().unwrap();
        assert_eq!(Target::resolve(None).unwrap(), Target::Into { dir: here, exists: true });
    }
}
