//! `dhtfs transfers`, `pause`, `resume`, `abort`, `refresh`: what the daemon fetches, and steering it.

use std::io::{self, IsTerminal};

use dhtfs_node::api::types::{
    EndedTransfer, Event, Transfer, TransferList, TransferOutcome, TransferRequest, TransferState,
    WatchTransfers,
};

use crate::{
    args::{SteerArgs, TransfersArgs},
    connection::Connection,
    context::{Context, check_cid},
    error::{CliError, Result},
    format,
    output::{Output, table},
    terminal,
};

/// Longest name in front of a bar, in characters.
const MAX_NAME_CHARS: usize = 18;

/// Characters of a name in a narrow line, at least.
const MIN_NAME_CHARS: usize = 11;

/// Cells of a bar, where the line has room for them.
const BAR_CELLS: usize = 20;

/// Fewest cells of a bar.
const MIN_BAR_CELLS: usize = 6;

/// Lists transfers: once, or on a terminal as they move on.
pub(crate) async fn run(context: &Context, args: &TransfersArgs) -> Result<()> {
    let daemon = daemon(context).await?;
    let out = &context.out;
    let is_live = !args.once && !out.bars().is_hidden() && io::stdout().is_terminal();
    if is_live {
        return watch(out, &daemon).await;
    }
    let list: TransferList = daemon.get("/v0/transfers").await?;
    if out.is_json() {
        return list.transfers.iter().try_for_each(|transfer| out.json(transfer));
    }
    if list.transfers.is_empty() {
        out.note("nothing is being fetched");
    }
    rows(&list.transfers).iter().try_for_each(|line| out.line(line))
}

/// Shows the list until there is nothing in it; says how each transfer ends.
async fn watch(out: &Output, daemon: &Connection) -> Result<()> {
    let request = WatchTransfers { until_idle: true };
    let mut events = daemon.events::<TransferList, TransferList>("/v0/transfers-events", &request).await?;
    let mut board = None;
    // What ended before this command began is no news.
    let mut told: Option<u64> = None;
    loop {
        let (list, is_last) = match events.next().await? {
            Event::Progress(list) => (list, false),
            Event::Done(list) => (list, true),
            Event::Error(error) => return Err(error.into()),
        };
        let news = |ended: &&EndedTransfer| told.is_some_and(|told| !known(told, &list).contains(&ended.id));
        let fresh: Vec<&EndedTransfer> = match &told {
            None => Vec::new(),
            Some(_) => list.ended.iter().filter(news).collect(),
        };
        for ended in fresh {
            out.note(ending(ended));
        }
        let is_first = told.is_none();
        told = Some(list.ended.last().map_or(u64::MAX, |ended| ended.id));
        if is_last {
            drop(board.take());
            if is_first || list.ended.is_empty() {
                out.note("nothing is being fetched");
            }
            return Ok(());
        }
        let width = usize::from(terminal::width());
        let text = picture(&list.transfers, width, usize::from(terminal::height())).join("\n");
        board.get_or_insert_with(|| out.board()).update(text);
    }
}

/// Numbers of the transfers that had ended up to the one with this number.
fn known(told: u64, list: &TransferList) -> Vec<u64> {
    let up_to = list.ended.iter().position(|ended| ended.id == told);
    let known = up_to.and_then(|last| list.ended.get(..=last)).unwrap_or_default();
    known.iter().map(|ended| ended.id).collect()
}

/// One of `pause`, `resume`, `abort` and `refresh`; prints the CID of each transfer that it is about.
pub(crate) async fn steer(context: &Context, what: &str, done: &str, args: &SteerArgs) -> Result<()> {
    let cid = args.cid.as_deref().map(check_cid).transpose()?;
    let daemon = daemon(context).await?;
    let request = TransferRequest { cid, all: args.all };
    let transfers: Vec<Transfer> = daemon.post(&format!("/v0/{what}"), &request).await?;
    let out = &context.out;
    if out.is_json() {
        return transfers.iter().try_for_each(|transfer| out.json(transfer));
    }
    if transfers.is_empty() {
        out.note(format!("nothing to {what}"));
    }
    for transfer in &transfers {
        out.remark(format!("{done} {}", called(transfer)));
        out.line(&transfer.cid)?;
    }
    Ok(())
}

/// The daemon of the data directory; steering makes no sense without one.
pub(crate) async fn daemon(context: &Context) -> Result<Connection> {
    let dir = context.data_dir.display();
    let none = || CliError::failed(format!("no daemon is running on {dir}; start one with `dhtfs daemon`"));
    context.connect_daemon().await?.ok_or_else(none)
}

fn called(transfer: &Transfer) -> String {
    format::clean(transfer.name.as_deref().unwrap_or(&transfer.cid))
}

