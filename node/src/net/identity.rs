//! The key that names this node. The only part of the network shell that touches a file.
//!
//! The file holds the protobuf encoding of an Ed25519 key pair (libp2p peer ID specification) and is readable
//! by its owner only. It is written whole under another name, synced and then given its name, so that a crash
//! leaves either no key or a complete one, and it never replaces an existing key.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use libp2p::identity::{KeyType, Keypair};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

/// Length in bytes of a key file that is read; an Ed25519 key takes 68.
const MAX_KEY_FILE_LEN: u64 = 1_024;

/// Why the key of this node cannot be used. Every message is one line and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read.
    #[error("cannot read the key file {}: {source}", path.display())]
    Read {
        /// The key file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file cannot be created.
    #[error("cannot create the key file {}: {source}", path.display())]
    Create {
        /// The key file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others than the owner may read or write the file.
    #[error("the key file {} is open to others (mode {mode:o}): run chmod 600 on it", path.display())]
    OpenToOthers {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file does not hold a key.
    #[error("the key file {} holds no key: restore it, or move it away to get a new identity", path.display())]
    NotAKey {
        /// The key file.
        path: PathBuf,
    },
    /// The key is of another type.
    #[error("the key file {} holds a key of type {found}, not Ed25519: move it away to get a new identity", path.display())]
    WrongType {
        /// The key file.
        path: PathBuf,
        /// The type found.
        found: KeyType,
    },
}

/// Reads the key pair in `path`, or makes one from `entropy` and writes it there with mode 0600.
///
/// `entropy` is called only if there is no file yet; it must return 32 unpredictable bytes. If another process
/// creates the file in the meantime, its key is used.
///
/// # Errors
/// [`IdentityError`] if the file cannot be read or created, is open to others, or holds no Ed25519 key. An
/// existing file is never changed.
pub fn load_or_create(path: &Path, entropy: impl FnOnce() -> [u8; 32]) -> Result<Keypair, IdentityError> {
    if let Some(keypair) = load(path)? {
        return Ok(keypair);
    }
    let not_a_key = || IdentityError::NotAKey { path: path.to_owned() };
    let mut seed = entropy();
    // The seed is wiped by the call.
    let keypair = Keypair::ed25519_from_bytes(&mut seed).map_err(|_| not_a_key())?;
    let bytes = keypair.to_protobuf_encoding().map_err(|_| not_a_key())?;
    match create(path, &bytes) {
        Ok(()) => Ok(keypair),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => load(path)?.ok_or_else(|| {
            IdentityError::Create { path: path.to_owned(), source: io::Error::from(io::ErrorKind::NotFound) }
        }),
        Err(source) => Err(IdentityError::Create { path: path.to_owned(), source }),
    }
}

/// The key in `path`; `None` if there is no such file.
fn load(path: &Path) -> Result<Option<Keypair>, IdentityError> {
    let read = |source| IdentityError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(read(error)),
    };
    let metadata = file.metadata().map_err(read)?;
    if !metadata.is_file() {
        return Err(IdentityError::NotAKey { path: path.to_owned() });
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::OpenToOthers { path: path.to_owned(), mode });
    }
    let mut bytes = Vec::new();
    file.take(MAX_KEY_FILE_LEN + 1).read_to_end(&mut bytes).map_err(read)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_KEY_FILE_LEN {
        return Err(IdentityError::NotAKey { path: path.to_owned() });
    }
    let keypair = Keypair::from_protobuf_encoding(&bytes)
        .map_err(|_| wrong_type(path, &bytes).unwrap_or(IdentityError::NotAKey { path: path.to_owned() }))?;
    match keypair.key_type() {
        KeyType::Ed25519 => Ok(Some(keypair)),
        found => Err(IdentityError::WrongType { path: path.to_owned(), found }),
    }
}

