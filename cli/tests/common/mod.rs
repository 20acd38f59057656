//! What the tests of the whole program share: real processes on real files, loopback only.
#![allow(dead_code, unused_imports, unused_macros, reason = "every test binary uses its own part of this")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::disallowed_methods, reason = "other processes are watched from outside, on the real clock")]

mod daemon;
mod files;
mod process;

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use dhtfs_node::api::types::{FileInfo, LsReport};
use serde::de::DeserializeOwned;

pub(crate) use daemon::{Daemon, announced, embedded_get};
pub(crate) use files::{
    CHUNK_LEN, Entry, allocated_len, chunk_cid, data_len, equal_chunks_len, noise, range_of, sha256,
    sha256_file, tree, write_noise,
};
pub(crate) use process::{Output, Process, dhtfs, run, run_in};

/// Length of one MiB in bytes.
pub(crate) const MIB: u64 = 1 << 20;

/// Longest time anything but a bulk transfer may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Longest time a command may take, transfers of some GiB on a busy machine included.
pub(crate) const LONG: Duration = Duration::from_secs(180);

/// Command-line arguments of any mixture of text and paths.
macro_rules! args {
    ($($arg:expr),* $(,)?) => {
        vec![$(std::ffi::OsString::from(AsRef::<std::ffi::OsStr>::as_ref(&$arg))),*]
    };
}
pub(crate) use args;

/// A directory for one test; it goes away with the test.
pub(crate) struct Scratch(tempfile::TempDir);

impl Scratch {
    pub(crate) fn new() -> Self {
        Self(tempfile::Builder::new().prefix("dhtfs-test-").tempdir().unwrap())
    }

    /// A path in it.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    /// A new file in it.
    pub(crate) fn file(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// A new directory in it.
    pub(crate) fn dir(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        path
    }
}

/// Asks again and again until there is an answer; panics if there is none within `limit`.
pub(crate) fn wait_until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = condition() {
            return answer;
        }
        assert!(begun.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Names of what is in a directory, sorted.
pub(crate) fn names_in(dir: &Path) -> Vec<OsString> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

/// The files of a manifest with their chunk CIDs, as `ls CID --chunks --json` lists them.
pub(crate) fn chunks_of(data_dir: &Path, cid: &str) -> Vec<FileInfo> {
    match run(data_dir, args!["--json", "ls", cid, "--chunks"]).ok().json::<LsReport>() {
        LsReport::Manifest { files, .. } => files,
        shares @ LsReport::Shares { .. } => panic!("not the manifest of {cid}: {shares:?}"),
    }
}

/// One JSON value from a line of text.
pub(crate) fn parse_json<T: DeserializeOwned>(line: &str) -> T {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"))
}
