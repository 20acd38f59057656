//! Content that goes with its manifest block, where it is short.

use crate::{
    chunks::ChunkRead,
    cid::ChunkCid,
    error::StoreError,
    manifest::{Block, FileManifest, Links},
    store::Store,
};

/// Longest content that goes with its manifest block, in bytes.
pub const MAX_WITH_CONTENT_LEN: u32 = 64 << 10;

/// The chunk that may go with this manifest block, and its length in bytes: that of a file of one chunk of at most
/// [`MAX_WITH_CONTENT_LEN`] bytes, and not empty.
pub fn chunk_with(block: &[u8]) -> Option<(ChunkCid, u32)> {
    let Ok(Block::File(FileManifest { size, links: Links::Chunks(chunks), .. })) = Block::decode(block)
    else {
        return None;
    };
    let len = u32::try_from(size).ok().filter(|len| (1..=MAX_WITH_CONTENT_LEN).contains(len))?;
    match chunks[..] {
        [chunk] => Some((chunk, len)),
        _ => None,
    }
}

impl Store {
    /// Reads the chunk that may go with this manifest block ([`chunk_with`]); `None` if there is none, or none of at most
    /// `max_len` bytes, or the chunk is not as long as the manifest says.
    ///
    /// # Errors
    /// As for [`Store::read_chunk`].
    pub fn read_content_with(&self, block: &[u8], max_len: u32) -> Result<Option<ChunkRead>, StoreError> {
        let Some((chunk, len)) = chunk_with(block).filter(|(_, len)| *len <= max_len) else {
            return Ok(None);
        };
        let read = self.read_within(&chunk.into(), len)?;
        // Whoever made the manifest may have said anything.
        Ok(read.filter(|read| !matches!(read, ChunkRead::Data(data) if data.len() != len as usize)))
    }
}
