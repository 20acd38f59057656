//! The beginning of a download: looks what is there, makes what is missing, and notes both in one
//! transaction.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use crate::chunk_set::ChunkSet;
use crate::db::content::{download, resolve};
use crate::db::records::{
    DownloadRecord, ShareRecord, ShareStatus, SourceKind, SourceRecord, decode, path_bytes,
};
use crate::db::tables::{PROGRESS, SOURCE_PATHS, SOURCES, Tables};
use crate::disk::{Disk, FileKind, Metadata};
use crate::download::part::PartFiles;
use crate::download::plan::{Plan, PlanFile};
use crate::download::{Bits, Download, DownloadState, decode_bits, finish, set_have};
use crate::error::{DownloadError, FileError, StoreError};
use crate::fsutil::FileStamp;
use crate::manifest::ResolvedTree;
use crate::options::DownloadOptions;
use crate::store::{Store, lock};

impl Store {
    /// Begins to fetch `tree` to the path `out`, or goes on with it: of the same root and output everything
    /// committed counts as had. All manifest blocks of the tree must be here; they are pinned, and the share
    /// counts as partial until [`Download::finish`].
    ///
    /// What is incomplete lies at `<out>.part`. One that is there already is taken up if it belongs to this
    /// fetch or looks like it (the same names and lengths): its content counts only after [`Download::reuse`]
    /// has hashed it. The directory that is to hold `out` must exist.
    ///
    /// # Errors
    /// [`DownloadError::Exists`] if something is in the way, [`DownloadError::NoSpace`] if the file
    /// system is too full, [`DownloadError::InProgress`] if there is another handle on the same output,
    /// [`DownloadError::MissingManifest`] if a block of the tree is not here,
    /// [`DownloadError::OutsideTarget`] if there is a link where a part file or directory should be.
    pub fn begin_download(
        &self,
        tree: &ResolvedTree,
        out: &Path,
        options: DownloadOptions,
    ) -> Result<Download, DownloadError> {
        let output = absolute(&*self.inner.disk, out)?;
        let disk = &*self.inner.disk;
        let plan = Plan::new(tree);
        // Held to the end: two handles on one output must not begin side by side.
        let mut downloads = lock(&self.inner.downloads);
        downloads.retain(|_, download| download.strong_count() > 0);
        let other = downloads.get(&output).and_then(|download| download.upgrade());
        if other.is_some_and(|download| download.finished.get().is_none()) {
            return Err(DownloadError::InProgress(output));
        }
        finish::recover(self, &output)?;
        check_output(disk, &output, &plan, options.force)?;
        let mut part = PartFiles::new(&self.inner.disk, &output, &plan)?;
        let is_ours = self.check_part(&output, &plan, &part, options.force)?;
        check_space(&plan, &part)?;
        if is_ours {
            self.forget_spoiled(&output, &plan, &part)?;
        }
        let stamps = part.create(&plan)?;
        if !part.lock(&plan)? {
            return Err(DownloadError::InProgress(output));
        }
        if let Err(error) = part.preallocate(&plan) {
            if !is_ours {
                part.discard_fresh(&plan);
            }
            return Err(error);
        }
        let (have, first_source) = self.note_begin(&output, &plan, &part, &stamps, options)?;
        let bits = Bits {
            have_len: plan.output_len_of(&have),
            written: ChunkSet::new(plan.chunk_count()),
            have,
            touched: Default::default(),
            is_layout_synced: false,
            failed_syncs: 0,
        };
        let state = Arc::new(DownloadState {
            plan,
            part,
            output: output.clone(),
            force: options.force,
            first_source,
            commit: Mutex::new(()),
            bits: Mutex::new(bits),
            finished: OnceLock::new(),
        });
        downloads.insert(output, Arc::downgrade(&state));
        Ok(Download { store: self.clone(), state })
    }

