//! Fetches the chunks of a tree into files: verified, written, synced in batches, announced, renamed into place.

use std::{pin::Pin, time::Duration};

use dhtfs_store::{ChunkCid, ContentCid, Download, ManifestCid, Written};
use futures::{StreamExt, future::OptionFuture, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until};

use super::{Block, Driver, Turn};
use crate::{
    core::fetch::{FetchFailure, RequestId, Want},
    env::{StoreGone, StoreHandle},
    tasks::provide::ProvideHandle,
};

/// So often what arrived is synced and acknowledged: from then on it is served to others, who wait for it, and no crash loses it.
const COMMIT_EVERY: Duration = Duration::from_millis(250);

/// On a disk that takes long for it, after a pause of so many times as long as the last one took.
const COMMIT_PAUSES: u32 = 10;

/// But no longer than this: so much time a crash loses at most, besides that of a sync.
const MAX_COMMIT_PAUSE: Duration = Duration::from_secs(5);

/// What arrived is synced as soon as it is this much, in bytes: the system begins to write by itself only when a tenth of
/// the memory waits, and the end of a fetch would wait for all of that.
const COMMIT_LEN: u64 = 64 << 20;

/// Why chunks could not be fetched into their files.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// The user wants it to stop; see [`Driver::steer_by`].
    #[error("the fetch was stopped")]
    Stopped,
    /// Peers did not have all of it.
    #[error("{0:?}")]
    Failed(FetchFailure),
    /// Writing failed.
    #[error(transparent)]
    Disk(#[from] dhtfs_store::DownloadError),
    /// The node is ending.
    #[error(transparent)]
    Gone(#[from] StoreGone),
}

/// Blocks that came together are written in one go up to this length in bytes: small ones cost more to hand over than to
/// write, and large ones are better written by several threads.
const WRITE_LEN: usize = 256 << 10;

type Writing = FuturesUnordered<Pin<Box<dyn Future<Output = WriteOutcome> + Send>>>;
/// What became of some blocks, with the length of each in bytes.
type WriteOutcome = Result<Result<Vec<(RequestId, u64, Written)>, dhtfs_store::DownloadError>, StoreGone>;
/// What was committed, and how long that took.
type Commit = Pin<Box<dyn Future<Output = (CommitOutcome, Duration)> + Send>>;
type Announcing = Pin<Box<dyn Future<Output = ()> + Send>>;
type CommitOutcome = Result<Result<Vec<dhtfs_store::ChunkCid>, dhtfs_store::DownloadError>, StoreGone>;

/// A download that is being filled.
pub struct Filling<'a> {
    /// Brings the chunks.
    pub driver: &'a mut Driver,
    /// Runs the disk work.
    pub store: &'a StoreHandle,
    /// The files.
    pub download: Download,
    /// Announces what is held; `None` on a node that serves nobody.
    pub provide: Option<&'a ProvideHandle>,
    /// Manifest blocks of the content, announced with the first chunks.
    pub manifests: Vec<ManifestCid>,
}

