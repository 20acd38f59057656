//! `cat`: the bytes of a file or chunk, in order, without writing them to disk.

use dhtfs_store::{ChunkCid, ContentCid, ManifestCid, ResolvedFile};
use tokio::sync::{mpsc, watch};

use super::{
    Api, ParsedHints,
    manifest::seconds,
    parse_link,
    types::{ApiError, CatProgress, CatRequest, ErrorKind},
    waiting::{self, Wanted, report_to},
};
use crate::{
    core::fetch::{self, FetchProgress, Order},
    env::Executor,
    tasks::fetch::stream::{self, Part, StreamError},
};

/// Chunks that wait for the reader.
const MAX_WAITING_CHUNKS: usize = 4;

/// The bytes that answer a `cat`.
#[derive(Debug)]
pub struct CatAnswer {
    /// How many bytes will come.
    pub len: u64,
    /// Runs of bytes in order. Ends after `len` bytes, or after an error.
    pub bytes: mpsc::Receiver<Result<Vec<u8>, ApiError>>,
}

/// Which bytes of which chunks.
struct Range {
    chunks: Vec<(ChunkCid, u32)>,
    /// The index of the first of them in the file.
    first: u32,
    /// Bytes of the first chunk to leave out.
    skip: usize,
    len: u64,
    /// Of these chunks, what is here already.
    contents: Vec<(ChunkCid, Vec<u8>)>,
}

impl Range {
    fn of(file: &ResolvedFile, offset: u64, len: Option<u64>) -> Self {
        let end = len.map_or(file.size, |len| offset.saturating_add(len).min(file.size));
        if offset >= end {
            return Self { chunks: Vec::new(), first: 0, skip: 0, len: 0, contents: Vec::new() };
        }
        let chunk_len = u64::from(file.chunk_len);
        let first = usize::try_from(offset / chunk_len).unwrap_or(usize::MAX);
        let past = usize::try_from(end.div_ceil(chunk_len)).unwrap_or(usize::MAX);
        let indices = first..past.min(file.chunks.len());
        let chunk = |index: usize| file.chunks.get(index).map(|cid| (*cid, file.chunk_len_at(index)));
        Self {
            chunks: indices.filter_map(chunk).collect(),
            first: u32::try_from(first).unwrap_or(u32::MAX),
            skip: usize::try_from(offset % chunk_len).unwrap_or(0),
            len: end - offset,
            contents: Vec::new(),
        }
    }

    fn with(self, contents: Vec<(ChunkCid, Vec<u8>)>) -> Self {
        Self { contents, ..self }
    }
}

impl Api {
    /// The bytes of a file or chunk, or a range of them. Bytes past the end are not an error. `progress` tells why nothing
    /// comes; it ends with the bytes.
    ///
    /// # Errors
    /// As [`Api::get`]; [`ErrorKind::Usage`] for a directory. Errors after the first byte come through
    /// [`CatAnswer::bytes`].
    pub async fn cat(
        &self,
        request: CatRequest,
        executor: &Executor,
        progress: watch::Sender<CatProgress>,
    ) -> Result<CatAnswer, ApiError> {
        let link = parse_link(&request.cid)?;
        let hints = ParsedHints::new(&request.hints, &link)?;
        match link.cid {
            ContentCid::Chunk(cid) => self.cat_chunk(cid, &request, &hints, progress).await,
            ContentCid::Manifest(root) => {
                let finding = report_to(progress.clone(), Wanted::Manifest);
                let resolved = self.resolve(root, &hints, true, finding).await?;
                progress.send_if_modified(|progress| progress.waiting.take().is_some());
                let file = match resolved.tree.files.as_slice() {
                    [file] if !resolved.tree.is_dir => file,
                    _ => {
                        let message = format!(
                            "{root} is a directory; list it with `dhtfs ls {root}` and cat one of its files"
                        );
                        return Err(ApiError::new(ErrorKind::Usage, message));
                    }
                };
                let range = Range::of(file, request.offset, request.len).with(resolved.contents);
                let report = report_to(progress, Wanted::Chunks);
                self.cat_file(root, file, range, hints, executor, report)
            }
        }
    }

    async fn cat_chunk(
        &self,
        cid: ChunkCid,
        request: &CatRequest,
        hints: &ParsedHints,
        progress: watch::Sender<CatProgress>,
    ) -> Result<CatAnswer, ApiError> {
        let report = report_to(progress, Wanted::Chunk);
        let data = self.chunk_bytes(&mut None, cid, hints, report, None).await?;
        let start = usize::try_from(request.offset).unwrap_or(usize::MAX).min(data.len());
        let wanted = request.len.map_or(usize::MAX, |len| usize::try_from(len).unwrap_or(usize::MAX));
        let data: Vec<u8> = data.into_iter().skip(start).take(wanted).collect();
        let (out, bytes) = mpsc::channel(1);
        let len = data.len() as u64;
        // One message in a channel of one: there is room.
        let _ = out.try_send(Ok(data));
        Ok(CatAnswer { len, bytes })
    }