    /// Whether the part, if there is one, may be written to: it belongs to this fetch, or looks like it.
    /// Returns whether a row says that it is ours.
    fn check_part(
        &self,
        output: &Path,
        plan: &Plan,
        part: &PartFiles,
        force: bool,
    ) -> Result<bool, DownloadError> {
        let part_path = part.part_path();
        let (owner, in_place) = self.inner.db.read(|txn| {
            let owner = download(&txn.open_table(PROGRESS)?, output)?;
            let (paths, sources) = (txn.open_table(SOURCE_PATHS)?, txn.open_table(SOURCES)?);
            for file in &plan.files {
                let path = file.path.below(part_path);
                let Some(id) = paths.get(path_bytes(&path))? else { continue };
                let Some(record) = sources.get(id.value())? else { continue };
                if decode::<SourceRecord>(record.value(), "source")?.kind == SourceKind::InPlace {
                    return Ok((owner, Some(path)));
                }
            }
            Ok((owner, None))
        })?;
        if let Some(path) = in_place {
            // The user shares a file that happens to have this name.
            return Err(DownloadError::Exists(path));
        }
        match owner {
            Some(owner) if owner.root == plan.root => Ok(true),
            // What an unfinished fetch of something else left. Anything that is not from a fetch is the user's.
            Some(_) if force => Ok(false),
            Some(_) => Err(DownloadError::Exists(part_path.to_owned())),
            None if may_be_part(&*self.inner.disk, part_path, plan)? => Ok(false),
            None => Err(DownloadError::Exists(part_path.to_owned())),
        }
    }

    /// The first part file that is gone, or is not the one that was written to, or has another length.
    pub(super) fn first_spoiled(
        &self,
        output: &Path,
        plan: &Plan,
        part: &PartFiles,
    ) -> Result<Option<PathBuf>, DownloadError> {
        let spoiled = self.inner.db.read(|txn| {
            let Some(record) = download(&txn.open_table(PROGRESS)?, output)? else { return Ok(None) };
            let sources = txn.open_table(SOURCES)?;
            for (id, file) in (record.first_source..).zip(&plan.files) {
                let path = file.path.below(part.part_path());
                let stamp = FileStamp::of_path(&*self.inner.disk, &path).ok();
                let Some(row) = sources.get(id)? else { continue };
                let source: SourceRecord = decode(row.value(), "source")?;
                if !stamp.is_some_and(|stamp| source.stamp.is_same_part(&stamp)) {
                    return Ok(Some(path));
                }
            }
            Ok(None)
        })?;
        Ok(spoiled)
    }

    /// Takes back what part files held that are gone or not what they were. Done before any file is touched:
    /// one that was cut and then given its length again looks whole.
    pub(super) fn forget_spoiled(
        &self,
        output: &Path,
        plan: &Plan,
        part: &PartFiles,
    ) -> Result<(), DownloadError> {
        let stamp =
            |file: &PlanFile| FileStamp::of_path(&*self.inner.disk, &file.path.below(part.part_path())).ok();
        let stamps: Vec<_> = plan.files.iter().map(stamp).collect();
        self.inner.db.change(|tables| {
            let Some(mut record) = download(&tables.progress, output)? else { return Ok(()) };
            let mut have = decode_bits(&record.have, plan)?;
            for (id, (file, stamp)) in (record.first_source..).zip(plan.files.iter().zip(&stamps)) {
                let Some(source) = tables.source(id)? else { continue };
                if !stamp.is_some_and(|stamp| source.stamp.is_same_part(&stamp)) {
                    tables.forget_chunks(id, &source)?;
                    for chunk in &file.chunks {
                        have.remove(*chunk);
                    }
                }
            }
            set_have(&mut record, &have, plan);
            tables.put_download(output, &record)
        })?;
        Ok(())
    }

    /// Writes share, pins, sources and progress. Returns what counts as had, and the id of the first source.
    fn note_begin(
        &self,
        output: &Path,
        plan: &Plan,
        part: &PartFiles,
        stamps: &[FileStamp],
        options: DownloadOptions,
    ) -> Result<(ChunkSet, u64), DownloadError> {
        self.inner.db.change(|tables| {
            let manifests = match resolve(&tables.manifests, plan.root)? {
                Ok(local) => local.manifests,
                Err(cid) => return Ok(Err(DownloadError::MissingManifest(cid))),
            };
            let (mut record, have) = match take_up(tables, output, plan)? {
                Some(taken_up) => taken_up,
                None => (new_record(tables, plan)?, ChunkSet::new(plan.chunk_count())),
            };
            let new_share =
                || ShareRecord::new(&plan.name, plan.total_len, record.files, plan.is_dir, options.now_unix);
            let old_share = tables.share(&plan.root)?;
            let is_complete = old_share.as_ref().is_some_and(|share| share.status == ShareStatus::Complete);
            let mut share = old_share.unwrap_or_else(new_share);
            share.status = if is_complete { ShareStatus::Complete } else { ShareStatus::Partial };
            share.announce = options.announce.unwrap_or(share.announce);
            tables.put_share(&plan.root, &share)?;
            tables.pin(&plan.root, manifests)?;
            for (id, (file, stamp)) in (record.first_source..).zip(plan.files.iter().zip(stamps)) {
                let path = file.path.below(part.part_path());
                let source = SourceRecord::new(SourceKind::Part, &path, file.cid, file.chunk_len, *stamp);
                tables.put_source(id, &source, &plan.root)?;
            }
            set_have(&mut record, &have, plan);
            tables.put_download(output, &record)?;
            Ok(Ok((have, record.first_source)))
        })?
    }
}

