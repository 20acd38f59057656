//! `dhtfs ls`: the shares of this node, or what a CID contains.

use dhtfs_node::{
    Role,
    api::types::{FileInfo, LsProgress, LsReport, LsRequest, ShareInfo},
};

use crate::{
    args::LsArgs,
    context::{Context, check_cid},
    error::Result,
    format,
    output::table,
    waiting::Reasons,
};

pub(crate) async fn run(context: &Context, args: &LsArgs) -> Result<()> {
    let cid = args.cid.as_deref().map(check_cid).transpose()?;
    let role = if cid.is_some() { Role::Client } else { Role::Offline };
    let request = LsRequest { cid, chunks: args.chunks, hints: args.hints.resolve() };
    let node = context.connect(role).await?;
    let out = &context.out;
    let report: LsReport = if request.cid.is_some() {
        let mut reasons = Reasons::default();
        let events = node.long_events::<LsProgress, _>("/v0/ls-events", &request).await?;
        events.finish(|progress| reasons.update(out, progress.waiting.as_ref(), true)).await?
    } else {
        node.post("/v0/ls", &request).await?
    };
    match &report {
        LsReport::Shares { shares } if out.is_json() => shares.iter().try_for_each(|share| out.json(share)),
        LsReport::Shares { shares } => {
            if shares.is_empty() {
                out.note("nothing is shared yet; share something with `dhtfs add FILE`");
            }
            shares_table(shares).iter().try_for_each(|line| out.line(line))
        }
        LsReport::Manifest { .. } if out.is_json() => out.json(&report),
        LsReport::Manifest { name, len, files, directories, .. } => {
            let number = u64::try_from(files.len()).unwrap_or(u64::MAX);
            let (name, len) = (format::clean(name), format::bytes(*len));
            out.remark(format!("{name}: {len} in {}", format::count(number, "file")));
            listing(files, directories).iter().try_for_each(|line| out.line(line))
        }
    }
}

fn shares_table(shares: &[ShareInfo]) -> Vec<String> {
    let row = |share: &ShareInfo| {
        let len = match share.have_len {
            have if have == share.len => format::bytes(share.len),
            have => format!("{} of {}", format::bytes(have), format::bytes(share.len)),
        };
        let slash = if share.directory { "/" } else { "" };
        let name = format!("{}{slash}", format::clean(&share.name));
        let path = format::clean(&share.path.display().to_string());
        vec![share.cid.clone(), share.state.clone(), len, name, path]
    };
    table(&shares.iter().map(row).collect::<Vec<_>>(), &[2])
}

/// Directories with a final slash, then files, each with its CID; the chunks of a file indented below it.
fn listing(files: &[FileInfo], directories: &[String]) -> Vec<String> {
    let mut rows: Vec<Vec<String>> = Vec::with_capacity(directories.len() + files.len());
    for directory in directories {
        rows.push(vec!["-".to_owned(), String::new(), format!("{}/", format::clean(directory))]);
    }
    for file in files {
        let mark = if file.executable { "*" } else { "" };
        rows.push(vec![
            file.cid.clone(),
            format::bytes(file.len),
            format!("{}{mark}", format::clean(&file.path)),
        ]);
    }
    let mut lines = table(&rows, &[1]).into_iter();
    let mut listed: Vec<String> = lines.by_ref().take(directories.len()).collect();
    for (line, file) in lines.zip(files) {
        listed.push(line);
        listed.extend(file.chunks.iter().map(|chunk| format!("  {chunk}")));
    }
    listed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, executable: bool, chunks: &[&str]) -> FileInfo {
        let chunks = chunks.iter().map(|&chunk| chunk.to_owned()).collect();
        FileInfo { path: path.to_owned(), cid: format!("cid-of-{path}"), len: 2048, executable, chunks }
    }

    #[test]
    fn a_directory_lists_its_directories_files_and_chunks() {
        let files = [file("a", true, &["c1", "c2"]), file("sub/b\u{1b}", false, &[])];
        let lines = listing(&files, &["sub".to_owned()]);
        let expected = [
            "-                       sub/",
            "cid-of-a       2.0 KiB  a*",
            "  c1",
            "  c2",
            "cid-of-sub/b\u{1b}  2.0 KiB  sub/b\\u{1b}",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn shares_tell_their_state_and_how_much_is_here() {
        let share = |state: &str, have_len, directory| ShareInfo {
            cid: "bafy".to_owned(),
            name: "n".to_owned(),
            len: 1 << 30,
            have_len,
            files: 1,
            directory,
            added_unix: 0,
            path: "/p/n".into(),
            state: state.to_owned(),
        };
        let lines = shares_table(&[share("complete", 1 << 30, true), share("partial", 1 << 29, false)]);
        assert_eq!(lines[0], "bafy  complete             1.0 GiB  n/  /p/n");
        assert_eq!(lines[1], "bafy  partial   512 MiB of 1.0 GiB  n   /p/n");
    }
}
