//! The trace of a run: everything that happened on the network, as one hash, and as lines for whoever asks.

use std::{fmt, time::Duration};

use sha2::{Digest as _, Sha256};

use super::HostId;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum TraceKind {
    /// A host sends the first packet of a connection; `len` is the port that it wants.
    Connect = 1,
    /// The dialler's side of a connection is up.
    Connected = 2,
    /// The listener's side of a connection is up.
    Accept = 3,
    /// A dial was refused.
    Refuse = 4,
    /// A dial got no answer in time.
    TimedOut = 5,
    /// Bytes were written.
    Data = 6,
    /// An end of stream was sent.
    Close = 7,
    /// A connection was reset.
    Reset = 8,
    /// A connection failed because nothing came back.
    Lost = 9,
    /// The scenario told something.
    Note = 10,
}

/// One line of a trace.
#[derive(Debug, Clone, Copy)]
pub struct TraceEvent<'a> {
    /// Since the network began.
    pub at: Duration,
    /// What happened.
    pub kind: TraceKind,
    /// At which host; `None` in a note.
    pub from: Option<HostId>,
    /// Towards which host, where that is known.
    pub to: Option<HostId>,
    /// Bytes, or what the kind says.
    pub len: usize,
    /// First bytes of the SHA-256 of the data, to tell segments apart.
    pub digest: [u8; 4],
    /// Words of a note.
    pub text: &'a str,
}

impl fmt::Display for TraceEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.at.as_micros(), self.kind)?;
        for host in [self.from, self.to] {
            match host {
                Some(host) => write!(f, " {}", host.index())?,
                None => write!(f, " -")?,
            }
        }
        write!(f, " {} {:08x}", self.len, u32::from_be_bytes(self.digest))?;
        if !self.text.is_empty() {
            write!(f, " {}", self.text)?;
        }
        Ok(())
    }
}

/// Where the lines of a trace go.
pub type TraceSink = Box<dyn FnMut(&TraceEvent<'_>) + Send>;

/// Hash and sink of a run.
#[derive(Default)]
pub(super) struct Trace {
    hash: Sha256,
    pub(super) sink: Option<TraceSink>,
}

impl Trace {
    /// Adds an event. `data` is all that was written, or a note's words.
    pub(super) fn add(
        &mut self,
        at: u64,
        kind: TraceKind,
        from: Option<HostId>,
        to: Option<HostId>,
        data: &[u8],
    ) {
        self.add_len(at, kind, from, to, data.len(), data);
    }

    /// As [`Trace::add`], with a number of its own.
    pub(super) fn add_len(
        &mut self,
        at: u64,
        kind: TraceKind,
        from: Option<HostId>,
        to: Option<HostId>,
        len: usize,
        data: &[u8],
    ) {
        let number =
            |host: Option<HostId>| host.and_then(|host| u32::try_from(host.index()).ok()).unwrap_or(u32::MAX);
        let mut head = [0_u8; 25];
        head[..8].copy_from_slice(&at.to_le_bytes());
        head[8] = kind as u8;
        head[9..13].copy_from_slice(&number(from).to_le_bytes());
        head[13..17].copy_from_slice(&number(to).to_le_bytes());
        head[17..].copy_from_slice(&(len as u64).to_le_bytes());
        self.hash.update(head);
        self.hash.update(data);
        if let Some(sink) = &mut self.sink {
            let full = Sha256::digest(data);
            let is_note = kind == TraceKind::Note;
            sink(&TraceEvent {
                at: Duration::from_micros(at),
                kind,
                from,
                to,
                len,
                digest: [full[0], full[1], full[2], full[3]],
                text: if is_note { std::str::from_utf8(data).unwrap_or_default() } else { "" },
            });
        }
    }

    /// The hash over all events so far, 32 hexadecimal digits.
    pub(super) fn hash(&self) -> String {
        let full = self.hash.clone().finalize();
        full[..16].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
