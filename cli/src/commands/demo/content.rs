//! The file that the demo shares, and whether copies of it are the same.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::{
    args::DemoArgs,
    context::absolute,
    error::{CliError, Result},
    format,
};

/// Name of the file that is made.
const NAME: &str = "demo.bin";

/// Files are written and read in buffers of this many bytes.
const BUFFER_LEN: usize = 1 << 20;

/// Fetched copies: one each on daemons 2, 3 and 4.
const COPIES: u64 = 3;

/// Room for five stores, their logs and what a file system needs for itself, in bytes.
const EXTRA_LEN: u64 = 64 << 20;

/// Start of the pseudo-random content. Always the same, so that the demo shows the same CID on every machine.
const SEED: u64 = 0x6468_7466_7301;

/// What is shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// A file of the user's.
    Given { path: PathBuf, len: u64 },
    /// A file that is made.
    Made { len: u64 },
}

impl Source {
    /// Checks what was asked for before anything is started for it.
    ///
    /// # Errors
    /// If the file is missing, unreadable or no file.
    pub(super) fn resolve(args: &DemoArgs) -> Result<Self> {
        let Some(path) = &args.file else { return Ok(Source::Made { len: args.size << 20 }) };
        let shown = format::clean(&path.display().to_string());
        let cannot = |error: io::Error| CliError::failed(format!("cannot read {shown}: {error}"));
        let metadata = File::open(path).and_then(|file| file.metadata()).map_err(cannot)?;
        if !metadata.is_file() {
            return Err(CliError::failed(format!("{shown} is no file; the demo shares one file")));
        }
        Ok(Source::Given { path: absolute(path)?, len: metadata.len() })
    }

    pub(super) fn len(&self) -> u64 {
        match self {
            Source::Given { len, .. } | Source::Made { len } => *len,
        }
    }

    /// Checks that `dir` has room for everything the demo writes.
    ///
    /// # Errors
    /// If it has not; the message says what to do.
    pub(super) fn check_room(&self, dir: &Path) -> Result<()> {
        let files = match self {
            Source::Given { .. } => COPIES,
            Source::Made { .. } => COPIES + 1,
        };
        let need = self.len().saturating_mul(files).saturating_add(EXTRA_LEN);
        // A file system that does not tell is given the benefit of the doubt.
        let Ok(found) = rustix::fs::statvfs(dir) else { return Ok(()) };
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        if free < need {
            let (need, free, dir) = (format::bytes(need), format::bytes(free), dir.display());
            let message =
                format!("needs {need} in {dir}, {free} are free; take a smaller --size or set TMPDIR");
            return Err(CliError::failed(message));
        }
        Ok(())
    }

    /// Where the file lies, made in `dir` if there is none, and its SHA-256 in hexadecimal. Blocks for seconds.
    ///
    /// # Errors
    /// If it cannot be written or read.
    pub(super) fn prepare(&self, dir: &Path) -> Result<(PathBuf, String)> {
        match self {
            Source::Given { path, .. } => Ok((path.clone(), sha256(path)?)),
            Source::Made { len } => {
                let path = dir.join(NAME);
                let digest = make(&path, *len)
                    .map_err(|error| CliError::failed(format!("cannot write {}: {error}", path.display())))?;
                Ok((path, digest))
            }
        }
    }
}

/// Writes `len` pseudo-random bytes (splitmix64, Steele et al. 2014; no secret) and gives back their SHA-256.
fn make(path: &Path, len: u64) -> io::Result<String> {
    let mut file = File::create_new(path)?;
    let mut hash = Sha256::new();
    let mut state = SEED;
    let mut buffer = vec![0; BUFFER_LEN];
    let mut left = len;
    while left > 0 {
        for word in buffer.chunks_exact_mut(8) {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut mixed = state;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            word.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
        }
        let now = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let part = buffer.get(..now).unwrap_or_default();
        hash.update(part);
        file.write_all(part)?;
        left -= u64::try_from(now).unwrap_or(left);
    }
    Ok(hex(&hash.finalize()))
}

/// SHA-256 of a file in hexadecimal. Blocks for seconds.
///
/// # Errors
/// If it cannot be read.
pub(super) fn sha256(path: &Path) -> Result<String> {
    let digest = || {
        let mut file = File::open(path)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; BUFFER_LEN];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hex(&hash.finalize())),
                read => hash.update(buffer.get(..read).unwrap_or_default()),
            }
        }
    };
    digest().map_err(|error: io::Error| CliError::failed(format!("cannot read {}: {error}", path.display())))
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

    use super::*;

    fn args(file: Option<&Path>) -> DemoArgs {
        DemoArgs { file: file.map(Path::to_owned), size: 1 }
    }

    #[test]
    fn the_made_file_has_its_length_and_is_always_the_same() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let source = Source::resolve(&args(None)).unwrap();
        let made: Vec<_> = dirs.iter().map(|dir| source.prepare(dir.path()).unwrap()).collect();
        assert_eq!(made[0].1, made[1].1);
        assert_eq!(made[0].1, sha256(&made[0].0).unwrap());
        assert_eq!(std::fs::metadata(&made[0].0).unwrap().len(), 1 << 20);
    }

    #[test]
    fn a_length_that_is_no_whole_buffer_is_kept_exactly() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let digest = make(&path, (1 << 20) + 3).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), (1 << 20) + 3);
        assert_eq!(digest, sha256(&path).unwrap());
    }

    #[test]
    fn sha256_is_the_one_everybody_knows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "abc").unwrap();
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(&path).unwrap(), expected);
    }

    #[test]
    fn what_is_no_file_is_refused_before_anything_starts() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Source::resolve(&args(Some(dir.path()))).unwrap_err().exit_code(), 1);
        let missing = Source::resolve(&args(Some(&dir.path().join("missing")))).unwrap_err();
        assert!(missing.line().unwrap().contains("missing"), "{missing}");
    }

    #[test]
    fn too_little_room_is_told_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Source::Made { len: 1 }.check_room(dir.path()).is_ok());
        let error = Source::Made { len: u64::MAX / 8 }.check_room(dir.path()).unwrap_err();
        assert!(error.line().unwrap().contains("TMPDIR"), "{error}");
    }
}
