//! Looks into a database without changing a byte of its file.
//!
//! Opening a database for writing changes it at once, if only to note that it is in use. A store written by a
//! newer program must be refused untouched, so its version is read first through this: reads come from the
//! file, writes (the repair after a crash) stay in memory.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use crate::disk::DiskFile;

/// Granularity in which written data is kept.
const PAGE_LEN: usize = 4096;

/// A file opened for reading with everything written laid over it.
#[derive(Debug)]
pub(crate) struct ProbeBackend {
    file: Arc<dyn DiskFile>,
    state: Mutex<Overlay>,
}

#[derive(Debug)]
struct Overlay {
    len: u64,
    /// How much of the file still shows: shrinking hides its end for good, growing brings zeros.
    file_len: u64,
    pages: BTreeMap<u64, Box<[u8; PAGE_LEN]>>,
}

impl ProbeBackend {
    pub(crate) fn new(file: Arc<dyn DiskFile>) -> io::Result<Self> {
        let len = file.metadata()?.len;
        Ok(Self { file, state: Mutex::new(Overlay { len, file_len: len, pages: BTreeMap::new() }) })
    }

    fn state(&self) -> MutexGuard<'_, Overlay> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Overlay {
    /// The page with this number as it looks now.
    fn page(&self, file: &dyn DiskFile, number: u64) -> io::Result<Box<[u8; PAGE_LEN]>> {
        if let Some(page) = self.pages.get(&number) {
            return Ok(page.clone());
        }
        let mut page = Box::new([0; PAGE_LEN]);
        let start = number.saturating_mul(PAGE_LEN as u64);
        let in_file = usize::try_from(self.file_len.saturating_sub(start)).unwrap_or(PAGE_LEN).min(PAGE_LEN);
        if let Some(part) = page.get_mut(..in_file) {
            file.read_exact_at(part, start)?;
        }
        Ok(page)
    }

    fn check(&self, offset: u64, len: usize) -> io::Result<()> {
        let end = offset.checked_add(len as u64);
        if end.is_some_and(|end| end <= self.len) { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// Cuts a range of `len` bytes at `offset` along page borders: page number, place in the page, length.
fn page_parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let place = usize::try_from(at % PAGE_LEN as u64).unwrap_or(0);
        let part_len = (PAGE_LEN - place).min(len - done);
        done += part_len;
        Some((at / PAGE_LEN as u64, place, part_len))
    })
}

impl StorageBackend for ProbeBackend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        state.check(offset, out.len())?;
        let mut rest = out;
        for (number, place, part_len) in page_parts(offset, rest.len()) {
            let page = state.page(&*self.file, number)?;
            let (part, tail) = rest.split_at_mut(part_len);
            part.copy_from_slice(page.get(place..place + part_len).unwrap_or_default());
            rest = tail;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        if len < state.len {
            let border = len / PAGE_LEN as u64;
            let mut page = state.page(&*self.file, border)?;
            let keep = usize::try_from(len % PAGE_LEN as u64).unwrap_or(0);
            if let Some(hidden) = page.get_mut(keep..) {
                hidden.fill(0);
            }
            state.pages.split_off(&border);
            state.file_len = state.file_len.min(len);
            if keep > 0 {
                state.pages.insert(border, page);
            }
        }
        state.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        state.check(offset, data.len())?;
        let mut rest = data;
        for (number, place, part_len) in page_parts(offset, data.len()) {
            let mut page = state.page(&*self.file, number)?;
            let (part, tail) = rest.split_at(part_len);
            if let Some(target) = page.get_mut(place..place + part_len) {
                target.copy_from_slice(part);
            }
            state.pages.insert(number, page);
            rest = tail;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use proptest::prelude::*;

    use super::*;
    use crate::disk::{Disk, OpenMode, RealDisk};

    #[derive(Clone, Debug)]
    enum Op {
        SetLen(u16),
        Write(u16, Vec<u8>),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0u16..20_000).prop_map(Op::SetLen),
            (0u16..20_000, prop::collection::vec(any::<u8>(), 0..9_000))
                .prop_map(|(at, data)| Op::Write(at, data)),
        ]
    }

    proptest! {
        #[test]
        fn the_overlay_behaves_like_a_file_and_leaves_the_file_alone(
            start in prop::collection::vec(any::<u8>(), 0..10_000),
            ops in prop::collection::vec(op(), 0..12),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("db");
            std::fs::write(&path, &start).unwrap();
            let probe = ProbeBackend::new(RealDisk.open(&path, OpenMode::Read).unwrap()).unwrap();
            let mut model = start.clone();
            for op in ops {
                match op {
                    Op::SetLen(len) => {
                        model.resize(usize::from(len), 0);
                        probe.set_len(u64::from(len)).unwrap();
                    }
                    Op::Write(at, data) => {
                        let at = usize::from(at);
                        let fits = at + data.len() <= model.len();
                        prop_assert_eq!(probe.write(at as u64, &data).is_ok(), fits);
                        if fits {
                            model[at..at + data.len()].copy_from_slice(&data);
                        }
                    }
                }
                let mut seen = vec![0; usize::try_from(probe.len().unwrap()).unwrap()];
                probe.read(0, &mut seen).unwrap();
                prop_assert_eq!(&seen, &model);
            }
            prop_assert_eq!(std::fs::read(&path).unwrap(), start);
        }
    }
}
