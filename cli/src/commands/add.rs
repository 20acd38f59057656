//! `dhtfs add`: share files, directories or standard input.

use std::path::{Path, PathBuf};

use clap::ValueEnum as _;
use dhtfs_node::{
    Role,
    api::types::{AddRequest, Added, AnnounceScope, Findable, HashProgress},
};
use dhtfs_store::{ContentCid, Link};
use serde::Serialize;

use super::{findable, seed};
use crate::{
    args::{AddArgs, Announce, LimitArgs},
    connection::{Connection, Events, read_stream},
    context::{Context, absolute},
    error::{CliError, Result},
    format,
};

/// Standard input is read and sent on in buffers of this many bytes.
const STDIN_BUFFER_LEN: usize = 64 * 1024;

/// Most addresses in a link. One host rarely has more that lead anywhere, and a link is to be pasted.
const MAX_LINK_ADDRS: usize = 8;

/// What is to be done after an `add` without a daemon.
const NOBODY_SERVES: &str = "nobody can fetch it until `dhtfs daemon` runs on this machine";

/// What one argument names.
#[derive(Debug, PartialEq, Eq)]
enum Input {
    Stdin,
    Path(PathBuf),
}

/// What is printed for one argument under `--json`.
#[derive(Debug, Serialize)]
struct Printed<'a> {
    #[serde(flatten)]
    added: &'a Added,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    findable: Option<&'a Findable>,
}

pub(crate) async fn run(context: &Context, args: &AddArgs) -> Result<()> {
    let inputs = inputs(args)?;
    let role = if args.seed || args.wait { Role::Server } else { Role::Offline };
    let limits = LimitArgs { limit_down: None, limit_up: args.limit_up };
    let node = context.connect_limited(role, &limits).await?;
    if let Some(node) = context.node().filter(|_| role == Role::Server) {
        node.serve_socket()?;
    }
    // A JSON object has everything in it, also what is only known after waiting.
    let prints_later = args.wait && context.out.is_json();
    let mut failed = None;
    let mut shares = Vec::new();
    for input in inputs {
        match context.interrupt.guard(add(context, &node, args, &input)).await {
            Ok(added) => {
                if !prints_later {
                    print(context, args, &added, None)?;
                }
                shares.push(added);
            }
            Err(error) if args.paths.len() == 1 || error.is_interrupted() => {
                let mut unprinted = shares.iter().filter(|_| prints_later);
                unprinted.try_for_each(|added| print(context, args, added, None))?;
                return Err(error);
            }
            Err(error) => {
                context.out.error(&error);
                failed = first(failed, &error);
            }
        }
    }
    let waited = if args.wait { wait(context, &node, args, &shares).await? } else { Vec::new() };
    for error in waited {
        if error.is_interrupted() {
            return Err(error);
        }
        context.out.error(&error);
        failed = first(failed, &error);
    }
    if !shares.is_empty() && args.seed {
        seed::stay(context).await;
    } else if !shares.is_empty() && !args.wait && !node.is_daemon() {
        context.out.note(NOBODY_SERVES);
    }
    failed.map_or(Ok(()), Err)
}

/// The exit code is that of the first failure.
fn first(failed: Option<CliError>, error: &CliError) -> Option<CliError> {
    failed.or_else(|| Some(CliError::Reported(error.exit_code())))
}

/// Waits until all of them are findable; what is printed for each then, and what failed, in order.
async fn wait(
    context: &Context,
    node: &Connection,
    args: &AddArgs,
    shares: &[Added],
) -> Result<Vec<CliError>> {
    let (mut missing, mut ended) = (Vec::new(), None);
    let wait = findable::Wait::new(args.timeout, shares.len());
    for added in shares {
        let mut found = None;
        if ended.is_none() {
            match context.interrupt.guard(wait.share(context, node, added)).await {
                Ok(answer) => found = Some(answer),
                Err(error) => ended = Some(error),
            }
        }
        if context.out.is_json() {
            print(context, args, added, found.as_ref())?;
        }
        let Some(found) = found else { continue };
        if found.findable {
            let mut line = wait.line(added, &found);
            if !node.is_daemon() && !args.seed {
                line = format!("{line}; {NOBODY_SERVES}");
            }
            context.out.note(line);
            continue;
        }
        missing.push(wait.error(added, &found, node.is_daemon() || args.seed));
    }
    missing.extend(ended);
    Ok(missing)
}

