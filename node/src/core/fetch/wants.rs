//! What is wanted, and in which order.
//!
//! # Invariants
//! - A want is in `pending` exactly while its status is `Pending`.
//! - `head` is the lowest index that is not stored, or the number of wants.

use std::{
    collections::{BTreeSet, HashMap},
    ops::{Index, IndexMut},
};

use dhtfs_store::ContentCid;

use super::{Want, config::Order};
use crate::core::MAX_BLOCK_LEN;

/// Position of a want in the list: the order in which wants were given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct WantIx(pub(super) u32);

/// Where a want stands in the order of requesting; its low 32 bits are the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Rank(u64);

impl Rank {
    pub(super) const FIRST: Rank = Rank(0);
    pub(super) const END: Rank = Rank(u64::MAX);

    #[allow(clippy::cast_possible_truncation, reason = "the low 32 bits are the index")]
    pub(super) fn want(self) -> WantIx {
        WantIx(self.0 as u32)
    }

    /// The next possible rank.
    pub(super) fn after(self) -> Rank {
        Rank(self.0.saturating_add(1))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Pending,
    InFlight,
    Received,
    Stored,
}

/// Where a want's own lookup stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OwnLookup {
    Idle,
    Queued,
    Running,
    /// Running although somebody is believed to hold the want: what that peer says does not end it.
    Doubting,
    Waiting,
}

impl OwnLookup {
    pub(super) fn is_running(self) -> bool {
        matches!(self, Self::Running | Self::Doubting)
    }
}

/// No place, and no want at a place.
const NONE: u32 = u32::MAX;

/// One want: 52 bytes.
#[derive(Debug, Clone)]
pub(super) struct WantState {
    pub(super) cid: ContentCid,
    /// Exact length in bytes; `u32::MAX` if unknown.
    len: u32,
    /// One of its positions in the content; `NONE` if it has none.
    place: u32,
    pub(super) status: Status,
    pub(super) lookup: OwnLookup,
    /// Own lookups that ended without making it obtainable.
    pub(super) lookups_done: u8,
    /// Copies that were late so far.
    pub(super) lates: u8,
    /// Copies that were moved on to another unproven peer so far.
    pub(super) rotations: u8,
}

impl WantState {
    /// The exact length, if known.
    pub(super) fn exact_len(&self) -> Option<u32> {
        (self.len <= MAX_BLOCK_LEN).then_some(self.len)
    }

    /// Whether a block of this length may be right.
    pub(super) fn may_have_len(&self, len: u32) -> bool {
        self.exact_len().map_or(len <= MAX_BLOCK_LEN, |exact| len == exact)
    }

    /// The longest acceptable length.
    pub(super) fn max_len(&self) -> u32 {
        self.exact_len().unwrap_or(MAX_BLOCK_LEN)
    }
}

#[derive(Debug)]
pub(super) struct Wants {
    list: Vec<WantState>,
    /// Never iterated, so its order does not matter.
    index: HashMap<ContentCid, u32>,
    pending: BTreeSet<Rank>,
    /// The want at each position of the content, `NONE` without.
    at_place: Vec<u32>,
    stored: usize,
    head: u32,
    order: Order,
    seed: u64,
}

impl Index<WantIx> for Wants {
    type Output = WantState;

    fn index(&self, ix: WantIx) -> &WantState {
        &self.list[ix.0 as usize]
    }
}

impl IndexMut<WantIx> for Wants {
    fn index_mut(&mut self, ix: WantIx) -> &mut WantState {
        &mut self.list[ix.0 as usize]
    }
}

impl Wants {
    pub(super) fn new(order: Order, seed: u64) -> Self {
        Self {
            list: Vec::new(),
            index: HashMap::new(),
            pending: BTreeSet::new(),
            at_place: Vec::new(),
            stored: 0,
            head: 0,
            order,
            seed,
        }
    }

    /// Adds a want as pending; `None` if this CID is already wanted. The caller keeps the number in bounds.
    pub(super) fn add(&mut self, want: Want) -> Option<WantIx> {
        let ix = u32::try_from(self.list.len()).ok()?;
        match self.index.entry(want.cid) {
            std::collections::hash_map::Entry::Occupied(_) => return None,
            std::collections::hash_map::Entry::Vacant(entry) => entry.insert(ix),
        };
        let place = want.place.filter(|place| *place < self.places()).unwrap_or(NONE);
        if let Some(at_place) = self.at_place.get_mut(place as usize) {
            *at_place = ix;
        }
        self.list.push(WantState {
            cid: want.cid,
            place,
            len: want.len.map_or(u32::MAX, |len| len.min(MAX_BLOCK_LEN)),
            status: Status::Pending,
            lookup: OwnLookup::Idle,
            lookups_done: 0,
            lates: 0,
            rotations: 0,
        });
        self.pending.insert(self.rank(WantIx(ix)));
        Some(WantIx(ix))
    }