impl Filling<'_> {
    /// Runs until every chunk is written and committed. When it fails, what arrived is committed first.
    ///
    /// # Errors
    /// See [`FillError`].
    pub async fn run(mut self) -> Result<(), FillError> {
        self.driver.content(*self.download.root(), self.download.places());
        let missing = self.download.missing_places().into_iter();
        let want = |(cid, len, place): (ChunkCid, u32, u32)| Want {
            cid: cid.into(),
            len: Some(len),
            place: Some(place),
        };
        self.driver.want(missing.map(want).collect());
        self.driver.wants_complete();
        let outcome = self.fetch().await;
        self.driver.report();
        // Whatever happened, what is verified and written stays.
        let (committed, _) = self.commit().await;
        if let Some(announcing) = self.announce(committed)? {
            announcing.await;
        }
        outcome
    }

    async fn fetch(&mut self) -> Result<(), FillError> {
        let mut writing = Writing::new();
        let mut commit: Option<Commit> = None;
        let mut announcing: Option<Announcing> = self.announce_manifests();
        let mut unsynced: u64 = 0;
        let mut commit_at = Instant::now() + COMMIT_EVERY;
        loop {
            self.driver.report_soon();
            tokio::select! {
                turn = self.driver.next() => match turn {
                    Turn::Blocks(blocks) => writing.extend(together(blocks).into_iter().map(|run| self.write(run))),
                    Turn::Finished => break,
                    Turn::Failed(failure) => return Err(FillError::Failed(failure)),
                    Turn::Stopped => {
                        // Nobody else may write to the part when it is taken up again.
                        while writing.next().await.is_some() {}
                        if let Some(commit) = commit {
                            let _announced_when_its_turn_comes = commit.await.0??;
                        }
                        return Err(FillError::Stopped);
                    }
                },
                Some(written) = writing.next() => {
                    for (id, len, written) in written?? {
                        match written {
                            Written::Stored | Written::AlreadyHeld => self.driver.stored(id),
                            Written::BadHash => self.driver.bad(id),
                        }
                        unsynced += len;
                    }
                }
                () = sleep_until(commit_at), if unsynced > 0 && commit.is_none() => {
                    commit = Some(self.commit());
                    unsynced = 0;
                }
                Some((committed, took)) = OptionFuture::from(commit.as_mut()), if announcing.is_none() => {
                    commit = None;
                    commit_at = Instant::now() + (took * COMMIT_PAUSES).clamp(COMMIT_EVERY, MAX_COMMIT_PAUSE);
                    announcing = self.announce(committed)?;
                }
                Some(()) = OptionFuture::from(announcing.as_mut()) => announcing = None,
            }
            if unsynced >= COMMIT_LEN && commit.is_none() {
                commit = Some(self.commit());
                unsynced = 0;
            }
        }
        if let Some(announcing) = announcing {
            announcing.await;
        }
        if let Some(commit) = commit
            && let Some(announcing) = self.announce(commit.await.0)?
        {
            announcing.await;
        }
        Ok(())
    }

    /// Writes blocks one after the other.
    fn write(&self, blocks: Vec<Block>) -> Pin<Box<dyn Future<Output = WriteOutcome> + Send>> {
        let (store, download) = (self.store.clone(), self.download.clone());
        let buffers = self.driver.buffers().clone();
        let write = move |Block { id, cid, data, .. }: Block| {
            let written = match cid {
                ContentCid::Chunk(cid) => download.write(&cid, &data)?,
                ContentCid::Manifest(_) => Written::BadHash,
            };
            let len = data.len() as u64;
            buffers.give(data);
            Ok((id, len, written))
        };
        Box::pin(async move { store.call(move |_| blocks.into_iter().map(write).collect()).await })
    }

    fn commit(&self) -> Commit {
        let (store, download) = (self.store.clone(), self.download.clone());
        Box::pin(async move {
            let begun = Instant::now();
            let committed = store.call_syncing(move |_| download.commit()).await;
            (committed, begun.elapsed())
        })
    }

    /// Announces what was committed. Waits while announcing is behind; what arrives is taken meanwhile.
    fn announce(&mut self, committed: CommitOutcome) -> Result<Option<Announcing>, FillError> {
        let chunks = committed??;
        let Some(provide) = self.provide.filter(|_| !chunks.is_empty()) else { return Ok(None) };
        let keys = chunks.into_iter().map(ContentCid::from).collect();
        let provide = provide.clone();
        Ok(Some(Box::pin(async move { provide.held(keys).await })))
    }

    /// Announces the manifests, before there is any chunk: who fetches the same finds this node, and hears of each chunk.
    fn announce_manifests(&mut self) -> Option<Announcing> {
        let keys: Vec<_> = std::mem::take(&mut self.manifests).into_iter().map(ContentCid::from).collect();
        let provide = self.provide.filter(|_| !keys.is_empty())?.clone();
        Some(Box::pin(async move { provide.held(keys).await }))
    }
}

/// Blocks in the order in which they came, in runs that are written in one go.
fn together(blocks: Vec<Block>) -> Vec<Vec<Block>> {
    let mut runs: Vec<Vec<Block>> = Vec::new();
    let mut len = usize::MAX;
    for block in blocks {
        len = len.saturating_add(block.data.len());
        match runs.last_mut().filter(|_| len <= WRITE_LEN) {
            Some(run) => run.push(block),
            None => {
                len = block.data.len();
                runs.push(vec![block]);
            }
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_blocks_are_written_together_and_large_ones_each_by_itself() {
        const LARGE: usize = 1 << 20;
        let lens = [4, LARGE, LARGE, 10, WRITE_LEN - 10, 1, 0, WRITE_LEN, 5];
        let block = |(id, len)| Block {
            id: RequestId(id),
            cid: ChunkCid::from_digest([0; 32]).into(),
            data: vec![0; len],
            content: None,
        };
        let runs = together((0..).zip(lens).map(block).collect());
        let ids = runs.iter().map(|run| run.iter().map(|block| block.id.0).collect::<Vec<_>>());
        assert_eq!(
            ids.collect::<Vec<_>>(),
            [vec![0], vec![1], vec![2], vec![3, 4], vec![5, 6], vec![7], vec![8]]
        );
        assert_eq!(together(Vec::new()).len(), 0);
    }
}