/// How a transfer ended, in one line.
fn ending(ended: &EndedTransfer) -> String {
    let name = format::clean(ended.name.as_deref().unwrap_or(&ended.cid));
    match (ended.outcome, &ended.path, &ended.error) {
        (TransferOutcome::Done, Some(path), _) => {
            format!("got {name}: {}", format::clean(&path.display().to_string()))
        }
        (TransferOutcome::Done, None, _) => format!("got {name}"),
        (TransferOutcome::Aborted, ..) => format!("aborted {name}"),
        (TransferOutcome::Failed, _, Some(error)) => format!("{name} failed: {}", format::clean(error)),
        (TransferOutcome::Failed, ..) => format!("{name} failed"),
        (TransferOutcome::Left, ..) => format!("{name} was interrupted"),
        (TransferOutcome::Other, ..) => format!("{name} has ended"),
    }
}

fn state(transfer: &Transfer) -> &'static str {
    match transfer.state {
        TransferState::Queued => "queued",
        TransferState::Finding => "finding",
        TransferState::Checking => "checking",
        TransferState::Fetching if transfer.waiting.is_some() => "waiting",
        TransferState::Fetching => "fetching",
        TransferState::Finishing => "finishing",
        TransferState::Paused => "paused",
        TransferState::Retrying => "retrying",
        TransferState::Failed => "failed",
        TransferState::Ending => "ending",
        TransferState::Other => "-",
    }
}

/// Whole percent; never 100 before everything is there.
fn percent(transfer: &Transfer) -> Option<u64> {
    let (have, total) = (u128::from(transfer.have_len), u128::from(transfer.total_len));
    u64::try_from((have * 100).checked_div(total)?.min(100)).ok()
}

/// Why a transfer does not move on, if there is anything to say.
fn reason(transfer: &Transfer) -> Option<String> {
    let again = transfer.retry_in_secs.map(|secs| format!(" (again in {})", format::seconds(secs)));
    let waiting = transfer.waiting.as_ref().map(|waiting| waiting.line.clone());
    let error = transfer.error.as_ref().map(|error| format!("{error}{}", again.unwrap_or_default()));
    error.or(waiting).map(|text| format::clean(&text))
}

/// A line for each transfer, and one below it that says why it does not move on.
fn rows(transfers: &[Transfer]) -> Vec<String> {
    let row = |transfer: &Transfer| {
        let dash = || "-".to_owned();
        let have = match transfer.total_len {
            0 => dash(),
            total => format!("{} of {}", format::bytes(transfer.have_len), format::bytes(total)),
        };
        let path = transfer.path.as_ref().map(|path| format::clean(&path.display().to_string()));
        vec![
            transfer.cid.clone(),
            state(transfer).to_owned(),
            percent(transfer).map_or_else(dash, |percent| format!("{percent}%")),
            have,
            transfer.speed.map_or_else(dash, format::rate),
            transfer.eta_secs.map_or_else(dash, |secs| format!("ETA {}", format::seconds(secs))),
            format::count(transfer.sources, "peer"),
            path.unwrap_or_else(|| called(transfer)),
        ]
    };
    let lines = table(&transfers.iter().map(row).collect::<Vec<_>>(), &[2, 3, 4]);
    let with_reason = |(line, transfer): (String, &Transfer)| {
        let reason = reason(transfer).map(|reason| format!("  {reason}"));
        std::iter::once(line).chain(reason)
    };
    lines.into_iter().zip(transfers).flat_map(with_reason).collect()
}

/// The same for a terminal of this size: bars, and no line that is longer or further down than it.
fn picture(transfers: &[Transfer], width: usize, height: usize) -> Vec<String> {
    let room = height.saturating_sub(2).max(1);
    let mut lines = Vec::new();
    for (index, transfer) in transfers.iter().enumerate() {
        let reason = reason(transfer).map(|reason| cut(&format!("  {reason}"), width));
        if lines.len() + 1 + usize::from(reason.is_some()) > room && index > 0 {
            let left = u64::try_from(transfers.len() - index).unwrap_or(u64::MAX);
            lines.push(cut(
                &format!("and {}; `dhtfs transfers --once` lists all", format::count(left, "more")),
                width,
            ));
            break;
        }
        lines.push(bar_line(transfer, width));
        lines.extend(reason);
    }
    lines
}

