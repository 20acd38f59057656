//! Fetches a run of chunks in order, for `cat`: what the store has is read there, the rest comes from peers.
//!
//! Only the chunks of a window ahead of the reader are wanted, and the window fits the fetch's budget; so the
//! chunk that is needed next can always be asked for, whatever arrived out of order.

use std::collections::{HashMap, HashSet};

use dhtfs_store::{ChunkCid, ChunkRead, ContentCid};
use tokio::sync::mpsc;

use super::{Block, Driver, Turn};
use crate::{
    core::fetch::{FetchFailure, RequestId, Want},
    env::{StoreGone, StoreHandle},
};

/// Chunks ahead of the reader that are wanted. At 1 MiB each they fit the default budget of a fetch.
const WINDOW: usize = 24;

/// Why a stream ended early.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// Peers did not have all of it.
    #[error("{0:?}")]
    Failed(FetchFailure),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] dhtfs_store::StoreError),
    /// The node is ending.
    #[error(transparent)]
    Gone(#[from] StoreGone),
    /// Nobody reads any more.
    #[error("the reader is gone")]
    ReaderGone,
}

/// What of a content is streamed.
#[derive(Debug)]
pub struct Part<'a> {
    /// The chunks, with their lengths in bytes, in order.
    pub chunks: &'a [(ChunkCid, u32)],
    /// The position of the first of them in the content of the driver, if that is known.
    pub first: u32,
    /// Chunks that are here already, verified.
    pub contents: Vec<(ChunkCid, Vec<u8>)>,
}

/// A stream under way.
struct Stream<'a> {
    driver: &'a mut Driver,
    store: &'a StoreHandle,
    chunks: &'a [(ChunkCid, u32)],
    /// The position of the first of them in the content.
    first: u32,
    /// First index not yet looked at for wanting.
    ahead: usize,
    /// Asked of peers, not yet arrived.
    wanted: HashSet<ChunkCid>,
    /// Arrived and given to the reader for now; if it comes again in the stream it is asked for again.
    consumed: HashSet<ChunkCid>,
    /// Arrived, waiting for the reader; with the request that brought it, until it was used for the first time.
    arrived: HashMap<ChunkCid, (Vec<u8>, Option<RequestId>)>,
}

/// Sends the chunks of `part` in order.
///
/// # Errors
/// See [`StreamError`].
pub async fn run(
    driver: &mut Driver,
    store: &StoreHandle,
    part: Part<'_>,
    out: mpsc::Sender<Vec<u8>>,
) -> Result<(), StreamError> {
    let Part { chunks, first, contents } = part;
    let mut stream = Stream {
        driver,
        store,
        chunks,
        first,
        ahead: 0,
        wanted: HashSet::new(),
        consumed: HashSet::new(),
        arrived: contents.into_iter().map(|(cid, data)| (cid, (data, None))).collect(),
    };
    for index in 0..chunks.len() {
        let data = stream.chunk(index, &out).await?;
        stream.give(data, &out).await?;
    }
    Ok(())
}

impl Stream<'_> {
    /// Hands a chunk to the reader, however slow it is. What is under way goes on arriving meanwhile: a peer must not hold
    /// it back for us.
    async fn give(&mut self, data: Vec<u8>, out: &mpsc::Sender<Vec<u8>>) -> Result<(), StreamError> {
        loop {
            tokio::select! {
                biased;
                place = out.reserve() => {
                    place.map_err(|_| StreamError::ReaderGone)?.send(data);
                    return Ok(());
                }
                turn = self.driver.next() => self.on_turn(turn)?,
            }
        }
    }

    /// The bytes of chunk `index`, wherever they come from.
    async fn chunk(&mut self, index: usize, out: &mpsc::Sender<Vec<u8>>) -> Result<Vec<u8>, StreamError> {
        self.want_ahead(index).await?;
        let Some(&(cid, len)) = self.chunks.get(index) else { return Ok(Vec::new()) };
        loop {
            if let Some(data) = self.take(&cid, index) {
                return Ok(data);
            }
            if !self.wanted.contains(&cid) {
                if let ChunkRead::Data(data) = self.store.call(move |s| s.read_chunk(&cid)).await?? {
                    return Ok(data);
                }
                // It was here a moment ago; its file was changed or removed meanwhile.
                self.want(vec![(cid, len, index)]);
            }
            tokio::select! {
                turn = self.driver.next() => self.on_turn(turn)?,
                () = out.closed() => return Err(StreamError::ReaderGone),
            }
        }
    }

    fn on_turn(&mut self, turn: Turn) -> Result<(), StreamError> {
        match turn {
            Turn::Blocks(blocks) => {
                blocks.into_iter().for_each(|block| self.on_block(block));
                Ok(())
            }
            Turn::Failed(failure) => Err(StreamError::Failed(failure)),
            // Nobody steers a stream: its reader ends it.
            Turn::Finished | Turn::Stopped => {
                Err(StreamError::Failed(FetchFailure::Incomplete { missing: 1 }))
            }
        }
    }

    fn on_block(&mut self, Block { id, cid, data, .. }: Block) {
        match cid {
            ContentCid::Chunk(cid) if cid.matches(&data) => {
                self.driver.verified(id);
                self.wanted.remove(&cid);
                self.arrived.insert(cid, (data, Some(id)));
            }
            ContentCid::Chunk(_) | ContentCid::Manifest(_) => self.driver.bad(id),
        }
    }

    /// Takes an arrived chunk; it stays if it is needed again within the window. To the fetch it is consumed with its
    /// first use: otherwise a chunk that waits for its second would look like progress.
    fn take(&mut self, cid: &ChunkCid, index: usize) -> Option<Vec<u8>> {
        let rest = self.chunks.get(index + 1..self.ahead).unwrap_or_default();
        let is_needed_again = rest.iter().any(|(other, _)| other == cid);
        let (data, id) = self.arrived.get_mut(cid)?;
        if let Some(id) = id.take() {
            self.driver.stored(id);
        }
        if is_needed_again {
            return Some(data.clone());
        }
        self.consumed.insert(*cid);
        self.arrived.remove(cid).map(|(data, _)| data)
    }

    /// Asks for what the store lacks of the window that begins at `index`.
    async fn want_ahead(&mut self, index: usize) -> Result<(), StreamError> {
        let end = (index + WINDOW).min(self.chunks.len());
        let ahead = self.ahead;
        let fresh: Vec<_> = self.chunks.get(ahead..end).unwrap_or_default().to_vec();
        if fresh.is_empty() {
            return Ok(());
        }
        self.ahead = end;
        let known = fresh.clone();
        let held = self
            .store
            .call(move |s| known.iter().map(|(cid, _)| s.has_chunk(cid)).collect::<Result<Vec<_>, _>>())
            .await??;
        let mut wants = Vec::new();
        for (index, ((cid, len), held)) in (ahead..).zip(fresh.into_iter().zip(held)) {
            if !held && !self.arrived.contains_key(&cid) {
                wants.push((cid, len, index));
            }
        }
        self.want(wants);
        Ok(())
    }

    /// Asks for chunks, given with their index.
    fn want(&mut self, chunks: Vec<(ChunkCid, u32, usize)>) {
        let mut wants = Vec::new();
        for (cid, len, index) in chunks {
            if !self.wanted.insert(cid) {
                continue;
            }
            if self.consumed.remove(&cid) {
                self.driver.want_again(cid.into());
            } else {
                let place = u32::try_from(index).ok().and_then(|index| self.first.checked_add(index));
                wants.push(Want { cid: cid.into(), len: Some(len), place });
            }
        }
        self.driver.want(wants);
    }
}
