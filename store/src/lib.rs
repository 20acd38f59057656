//! Content IDs, manifests, chunking and the on-disk store of dhtfs.
//!
//! The pure half decides what content looks like: [`cid`], [`link`], [`name`], [`codec`], [`manifest`]. The other half
//! is the disk: [`Store`] knows where the chunks lie, [`Download`] writes new ones. It is synchronous and may be called
//! from any thread; the only clock it reads is that of file times.
#![forbid(unsafe_code)]

mod blobs;
mod cache;
pub mod chunk_set;
mod chunks;
pub mod cid;
pub mod codec;
mod db;
pub mod disk;
mod download;
mod error;
mod foreign;
mod fsutil;
mod gc;
mod hasher;
mod held;
mod import;
mod layout;
pub mod link;
mod lock;
pub mod manifest;
pub mod name;
mod options;
mod position;
mod provide;
mod settings;
mod shares;
mod small;
mod store;
mod transfers;
mod verify;
mod with_content;

pub use chunk_set::ChunkSet;
pub use chunks::{ChunkRead, WithdrawReason, Withdrawal};
pub use cid::{ChunkCid, CidError, ContentCid, Digest, ManifestCid};
pub use download::{Download, Reused, Written};
pub use error::{DownloadError, FileError, ImportError, OpenError, StoreError, VerifyError};
pub use foreign::{
    ForeignOp, ForeignProvider, ForeignRecord, MAX_FOREIGN_ADDR_LEN, MAX_FOREIGN_ADDRS, MAX_FOREIGN_PEER_LEN,
};
pub use gc::GcReport;
pub use held::Held;
pub use import::{Imported, Skipped, hash_path};
pub use link::{Link, LinkError};
pub use manifest::{ManifestError, ResolvedFile, ResolvedTree, TreeResolver};
pub use name::{NameError, RelPath, check_name};
pub use options::{
    AnnounceScope, DEFAULT_DB_CACHE_LEN, DEFAULT_STREAM_NAME, DownloadOptions, ImportOptions, OpenOptions,
    Progress, ProgressFn, no_progress,
};
pub use position::KeyPosition;
pub use provide::{KeySummary, ProvideClass, ProvideCounts, ProvideKey, ProvideMark, ProvideSummary};
pub use settings::{
    MAX_SAVED_ADDR_LEN, MAX_SAVED_ADDRS, MAX_SAVED_PEER_LEN, MAX_SAVED_PEERS, MAX_SETTING_KEY_LEN,
    MAX_SETTING_LEN, SavedPeer,
};
pub use shares::{Removed, Share, ShareState};
pub use small::{read_small_file, write_file};
pub use store::Store;
pub use transfers::{MAX_SAVED_TRANSFERS, SavedTransfer};
pub use verify::{VerifyReport, verify_path};
pub use with_content::{MAX_WITH_CONTENT_LEN, chunk_with};
