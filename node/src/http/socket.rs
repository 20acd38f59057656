//! The Unix socket of a daemon: `<data-dir>/api.sock`, 0600, only for its own user.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use axum::{Router, serve::Listener};
use dhtfs_store::Store;
use tokio::{
    net::{UnixListener, UnixStream, unix::SocketAddr},
    sync::watch,
    time::{Instant, sleep},
};
use tracing::warn;

use crate::api::types::{ApiError, ErrorKind};

/// Longest path that fits a socket address on Linux (`sun_path`, 108 bytes with its end mark).
const MAX_SOCKET_PATH_LEN: usize = 107;

/// How long a daemon that holds the store is given to open its socket.
const STARTING_UP: Duration = Duration::from_secs(5);

/// How long running calls get to end when the daemon shuts down.
const DRAIN: Duration = Duration::from_millis(500);

/// Pause after a failed accept (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Where the socket of a data directory lies.
fn path_of(data_dir: &Path) -> PathBuf {
    data_dir.join("api.sock")
}

/// Accepts connections of this process's own user only.
struct OwnUser {
    listener: UnixListener,
    uid: u32,
}

impl Listener for OwnUser {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, addr)) => match stream.peer_cred() {
                    Ok(peer) if peer.uid() == self.uid || peer.uid() == 0 => return (stream, addr),
                    _ => warn!("refused a connection of another user to the API socket"),
                },
                Err(error) => {
                    warn!(%error, "accepting on the API socket failed");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// Opens the socket and returns the future that serves it until `shutdown` turns true. The store's lock is held,
/// so a socket that is there was left behind by a crash and is replaced.
///
/// # Errors
/// [`ErrorKind::Store`] if the socket cannot be made.
pub(crate) fn serve(
    data_dir: &Path,
    router: Router,
    mut shutdown: watch::Receiver<bool>,
) -> Result<impl Future<Output = ()> + Send + use<>, ApiError> {
    let path = path_of(data_dir);
    let fail = |error: io::Error| {
        let path = path.display();
        ApiError::new(
            ErrorKind::Store,
            format!("opening the API socket {path} failed: {error}; check the data directory"),
        )
    };
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    let listener = with_short_path(&path, |path| UnixListener::bind(path)).map_err(fail)?;
    fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(fail)?;
    let listener = OwnUser { listener, uid: rustix::process::geteuid().as_raw() };
    Ok(async move {
        let mut draining = shutdown.clone();
        let serving = axum::serve(listener, router).with_graceful_shutdown(async move {
            let _ = draining.wait_for(|down| *down).await;
        });
        tokio::select! {
            _ = serving.into_future() => {}
            () = async {
                let _ = shutdown.wait_for(|down| *down).await;
                sleep(DRAIN).await;
            } => {}
        }
        // The next daemon would remove it as well; a removed socket tells callers at once.
        let _ = fs::remove_file(&path);
    })
}

/// Connects to the daemon of `data_dir`; `None` if there is none. A daemon that is just starting is waited for.
///
/// # Errors
/// [`ErrorKind::Store`] if a process holds the store but does not answer.
pub(crate) async fn connect(data_dir: &Path) -> Result<Option<UnixStream>, ApiError> {
    let path = path_of(data_dir);
    let deadline = Instant::now() + STARTING_UP;
    let mut pause = Duration::from_millis(10);
    loop {
        match with_short_path(&path, |path| std::os::unix::net::UnixStream::connect(path)) {
            Ok(stream) => {
                let stream = stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream));
                let fail =
                    |error| ApiError::new(ErrorKind::Store, format!("using the API socket failed: {error}"));
                return stream.map(Some).map_err(fail);
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let path = path.display();
                let message = format!("no permission to use {path}; run as the user who started the daemon");
                return Err(ApiError::new(ErrorKind::Store, message));
            }
            // No socket, or one that a crash left behind: the lock tells whether anybody is there.
            Err(_) => {}
        }
        let holder = Store::lock_holder(data_dir);
        let Some(pid) = holder else { return Ok(None) };
        if Instant::now() >= deadline {
            let dir = data_dir.display();
            let message = format!(
                "{dir} is in use by process {pid}, which does not answer; wait for it to end or stop it"
            );
            return Err(ApiError::new(ErrorKind::Store, message));
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}

/// Runs `use_path` with a path short enough for a socket address. A long one is reached through the open
/// directory, which Linux names under `/proc/self/fd`.
fn with_short_path<T>(path: &Path, use_path: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    if path.as_os_str().len() <= MAX_SOCKET_PATH_LEN {
        return use_path(path);
    }
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return use_path(path) };
    let dir = fs::File::open(dir)?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&dir);
    use_path(&Path::new("/proc/self/fd").join(number.to_string()).join(name))
}