    fn cat_file(
        &self,
        root: ManifestCid,
        file: &ResolvedFile,
        range: Range,
        hints: ParsedHints,
        executor: &Executor,
        report: impl Fn(&FetchProgress, Option<&fetch::Waiting>) + Send + Sync + 'static,
    ) -> Result<CatAnswer, ApiError> {
        let mut driver = self.driver(root.into(), Order::InOrder, &hints)?;
        driver.report_to(report);
        driver.content(root, u32::try_from(file.chunks.len()).unwrap_or(u32::MAX));
        let store = self.inner.store.clone();
        let (out, bytes) = mpsc::channel(MAX_WAITING_CHUNKS);
        let len = range.len;
        executor(Box::pin(async move {
            let (chunks_out, mut chunks_in) = mpsc::channel(1);
            let Range { chunks, first, contents, skip: range_skip, len: range_len } = range;
            let fetching = async {
                let part = Part { chunks: &chunks, first, contents };
                let result = stream::run(&mut driver, &store, part, chunks_out).await;
                result.map_err(|error| {
                    let why = waiting::verdict(&driver.why(), Wanted::Chunks);
                    stream_error(root.into(), &error, &hints, &why)
                })
            };
            let cutting = async {
                let (mut skip, mut left) = (range_skip, range_len);
                while let Some(mut data) = chunks_in.recv().await {
                    data.drain(..skip.min(data.len()));
                    skip = 0;
                    data.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                    left -= data.len() as u64;
                    if out.send(Ok(data)).await.is_err() {
                        return;
                    }
                }
            };
            let (fetched, ()) = tokio::join!(fetching, cutting);
            if let Err(error) = fetched {
                let _ = out.send(Err(error)).await;
            }
        }));
        Ok(CatAnswer { len, bytes })
    }
}

fn stream_error(root: ContentCid, error: &StreamError, hints: &ParsedHints, why: &str) -> ApiError {
    match error {
        StreamError::Failed(_) => {
            let waited = seconds(hints.no_progress);
            let message = format!(
                "{root} is incomplete: its next chunk came from nobody within {waited}; try again when more of its providers are up{why}"
            );
            ApiError::new(ErrorKind::Incomplete, message)
        }
        StreamError::Store(error) => ApiError::new(ErrorKind::Store, error.to_string()),
        StreamError::Gone(error) => (*error).into(),
        StreamError::ReaderGone => ApiError::new(ErrorKind::Interrupted, "nobody reads the content any more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(size: u64) -> ResolvedFile {
        let chunk_len = 1 << 16;
        let chunks =
            (0..size.div_ceil(u64::from(chunk_len))).map(|n| ChunkCid::of(&n.to_be_bytes())).collect();
        ResolvedFile {
            path: Default::default(),
            cid: dhtfs_store::ManifestCid::of(b"manifest"),
            size,
            exec: false,
            chunk_len,
            chunks,
        }
    }

    fn shape(range: &Range) -> (usize, usize, u64) {
        (range.chunks.len(), range.skip, range.len)
    }

    #[test]
    fn a_range_names_the_chunks_it_touches_and_no_others() {
        let file = file((2 << 16) + 5);
        assert_eq!(shape(&Range::of(&file, 0, None)), (3, 0, (2 << 16) + 5));
        assert_eq!(shape(&Range::of(&file, 0, Some(1))), (1, 0, 1));
        assert_eq!(shape(&Range::of(&file, 65_535, Some(2))), (2, 65_535, 2));
        assert_eq!(shape(&Range::of(&file, 65_536, Some(65_536))), (1, 0, 65_536));
        assert_eq!(shape(&Range::of(&file, (2 << 16) + 4, Some(u64::MAX))), (1, 4, 1));
    }

    #[test]
    fn a_range_past_the_end_or_of_nothing_is_empty() {
        let file = file(100);
        assert_eq!(shape(&Range::of(&file, 100, None)), (0, 0, 0));
        assert_eq!(shape(&Range::of(&file, u64::MAX, Some(u64::MAX))), (0, 0, 0));
        assert_eq!(shape(&Range::of(&file, 5, Some(0))), (0, 0, 0));
    }
}
