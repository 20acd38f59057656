//! Golden blocks checked by a second decoder, blocks that must be refused, trees in any order.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_cbor::Value;

use super::*;
use crate::cid::{ChunkCid, sha256};

mod hostile;
mod whole;

/// The content of the golden chunk with this number is its number.
fn chunk(number: u64) -> ChunkCid {
    ChunkCid::of(&number.to_be_bytes())
}

fn chunks(count: u64) -> Vec<ChunkCid> {
    (0..count).map(chunk).collect()
}

fn file_entry(name: &str, built: &Built, size: u64, exec: bool) -> (Entry, u64) {
    (Entry { name: name.to_owned(), size, cid: built.root, exec }, 1)
}

fn golden_file() -> Built {
    build_file("three.bin", 2 * u64::from(CHUNK_LEN) + 5, CHUNK_LEN, &chunks(3)).unwrap()
}

fn golden_two_levels() -> Built {
    build_file("large.bin", 1030 * u64::from(CHUNK_LEN) - 1, CHUNK_LEN, &chunks(1030)).unwrap()
}

fn golden_dir() -> Built {
    let inner = build_file("run.sh", 9, CHUNK_LEN, &[chunk(7)]).unwrap();
    let empty = build_dir("empty", Vec::new()).unwrap();
    let file = golden_file();
    let entries = vec![
        file_entry("three.bin", &file, 2 * u64::from(CHUNK_LEN) + 5, false),
        file_entry("run.sh", &inner, 9, true),
        (Entry { name: "empty".to_owned(), size: 0, cid: empty.root, exec: false }, 0),
    ];
    let mut built = build_dir("things", entries).unwrap();
    let mut blocks = [inner.blocks, empty.blocks, file.blocks].concat();
    blocks.append(&mut built.blocks);
    Built { root: built.root, blocks }
}

fn root_block(built: &Built) -> &[u8] {
    &built.blocks.last().unwrap().1
}

fn resolve(built: &Built) -> Result<ResolvedTree, ManifestError> {
    let blocks: BTreeMap<_, _> = built.blocks.iter().cloned().collect();
    let mut resolver = TreeResolver::new(built.root);
    loop {
        let needs = resolver.needs();
        if needs.is_empty() {
            return resolver.finish();
        }
        for cid in needs {
            let Some(block) = blocks.get(&cid) else { return Err(ManifestError::Missing(cid)) };
            resolver.insert(cid, block)?;
        }
    }
}

/// Reads a link (tag 42 over `00` and the CID) with the second decoder.
fn link_bytes(value: &Value) -> &[u8] {
    let Value::Tag(42, inner) = value else { panic!("no link: {value:?}") };
    let Value::Bytes(bytes) = inner.as_ref() else { panic!("no bytes: {inner:?}") };
    assert_eq!(bytes.first(), Some(&0));
    bytes.get(1..).unwrap()
}

fn second_decoder(bytes: &[u8]) -> BTreeMap<String, Value> {
    let Value::Map(map) = serde_cbor::from_slice(bytes).unwrap() else { panic!("no map") };
    let text = |key| match key {
        Value::Text(text) => text,
        other => panic!("no text: {other:?}"),
    };
    map.into_iter().map(|(key, value)| (text(key), value)).collect()
}

fn cid_bytes(codec: u8, digest: &[u8; 32]) -> Vec<u8> {
    [&[1, codec, 0x12, 0x20][..], digest].concat()
}

mod golden {
    use super::*;

    #[test]
    fn a_file_block_is_byte_for_byte_the_golden_one() {
        let built = golden_file();
        assert_eq!(root_block(&built), include_bytes!("../../tests/golden/file.cbor"));
        assert_eq!(built.root.to_string(), include_str!("../../tests/golden/file.cid").trim());
    }

    #[test]
    fn a_tree_of_two_levels_has_the_golden_root() {
        let built = golden_two_levels();
        assert_eq!(built.blocks.len(), 3);
        assert_eq!(root_block(&built), include_bytes!("../../tests/golden/two-levels.cbor"));
        assert_eq!(built.root.to_string(), include_str!("../../tests/golden/two-levels.cid").trim());
    }

    #[test]
    fn a_directory_block_is_byte_for_byte_the_golden_one() {
        let built = golden_dir();
        assert_eq!(root_block(&built), include_bytes!("../../tests/golden/dir.cbor"));
        assert_eq!(built.root.to_string(), include_str!("../../tests/golden/dir.cid").trim());
    }

