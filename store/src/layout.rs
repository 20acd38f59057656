//! Where the chunks of a file begin and end.

/// A file cut into chunks of one length; only the last may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    size: u64,
    chunk_len: u32,
}

impl Layout {
    /// `chunk_len` of zero counts as one.
    pub(crate) fn new(size: u64, chunk_len: u32) -> Self {
        Self { size, chunk_len: chunk_len.max(1) }
    }

    /// Number of chunks; none for an empty file.
    pub(crate) fn chunks(self) -> u64 {
        self.size.div_ceil(u64::from(self.chunk_len))
    }

    /// Offset and length of a chunk in bytes; the length is 0 beyond the end.
    pub(crate) fn span(self, index: u64) -> (u64, u32) {
        let offset = index.saturating_mul(u64::from(self.chunk_len)).min(self.size);
        let len = u32::try_from(self.size - offset).unwrap_or(u32::MAX).min(self.chunk_len);
        (offset, len)
    }

    /// The chunk that begins at `offset`.
    pub(crate) fn index_at(self, offset: u64) -> u64 {
        offset / u64::from(self.chunk_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_cover_a_file_without_gap_or_overlap() {
        for size in [0, 1, 9, 10, 11, 20, 101] {
            let layout = Layout::new(size, 10);
            let mut end = 0;
            for index in 0..layout.chunks() {
                let (offset, len) = layout.span(index);
                assert_eq!(offset, end);
                assert_eq!(layout.index_at(offset), index);
                assert!((1..=10).contains(&len));
                end += u64::from(len);
            }
            assert_eq!(end, size);
            assert_eq!(layout.span(layout.chunks()).1, 0);
            assert_eq!(layout.span(u64::MAX).1, 0);
        }
    }

    #[test]
    fn a_file_of_the_largest_length_does_not_overflow() {
        let layout = Layout::new(u64::MAX, 1 << 20);
        assert_eq!(layout.chunks(), 1 << 44);
        assert_eq!(layout.span((1 << 44) - 1), (u64::MAX - ((1 << 20) - 1), (1 << 20) - 1));
    }
}
