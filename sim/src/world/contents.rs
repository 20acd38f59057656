//! Making the content of a plan, and putting it on disks.

use std::time::Duration;

use dhtfs_node::api::types::AddRequest;
use dhtfs_store::{DownloadOptions, ImportOptions, ManifestCid, ResolvedTree, Store, disk::PagePool};
use rand::{Rng, rngs::StdRng};
use tokio::sync::watch;

use super::{Failure, Hold, NodeIndex, Up, World, disk, draw};
use crate::{clock, content::Content, plan::Plan};

/// Makes every content of the plan once, on a scratch disk, to know its manifest.
pub(super) fn make(plan: &Plan, seed: u64, pool: &PagePool) -> Result<Vec<Content>, Failure> {
    let mut made = Vec::new();
    for content in &plan.contents {
        let group = content.group.as_ref().and_then(|name| plan.groups.iter().position(|g| g.name == *name));
        for number in 0..content.count {
            let name =
                if content.count == 1 { content.name.clone() } else { format!("{}{number}", content.name) };
            let bytes = Content::bytes_of(seed, &name, content.len.0);
            let manifest = manifest(&name, &bytes, pool)?;
            made.push(Content::new(seed, (name, content.len.0, group), &bytes, manifest));
        }
    }
    Ok(made)
}

type Manifest = (ResolvedTree, Vec<(ManifestCid, Vec<u8>)>);

fn manifest(name: &str, bytes: &[u8], pool: &PagePool) -> Result<Manifest, Failure> {
    let disk = disk::new(pool)?;
    let path = disk::file(name);
    disk.write_file(&path, bytes)?;
    let store = disk::open_store(&disk)?;
    let imported = store.import_path(&path, &ImportOptions::default(), &dhtfs_store::no_progress)?;
    let tree = store.resolve_local(&imported.root)?.ok_or("an imported manifest is not there")?;
    let mut blocks = Vec::new();
    for cid in store.held_keys(None, usize::MAX)? {
        if let dhtfs_store::ContentCid::Manifest(cid) = cid {
            blocks.push((cid, store.manifest_block(&cid)?.ok_or("a manifest block is not there")?));
        }
    }
    Ok((tree, blocks))
}

impl World {
    /// The number of a content by its name.
    pub fn content_named(&self, name: &str) -> Option<usize> {
        self.contents.iter().position(|content| content.name == name)
    }

    /// Who is to hold a content from the start: `(node, share of the chunks)`, drawn from the seed.
    pub(super) fn planned_holders(&self, number: usize) -> Vec<(NodeIndex, f64)> {
        let mut before = 0;
        for plan in &self.plan.contents {
            if number < before + plan.count {
                let group = self.contents[number].group;
                let candidates: Vec<NodeIndex> = (0..self.len())
                    .filter(|index| self.role(*index).node_role().is_some())
                    .filter(|index| group.is_none_or(|group| self.slots.borrow()[*index].group == group))
                    .collect();
                let mut rng = self.rng(&format!("holders of {number}"));
                let count = plan.holders.unwrap_or(candidates.len());
                return draw(&mut rng, &candidates, count).into_iter().map(|i| (i, plan.held)).collect();
            }
            before += plan.count;
        }
        Vec::new()
    }

    /// When a content is added.
    pub(super) fn added_at(&self, number: usize) -> Duration {
        let mut before = 0;
        for plan in &self.plan.contents {
            before += plan.count;
            if number < before {
                return plan.at.duration();
            }
        }
        Duration::ZERO
    }

    /// Adds a content as the user of a running node does: a file on its disk, then `add`.
    ///
    /// # Errors
    /// If the node refuses, or names another CID than every other node would.
    pub async fn add(&self, up: &Up, number: usize) -> Result<(), Failure> {
        let content = &self.contents[number];
        let path = disk::file(&content.name);
        self.disk(up.index).write_file(&path, &content.bytes())?;
        let adding =
            up.node.api().add(AddRequest { path, ..AddRequest::default() }, watch::Sender::default());
        let Some(added) = up.run(adding).await else { return Ok(()) };
        let added =
            added.map_err(|e| format!("node {} could not add {}: {}", up.index, content.name, e.message))?;
        if added.cid != content.cid() {
            return Err(format!("node {} names {} {}", up.index, content.name, added.cid).into());
        }
        self.set_hold(up.index, number, Hold::Whole);
        self.note(&format!("added {number} at {}", up.index));
        Ok(())
    }

    /// Puts a drawn share of the chunks into the store of a node that is not running, as if an earlier get had
    /// been cut off.
    pub(super) fn put_part(&self, index: NodeIndex, number: usize, share: f64) -> Result<(), Failure> {
        let content = &self.contents[number];
        let store = disk::open_store(&self.disk(index))?;
        let mut rng = self.rng(&format!("part of {number} at {index}"));
        put_chunks(&store, content, share, &mut rng)?;
        self.set_hold(index, number, Hold::Part);
        Ok(())
    }

    pub(super) fn set_hold(&self, index: NodeIndex, number: usize, hold: Hold) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(index) {
            slot.holds.insert(number, hold);
        }
    }

    /// The disk of a machine.
    pub fn disk(&self, index: NodeIndex) -> dhtfs_store::disk::MemoryDisk {
        self.slots.borrow()[index].disk.clone()
    }
}

fn put_chunks(store: &Store, content: &Content, share: f64, rng: &mut StdRng) -> Result<(), Failure> {
    store.put_manifest_blocks(&content.blocks)?;
    let options = DownloadOptions { now_unix: clock::time_of_day(), ..DownloadOptions::default() };
    let download = store.begin_download(&content.tree, &disk::file(&content.name), options)?;
    let bytes = content.bytes();
    let chunk_len = content.tree.files.first().map_or(1, |file| u64::from(file.chunk_len));
    let chunks = content.tree.files.first().map_or(&[][..], |file| &file.chunks);
    for (place, cid) in chunks.iter().enumerate() {
        let start = usize::try_from(place as u64 * chunk_len)?;
        let end = bytes.len().min(start + usize::try_from(chunk_len)?);
        // 53 bits of randomness as a number from 0 to 1.
        let drawn = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        if drawn < share {
            download.write(cid, &bytes[start..end])?;
        }
    }
    download.commit()?;
    Ok(())
}