/// The error for a well-formed key of a type this build cannot use: field 1 of the message is the type.
fn wrong_type(path: &Path, bytes: &[u8]) -> Option<IdentityError> {
    let found = match bytes {
        [0x08, 0, ..] => KeyType::RSA,
        [0x08, 2, ..] => KeyType::Secp256k1,
        [0x08, 3, ..] => KeyType::Ecdsa,
        _ => return None,
    };
    Some(IdentityError::WrongType { path: path.to_owned(), found })
}

/// Writes `bytes` under a temporary name, syncs, and gives the file its name unless that is taken.
fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let temporary = dir.join(format!(".{}.{}.new", name.to_string_lossy(), std::process::id()));
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = write_synced(&temporary, bytes).and_then(|()| rename_new(&temporary, path));
    if written.is_err() {
        // The first error is the one to report; a leftover temporary file is removed by the next try.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    File::open(dir)?.sync_all()
}

/// Creates `path` with mode 0600 and syncs its content.
fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Renames without replacing. File systems that cannot do that in one step get a check before.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            if to.exists() {
                return Err(io::Error::from(io::ErrorKind::AlreadyExists));
            }
            fs::rename(from, to)
        }
        other => other.map_err(io::Error::from),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::{IdentityError, create, load_or_create};

    fn no_entropy() -> [u8; 32] {
        panic!("the key exists already")
    }

    fn write(path: &std::path::Path, bytes: &[u8], mode: u32) {
        fs::write(path, bytes).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_new_key_is_readable_by_its_owner_only_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.key");
        let made = load_or_create(&path, || [7; 32]).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = load_or_create(&path, no_entropy).unwrap();
        assert_eq!(made.public(), again.public());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays behind");
    }

    #[test]
    fn the_same_entropy_makes_the_same_key_and_other_entropy_another() {
        let dir = tempfile::tempdir().unwrap();
        let a = load_or_create(&dir.path().join("a"), || [1; 32]).unwrap();
        let b = load_or_create(&dir.path().join("b"), || [1; 32]).unwrap();
        let c = load_or_create(&dir.path().join("c"), || [2; 32]).unwrap();
        assert_eq!(a.public(), b.public());
        assert_ne!(a.public(), c.public());
    }

    #[test]
    fn a_key_open_to_others_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.key");
        load_or_create(&path, || [7; 32]).unwrap();
        let bytes = fs::read(&path).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o666] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = load_or_create(&path, no_entropy).unwrap_err();
            assert!(matches!(error, IdentityError::OpenToOthers { .. }), "{error}");
            assert!(error.to_string().contains("chmod 600"));
        }
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }

    #[test]
    fn anything_but_an_ed25519_key_is_refused_with_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.key");
        for content in [&b""[..], b"not a key", &[0u8; 2_000], &[8, 1, 18, 64, 1, 2]] {
            write(&path, content, 0o600);
            let error = load_or_create(&path, no_entropy).unwrap_err();
            assert!(matches!(error, IdentityError::NotAKey { .. }), "{error}");
            assert_eq!(error.to_string().lines().count(), 1);
            assert_eq!(fs::read(&path).unwrap(), content);
        }
        // A secp256k1 key: type 2, 32 bytes.
        let mut other = vec![8, 2, 18, 32];
        other.extend([5; 32]);
        write(&path, &other, 0o600);
        let error = load_or_create(&path, no_entropy).unwrap_err();
        assert!(matches!(error, IdentityError::WrongType { .. }), "{error}");
    }

    #[test]
    fn a_directory_and_a_missing_parent_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        assert!(load_or_create(dir.path(), no_entropy).is_err());
        let error = load_or_create(&dir.path().join("no/such/key"), || [7; 32]).unwrap_err();
        assert!(matches!(error, IdentityError::Create { .. }), "{error}");
    }

    #[test]
    fn creation_never_replaces_a_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.key");
        load_or_create(&path, || [7; 32]).unwrap();
        let before = fs::read(&path).unwrap();
        assert_eq!(create(&path, b"another").unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), before);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_temporary_file_left_by_a_crash_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.key");
        write(&dir.path().join(format!(".identity.key.{}.new", std::process::id())), b"half", 0o600);
        load_or_create(&path, || [7; 32]).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