/// Where it is narrow the bar goes first, then the lengths, then the peers; state, speed and time left stay.
fn bar_line(transfer: &Transfer, width: usize) -> String {
    let name_len = MAX_NAME_CHARS.min(width / 3).max(MIN_NAME_CHARS);
    let name = format::shorten(&called(transfer), name_len);
    let percent = percent(transfer);
    let (facts, peers) = match (transfer.state, transfer.speed) {
        (TransferState::Fetching, Some(speed)) if transfer.waiting.is_none() => {
            let left = transfer.eta_secs.map_or_else(|| "-".to_owned(), format::seconds);
            let peers = format!("  {}", format::count(transfer.sources, "peer"));
            (format!("{}  ETA {left}", format::rate(speed)), peers)
        }
        _ => (state(transfer).to_owned(), String::new()),
    };
    let have = match transfer.total_len {
        0 => String::new(),
        total => format!(" {} / {} ", format::bytes(transfer.have_len), format::bytes(total)),
    };
    let shown = percent.map_or_else(|| "  - ".to_owned(), |percent| format!("{percent:>3}%"));
    let full = format!("{shown} {have} {facts}{peers}");
    let used = name_len + full.chars().count() + 2;
    if let Some(cells) = width.checked_sub(used + 1).filter(|cells| *cells >= MIN_BAR_CELLS) {
        let cells = cells.min(BAR_CELLS);
        let done = usize::try_from(percent.unwrap_or(0)).unwrap_or(0) * cells / 100;
        let bar = format!("{}{}", "━".repeat(done), "─".repeat(cells - done));
        return format!("{name:<name_len$} {bar} {full}");
    }
    let forms = [full, format!("{shown}  {facts}{peers}"), format!("{shown}  {facts}")];
    let fits = |form: &&String| name_len + 1 + form.chars().count() <= width;
    let form = forms.iter().find(fits).or(forms.last()).map_or("", String::as_str);
    cut(&format!("{name:<name_len$} {form}"), width)
}

/// At most `width` characters.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use dhtfs_node::api::types::Waiting;

    use super::*;

    fn transfer() -> Transfer {
        Transfer {
            cid: "bafy".to_owned(),
            name: Some("a.mp4\u{1b}".to_owned()),
            path: Some("/films/a.mp4".into()),
            state: TransferState::Fetching,
            total_len: 1 << 30,
            have_len: 1 << 29,
            speed: Some(f64::from(64 << 20)),
            eta_secs: Some(8.0),
            sources: 3,
            ..Transfer::default()
        }
    }

    fn waiting() -> Transfer {
        let waiting = Waiting { line: "no provider found".to_owned(), ..Waiting::default() };
        let state = TransferState::Finding;
        let (name, path, speed, eta_secs) = (None, None, None, None);
        Transfer {
            name,
            path,
            speed,
            eta_secs,
            state,
            total_len: 0,
            have_len: 0,
            sources: 0,
            waiting: Some(waiting),
            ..transfer()
        }
    }

    #[test]
    fn a_transfer_is_a_line_and_what_it_waits_for_stands_below() {
        let lines = rows(&[transfer(), waiting()]);
        let expected = [
            "bafy  fetching  50%  512 MiB of 1.0 GiB  64 MiB/s  ETA 8.0 s  3 peers  /films/a.mp4",
            "bafy  finding     -                   -         -  -          0 peers  bafy",
            "  no provider found",
        ];
        assert_eq!(lines, expected);
        let failed = Transfer {
            state: TransferState::Retrying,
            error: Some("nobody has it".to_owned()),
            retry_in_secs: Some(15.0),
            ..waiting()
        };
        assert_eq!(rows(&[failed])[1], "  nobody has it (again in 15 s)");
    }

    #[test]
    fn the_picture_fits_the_terminal() {
        let many: Vec<Transfer> = (0..50).flat_map(|_| [transfer(), waiting()]).collect();
        for (width, height) in [(80, 24), (200, 50), (40, 5), (10, 1), (0, 0)] {
            let lines = picture(&many, width, height);
            assert!(lines.len() <= height.max(3), "{} lines of {height}", lines.len());
            assert!(lines.iter().all(|line| line.chars().count() <= width.max(1)), "{lines:?}");
        }
        let lines = picture(&[transfer()], 100, 24);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with("a.mp4\\u{1b}"), "{lines:?}");
        assert!(lines[0].contains("━━━") && lines[0].contains(" 50%"), "{lines:?}");
        assert!(lines[0].ends_with("64 MiB/s  ETA 8.0 s  3 peers"), "{lines:?}");
        let narrow = |width| picture(&[transfer()], width, 24).concat();
        assert!(
            narrow(72).ends_with(" 50%  512 MiB / 1.0 GiB  64 MiB/s  ETA 8.0 s  3 peers"),
            "{}",
            narrow(72)
        );
        assert!(narrow(60).ends_with(" 50%  64 MiB/s  ETA 8.0 s  3 peers"), "{}", narrow(60));
        assert_eq!(narrow(38), "a.mp4\\u{1b}   50%  64 MiB/s  ETA 8.0 s");
    }

    #[test]
    fn only_what_ended_since_the_last_look_is_news() {
        let ended = |id| EndedTransfer { id, ..EndedTransfer::default() };
        let list = TransferList { transfers: vec![], ended: vec![ended(4), ended(2), ended(7)] };
        assert_eq!(known(2, &list), [4, 2]);
        assert!(known(9, &list).is_empty(), "it has left the list: all there are news");
    }
}