    #[test]
    fn a_second_decoder_reads_every_field_of_a_file() {
        let map = second_decoder(include_bytes!("../../tests/golden/file.cbor"));
        let keys: Vec<&str> = map.keys().map(String::as_str).collect();
        assert_eq!(keys, ["chunk_len", "depth", "kind", "links", "name", "size", "v"]);
        assert_eq!(map["v"], Value::Integer(1));
        assert_eq!(map["kind"], Value::Text("file".to_owned()));
        assert_eq!(map["name"], Value::Text("three.bin".to_owned()));
        assert_eq!(map["size"], Value::Integer(2_097_157));
        assert_eq!(map["chunk_len"], Value::Integer(1_048_576));
        assert_eq!(map["depth"], Value::Integer(0));
        let Value::Array(links) = &map["links"] else { panic!("no links") };
        let expected: Vec<_> = (0..3).map(|n| cid_bytes(0x55, chunk(n).digest())).collect();
        assert_eq!(links.iter().map(link_bytes).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_second_decoder_reads_the_nodes_of_a_large_file() {
        let map = second_decoder(include_bytes!("../../tests/golden/two-levels.cbor"));
        assert_eq!(map["depth"], Value::Integer(1));
        let Value::Array(links) = &map["links"] else { panic!("no links") };
        let built = golden_two_levels();
        let nodes: Vec<_> =
            built.blocks.iter().take(2).map(|(_, bytes)| cid_bytes(0x71, &sha256(bytes))).collect();
        assert_eq!(links.iter().map(link_bytes).collect::<Vec<_>>(), nodes);
        let node = second_decoder(&built.blocks[1].1);
        assert_eq!(node["kind"], Value::Text("file-node".to_owned()));
        assert_eq!(node["size"], Value::Integer(6 * 1_048_576 - 1));
        assert!(matches!(&node["links"], Value::Array(links) if links.len() == 6));
    }

    #[test]
    fn a_second_decoder_reads_every_entry_of_a_directory() {
        let map = second_decoder(include_bytes!("../../tests/golden/dir.cbor"));
        assert_eq!(map["kind"], Value::Text("dir".to_owned()));
        assert_eq!(map["files"], Value::Integer(2));
        assert_eq!(map["size"], Value::Integer(2_097_157 + 9));
        let Value::Array(entries) = &map["entries"] else { panic!("no entries") };
        let entry = |index: usize| {
            let Value::Map(entry) = &entries[index] else { panic!("no entry") };
            let get = |key: &str| entry.get(&Value::Text(key.to_owned())).cloned();
            (get("name").unwrap(), get("size").unwrap(), get("exec"), entry.len())
        };
        assert_eq!(entries.len(), 3);
        assert_eq!(entry(0), (Value::Text("empty".to_owned()), Value::Integer(0), None, 3));
        assert_eq!(
            entry(1),
            (Value::Text("run.sh".to_owned()), Value::Integer(9), Some(Value::Bool(true)), 4)
        );
        assert_eq!(entry(2), (Value::Text("three.bin".to_owned()), Value::Integer(2_097_157), None, 3));
    }
}

mod refused {
    use super::*;

    fn error(bytes: &[u8]) -> ManifestError {
        Block::decode(bytes).unwrap_err()
    }

    /// Replaces the only occurrence of `from`.
    fn patched(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
        let places: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(from)).collect();
        assert_eq!(places.len(), 1, "{from:?} must be there once");
        let at = places[0];
        [&bytes[..at], to, &bytes[at + from.len()..]].concat()
    }

    fn small() -> Vec<u8> {
        root_block(&build_file("a", 5, CHUNK_LEN, &chunks(1)).unwrap()).to_vec()
    }

    #[test]
    fn every_other_encoding_of_the_same_value() {
        let good = small();
        assert!(Block::decode(&good).is_ok());
        // "size": 5 written with two bytes; the map with an indefinite length; bytes after the end.
        let long_int = patched(&good, b"dsize\x05", b"dsize\x18\x05");
        let mut indefinite = good.clone();
        indefinite[0] = 0xbf;
        indefinite.push(0xff);
        let trailing = [&good[..], &[0]].concat();
        // Keys in another order: "v" and "kind" are the first two of the map.
        let v = b"av\x01";
        let kind = b"dkinddfile";
        let swapped = patched(&patched(&good, v, b""), kind, &[&kind[..], v].concat());
        let twice = {
            let mut bytes = patched(&good, v, &[&v[..], v].concat());
            bytes[0] += 1;
            bytes
        };
        let float = patched(&good, b"dsize\x05", b"dsize\xf9\x45\x00");
        for bytes in [long_int, indefinite, trailing, swapped, twice, float] {
            assert!(matches!(error(&bytes), ManifestError::Codec(_)), "{bytes:02x?}");
        }
    }

    #[test]
    fn unknown_missing_and_foreign_fields() {
        let good = small();
        let mut unknown = patched(&good, b"av\x01", b"ax\x01av\x01");
        unknown[0] += 1;
        assert!(matches!(error(&unknown), ManifestError::Codec(_)));
        let mut nameless = patched(&good, b"dnameaa", b"");
        nameless[0] -= 1;
        assert!(matches!(error(&nameless), ManifestError::Fields { .. }));
        let renamed_kind = patched(&good, b"dkinddfile", b"dkindcdir");
        assert!(matches!(error(&renamed_kind), ManifestError::Fields { .. }));
        assert!(matches!(error(&patched(&good, b"dkinddfile", b"dkinddfilm")), ManifestError::Kind(_)));
        assert_eq!(error(&patched(&good, b"av\x01", b"av\x02")), ManifestError::Version(2));
    }

    #[test]
    fn a_name_that_leaves_the_directory() {
        for name in [
            "..",
            ".",
            "",
            "a/b",
            "a\\b",
            "/etc/passwd",
            "c:x",
            "a\0b",
            "con",
            "COM7.txt",
            "x.",
            "x ",
            "\u{202e}x",
        ] {
            let built = build_file(name, 5, CHUNK_LEN, &chunks(1));
            assert!(matches!(built, Err(ManifestError::Name(_))), "{name:?}");
        }
        let hostile = patched(&small(), b"dnameaa", b"dnameb..");
        assert!(matches!(error(&hostile), ManifestError::Name(_)));
    }

    #[test]
    fn a_chunk_length_that_nobody_writes() {
        let good = root_block(&build_file("a", 5, MIN_CHUNK_LEN, &chunks(1)).unwrap()).to_vec();
        // 65,536 becomes 65,537, 32,768 and 2,097,152.
        let from = b"\x1a\x00\x01\x00\x00";
        for to in [&b"\x1a\x00\x01\x00\x01"[..], b"\x19\x80\x00", b"\x1a\x00\x20\x00\x00"] {
            assert!(matches!(error(&patched(&good, from, to)), ManifestError::Fields { .. }));
        }
    }

    #[test]
    fn more_children_than_a_block_may_have() {
        let file = FileManifest {
            name: "a".to_owned(),
            size: 1025 * u64::from(CHUNK_LEN),
            chunk_len: CHUNK_LEN,
            depth: 0,
            links: Links::Chunks(chunks(1025)),
        };
        assert!(matches!(Block::File(file).encode(), Err(ManifestError::TooMany { .. })));
    }

    #[test]
    fn a_block_longer_than_a_mebibyte() {
        assert_eq!(error(&vec![0; MAX_BLOCK_LEN + 1]), ManifestError::TooLong(MAX_BLOCK_LEN + 1));
    }

    #[test]
    fn deep_nesting_and_huge_claims_cost_nothing() {
        assert!(matches!(error(&vec![0x81; MAX_BLOCK_LEN]), ManifestError::Codec(_)));
        assert!(matches!(
            error(&[0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            ManifestError::Codec(_)
        ));
        assert!(matches!(
            error(&[0xbb, 0x00, 0x00, 0x00, 0x7f, 0xff, 0xff, 0xff, 0xff]),
            ManifestError::Codec(_)
        ));
        assert!(matches!(
            error(&[0x7b, 0x00, 0x00, 0x00, 0x7f, 0xff, 0xff, 0xff, 0xff]),
            ManifestError::Codec(_)
        ));
    }
}

mod trees {
    use super::*;

    /// A block that the builder would never make.
    fn forged(block: &Block) -> (ManifestCid, Vec<u8>) {
        let bytes = block.encode().unwrap();
        (ManifestCid::of(&bytes), bytes)
    }

    fn with_root(root: &Block, rest: &[(ManifestCid, Vec<u8>)]) -> Built {
        let root = forged(root);
        Built { root: root.0, blocks: [rest, &[root]].concat() }
    }

    fn shape_error(built: &Built) -> bool {
        matches!(resolve(built), Err(ManifestError::Shape(_)))
    }

    #[test]
    fn a_file_of_any_number_of_chunks_resolves_to_them() {
        for count in [0, 1, 1023, 1024, 1025, 2048, 2049] {
            let len = (count * u64::from(MIN_CHUNK_LEN)).saturating_sub(1);
            let built = build_file("f", len, MIN_CHUNK_LEN, &chunks(count)).unwrap();
            let tree = resolve(&built).unwrap();
            assert_eq!((tree.size, tree.chunk_count, tree.is_dir), (len, count, false));
            assert_eq!(tree.files[0].chunks, chunks(count));
        }
    }

    #[test]
    fn a_directory_lists_files_and_directories_in_order() {
        let tree = resolve(&golden_dir()).unwrap();
        let files: Vec<_> = tree.files.iter().map(|f| (f.path.to_string(), f.exec, f.size)).collect();
        let expected = [("run.sh".to_owned(), true, 9), ("three.bin".to_owned(), false, 2_097_157)];
        assert_eq!(files, expected);
        assert_eq!(tree.dirs.iter().map(ToString::to_string).collect::<Vec<_>>(), ["empty"]);
        assert_eq!((tree.name.as_str(), tree.size, tree.is_dir), ("things", 2_097_166, true));
    }

    #[test]
    fn a_directory_of_many_entries_is_split_and_joined() {
        for count in [1024_u64, 1025, 2500] {
            let mut blocks = Vec::new();
            let entries = (0..count).map(|n| {
                let name = format!("file {n:05}");
                let built = build_file(&name, 0, CHUNK_LEN, &[]).unwrap();
                blocks.extend(built.blocks.clone());
                file_entry(&name, &built, 0, false)
            });
            let built = build_dir("many", entries.collect()).unwrap();
            blocks.extend(built.blocks);
            let tree = resolve(&Built { root: built.root, blocks }).unwrap();
            assert_eq!(tree.files.len() as u64, count);
        }
    }

    #[test]
    fn levels_that_are_not_needed_are_refused() {
        let node = forged(&Block::FileNode(FileNode { size: 5, depth: 0, links: Links::Chunks(chunks(1)) }));
        let root = FileManifest {
            name: "a".to_owned(),
            size: 5,
            chunk_len: CHUNK_LEN,
            depth: 1,
            links: Links::Nodes(vec![node.0]),
        };
        assert!(shape_error(&with_root(&Block::File(root), &[node])));
    }

    #[test]
    fn a_file_whose_links_do_not_fit_its_size_is_refused() {
        for (size, count) in [(5, 2), (u64::from(CHUNK_LEN) + 1, 1), (3 * u64::from(CHUNK_LEN), 2)] {
            let links = Links::Chunks(chunks(count));
            let root = FileManifest { name: "a".to_owned(), size, chunk_len: CHUNK_LEN, depth: 0, links };
            assert!(shape_error(&with_root(&Block::File(root), &[])), "{size} {count}");
        }
    }

    #[test]
    fn a_file_node_that_is_not_full_is_refused() {
        let full = u64::from(CHUNK_LEN);
        let node = |count: u64| {
            forged(&Block::FileNode(FileNode {
                size: count * full,
                depth: 0,
                links: Links::Chunks(chunks(count)),
            }))
        };
        let (first, second) = (node(1023), node(2));
        let links = Links::Nodes(vec![first.0, second.0]);
        let root =
            FileManifest { name: "a".to_owned(), size: 1025 * full, chunk_len: CHUNK_LEN, depth: 1, links };
        assert!(shape_error(&with_root(&Block::File(root), &[first, second])));
    }

    #[test]
    fn a_directory_with_wrong_sums_names_or_sizes_is_refused() {
        let file = build_file("f", 5, CHUNK_LEN, &chunks(1)).unwrap();
        let entry = Entry { name: "f".to_owned(), size: 5, cid: file.root, exec: false };
        let dir = |size, files, entry: &Entry| {
            let children = Children::Entries(vec![entry.clone()]);
            let dir = DirManifest { name: "d".to_owned(), size, files, depth: 0, children };
            with_root(&Block::Dir(dir), &file.blocks)
        };
        assert!(resolve(&dir(5, 1, &entry)).is_ok());
        assert!(shape_error(&dir(6, 1, &entry)));
        assert!(shape_error(&dir(5, 2, &entry)));
        assert!(shape_error(&dir(6, 1, &Entry { size: 6, ..entry.clone() })));
        assert!(shape_error(&dir(5, 1, &Entry { name: "g".to_owned(), ..entry })));
    }

    #[test]
    fn unsorted_and_repeated_entries_are_refused() {
        let entry =
            |name: &str| Entry { name: name.to_owned(), size: 0, cid: ManifestCid::of(b"x"), exec: false };
        for names in [["b", "a"], ["a", "a"]] {
            let children = Children::Entries(names.into_iter().map(entry).collect());
            let dir = DirManifest { name: "d".to_owned(), size: 0, files: 2, depth: 0, children };
            assert!(matches!(Block::Dir(dir).encode(), Err(ManifestError::Shape(_))));
        }
        let twice = vec![(entry("a"), 1), (entry("a"), 1)];
        assert!(matches!(build_dir("d", twice), Err(ManifestError::Shape(_))));
    }

    #[test]
    fn an_inner_node_is_no_root() {
        let node = forged(&Block::FileNode(FileNode { size: 5, depth: 0, links: Links::Chunks(chunks(1)) }));
        assert!(shape_error(&Built { root: node.0, blocks: vec![node] }));
    }

    #[test]
    fn directories_inside_each_other_end_at_the_limit() {
        let mut built = build_dir("d", Vec::new()).unwrap();
        let mut blocks = built.blocks.clone();
        let mut depth = 0;
        while depth <= MAX_NESTING {
            let entry = Entry { name: "d".to_owned(), size: 0, cid: built.root, exec: false };
            built = build_dir("d", vec![(entry, 0)]).unwrap();
            blocks.extend(built.blocks.clone());
            depth += 1;
            let resolved = resolve(&Built { root: built.root, blocks: blocks.clone() });
            assert_eq!(resolved.is_ok(), depth <= MAX_NESTING, "{depth}");
        }
    }

    #[test]
    fn a_small_manifest_that_unfolds_to_too_much_is_refused() {
        // 17 TiB of the same chunk: three levels of nodes that repeat themselves, a few blocks in all.
        let chunk_len = u64::from(MIN_CHUNK_LEN);
        let mut size = 1024 * chunk_len;
        let mut links = Links::Chunks(vec![chunk(0); 1024]);
        let mut blocks = Vec::new();
        for depth in 0..2 {
            let node = forged(&Block::FileNode(FileNode { size, depth, links: links.clone() }));
            links = Links::Nodes(vec![node.0; 1024]);
            blocks.push(node);
            size *= 1024;
        }
        let root = FileManifest { name: "a".to_owned(), size, chunk_len: MIN_CHUNK_LEN, depth: 2, links };
        let bomb = with_root(&Block::File(root), &blocks);
        assert!(matches!(resolve(&bomb), Err(ManifestError::TooMany { .. })));
    }

    #[test]
    fn bytes_of_another_block_and_unneeded_blocks_are_refused() {
        let built = golden_dir();
        let mut resolver = TreeResolver::new(built.root);
        assert_eq!(resolver.needs(), [built.root]);
        assert_eq!(resolver.insert(built.root, b"x"), Err(ManifestError::WrongBytes(built.root)));
        let other = golden_two_levels();
        assert_eq!(
            resolver.insert(other.root, root_block(&other)),
            Err(ManifestError::Unexpected(other.root))
        );
        assert!(!resolver.is_complete());
        assert!(matches!(resolver.finish(), Err(ManifestError::Missing(_))));
    }

    #[test]
    fn a_chunk_has_one_length() {
        let (a, b) = (
            build_file("a", 5, CHUNK_LEN, &chunks(1)).unwrap(),
            build_file("b", 6, CHUNK_LEN, &chunks(1)).unwrap(),
        );
        let dir = build_dir("d", vec![file_entry("a", &a, 5, false), file_entry("b", &b, 6, false)]).unwrap();
        assert!(shape_error(&Built { root: dir.root, blocks: [a.blocks, b.blocks, dir.blocks].concat() }));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_are_the_encoding(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(block) = Block::decode(&bytes) {
            prop_assert_eq!(block.encode().unwrap(), bytes);
        }
    }

    #[test]
    fn a_changed_byte_is_refused_or_another_block(at in 0_usize..10_000, to in any::<u8>()) {
        for built in [golden_file(), golden_dir()] {
            let good = root_block(&built);
            let mut bytes = good.to_vec();
            let at = at % bytes.len();
            bytes[at] = to;
            if let Ok(block) = Block::decode(&bytes) {
                prop_assert_eq!(&block.encode().unwrap(), &bytes);
                prop_assert_eq!(bytes == good, ManifestCid::of(&bytes) == built.root);
            }
        }
    }

    #[test]
    fn blocks_may_arrive_in_any_order(seed in any::<u64>()) {
        let built = golden_dir();
        let blocks: BTreeMap<_, _> = built.blocks.iter().cloned().collect();
        let mut resolver = TreeResolver::new(built.root);
        let mut open = resolver.needs();
        let mut state = seed;
        while !open.is_empty() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let cid = open.swap_remove((state >> 33) as usize % open.len());
            resolver.insert(cid, &blocks[&cid]).unwrap();
            open.extend(resolver.needs());
        }
        prop_assert_eq!(resolver.finish().unwrap(), resolve(&built).unwrap());
    }
}