/// Checks the arguments against each other.
fn inputs(args: &AddArgs) -> Result<Vec<Input>> {
    if args.name.is_some() && args.paths.len() > 1 {
        return Err(CliError::usage("--name names one thing; add the paths one by one"));
    }
    if args.wait && args.announce == Some(Announce::None) {
        return Err(CliError::usage(
            "--announce none lets nobody find it, so there is nothing to --wait for",
        ));
    }
    let is_stdin = |path: &PathBuf| path == Path::new("-");
    if args.paths.iter().filter(|path| is_stdin(path)).count() > 1 {
        return Err(CliError::usage("standard input (-) can be read only once; a file of that name is ./-"));
    }
    let resolve =
        |path: &PathBuf| if is_stdin(path) { Ok(Input::Stdin) } else { absolute(path).map(Input::Path) };
    args.paths.iter().map(resolve).collect()
}

async fn add(context: &Context, node: &Connection, args: &AddArgs, input: &Input) -> Result<Added> {
    let (name, announce) = (args.name.clone(), args.announce.map(AnnounceScope::from));
    let (events, shown): (Events<HashProgress, Added>, String) = match input {
        Input::Stdin => {
            let content = read_stream(tokio::io::stdin(), STDIN_BUFFER_LEN);
            let path = format!("/v0/add-stream{}", query(name.as_deref(), args.announce));
            let events = node.upload(&path, content).await?;
            (events, name.unwrap_or_else(|| "stdin".to_owned()))
        }
        Input::Path(path) => {
            let shown = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let request = AddRequest { path: path.clone(), copy: args.copy, name, announce };
            (node.events("/v0/add", &request).await?, shown)
        }
    };
    let mut bar = context.out.hash_bar("reading", &shown);
    let on_progress = |progress: HashProgress| {
        // What came so far is no total: nobody knows how much standard input will bring.
        let total_len = if *input == Input::Stdin { None } else { progress.total_len };
        bar.update(&HashProgress { total_len, ..progress });
    };
    events.finish(on_progress).await
}

/// The query of an upload.
fn query(name: Option<&str>, announce: Option<Announce>) -> String {
    let name = name.map(|name| format!("name={}", percent_encode(name)));
    let scope = announce.and_then(|announce| announce.to_possible_value());
    let announce = scope.map(|scope| format!("announce={}", scope.get_name()));
    let parts: Vec<String> = name.into_iter().chain(announce).collect();
    if parts.is_empty() { String::new() } else { format!("?{}", parts.join("&")) }
}

fn print(context: &Context, args: &AddArgs, added: &Added, findable: Option<&Findable>) -> Result<()> {
    let out = &context.out;
    let link = if args.link { Some(link(added)?) } else { None };
    if out.is_json() {
        out.json(&Printed { added, link, findable })?;
    } else {
        out.line(line(added, link, args.paths.len()))?;
    }
    if let Some(warning) = skipped(added) {
        out.warn(warning);
    }
    Ok(())
}

/// One path prints what it is asked for alone; several print the name as well, which a link has in itself.
fn line(added: &Added, link: Option<String>, paths: usize) -> String {
    match link {
        Some(link) => link,
        None if paths == 1 => added.cid.clone(),
        None => format!("{} {}", added.cid, format::clean(&added.name)),
    }
}

fn link(added: &Added) -> Result<String> {
    let cid: ContentCid = added.cid.parse().map_err(|error| {
        CliError::failed(format!("the node gave \"{}\" as a CID ({error})", format::clean(&added.cid)))
    })?;
    let peers = added.addrs.iter().take(MAX_LINK_ADDRS).cloned().collect();
    Ok(Link { cid, name: Some(added.name.clone()), peers }.to_string())
}

fn skipped(added: &Added) -> Option<String> {
    let first = added.first_skipped.as_ref()?;
    let entries = if added.skipped == 1 { "1 entry that is" } else { "entries that are" };
    let number =
        if added.skipped == 1 { String::new() } else { format!("{} ", format::thousands(added.skipped)) };
    let first = format::clean(&first.display().to_string());
    Some(format!(
        "left out {number}{entries} neither file nor directory (a symbolic link, a socket..): {first}"
    ))
}