    /// The content has so many positions. Wants that were given before have none.
    pub(super) fn set_places(&mut self, count: u32) {
        if self.at_place.is_empty() {
            self.at_place = vec![NONE; count as usize];
        }
    }

    /// How many positions the content has; 0 if that is not known.
    pub(super) fn places(&self) -> u32 {
        u32::try_from(self.at_place.len()).unwrap_or(NONE)
    }

    /// The position of a want, if it has one.
    pub(super) fn place(&self, ix: WantIx) -> Option<u32> {
        Some(self[ix].place).filter(|place| *place != NONE)
    }

    /// The wants at the positions from `start` to before `end`.
    pub(super) fn at_places(&self, start: u32, end: u32) -> impl Iterator<Item = WantIx> + '_ {
        let range = start as usize..(end as usize).min(self.at_place.len());
        let wants = self.at_place.get(range).unwrap_or_default();
        wants.iter().filter(|ix| **ix != NONE).map(|ix| WantIx(*ix))
    }

    pub(super) fn find(&self, cid: &ContentCid) -> Option<WantIx> {
        self.index.get(cid).copied().map(WantIx)
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn stored(&self) -> usize {
        self.stored
    }

    /// Wants that are not stored.
    pub(super) fn open(&self) -> usize {
        self.list.len() - self.stored
    }

    /// The lowest want that is not stored, when wants are consumed in order.
    pub(super) fn head(&self) -> Option<WantIx> {
        (self.order == Order::InOrder && self.open() > 0).then_some(WantIx(self.head))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &WantState> {
        self.list.iter()
    }

    pub(super) fn ixs(&self) -> impl Iterator<Item = WantIx> + use<> {
        (0..u32::try_from(self.list.len()).unwrap_or(u32::MAX)).map(WantIx)
    }

    /// Up to `count` wants on each side of this one.
    pub(super) fn neighbours(&self, ix: WantIx, count: u32) -> impl Iterator<Item = WantIx> + use<> {
        let len = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        let (first, end) = (ix.0.saturating_sub(count), ix.0.saturating_add(count + 1).min(len));
        (first..end).filter(move |near| *near != ix.0).map(WantIx)
    }

    pub(super) fn pending(&self) -> &BTreeSet<Rank> {
        &self.pending
    }

    pub(super) fn is_pending(&self, rank: Rank) -> bool {
        self[rank.want()].status == Status::Pending
    }

    /// Where a want stands in the order of requesting.
    pub(super) fn rank(&self, ix: WantIx) -> Rank {
        let index = u64::from(ix.0);
        match self.order {
            Order::InOrder => Rank(index),
            Order::Spread => {
                let chunk = matches!(self[ix].cid, ContentCid::Chunk(_));
                let run = mix(self.seed ^ (index / RUN)) >> 35;
                let place = (index + self.seed) % RUN;
                Rank(u64::from(chunk) << 63 | run << 34 | place << 32 | index)
            }
        }
    }

    /// Changes the status and keeps `pending`, `stored` and `head` right.
    pub(super) fn set_status(&mut self, ix: WantIx, status: Status) {
        let old = std::mem::replace(&mut self[ix].status, status);
        if old == status {
            return;
        }
        if old == Status::Pending {
            self.pending.remove(&self.rank(ix));
        } else if status == Status::Pending {
            self.pending.insert(self.rank(ix));
        }
        if status == Status::Stored {
            self.stored += 1;
            while self.list.get(self.head as usize).is_some_and(|want| want.status == Status::Stored) {
                self.head += 1;
            }
        } else if old == Status::Stored {
            self.stored -= 1;
            self.head = self.head.min(ix.0);
        }
    }

    pub(super) fn check_invariants(&self) {
        let mut stored = 0;
        let mut head = None;
        for (position, want) in (0_u32..).zip(&self.list) {
            let ix = WantIx(position);
            assert_eq!(self.find(&want.cid), Some(ix), "index of a want");
            assert_eq!(self.rank(ix).want(), ix, "rank of a want");
            if let Some(place) = self.place(ix) {
                assert_eq!(self.at_place[place as usize], position, "want at a place");
            }
            let listed = self.pending.contains(&self.rank(ix));
            assert_eq!(listed, want.status == Status::Pending, "pending want {position}");
            if want.status == Status::Stored {
                stored += 1;
            } else {
                head = head.or(Some(position));
            }
        }
        assert_eq!(stored, self.stored, "stored wants");
        let pending = self.list.iter().filter(|want| want.status == Status::Pending).count();
        assert_eq!(pending, self.pending.len(), "pending wants");
        assert_eq!(head.map_or(self.list.len(), |head| head as usize), self.head as usize, "head");
    }
}

/// Neighbours that stay together when the order is spread: 4 MiB of default chunks, enough for a disk to read on.
const RUN: u64 = 4;

/// The finalizer of SplitMix64: every input bit changes every output bit with probability one half.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
