//! What need not be fetched: chunks that lie in the part already, in another file of this store, or are
//! zeros.

use std::sync::Mutex;

use crate::chunks::ChunkRead;
use crate::download::Download;
use crate::download::plan::Place;
use crate::error::{DownloadError, StoreError};
use crate::hasher;
use crate::options::{ProgressFn, Tally};
use crate::store::lock;

/// Places of one chunk that are hashed in search of it. A chunk that repeats was written everywhere at once,
/// so it is at the first few places or nowhere.
const MAX_PLACES_PER_CHUNK: usize = 8;

/// What [`Download::reuse`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reused {
    /// Distinct chunks.
    pub chunks: u64,
    /// Bytes of the output that they make up.
    pub len: u64,
}

impl Download {
    /// Finds missing chunks without a network: hashes what the part holds beyond the committed (holes are
    /// skipped) and copies from other files of this store. Commits what it finds. Progress counts the bytes
    /// of the missing chunks looked for.
    ///
    /// # Errors
    /// [`DownloadError::Cancelled`], or as for [`Self::write`] and [`Self::commit`]. What was found
    /// before counts.
    pub fn reuse(&self, progress: ProgressFn<'_>) -> Result<Reused, DownloadError> {
        let plan = &self.state.plan;
        let wanted: Vec<u32> = {
            let bits = self.state.bits();
            (0..plan.chunk_count()).filter(|index| !bits.has(*index)).collect()
        };
        let len = |index: u32| plan.chunk(index).map_or(0, |(_, len)| u64::from(len));
        let tally = Tally::new(wanted.iter().map(|index| len(*index)).sum(), progress);
        let found = Mutex::new(Reused::default());
        let search = |buffer: &mut Vec<u8>, item: usize| {
            let Some(index) = wanted.get(item).copied() else { return Ok(()) };
            if self.find(index, buffer)? {
                // Also what was in the part is written again. It may never have reached the disk, and after a
                // sync that failed once the system does not try again by itself.
                self.state.put(index, buffer)?;
                let mut found = lock(&found);
                found.chunks += 1;
                found.len += plan.output_len(index);
            }
            Ok::<_, DownloadError>(tally.add(len(index))?)
        };
        let searched = hasher::for_each(self.store.inner.threads, wanted.len(), Vec::new, search);
        self.commit()?;
        searched?;
        Ok(*lock(&found))
    }

    /// Looks for a chunk; if it is found, its bytes are in `buffer`.
    fn find(&self, index: u32, buffer: &mut Vec<u8>) -> Result<bool, StoreError> {
        let state = &*self.state;
        let Some((cid, len)) = state.plan.chunk(index) else { return Ok(false) };
        if state.plan.is_zero(index) {
            buffer.clear();
            buffer.resize(len as usize, 0);
            return Ok(true);
        }
        let old = state.plan.places(index).iter().filter(|place| !state.part.is_fresh(place.file));
        for Place { file, offset } in old.take(MAX_PLACES_PER_CHUNK).copied() {
            // A file that cannot be read is no help here; writing to it reports what is wrong.
            let Ok(file) = state.part.file(&state.plan, file) else { continue };
            if file.has_data(offset, u64::from(len))
                && hasher::read_and_hash_at(&*file, offset, len, buffer)
                    .is_ok_and(|digest| digest == *cid.digest())
            {
                return Ok(true);
            }
        }
        if let ChunkRead::Data(data) = self.store.read_chunk(&cid)? {
            *buffer = data;
            return Ok(true);
        }
        Ok(false)
    }
}