/// `text` as the value of a query (RFC 3986): every byte but letters, digits and `-._~` escaped.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

    use super::*;

    use dhtfs_node::api::types::ErrorKind;

    const CID: &str = "bafyreigdmqpykrgxyaxtlafqpqhzrb7qy2rh75nldvfd4tucqmqqme5yje";

    fn added() -> Added {
        Added {
            cid: CID.to_owned(),
            name: "a b".to_owned(),
            len: 3,
            files: 1,
            chunks: 1,
            directory: false,
            skipped: 0,
            first_skipped: None,
            seconds: 0.1,
            addrs: vec![
                "/ip4/10.0.0.1/tcp/4343/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN".to_owned(),
            ],
        }
    }

    fn args(paths: &[&str], name: Option<&str>) -> AddArgs {
        let paths = paths.iter().map(PathBuf::from).collect();
        AddArgs {
            paths,
            copy: false,
            name: name.map(str::to_owned),
            link: false,
            seed: false,
            limit_up: None,
            announce: None,
            wait: false,
            timeout: None,
        }
    }

    #[test]
    fn one_path_prints_the_cid_alone_and_several_the_names_too() {
        assert_eq!(line(&added(), None, 1), CID);
        assert_eq!(line(&added(), None, 2), format!("{CID} a b"));
        assert_eq!(line(&added(), Some("dhtfs:x".to_owned()), 2), "dhtfs:x");
    }

    #[test]
    fn the_exit_code_is_that_of_the_first_failure() {
        let [incomplete, store] = [ErrorKind::Incomplete, ErrorKind::Store]
            .map(|kind| CliError::from(dhtfs_node::api::types::ApiError::new(kind, "x")));
        let failed = first(first(None, &incomplete), &store);
        assert_eq!(failed.map(|error| error.exit_code()), Some(4));
        let failed = first(first(None, &store), &CliError::failed("y"));
        assert_eq!(failed.map(|error| error.exit_code()), Some(5));
    }

    #[test]
    fn a_link_carries_the_name_and_the_addresses_and_reads_back() {
        let text = link(&added()).unwrap();
        assert!(text.starts_with(&format!("dhtfs:{CID}?name=")), "{text}");
        let read: Link = text.parse().unwrap();
        assert_eq!((read.cid.to_string(), read.name.as_deref()), (CID.to_owned(), Some("a b")));
        assert_eq!(read.peers, added().addrs);
    }

    #[test]
    fn a_link_has_only_so_many_addresses() {
        let many = Added { addrs: vec!["/ip4/10.0.0.1/tcp/1".to_owned(); 100], ..added() };
        assert_eq!(link(&many).unwrap().parse::<Link>().unwrap().peers.len(), MAX_LINK_ADDRS);
    }

    #[test]
    fn json_has_a_link_only_if_it_was_asked_for() {
        let plain = serde_json::to_value(Printed { added: &added(), link: None, findable: None }).unwrap();
        assert_eq!(plain["cid"], CID);
        assert!(plain.get("link").is_none());
        let linked = serde_json::to_value(Printed {
            added: &added(),
            link: Some("dhtfs:x".to_owned()),
            findable: None,
        })
        .unwrap();
        assert_eq!((linked["link"].as_str(), linked["len"].as_u64()), (Some("dhtfs:x"), Some(3)));
    }

    #[test]
    fn what_was_left_out_is_told_with_the_first_of_it() {
        assert_eq!(skipped(&added()), None);
        let one = Added { skipped: 1, first_skipped: Some("/d/link".into()), ..added() };
        assert!(
            skipped(&one).unwrap().starts_with("left out 1 entry that is neither"),
            "{:?}",
            skipped(&one)
        );
        let many = Added { skipped: 2_000, first_skipped: Some("/d/link".into()), ..added() };
        let text = skipped(&many).unwrap();
        assert!(text.starts_with("left out 2,000 entries") && text.ends_with(": /d/link"), "{text}");
    }

    #[test]
    fn a_dash_is_standard_input_and_only_once() {
        assert_eq!(inputs(&args(&["-"], None)).unwrap(), [Input::Stdin]);
        let here = std::env::current_dir().unwrap();
        assert_eq!(inputs(&args(&["./-"], None)).unwrap(), [Input::Path(here.join("-"))]);
        assert_eq!(inputs(&args(&["-", "-"], None)).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn a_name_for_several_paths_is_a_usage_mistake() {
        assert!(inputs(&args(&["a"], Some("n"))).is_ok());
        assert_eq!(inputs(&args(&["a", "b"], Some("n"))).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn waiting_for_what_is_not_announced_is_a_usage_mistake() {
        let waiting = AddArgs { wait: true, ..args(&["a"], None) };
        assert!(inputs(&waiting).is_ok());
        let none = AddArgs { announce: Some(Announce::None), ..waiting };
        assert_eq!(inputs(&none).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn an_upload_carries_its_name_and_what_is_announced() {
        assert_eq!(query(None, None), "");
        assert_eq!(query(Some("a b"), None), "?name=a%20b");
        assert_eq!(query(Some("a"), Some(Announce::Roots)), "?name=a&announce=roots");
        assert_eq!(query(None, Some(Announce::None)), "?announce=none");
    }

    #[test]
    fn a_name_travels_escaped() {
        assert_eq!(percent_encode("a b&c=é/~.txt"), "a%20b%26c%3D%C3%A9%2F~.txt");
    }
}
