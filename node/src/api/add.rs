//! `add`: import a path or a stream, keep it as a share, announce it.

use std::{
    io::Read,
    ops::ControlFlow,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use dhtfs_store::{ImportError, ImportOptions, Imported, Progress, ProgressFn, Store};
use tokio::{sync::watch, time::Instant};

use super::{
    Api,
    types::{AddRequest, AddStreamQuery, Added, ApiError, ErrorKind, HashProgress},
};
use crate::tasks::serve::withdraw;

/// Tells a blocking job that its caller is gone.
pub(super) struct CancelOnDrop(Arc<AtomicBool>);

impl CancelOnDrop {
    pub(super) fn new() -> (Self, Arc<AtomicBool>) {
        let flag = Arc::new(AtomicBool::new(false));
        (Self(flag.clone()), flag)
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A progress callback for hashing: passes the figures on and stops once the caller is gone.
pub(super) fn hash_progress(
    progress: watch::Sender<HashProgress>,
    cancelled: Arc<AtomicBool>,
) -> impl Fn(Progress) -> ControlFlow<()> + Send + Sync {
    move |done| {
        progress.send_replace(HashProgress {
            done_len: done.done_len,
            total_len: Some(done.total_len),
            ..HashProgress::default()
        });
        if cancelled.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl Api {
    /// Imports a file or directory, keeps it as a share and announces it. Once this returns, the share survives
    /// anything that the disk survives; before, nothing of it is kept. Dropping the future stops the import.
    ///
    /// # Errors
    /// [`ErrorKind::Failed`] if something cannot be read, is changed meanwhile, or has a name that no receiver
    /// would accept; [`ErrorKind::Store`] if the store fails.
    pub async fn add(
        &self,
        request: AddRequest,
        progress: watch::Sender<HashProgress>,
    ) -> Result<Added, ApiError> {
        require_absolute(&request.path)?;
        let AddRequest { path, copy, name, announce } = request;
        let options = ImportOptions { copy, name, now_unix: (self.inner.wall_clock)(), announce };
        self.import(progress, move |store, progress| store.import_path(&path, &options, progress)).await
    }

    /// Imports what `reader` gives until its end, as a copy in the store, named `stdin` unless the query says
    /// otherwise. Runs on a thread of the store; `reader` may block.
    ///
    /// # Errors
    /// As [`Api::add`].
    pub async fn add_stream(
        &self,
        query: AddStreamQuery,
        mut reader: impl Read + Send + 'static,
        progress: watch::Sender<HashProgress>,
    ) -> Result<Added, ApiError> {
        let name = query.name.or_else(|| Some("stdin".to_owned()));
        let options =
            ImportOptions { copy: true, name, now_unix: (self.inner.wall_clock)(), announce: query.announce };
        self.import(progress, move |store, progress| store.import_reader(&mut reader, &options, progress))
            .await
    }

    async fn import<F>(&self, progress: watch::Sender<HashProgress>, import: F) -> Result<Added, ApiError>
    where
        F: FnOnce(&Store, ProgressFn<'_>) -> Result<Imported, ImportError> + Send + 'static,
    {
        let begun = Instant::now();
        let (_cancel, cancelled) = CancelOnDrop::new();
        let report = hash_progress(progress, cancelled);
        let imported = self
            .inner
            .store
            .call_long(move |store| import(store, &report))
            .await?
            .map_err(|error| from_import_error(&error))?;
        for withdrawal in imported.withdrawn {
            withdraw(withdrawal, self.provide()).await;
        }
        self.announce_share(imported.root).await?;
        Ok(Added {
            cid: imported.root.to_string(),
            name: imported.name,
            len: imported.size,
            files: imported.files,
            chunks: imported.chunks,
            directory: imported.is_dir,
            skipped: imported.skipped.count,
            first_skipped: imported.skipped.first,
            seconds: begun.elapsed().as_secs_f64(),
            addrs: self.dialable_addrs().await,
        })
    }
}

pub(super) fn require_absolute(path: &Path) -> Result<(), ApiError> {
    if path.is_absolute() {
        return Ok(());
    }
    let path = path.display();
    Err(ApiError::new(
        ErrorKind::Usage,
        format!("{path} is not an absolute path; the node may run in another directory"),
    ))
}

fn from_import_error(error: &ImportError) -> ApiError {
    let kind = match error {
        ImportError::Store(_) => ErrorKind::Store,
        ImportError::Cancelled => ErrorKind::Interrupted,
        _ => ErrorKind::Failed,
    };
    ApiError::new(kind, error.to_string())
}
