//! Tests of the bars, on a terminal that only remembers what was written last.
#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use std::{
    io,
    sync::{Arc, Mutex},
};

use indicatif::{MultiProgress, ProgressDrawTarget, TermLike};

use super::*;

/// Remembers everything that was written since the last look.
#[derive(Debug, Clone, Default)]
struct Terminal(Arc<Mutex<String>>);

impl Terminal {
    fn take(&self) -> String {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl TermLike for Terminal {
    fn width(&self) -> u16 {
        100
    }
    fn move_cursor_up(&self, _n: usize) -> io::Result<()> {
        Ok(())
    }
    fn move_cursor_down(&self, _n: usize) -> io::Result<()> {
        Ok(())
    }
    fn move_cursor_right(&self, _n: usize) -> io::Result<()> {
        Ok(())
    }
    fn move_cursor_left(&self, _n: usize) -> io::Result<()> {
        Ok(())
    }
    fn write_line(&self, text: &str) -> io::Result<()> {
        self.write_str(text)
    }
    fn write_str(&self, text: &str) -> io::Result<()> {
        self.0.lock().unwrap().push_str(text);
        Ok(())
    }
    fn clear_line(&self) -> io::Result<()> {
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

fn get_bar(name: &str) -> (GetBar, Terminal) {
    let terminal = Terminal::default();
    let target = ProgressDrawTarget::term_like_with_hz(Box::new(terminal.clone()), 255);
    let bars = MultiProgress::with_draw_target(target);
    let bar = bars.add(ProgressBar::no_length().with_style(style(SPINNER)));
    (GetBar::new(bars, bar, "", name), terminal)
}

fn source(state: &str) -> Source {
    Source { state: state.to_owned(), ..Source::default() }
}

fn progress(stage: GetStage, have_len: u64) -> GetProgress {
    GetProgress {
        stage,
        name: Some("holiday.mp4".to_owned()),
        total_len: 1 << 30,
        have_len,
        sources: vec![source("connected"), source("connected"), source("backoff")],
        ..GetProgress::default()
    }
}

#[test]
fn every_template_is_valid() {
    for template in [SPINNER, BAR, COUNTER, REASON] {
        assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
    }
}

#[test]
fn a_fetch_shows_what_it_does_with_all_its_figures() {
    let (mut bar, terminal) = get_bar("bafyrei");
    bar.update(&GetProgress::default());
    bar.bar.tick();
    assert!(terminal.take().contains("finding providers of bafyrei"));
    bar.update(&progress(GetStage::Fetching, 512 << 20));
    bar.bar.tick();
    let shown = terminal.take();
    for part in ["holiday.mp4", "━", "512 MiB / 1.0 GiB", "ETA ", "2 peers"] {
        assert!(shown.contains(part), "{part:?} in {shown:?}");
    }
    bar.update(&progress(GetStage::Finishing, 1 << 30));
    bar.bar.tick();
    assert!(terminal.take().contains("saving holiday.mp4"));
}

#[test]
fn finding_tells_how_far_it_is() {
    let (bar, _terminal) = get_bar("x");
    assert_eq!(bar.finding(&[]), "finding providers of x");
    assert_eq!(bar.finding(&[source("dialling")]), "found 1 provider of x, connecting");
    assert_eq!(bar.finding(&[source("connected")]), "reading the manifest of x from 1 peer");
}

#[test]
fn a_reason_is_folded_where_the_terminal_is_narrow() {
    let reason =
        "1 provider: unreachable (again in 2 s); none of 200 chunks has a live provider; next lookup in 8 s";
    assert_eq!(folded(reason, 120), format!("  {reason}"));
    let rows = "  1 provider: unreachable (again in 2 s);\n  none of 200 chunks has a live provider; next lookup in 8 s";
    assert_eq!(folded(reason, 80), rows);
    assert!(folded(reason, 80).lines().all(|line| line.len() < 80));
    assert_eq!(folded(reason, 1).lines().count(), 3);
}

#[test]
fn a_fetch_that_waits_says_why_under_its_bar_until_something_comes() {
    let (mut bar, terminal) = get_bar("bafyrei");
    let waiting = Waiting { line: "2 providers: all busy".to_owned(), ..Waiting::default() };
    bar.update(&GetProgress { waiting: Some(waiting), ..progress(GetStage::Fetching, 512 << 20) });
    let text = terminal.take();
    assert!(text.contains("512 MiB / 1.0 GiB") && text.contains("  2 providers: all busy"), "{text:?}");
    bar.update(&progress(GetStage::Fetching, 513 << 20));
    terminal.take();
    bar.update(&progress(GetStage::Fetching, 514 << 20));
    bar.bar.tick();
    let text = terminal.take();
    assert!(text.contains("514 MiB") && !text.contains("busy"), "{text:?}");
}
