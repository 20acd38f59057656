//! Reads a stream of unknown length, hashes its chunks on all cores, and writes them to a file.

use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, PoisonError};

use crate::cid::{ChunkCid, Digest, sha256};
use crate::disk::DiskFile;
use crate::error::{FileError, ImportError};
use crate::manifest::{CHUNK_LEN, MAX_FILE_CHUNKS};
use crate::options::Tally;

/// A chunk that was read and waits to be hashed: its index and its bytes.
type Job = (u64, Vec<u8>);

/// Copies `reader` to `output`, an empty file at `path`. Returns the length and the chunks.
pub(crate) fn copy_stream(
    reader: &mut dyn Read,
    output: &dyn DiskFile,
    path: &Path,
    threads: usize,
    tally: &Tally<'_>,
) -> Result<(u64, Vec<ChunkCid>), ImportError> {
    let (spare_in, spare) = sync_channel::<Vec<u8>>(2 * threads + 1);
    let finish = |(index, chunk): Job| {
        let digest = finish_chunk(index, &chunk, output, path, tally)?;
        // A full or closed channel only means that the buffer is not needed again.
        let _ = spare_in.try_send(chunk);
        Ok::<_, ImportError>((index, digest))
    };
    let mut digests = Vec::new();
    let size = if threads < 2 {
        read_chunks(reader, &spare, tally, |job| finish(job).map(|done| digests.push(done)))?
    } else {
        let (size, done) = share_out(threads, finish, |send| read_chunks(reader, &spare, tally, send))?;
        digests = done;
        size
    };
    output.set_len(size).map_err(|source| FileError::new("write", path, source))?;
    digests.sort_unstable_by_key(|(index, _)| *index);
    Ok((size, digests.into_iter().map(|(_, digest)| ChunkCid::from_digest(digest)).collect()))
}

/// Runs `produce` on this thread, and `finish` on `threads` others for each job that it sends.
fn share_out<T, D: Send>(
    threads: usize,
    finish: impl Fn(Job) -> Result<D, ImportError> + Sync,
    produce: impl FnOnce(&mut dyn FnMut(Job) -> Result<(), ImportError>) -> Result<T, ImportError>,
) -> Result<(T, Vec<D>), ImportError> {
    let (jobs, queue) = sync_channel::<Job>(threads);
    let queue = Mutex::new(queue);
    let failure = Mutex::new(None);
    let has_failed = AtomicBool::new(false);
    let work = || {
        let mut done = Vec::new();
        while let Some(job) = next_job(&queue) {
            // After a failure jobs are only taken, so that the producer does not wait for ever.
            if has_failed.load(Ordering::Relaxed) {
                continue;
            }
            match finish(job) {
                Ok(value) => done.push(value),
                Err(error) => {
                    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    has_failed.store(true, Ordering::Relaxed);
                }
            }
        }
        done
    };
    let (produced, done) = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut send = |job| match has_failed.load(Ordering::Relaxed) || jobs.send(job).is_err() {
            true => Err(ImportError::Cancelled),
            false => Ok(()),
        };
        let produced = produce(&mut send);
        drop(jobs);
        let done: Vec<_> = workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect();
        (produced, done)
    });
    // The workers' error comes first: it is why the producer stopped.
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok((produced?, done)),
    }
}

/// Waits for a job; `None` when the stream has ended and every job is taken.
fn next_job(queue: &Mutex<Receiver<Job>>) -> Option<Job> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

fn finish_chunk(
    index: u64,
    chunk: &[u8],
    output: &dyn DiskFile,
    path: &Path,
    tally: &Tally<'_>,
) -> Result<Digest, ImportError> {
    let digest = sha256(chunk);
    if chunk.iter().any(|byte| *byte != 0) {
        let offset = index.saturating_mul(u64::from(CHUNK_LEN));
        output.write_all_at(chunk, offset).map_err(|source| FileError::new("write", path, source))?;
    }
    tally.add(chunk.len() as u64)?;
    Ok(digest)
}

/// Cuts the stream into chunks and hands each to `send`, until the stream ends. Returns the bytes read.
fn read_chunks(
    reader: &mut dyn Read,
    spare: &Receiver<Vec<u8>>,
    tally: &Tally<'_>,
    mut send: impl FnMut(Job) -> Result<(), ImportError>,
) -> Result<u64, ImportError> {
    let stream = Path::new("the stream");
    let mut size = 0;
    for index in 0.. {
        let mut chunk = spare.try_recv().unwrap_or_default();
        chunk.clear();
        let read = Read::take(&mut *reader, u64::from(CHUNK_LEN)).read_to_end(&mut chunk);
        read.map_err(|source| FileError::new("read", stream, source))?;
        if chunk.is_empty() {
            break;
        }
        if index >= MAX_FILE_CHUNKS {
            let (path, max) = (stream.to_owned(), MAX_FILE_CHUNKS);
            return Err(ImportError::TooMany { path, what: "chunks", max });
        }
        let is_last = chunk.len() < CHUNK_LEN as usize;
        size += chunk.len() as u64;
        tally.grow(chunk.len() as u64);
        send((index, chunk))?;
        if is_last {
            break;
        }
    }
    Ok(size)
}
