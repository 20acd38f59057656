//! Buffers of blocks that are used again by all fetches of a node: memory that was touched a moment ago costs nothing, while that of a new mebibyte
//! is faulted in page by page and then cleared.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::exchange::MAX_DATA_LEN;

/// Buffers that wait to be used again, at most: 8 MiB beside the memory of all fetches. A block is written as soon as it is there,
/// so that as many come back as are taken.
const MAX_SPARE: usize = 8;

/// Shortest block that gets a buffer that was used before, in bytes.
const MIN_REUSED_LEN: usize = 64 << 10;

/// Bytes of blocks that came on all lanes of a fetch and that it has not heard of, at most, beside one on each lane. A fetch
/// counts blocks of unknown length as shorter than they may be, so this is what bounds those that are not.
const MAX_ARRIVED_LEN: usize = 16 << 20;

/// Those of one fetch. All clones are the same.
#[derive(Debug, Clone)]
pub struct Buffers {
    spare: Arc<Mutex<Vec<Vec<u8>>>>,
    room: Arc<Semaphore>,
}

impl Default for Buffers {
    fn default() -> Self {
        Self { spare: Arc::default(), room: Arc::new(Semaphore::new(MAX_ARRIVED_LEN)) }
    }
}

/// Room for a block that came, until it is dropped.
#[derive(Debug)]
pub(crate) struct Room(#[expect(dead_code, reason = "held, not read")] Option<OwnedSemaphorePermit>);

impl Buffers {
    /// Those of another fetch of the same node.
    pub fn of_another_fetch(&self) -> Self {
        Self { spare: self.spare.clone(), ..Self::default() }
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is room for a block of this length in bytes, at most [`MAX_DATA_LEN`], that came.
    pub(crate) async fn room(&self, len: u32) -> Room {
        // It is never closed.
        Room(self.room.clone().acquire_many_owned(len.min(MAX_DATA_LEN)).await.ok())
    }

    /// A buffer of this length in bytes. What is in it means nothing.
    pub(crate) fn take(&self, len: usize) -> Vec<u8> {
        // What is short is kept for longer than it takes to write it, and must not keep a large buffer.
        let spare = if len < MIN_REUSED_LEN { None } else { self.spare().pop() };
        // Memory that is new is clear already.
        let Some(mut buffer) = spare else { return vec![0; len] };
        buffer.resize(len, 0);
        buffer
    }

    /// Takes back a buffer that is not needed any more. What is too large for a block, or one too many, is freed.
    pub fn give(&self, buffer: Vec<u8>) {
        let mut spare = self.spare();
        if spare.len() < MAX_SPARE && u32::try_from(buffer.capacity()).is_ok_and(|len| len <= MAX_DATA_LEN) {
            spare.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_with_the_length_that_is_asked_for() {
        let buffers = Buffers::default();
        let first = buffers.take(2 * MIN_REUSED_LEN);
        let place = first.as_ptr();
        buffers.give(first);
        assert_eq!(buffers.take(10).len(), 10);
        assert_eq!(buffers.spare().len(), 1, "a short one needs none of them");
        let again = buffers.take(MIN_REUSED_LEN);
        assert_eq!((again.len(), again.as_ptr()), (MIN_REUSED_LEN, place));
        buffers.give(again);
        assert_eq!(buffers.take(3 * MIN_REUSED_LEN), vec![0; 3 * MIN_REUSED_LEN]);
    }

    #[test]
    fn fetches_share_what_waits_to_be_used_again_and_not_the_room() {
        use futures::FutureExt as _;

        let one = Buffers::default();
        let other = one.of_another_fetch();
        one.give(vec![1; 10]);
        assert_eq!(other.spare().len(), 1);
        let held: Vec<_> = std::iter::from_fn(|| one.room(MAX_DATA_LEN).now_or_never()).collect();
        assert_eq!(held.len(), MAX_ARRIVED_LEN / MAX_DATA_LEN as usize);
        assert!(other.room(MAX_DATA_LEN).now_or_never().is_some(), "one that is slow holds up no other");
    }

    #[test]
    fn what_came_waits_for_room_and_others_give_it_back() {
        use futures::FutureExt as _;

        let buffers = Buffers::default();
        let blocks = MAX_ARRIVED_LEN / MAX_DATA_LEN as usize;
        let mut held: Vec<_> = (0..blocks).filter_map(|_| buffers.room(u32::MAX).now_or_never()).collect();
        assert_eq!(held.len(), blocks, "no block is longer");
        assert!(buffers.room(1).now_or_never().is_none());
        held.pop();
        assert!(buffers.clone().room(MAX_DATA_LEN).now_or_never().is_some());
    }

    #[test]
    fn few_wait_and_none_is_larger_than_a_block() {
        let buffers = Buffers::default();
        for _ in 0..2 * MAX_SPARE {
            buffers.give(vec![0; 10]);
        }
        assert_eq!(buffers.spare().len(), MAX_SPARE);
        let buffers = Buffers::default();
        buffers.give(vec![0; 2 * MAX_DATA_LEN as usize]);
        assert_eq!(buffers.spare().len(), 0);
    }
}
