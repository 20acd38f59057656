//! Hashing on all cores.
//!
//! Work is a number of independent items (chunks); threads draw the next number from a counter, so a slow
//! disk or a busy core holds nobody up. Files are read with pread(2) into one buffer a thread, in steps small
//! enough for the bytes to be still in the core's own cache when they are hashed. SHA-256 uses the CPU's own
//! instructions, which the sha2 crate looks for at run time; where there is AVX-512, sixteen chunks in a row are hashed at
//! once ([`dhtfs_wide`]), which is twice as fast.

use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use dhtfs_wide::{LANES, Wide};
use sha2::{Digest as _, Sha256};

use crate::cid::Digest;
use crate::disk::{Disk, DiskFile};

/// Bytes read at once. Measured with 8 to 512 KiB on a core with 1 MiB of second-level cache, two cores at
/// work and the file in memory: 48 and 64 KiB cost least, 16 KiB 5 % more, 128 KiB 17 % more.
pub(crate) const READ_LEN: usize = 64 << 10;

/// Bytes of each of sixteen chunks that are read at once.
const WIDE_READ_LEN: usize = 16 << 10;

/// Chunks of this length that [`hash_run_at`] hashes at once; 1 if this CPU has no instructions for more, or their length does not
/// suit them.
pub(crate) fn run_len(chunk_len: u32) -> usize {
    let suits = chunk_len > 0 && (chunk_len as usize).is_multiple_of(WIDE_READ_LEN);
    if suits && Wide::new().is_some() { LANES } else { 1 }
}

/// Asks the disk for so much at once of what is going to be read: of more the system may leave out the rest.
const ADVISED_LEN: u32 = 128 << 10;

/// How many threads to use on a disk: what was asked for, or one for each core. One if the disk wants everything
/// done in one order.
pub(crate) fn thread_count(disk: &dyn Disk, wanted: Option<NonZeroUsize>) -> usize {
    let wanted = if disk.threads() { wanted } else { Some(NonZeroUsize::MIN) };
    wanted.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get)
}

