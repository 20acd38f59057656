//! Random sequences of operations, compared with a model that keeps everything in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use dhtfs_store::{
    AnnounceScope, ChunkCid, ChunkRead, ContentCid, DownloadError, DownloadOptions, ImportOptions,
    KeyPosition, ManifestCid, ProvideClass, ProvideMark, ShareState, Store, no_progress,
};
use proptest::prelude::*;

use crate::common::{CHUNK, Home, assert_sound, data, hand_over, noise};

/// Contents are few, so that files share chunks and come back.
const CONTENTS: u8 = 6;
const FILES: u8 = 4;

#[derive(Clone, Debug)]
enum Op {
    /// Writes a content to one of the user's files.
    Write {
        file: u8,
        content: u8,
    },
    Delete {
        file: u8,
    },
    Add {
        file: u8,
        copy: bool,
        announce: Option<AnnounceScope>,
    },
    AddStream {
        content: u8,
    },
    /// Removes one of the shares.
    Remove {
        share: u8,
    },
    /// Fetches some chunks of a content to an output, and perhaps finishes.
    Fetch {
        content: u8,
        out: u8,
        chunks: u8,
        commit: bool,
    },
    /// Announces the keys in a sixteenth of the keyspace.
    Mark {
        region: u8,
        unix: u64,
    },
    Collect,
    Check,
    Reopen,
}

fn scope() -> impl Strategy<Value = Option<AnnounceScope>> {
    prop_oneof![
        2 => Just(None),
        2 => Just(Some(AnnounceScope::All)),
        1 => Just(Some(AnnounceScope::Roots)),
        1 => Just(Some(AnnounceScope::None)),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0..FILES, 0..CONTENTS).prop_map(|(file, content)| Op::Write { file, content }),
        1 => (0..FILES).prop_map(|file| Op::Delete { file }),
        5 => (0..FILES, any::<bool>(), scope())
            .prop_map(|(file, copy, announce)| Op::Add { file, copy, announce }),
        1 => (0..CONTENTS).prop_map(|content| Op::AddStream { content }),
        2 => any::<u8>().prop_map(|share| Op::Remove { share }),
        4 => (0..CONTENTS, 0..2u8, 0..4u8, any::<bool>())
            .prop_map(|(content, out, chunks, commit)| Op::Fetch { content, out, chunks, commit }),
        2 => (0..16u8, 1..100u64).prop_map(|(region, unix)| Op::Mark { region, unix }),
        1 => Just(Op::Collect),
        2 => Just(Op::Check),
        1 => Just(Op::Reopen),
    ]
}

/// Contents 0 to 5: empty, small, and combinations of three different chunks.
fn content(index: u8) -> Vec<u8> {
    let chunk = |seed| noise(seed, CHUNK);
    match index {
        0 => Vec::new(),
        1 => b"small".to_vec(),
        2 => chunk(1),
        3 => [chunk(1), chunk(2), b"small".to_vec()].concat(),
        4 => [chunk(2), chunk(2), chunk(3)].concat(),
        _ => [chunk(3), chunk(1)].concat(),
    }
}

/// The same content has the same name wherever it comes from, so it is the same share.
fn share_name(content: &[u8]) -> String {
    ChunkCid::of(content).to_string()
}

fn chunks(content: &[u8]) -> BTreeSet<ChunkCid> {
    content.chunks(CHUNK).map(ChunkCid::of).collect()
}

/// What the store should know.
#[derive(Default)]
struct Model {
    /// The user's files as they are.
    files: BTreeMap<String, Vec<u8>>,
    /// In-place sources: path to the content that was added, and the shares it belongs to.
    in_place: BTreeMap<String, (Vec<u8>, BTreeSet<ManifestCid>)>,
    /// Copies: by share.
    copies: BTreeMap<ManifestCid, Vec<u8>>,
    /// All shares and what their whole content is.
    shares: BTreeMap<ManifestCid, Vec<u8>>,
    /// Unfinished downloads: output to share and committed chunks.
    downloads: BTreeMap<String, (ManifestCid, BTreeSet<ChunkCid>)>,
    /// What of each share is announced.
    scopes: BTreeMap<ManifestCid, AnnounceScope>,
    /// What is known of announcements: key to when it was last announced.
    announced: BTreeMap<ContentCid, u64>,
}

