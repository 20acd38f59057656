//! The terminal behind stderr, as bars are drawn on it (ECMA-48 control sequences).
//!
//! Bars fill their lines, so drawing leaves the cursor at the right edge. Here it steps back a little, which makes
//! room for the `^C` that the terminal itself writes when the user interrupts: at the edge that would begin a new line,
//! and what is cleared afterwards would not be what was drawn.

use std::{
    fmt,
    io::{self, Write},
    sync::{Mutex, MutexGuard, PoisonError},
};

use indicatif::TermLike;

/// Columns that the cursor steps back: `^C` and one for the cursor.
const STEP_BACK: usize = 3;

/// Size of a terminal that does not tell: rows, columns.
const DEFAULT_SIZE: (u16, u16) = (24, 80);

/// Writes to stderr what was drawn, in one piece so that nothing flickers.
#[derive(Default)]
pub(crate) struct Terminal {
    waiting: Mutex<Vec<u8>>,
}

impl fmt::Debug for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terminal").finish_non_exhaustive()
    }
}

impl Terminal {
    fn waiting(&self) -> MutexGuard<'_, Vec<u8>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, text: &str) -> io::Result<()> {
        self.waiting().extend_from_slice(text.as_bytes());
        Ok(())
    }

    /// Moves the cursor; `direction` is the final byte of the control sequence.
    fn push_move(&self, count: usize, direction: char) -> io::Result<()> {
        if count == 0 { Ok(()) } else { self.push(&format!("\u{1b}[{count}{direction}")) }
    }
}

/// Columns of the terminal behind stderr.
pub(crate) fn width() -> u16 {
    size().1
}

/// Rows of the terminal behind stderr.
pub(crate) fn height() -> u16 {
    size().0
}

/// Rows and columns.
fn size() -> (u16, u16) {
    match rustix::termios::tcgetwinsize(io::stderr()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row, size.ws_col),
        _ => DEFAULT_SIZE,
    }
}

impl TermLike for Terminal {
    fn width(&self) -> u16 {
        width()
    }

    fn height(&self) -> u16 {
        size().0
    }

    fn move_cursor_up(&self, count: usize) -> io::Result<()> {
        self.push_move(count, 'A')
    }

    fn move_cursor_down(&self, count: usize) -> io::Result<()> {
        self.push_move(count, 'B')
    }

    fn move_cursor_right(&self, count: usize) -> io::Result<()> {
        self.push_move(count, 'C')
    }

    fn move_cursor_left(&self, count: usize) -> io::Result<()> {
        self.push_move(count, 'D')
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.push(text)?;
        self.push("\n")
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.push(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.push("\r\u{1b}[2K")
    }

    fn flush(&self) -> io::Result<()> {
        // At the left edge, where clearing leaves it, the cursor stays.
        self.move_cursor_left(STEP_BACK)?;
        let drawn = std::mem::take(&mut *self.waiting());
        io::stderr().lock().write_all(&drawn)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

    use super::*;

    #[test]
    fn drawing_becomes_control_sequences() {
        let terminal = Terminal::default();
        terminal.move_cursor_up(2).unwrap();
        terminal.move_cursor_up(0).unwrap();
        terminal.clear_line().unwrap();
        terminal.write_line("a").unwrap();
        terminal.write_str("b").unwrap();
        assert_eq!(terminal.waiting().as_slice(), b"\x1b[2A\r\x1b[2Ka\nb");
    }

    #[test]
    fn there_is_always_some_width() {
        assert!(Terminal::default().width() >= 1);
        assert!(Terminal::default().height() >= 1);
    }
}