/// The row of an earlier download to this output, if it is of the same tree. One of another tree ends here.
fn take_up(
    tables: &mut Tables<'_>,
    output: &Path,
    plan: &Plan,
) -> Result<Option<(DownloadRecord, ChunkSet)>, StoreError> {
    let Some(record) = download(&tables.progress, output)? else { return Ok(None) };
    if record.root != plan.root {
        tables.end_download(output, &record)?;
        return Ok(None);
    }
    let have = decode_bits(&record.have, plan)?;
    Ok(Some((record, have)))
}

fn new_record(tables: &mut Tables<'_>, plan: &Plan) -> Result<DownloadRecord, StoreError> {
    let files = plan.files.len() as u64;
    let first_source = tables.reserve_sources(files)?;
    Ok(DownloadRecord {
        root: plan.root,
        first_source,
        files,
        have: Vec::new(),
        have_len: 0,
        finishing: None,
    })
}

/// The output's path, absolute and without links in its directory.
fn absolute(disk: &dyn Disk, out: &Path) -> Result<PathBuf, DownloadError> {
    let name = out.file_name().ok_or_else(|| DownloadError::NoName(out.to_owned()))?;
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let parent =
        disk.canonicalize(parent).map_err(|source| FileError::new("open the directory", parent, source))?;
    Ok(parent.join(name))
}

/// Nothing must be in the way of the final rename. `force` gives a file away, and an empty directory.
fn check_output(disk: &dyn Disk, output: &Path, plan: &Plan, force: bool) -> Result<(), DownloadError> {
    let meta = match disk.symlink_metadata(output) {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(FileError::new("look up", output, source).into()),
    };
    let is_empty_dir = || disk.read_dir(output).is_ok_and(|mut entries| entries.next().is_none());
    let may_replace = match (plan.is_dir, meta.is_dir()) {
        // A device or a pipe is not what anybody means to replace.
        (false, false) => force && matches!(meta.kind, FileKind::File | FileKind::Link),
        (true, true) => force && is_empty_dir(),
        _ => false,
    };
    if may_replace { Ok(()) } else { Err(DownloadError::Exists(output.to_owned())) }
}

/// Whether what lies at the part path, if anything, can be from this fetch: begun with another data
/// directory, or just before a crash, or its share was removed. Files have their final length, or none, and
/// there is nothing else.
fn may_be_part(disk: &dyn Disk, part_path: &Path, plan: &Plan) -> Result<bool, DownloadError> {
    let error = |source| FileError::new("look up", part_path, source);
    let meta = match disk.symlink_metadata(part_path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(true),
        Err(source) => return Err(error(source).into()),
    };
    let fits = |meta: &Metadata, size: u64| meta.is_file() && (meta.len == 0 || meta.len == size);
    if !plan.is_dir {
        return Ok(fits(&meta, plan.total_len));
    }
    if !meta.is_dir() {
        return Ok(false);
    }
    let mut expected: HashMap<PathBuf, Option<u64>> = HashMap::new();
    expected.extend(plan.dirs.iter().map(|dir| (dir.below(part_path), None)));
    expected.extend(plan.files.iter().map(|file| (file.path.below(part_path), Some(file.size))));
    let mut to_read = vec![part_path.to_owned()];
    while let Some(dir) = to_read.pop() {
        for entry in disk.read_dir(&dir).map_err(error)? {
            let path = dir.join(entry.map_err(error)?.name);
            let meta = disk.symlink_metadata(&path).map_err(error)?;
            match expected.get(&path) {
                Some(None) if meta.is_dir() => to_read.push(path),
                Some(Some(size)) if fits(&meta, *size) => {}
                _ => return Ok(false),
            }
        }
    }
    Ok(true)
}

/// Whether the blocks still to be allocated fit. Chunks of zeros need none.
fn check_space(plan: &Plan, part: &PartFiles) -> Result<(), DownloadError> {
    let all = (0..plan.chunk_count()).filter(|index| !plan.is_zero(*index));
    let total = all.fold(0u64, |sum, index| sum.saturating_add(plan.output_len(index)));
    let need = total.saturating_sub(part.allocated_len(plan));
    let have = part.free_len()?;
    if need <= have { Ok(()) } else { Err(DownloadError::NoSpace { need, have }) }
}