impl Model {
    /// Chunks that can be read: from files that are as they were added, copies, and parts.
    fn readable(&self) -> BTreeSet<ChunkCid> {
        let sound = self.in_place.iter().filter(|(path, (added, _))| self.files.get(*path) == Some(added));
        let mut readable: BTreeSet<_> = sound.flat_map(|(_, (added, _))| chunks(added)).collect();
        readable.extend(self.copies.values().flat_map(|content| chunks(content)));
        readable.extend(self.downloads.values().flat_map(|(_, held)| held.iter().copied()));
        readable
    }

    /// Forgets the sources whose files have changed.
    fn withdraw_changed(&mut self) {
        let files = &self.files;
        self.in_place.retain(|path, (added, _)| files.get(path) == Some(added));
    }

    fn remove(&mut self, root: ManifestCid) {
        self.shares.remove(&root);
        self.scopes.remove(&root);
        self.copies.remove(&root);
        for (_, roots) in self.in_place.values_mut() {
            roots.remove(&root);
        }
        self.in_place.retain(|_, (_, roots)| !roots.is_empty());
        self.downloads.retain(|_, (share, _)| *share != root);
    }

    /// Adds a share, or changes what of it is announced.
    fn share(&mut self, root: ManifestCid, content: Vec<u8>, announce: Option<AnnounceScope>) {
        self.shares.insert(root, content);
        let scope = self.scopes.entry(root).or_default();
        *scope = announce.unwrap_or(*scope);
    }

    /// The keys that are to be announced.
    fn scheduled(&self) -> BTreeSet<ContentCid> {
        let is_whole = |root: &ManifestCid| self.scopes[root] == AnnounceScope::All;
        let mut keys: BTreeSet<ContentCid> = BTreeSet::new();
        let mut add = |cids: BTreeSet<ChunkCid>| keys.extend(cids.into_iter().map(ContentCid::from));
        for (content, roots) in self.in_place.values() {
            if roots.iter().any(is_whole) {
                add(chunks(content));
            }
        }
        for (root, content) in &self.copies {
            if is_whole(root) {
                add(chunks(content));
            }
        }
        for (root, held) in self.downloads.values() {
            if is_whole(root) {
                add(held.clone());
            }
        }
        let is_announced =
            |root: &&ManifestCid| self.scopes[*root] != AnnounceScope::None && self.has_source(root);
        keys.extend(self.shares.keys().filter(is_announced).map(|root| ContentCid::from(*root)));
        keys
    }

    fn has_source(&self, root: &ManifestCid) -> bool {
        self.copies.contains_key(root)
            || self.in_place.values().any(|(_, roots)| roots.contains(root))
            || self.downloads.values().any(|(share, _)| share == root)
    }
}

struct World {
    home: Home,
    store: Option<Store>,
    /// Holds every content, to fetch from.
    origin: Store,
    _origin_home: Home,
    origin_roots: Vec<ManifestCid>,
    model: Model,
}

