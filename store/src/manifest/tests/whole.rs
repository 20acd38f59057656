//! Any tree is built, cut into blocks, and found again, in whatever order the blocks arrive.

use super::*;

/// A file or directory to build; a file is its number of chunks.
#[derive(Debug, Clone)]
enum Model {
    File { chunks: u64, exec: bool },
    Dir(BTreeMap<String, Model>),
}

/// What is listed of a model: path, executable, size and chunks of files; paths of directories.
type Listed = (Vec<(String, bool, u64, Vec<ChunkCid>)>, Vec<String>);

fn model() -> impl Strategy<Value = Model> {
    let file = (0_u64..4, any::<bool>()).prop_map(|(chunks, exec)| Model::File { chunks, exec });
    file.prop_recursive(5, 60, 6, |inner| {
        prop::collection::btree_map("[a-c]{1,3}", inner, 0..6).prop_map(Model::Dir)
    })
}

fn size_of(chunks: u64) -> u64 {
    chunks * u64::from(MIN_CHUNK_LEN)
}

/// The entry of a model, the files it counts for, and its blocks.
fn build(name: &str, model: &Model) -> (Entry, u64, Vec<(ManifestCid, Vec<u8>)>) {
    match model {
        Model::File { chunks: count, exec } => {
            let built = build_file(name, size_of(*count), MIN_CHUNK_LEN, &chunks(*count)).unwrap();
            let entry = Entry { name: name.to_owned(), size: size_of(*count), cid: built.root, exec: *exec };
            (entry, 1, built.blocks)
        }
        Model::Dir(items) => {
            let mut blocks = Vec::new();
            let (mut size, mut files, mut entries) = (0, 0, Vec::new());
            for (name, item) in items.iter().rev() {
                let (entry, below, more) = build(name, item);
                size += entry.size;
                files += below;
                entries.push((entry, below));
                blocks.extend(more);
            }
            let built = build_dir(name, entries).unwrap();
            blocks.extend(built.blocks);
            (Entry { name: name.to_owned(), size, cid: built.root, exec: false }, files, blocks)
        }
    }
}

fn list(path: &str, model: &Model, out: &mut Listed) {
    match model {
        Model::File { chunks: count, exec } => {
            // The bit is in the entry above a file, so a file that is the whole tree has none.
            let exec = *exec && !path.is_empty();
            out.0.push((path.to_owned(), exec, size_of(*count), chunks(*count)));
        }
        Model::Dir(items) => {
            for (name, item) in items {
                let below = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                if matches!(item, Model::Dir(_)) {
                    out.1.push(below.clone());
                }
                list(&below, item, out);
            }
        }
    }
}

proptest! {
    #[test]
    fn any_tree_is_found_again_in_any_order_of_its_blocks(model in model(), order in any::<prop::sample::Selector>()) {
        let (entry, _, blocks) = build("tree", &model);
        for (cid, bytes) in &blocks {
            prop_assert_eq!(&Block::decode(bytes).unwrap().encode().unwrap(), bytes);
            prop_assert!(cid.matches(bytes));
        }
        let blocks: BTreeMap<_, _> = blocks.into_iter().collect();
        let mut resolver = TreeResolver::new(entry.cid);
        let mut open = resolver.needs();
        let mut asked = 0;
        while !open.is_empty() {
            prop_assert!(!resolver.is_complete());
            asked += 1;
            let at = order.select(0..open.len());
            let cid = open.swap_remove(at);
            resolver.insert(cid, &blocks[&cid]).unwrap();
            open.extend(resolver.needs());
        }
        prop_assert!(resolver.is_complete());
        prop_assert_eq!(asked, blocks.len());
        let tree = resolver.finish().unwrap();
        let mut expected = Listed::default();
        list("", &model, &mut expected);
        let files = tree.files.iter().map(|f| (f.path.to_string(), f.exec, f.size, f.chunks.clone())).collect();
        prop_assert_eq!((files, tree.dirs.iter().map(ToString::to_string).collect()), expected);
        prop_assert_eq!((tree.root, tree.size, tree.name.as_str()), (entry.cid, entry.size, "tree"));
    }
}
