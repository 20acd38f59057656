//! Small things that other packages keep here: known peers and settings.

use std::cmp::Reverse;

use redb::ReadableTable;

use crate::db::records::{PeerRecord, decode, encode};
use crate::db::tables::{PEERS, SETTINGS};
use crate::error::StoreError;
use crate::store::Store;

/// Peers that are saved: enough to get back into a network of any size, some 300 KiB at most.
pub const MAX_SAVED_PEERS: usize = 1_000;

/// Addresses saved of one peer; an honest node has two transports on a few interfaces.
pub const MAX_SAVED_ADDRS: usize = 8;

/// Longest saved address in bytes; longer ones are left out. The longest useful multiaddr, over a relay, has
/// 200.
pub const MAX_SAVED_ADDR_LEN: usize = 512;

/// Longest peer id in bytes that is saved; a multihash of SHA-512 has 66.
pub const MAX_SAVED_PEER_LEN: usize = 128;

/// Longest key of a setting in bytes.
pub const MAX_SETTING_KEY_LEN: usize = 64;

/// Longest value of a setting in bytes.
pub const MAX_SETTING_LEN: usize = 1 << 20;

/// A peer to try after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedPeer {
    /// Binary peer id.
    pub peer: Vec<u8>,
    /// Multiaddrs as text, best first.
    pub addrs: Vec<String>,
    /// When it last answered, in seconds since 1970, by the caller's clock.
    pub last_seen_unix: u64,
}

impl Store {
    /// The saved peers, those seen last first.
    ///
    /// # Errors
    /// If the database fails.
    pub fn load_peers(&self) -> Result<Vec<SavedPeer>, StoreError> {
        let mut peers = self.inner.db.read(|txn| {
            let mut peers = Vec::new();
            for row in txn.open_table(PEERS)?.iter()? {
                let (peer, record) = row?;
                let PeerRecord { addrs, last_seen_unix } = decode(record.value(), "peer")?;
                peers.push(SavedPeer { peer: peer.value().to_vec(), addrs, last_seen_unix });
            }
            Ok(peers)
        })?;
        peers.sort_by_key(|peer| Reverse(peer.last_seen_unix));
        Ok(peers)
    }

    /// Replaces the saved peers. Of more than [`MAX_SAVED_PEERS`] those seen last are kept, of each the first
    /// [`MAX_SAVED_ADDRS`] addresses.
    ///
    /// # Errors
    /// If the database fails; the old ones are kept then.
    pub fn save_peers(&self, peers: &[SavedPeer]) -> Result<(), StoreError> {
        let mut peers: Vec<_> = peers.iter().filter(|peer| peer.peer.len() <= MAX_SAVED_PEER_LEN).collect();
        peers.sort_by_key(|peer| Reverse(peer.last_seen_unix));
        self.inner.db.write(|txn| {
            let mut table = txn.open_table(PEERS)?;
            table.retain(|_, _| false)?;
            for peer in peers.into_iter().take(MAX_SAVED_PEERS) {
                let addrs = peer.addrs.iter().filter(|addr| addr.len() <= MAX_SAVED_ADDR_LEN);
                let record = PeerRecord {
                    addrs: addrs.take(MAX_SAVED_ADDRS).cloned().collect(),
                    last_seen_unix: peer.last_seen_unix,
                };
                table.insert(peer.peer.as_slice(), encode(&record)?.as_slice())?;
            }
            Ok(())
        })
    }

    /// The value of a setting.
    ///
    /// # Errors
    /// If the database fails.
    pub fn setting(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.db.read(|txn| Ok(txn.open_table(SETTINGS)?.get(key)?.map(|value| value.value().to_vec())))
    }

    /// Sets a setting.
    ///
    /// # Errors
    /// [`StoreError::SettingTooLong`] beyond [`MAX_SETTING_KEY_LEN`] or [`MAX_SETTING_LEN`].
    pub fn set_setting(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        if key.len() > MAX_SETTING_KEY_LEN || value.len() > MAX_SETTING_LEN {
            return Err(StoreError::SettingTooLong {
                key: key.chars().take(MAX_SETTING_KEY_LEN).collect(),
                max_key_len: MAX_SETTING_KEY_LEN,
                max_value_len: MAX_SETTING_LEN,
            });
        }
        self.inner.db.write(|txn| {
            txn.open_table(SETTINGS)?.insert(key, value)?;
            Ok(())
        })
    }
}