impl World {
    fn new() -> Self {
        let (home, origin_home) = (Home::in_memory(), Home::in_memory());
        let (store, origin) = (home.open(), origin_home.open());
        let origin_roots = (0..CONTENTS)
            .map(|index| {
                let content = content(index);
                let options = ImportOptions { name: Some(share_name(&content)), ..ImportOptions::default() };
                origin.import_reader(&mut content.as_slice(), &options, &no_progress).unwrap().root
            })
            .collect();
        let model = Model::default();
        Self { home, store: Some(store), origin, _origin_home: origin_home, origin_roots, model }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Write { file, content: index } => {
                let name = format!("file {file}");
                // Always a new file: what matters here is content, and times may be too coarse to tell two
                // writes.
                let fresh = self.home.write("fresh", &content(index));
                fs::rename(fresh, self.home.path(&name)).unwrap();
                self.model.files.insert(name, content(index));
            }
            Op::Delete { file } => {
                let name = format!("file {file}");
                if self.model.files.remove(&name).is_some() {
                    fs::remove_file(self.home.path(&name)).unwrap();
                }
            }
            Op::Add { file, copy, announce } => self.add(&format!("file {file}"), copy, announce),
            Op::AddStream { content: index } => {
                let content = content(index);
                let options = ImportOptions { name: Some(share_name(&content)), ..ImportOptions::default() };
                let added = self.store().import_reader(&mut content.as_slice(), &options, &no_progress);
                let root = added.unwrap().root;
                self.model.share(root, content.clone(), None);
                self.model.copies.insert(root, content);
            }
            Op::Mark { region, unix } => self.mark(region, unix),
            Op::Remove { share } => {
                let roots: Vec<_> = self.model.shares.keys().copied().collect();
                let Some(root) = roots.get(usize::from(share) % roots.len().max(1)) else { return };
                assert!(self.store().remove_share(root).unwrap().is_some());
                self.model.remove(*root);
            }
            Op::Fetch { content, out, chunks, commit } => {
                self.fetch(content, &format!("out {out}"), chunks, commit)
            }
            Op::Collect => drop(self.store().gc().unwrap()),
            Op::Check => {
                self.store().check_sources().unwrap();
                self.model.withdraw_changed();
            }
            Op::Reopen => {
                self.store = None;
                self.store = Some(self.home.open());
            }
        }
    }

    fn mark(&mut self, region: u8, unix: u64) {
        let (mut from, mut to) = (KeyPosition::MIN, KeyPosition::MAX);
        (from.0[0], to.0[0]) = (region << 4, region << 4 | 0xf);
        let keys = self.store().provide_range(from, to, 1000).unwrap();
        let marks: Vec<_> =
            keys.iter().map(|key| ProvideMark { position: key.position, unix, holders: 7 }).collect();
        assert_eq!(self.store().provide_mark(&marks).unwrap(), keys.len());
        self.model.announced.extend(keys.iter().map(|key| (key.cid, unix)));
    }

    fn add(&mut self, name: &str, copy: bool, announce: Option<AnnounceScope>) {
        let content = self.model.files.get(name).cloned();
        let name_in_share = content.as_deref().map(share_name);
        let options = ImportOptions { copy, name: name_in_share, announce, ..ImportOptions::default() };
        let added = self.store().import_path(&self.home.path(name), &options, &no_progress);
        let Some(content) = content else {
            assert!(added.is_err());
            return;
        };
        let root = added.unwrap().root;
        self.model.share(root, content.clone(), announce);
        if copy {
            self.model.copies.insert(root, content);
            return;
        }
        match self.model.in_place.get_mut(name) {
            Some((old, roots)) if *old == content => drop(roots.insert(root).then_some(())),
            _ => drop(self.model.in_place.insert(name.to_owned(), (content, BTreeSet::from([root])))),
        }
    }

    fn fetch(&mut self, index: u8, out: &str, max: u8, commit: bool) {
        let root = self.origin_roots[usize::from(index)];
        let tree = hand_over(&self.origin, self.store(), &root);
        let path = self.home.path(out);
        let download = match self.store().begin_download(&tree, &path, DownloadOptions::default()) {
            Ok(download) => download,
            Err(DownloadError::Exists(_)) => {
                let is_part_in_the_way = self.home.path(&format!("{out}.part")).exists();
                assert!(self.model.files.contains_key(out) || is_part_in_the_way);
                return;
            }
            Err(error) => panic!("{error}"),
        };
        self.model.share(root, content(index), None);
        let entry = self.model.downloads.entry(out.to_owned()).or_insert_with(|| (root, BTreeSet::new()));
        assert_eq!(entry.0, root);
        let missing: BTreeSet<_> = download.missing().into_iter().map(|(cid, _)| cid).collect();
        let expected: BTreeSet<_> = chunks(&content(index)).difference(&entry.1).copied().collect();
        assert_eq!(missing, expected);
        for cid in missing.into_iter().take(usize::from(max)) {
            download.write(&cid, &data(&self.origin, &cid)).unwrap();
        }
        if commit {
            entry.1.extend(download.commit().unwrap());
        }
        if commit && download.missing().is_empty() {
            download.finish().unwrap();
            self.model.downloads.remove(out);
            self.model.files.insert(out.to_owned(), content(index));
            self.model.in_place.insert(out.to_owned(), (content(index), BTreeSet::from([root])));
        }
    }

    fn check(&mut self) {
        assert_sound(self.store());
        let shares: BTreeSet<_> =
            self.store().shares().unwrap().into_iter().map(|share| share.root).collect();
        assert_eq!(shares, self.model.shares.keys().copied().collect());
        // Every chunk there ever was: what can be read is read right, what cannot is not there.
        let readable = self.model.readable();
        for cid in (0..CONTENTS).flat_map(|index| chunks(&content(index))).collect::<BTreeSet<_>>() {
            match self.store().read_chunk(&cid).unwrap() {
                ChunkRead::Data(data) => assert!(cid.matches(&data) && readable.contains(&cid)),
                ChunkRead::Missing | ChunkRead::Withdrawn(_) => {
                    assert!(!readable.contains(&cid), "{cid} is lost")
                }
            }
        }
        // Reading may have withdrawn some changed files; a look at all of them makes both sides equal.
        self.store().check_sources().unwrap();
        self.model.withdraw_changed();
        let keys = self.store().held_keys(None, 1000).unwrap();
        let held: BTreeSet<_> = keys.iter().filter_map(|key| ChunkCid::try_from(*key).ok()).collect();
        assert_eq!(held, self.model.readable());
        self.check_schedule();
        for (root, content) in &self.model.shares {
            let has_source = self.model.has_source(root);
            assert_eq!(
                keys.contains(&ContentCid::Manifest(*root)),
                has_source,
                "{root} of {} bytes",
                content.len()
            );
            let state = self.store().share(root).unwrap().unwrap().state;
            let downloading = self.model.downloads.values().any(|(share, _)| share == root);
            match state {
                ShareState::Complete => assert!(has_source),
                ShareState::Partial { .. } => assert!(downloading),
                ShareState::Changed => assert!(!downloading),
            }
        }
        assert_sound(self.store());
    }

    fn check_schedule(&mut self) {
        let keys = self.store().provide_range(KeyPosition::MIN, KeyPosition::MAX, 1000).unwrap();
        let scheduled = self.model.scheduled();
        assert_eq!(keys.iter().map(|key| key.cid).collect::<BTreeSet<_>>(), scheduled);
        let counts = self.store().provide_counts().unwrap();
        assert_eq!(counts.keys, keys.len() as u64);
        assert_eq!(counts.fresh, keys.iter().filter(|key| key.last_unix.is_none()).count() as u64);
        for key in &keys {
            let is_root = matches!(key.cid, ContentCid::Manifest(_));
            assert_eq!(key.class == ProvideClass::Root, is_root);
            // What went away and came back since is as new.
            assert!(key.last_unix.is_none() || key.last_unix == self.model.announced.get(&key.cid).copied());
        }
        self.model.announced.retain(|cid, _| scheduled.contains(cid));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_store_agrees_with_the_model(ops in prop::collection::vec(op(), 1..30)) {
        let mut world = World::new();
        for op in &ops {
            world.apply(op);
        }
        world.check();
    }

    #[test]
    fn the_store_agrees_with_the_model_after_every_step(ops in prop::collection::vec(op(), 1..14)) {
        let mut world = World::new();
        for op in &ops {
            world.apply(op);
            world.check();
        }
    }
}