/// Runs `work` once for each number below `items`, on up to `threads` threads, this one among them. Every
/// thread has a state of its own, made by `init`; all states are returned. The first error stops everything.
pub(crate) fn for_each<S, E>(
    threads: usize,
    items: usize,
    init: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, usize) -> Result<(), E> + Sync,
) -> Result<Vec<S>, E>
where
    S: Send,
    E: Send,
{
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let failure = Mutex::new(None);
    let run = || {
        let mut state = init();
        while !stop.load(Ordering::Relaxed) {
            let item = next.fetch_add(1, Ordering::Relaxed);
            if item >= items {
                break;
            }
            if let Err(error) = work(&mut state, item) {
                stop.store(true, Ordering::Relaxed);
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
        state
    };
    let states = std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads.min(items)).map(|_| scope.spawn(run)).collect();
        let mut states = vec![run()];
        for helper in helpers {
            match helper.join() {
                Ok(state) => states.push(state),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        states
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(states),
    }
}

/// Reads `len` bytes at `offset` and hashes them; `buffer` is scratch space. The answer is `UnexpectedEof` if
/// the file is shorter.
pub(crate) fn hash_at(
    file: &dyn DiskFile,
    offset: u64,
    len: u32,
    buffer: &mut Vec<u8>,
) -> io::Result<Digest> {
    buffer.resize(READ_LEN, 0);
    let mut hash = Sha256::new();
    let mut at = offset;
    let mut left = len as usize;
    while left > 0 {
        let step = left.min(READ_LEN);
        let part = buffer.get_mut(..step).unwrap_or_default();
        file.read_exact_at(part, at)?;
        hash.update(part);
        at += step as u64;
        left -= step;
    }
    Ok(hash.finalize().into())
}

/// Reads as many chunks of `chunk_len` bytes as [`run_len`] says, the first of which begins at `offset`, and hashes them;
/// `buffer` is scratch space.
///
/// They are read side by side, of which the system makes no sense: it is told before what will be read, in the order of the file.
pub(crate) fn hash_run_at(
    file: &dyn DiskFile,
    offset: u64,
    chunk_len: u32,
    buffer: &mut Vec<u8>,
) -> io::Result<Vec<Digest>> {
    let Some(mut wide) = Wide::new().filter(|_| run_len(chunk_len) == LANES) else {
        return Ok(vec![hash_at(file, offset, chunk_len, buffer)?]);
    };
    let end = offset + LANES as u64 * u64::from(chunk_len);
    for from in (offset..end).step_by(ADVISED_LEN as usize) {
        file.will_read(from, u64::from(ADVISED_LEN).min(end - from));
    }
    buffer.resize(LANES * WIDE_READ_LEN, 0);
    for step in (0..u64::from(chunk_len)).step_by(WIDE_READ_LEN) {
        let starts = (offset + step..).step_by(chunk_len as usize);
        for (part, at) in buffer.chunks_exact_mut(WIDE_READ_LEN).zip(starts) {
            file.read_exact_at(part, at)?;
        }
        let parts = std::array::from_fn(|lane| {
            let start = lane * WIDE_READ_LEN;
            buffer.get(start..start + WIDE_READ_LEN).unwrap_or_default()
        });
        wide.update(&parts);
    }
    Ok(wide.finish().to_vec())
}

/// What went wrong in [`copy_and_hash_at`].
#[derive(Debug)]
pub(crate) enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

/// Like [`hash_at`], and writes the bytes at the same offset of `output`. Steps of zeros are left out: where
/// nothing was written before, they stay holes.
pub(crate) fn copy_and_hash_at(
    input: &dyn DiskFile,
    output: &dyn DiskFile,
    offset: u64,
    len: u32,
    buffer: &mut Vec<u8>,
) -> Result<Digest, CopyError> {
    buffer.resize(READ_LEN, 0);
    let mut hash = Sha256::new();
    let mut at = offset;
    let mut left = len as usize;
    while left > 0 {
        let step = left.min(READ_LEN);
        let part = buffer.get_mut(..step).unwrap_or_default();
        input.read_exact_at(part, at).map_err(CopyError::Read)?;
        hash.update(&*part);
        if part.iter().any(|byte| *byte != 0) {
            output.write_all_at(part, at).map_err(CopyError::Write)?;
        }
        at += step as u64;
        left -= step;
    }
    Ok(hash.finalize().into())
}

/// Like [`hash_at`], and leaves the bytes in `buffer`, which gets exactly that length.
pub(crate) fn read_and_hash_at(
    file: &dyn DiskFile,
    offset: u64,
    len: u32,
    buffer: &mut Vec<u8>,
) -> io::Result<Digest> {
    buffer.resize(len as usize, 0);
    let mut hash = Sha256::new();
    let mut at = offset;
    for part in buffer.chunks_mut(READ_LEN) {
        file.read_exact_at(part, at)?;
        hash.update(&*part);
        at += part.len() as u64;
    }
    Ok(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use crate::cid::sha256;
    use crate::disk::{OpenMode, RealDisk};

    #[test]
    fn every_item_is_worked_on_once_whatever_the_number_of_threads() {
        for threads in [1, 2, 7] {
            for items in [0, 1, 2, 100] {
                let states = for_each(threads, items, Vec::new, |seen, item| {
                    seen.push(item);
                    Ok::<_, ()>(())
                });
                let mut seen = states.unwrap().concat();
                seen.sort_unstable();
                assert_eq!(seen, (0..items).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_run_of_chunks_has_the_digests_they_have_one_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let chunk_len = u32::try_from(2 * WIDE_READ_LEN).unwrap();
        let bytes: Vec<u8> =
            (0..(LANES + 2) * chunk_len as usize).map(|n| ((n * n) >> 7).to_le_bytes()[0]).collect();
        std::fs::write(&path, &bytes).unwrap();
        let file = RealDisk.open(&path, OpenMode::Read).unwrap();
        let count = run_len(chunk_len);
        for first in [0, 2] {
            let offset = first * u64::from(chunk_len);
            let digests = hash_run_at(&*file, offset, chunk_len, &mut Vec::new()).unwrap();
            let one_by_one = (0..count as u64).map(|n| {
                let at = offset + n * u64::from(chunk_len);
                hash_at(&*file, at, chunk_len, &mut Vec::new()).unwrap()
            });
            assert_eq!(digests, one_by_one.collect::<Vec<_>>());
        }
        let beyond = u64::from(chunk_len) * (LANES + 2) as u64;
        let past_end = beyond - u64::from(chunk_len) * (count as u64 - 1) + 1;
        let error = hash_run_at(&*file, past_end, chunk_len, &mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!((run_len(0), run_len(chunk_len + 64)), (1, 1), "lengths that do not suit");
    }

    #[test]
    fn an_error_stops_the_rest() {
        let done = AtomicUsize::new(0);
        let result = for_each(
            2,
            1_000_000,
            || (),
            |(), item| {
                done.fetch_add(1, Ordering::Relaxed);
                if item == 10 { Err("ten") } else { Ok(()) }
            },
        );
        assert_eq!(result.unwrap_err(), "ten");
        assert!(done.into_inner() < 1_000_000);
    }

    #[test]
    fn a_copy_hashes_like_its_input_and_keeps_zeros_as_holes() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let bytes = [vec![1; READ_LEN / 2], vec![0; READ_LEN * 5], vec![2; 77]].concat();
        std::fs::write(&from, &bytes).unwrap();
        let input = RealDisk.open(&from, OpenMode::Read).unwrap();
        let output = RealDisk.open(&to, OpenMode::CreatePrivate).unwrap();
        output.set_len(bytes.len() as u64).unwrap();
        let len = u32::try_from(bytes.len()).unwrap();
        assert_eq!(copy_and_hash_at(&*input, &*output, 0, len, &mut Vec::new()).unwrap(), sha256(&bytes));
        assert_eq!(std::fs::read(&to).unwrap(), bytes);
        let allocated_len = output.metadata().unwrap().allocated_len;
        assert!(allocated_len < 3 * READ_LEN as u64, "{allocated_len} bytes");
        let beyond = copy_and_hash_at(&*input, &*output, 1, len, &mut Vec::new());
        assert!(
            matches!(beyond, Err(CopyError::Read(error)) if error.kind() == io::ErrorKind::UnexpectedEof)
        );
    }

    #[test]
    fn parts_of_a_file_hash_like_the_same_bytes_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let bytes: Vec<u8> = (0..READ_LEN * 2 + 77).map(|index| u8::try_from(index % 251).unwrap()).collect();
        std::fs::write(&path, &bytes).unwrap();
        let file = RealDisk.open(&path, OpenMode::Read).unwrap();
        let mut buffer = Vec::new();
        for (offset, len) in [(0, bytes.len()), (5, READ_LEN), (READ_LEN, 1), (3, 0), (1, READ_LEN * 2)] {
            let expected = sha256(&bytes[offset..offset + len]);
            let len32 = u32::try_from(len).unwrap();
            assert_eq!(hash_at(&*file, offset as u64, len32, &mut buffer).unwrap(), expected);
            assert_eq!(read_and_hash_at(&*file, offset as u64, len32, &mut buffer).unwrap(), expected);
            assert_eq!(buffer, &bytes[offset..offset + len]);
        }
        let end = bytes.len() as u64;
        assert_eq!(
            hash_at(&*file, end - 1, 2, &mut buffer).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }
}
