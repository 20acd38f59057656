//! Blocks and trees that only somebody with bad intentions makes.

use super::*;

/// A map in canonical order whose values are given as bytes.
fn map(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut fields: Vec<_> = fields.to_vec();
    fields.sort_by_key(|(key, _)| (key.len(), *key));
    let mut bytes = head(5, fields.len() as u64);
    for (key, value) in fields {
        bytes.extend(text(key));
        bytes.extend(value);
    }
    bytes
}

fn head(major: u8, value: u64) -> Vec<u8> {
    let mark = |low: u8| major << 5 | low;
    let bytes = value.to_be_bytes();
    match value {
        0..24 => vec![mark(bytes[7])],
        24..0x100 => [&[mark(24)], &bytes[7..]].concat(),
        0x100..0x1_0000 => [&[mark(25)], &bytes[6..]].concat(),
        0x1_0000..0x1_0000_0000 => [&[mark(26)], &bytes[4..]].concat(),
        _ => [&[mark(27)], &bytes[..]].concat(),
    }
}

fn uint(value: u64) -> Vec<u8> {
    head(0, value)
}

fn text(text: &str) -> Vec<u8> {
    [head(3, text.len() as u64), text.as_bytes().to_vec()].concat()
}

fn list(items: &[Vec<u8>]) -> Vec<u8> {
    [head(4, items.len() as u64), items.concat()].concat()
}

/// Any bytes as an IPLD link.
fn link(cid: &[u8]) -> Vec<u8> {
    [&[0xd8, 0x2a][..], &head(2, cid.len() as u64 + 1), &[0], cid].concat()
}

fn chunk_link() -> Vec<u8> {
    link(&cid_bytes(0x55, chunk(0).digest()))
}

fn manifest_link() -> Vec<u8> {
    link(&cid_bytes(0x71, chunk(0).digest()))
}

fn file_with(depth: u64, size: u64, links: &[Vec<u8>]) -> Vec<u8> {
    map(&[
        ("v", &uint(1)),
        ("kind", &text("file")),
        ("name", &text("a")),
        ("size", &uint(size)),
        ("depth", &uint(depth)),
        ("links", &list(links)),
        ("chunk_len", &uint(CHUNK_LEN.into())),
    ])
}

fn dir_with(size: u64, children: (&str, &[Vec<u8>])) -> Vec<u8> {
    let (key, items) = children;
    map(&[
        ("v", &uint(1)),
        ("kind", &text("dir")),
        ("name", &text("a")),
        ("size", &uint(size)),
        ("files", &uint(1)),
        ("depth", &uint(0)),
        (key, &list(items)),
    ])
}

fn entry_with(more: &[(&str, &[u8])]) -> Vec<u8> {
    map(&[&[("name", &text("f")[..]), ("size", &uint(5)), ("cid", &manifest_link())], more].concat())
}

mod blocks {
    use super::*;

    fn error(bytes: &[u8]) -> ManifestError {
        Block::decode(bytes).unwrap_err()
    }

    #[test]
    fn blocks_made_here_are_right_unless_made_wrong() {
        assert!(Block::decode(&file_with(0, 5, &[chunk_link()])).is_ok());
        assert!(Block::decode(&dir_with(5, ("entries", &[entry_with(&[])]))).is_ok());
        assert!(Block::decode(&dir_with(5, ("entries", &[entry_with(&[("exec", &[0xf5])])]))).is_ok());
    }

    #[test]
    fn fields_that_say_nothing_are_refused() {
        for value in [0xf4, 0xf6, 0xf7] {
            // `exec: false`, `null` and `undefined`.
            let block = dir_with(5, ("entries", &[entry_with(&[("exec", &[value])])]));
            assert!(matches!(error(&block), ManifestError::Codec(_)), "{value:x}");
        }
        let file = file_with(0, 5, &[chunk_link()]);
        let null = [&[file[0] + 1][..], &file[1..], &text("zzzzzzzzz"), &[0xf6]].concat();
        assert!(matches!(error(&null), ManifestError::Codec(_)));
        let unknown = dir_with(5, ("entries", &[entry_with(&[("mode", &uint(0o4755))])]));
        assert!(matches!(error(&unknown), ManifestError::Codec(_)));
    }

    #[test]
    fn links_to_anything_but_the_expected_kind_are_refused() {
        let digest = *chunk(0).digest();
        let long = [cid_bytes(0x55, &digest), vec![0]].concat();
        let version_0 = [&[0x12, 0x20][..], &digest].concat();
        let wrong = [
            manifest_link(),
            link(&cid_bytes(0x70, &digest)),
            link(&[&[1, 0x55, 0x1e, 0x20][..], &digest].concat()),
            link(&[&[1, 0x55, 0x12, 0x14][..], &digest[..20]].concat()),
            link(&long),
            link(&version_0),
            link(&[]),
            // Without the leading zero; another tag; no tag.
            [&[0xd8, 0x2a][..], &head(2, 36), &cid_bytes(0x55, &digest)].concat(),
            [&[0xd8, 0x2b][..], &chunk_link()[2..]].concat(),
            chunk_link()[2..].to_vec(),
        ];
        for link in wrong {
            let error = error(&file_with(0, 5, &[link]));
            assert!(matches!(error, ManifestError::Codec(_) | ManifestError::Link(_)), "{error}");
        }
        let nodes = file_with(1, 1025 << 20, &[manifest_link(), chunk_link()]);
        assert!(matches!(error(&nodes), ManifestError::Link(_)));
        let entry = map(&[("name", &text("f")), ("size", &uint(5)), ("cid", &chunk_link())]);
        assert!(matches!(error(&dir_with(5, ("entries", &[entry]))), ManifestError::Codec(_)));
    }

    #[test]
    fn numbers_past_the_limits_are_refused() {
        let links = [chunk_link()];
        for size in [MAX_SIZE + 1, u64::MAX] {
            assert!(matches!(error(&file_with(0, size, &links)), ManifestError::Fields { .. }));
            assert!(matches!(error(&dir_with(size, ("entries", &[]))), ManifestError::Fields { .. }));
        }
        assert!(matches!(error(&file_with(4, 5, &[manifest_link()])), ManifestError::Fields { .. }));
        assert!(matches!(error(&file_with(256, 5, &[manifest_link()])), ManifestError::Codec(_)));
        let negative = file_with(0, 5, &links);
        let at = negative.windows(6).position(|window| window == b"dsize\x05").unwrap();
        let negative = [&negative[..at + 5], &[0x24], &negative[at + 6..]].concat();
        assert!(matches!(error(&negative), ManifestError::Codec(_)));
    }

    #[test]
    fn one_child_more_than_a_block_may_have_is_refused() {
        let links = |count| vec![chunk_link(); count];
        assert!(Block::decode(&file_with(0, 1024 << 20, &links(1024))).is_ok());
        assert!(matches!(error(&file_with(0, 1025 << 20, &links(1025))), ManifestError::Codec(_)));
        let entries: Vec<_> = (0..1025)
            .map(|n| {
                map(&[("name", &text(&format!("{n:04}"))), ("size", &uint(0)), ("cid", &manifest_link())])
            })
            .collect();
        assert!(Block::decode(&dir_with(0, ("entries", &entries[..1024]))).is_ok());
        assert!(matches!(error(&dir_with(0, ("entries", &entries))), ManifestError::Codec(_)));
    }

    #[test]
    fn entries_and_links_exclude_each_other() {
        for key in ["links", "chunk_len"] {
            assert!(Block::decode(&dir_with(0, (key, &[]))).is_err());
        }
        let both = map(&[
            ("v", &uint(1)),
            ("kind", &text("dir")),
            ("name", &text("a")),
            ("size", &uint(0)),
            ("files", &uint(0)),
            ("depth", &uint(0)),
            ("links", &list(&[])),
            ("entries", &list(&[])),
        ]);
        assert!(matches!(error(&both), ManifestError::Fields { .. }));
    }

    #[test]
    fn a_newer_format_is_named_whatever_it_holds() {
        let newer = map(&[("v", &uint(2)), ("kind", &text("symlink")), ("target", &text("/"))]);
        assert_eq!(error(&newer), ManifestError::Version(2));
    }

    #[test]
    fn an_error_quotes_little_of_what_was_sent() {
        let unknown = map(&[(&"x\n".repeat(100_000), &uint(1)), ("v", &uint(1))]);
        for bytes in [unknown, map(&[("v", &uint(1)), ("kind", &text(&"\u{202e}".repeat(100_000)))])] {
            let shown = error(&bytes).to_string();
            assert!(shown.len() < 1000 && !shown.contains(['\n', '\u{202e}']), "{shown}");
        }
    }

    #[test]
    fn every_change_of_one_byte_of_a_golden_block_is_refused_or_another_block() {
        for built in [golden_file(), golden_two_levels(), golden_dir()] {
            let good = root_block(&built);
            for at in 0..good.len() {
                let mut bytes = good.to_vec();
                for to in (0..=u8::MAX).filter(|to| *to != good[at]) {
                    bytes[at] = to;
                    if let Ok(block) = Block::decode(&bytes) {
                        assert_eq!(block.encode().unwrap(), bytes);
                        assert_ne!(ManifestCid::of(&bytes), built.root);
                    }
                }
            }
        }
    }

    #[test]
    fn every_part_of_a_golden_block_is_refused() {
        for built in [golden_file(), golden_two_levels(), golden_dir()] {
            let good = root_block(&built);
            assert!((0..good.len()).all(|len| Block::decode(&good[..len]).is_err()));
        }
    }
}

mod trees {
    use super::*;

    fn forged(block: &Block) -> (ManifestCid, Vec<u8>) {
        let bytes = block.encode().unwrap();
        (ManifestCid::of(&bytes), bytes)
    }

    fn entry_of(name: &str, cid: ManifestCid) -> Entry {
        Entry { name: name.to_owned(), size: 0, cid, exec: false }
    }

    fn empty_file(name: &str) -> Built {
        build_file(name, 0, CHUNK_LEN, &[]).unwrap()
    }

    /// A directory of empty files under these names, in nodes as they are grouped.
    fn dir_in_nodes(groups: &[Vec<String>], depth: u8) -> Built {
        let mut blocks = Vec::new();
        let mut nodes = Vec::new();
        for names in groups {
            let files: Vec<_> = names.iter().map(|name| (name, empty_file(name))).collect();
            let entries = files.iter().map(|(name, built)| entry_of(name, built.root)).collect();
            let children = Children::Entries(entries);
            let files_count = names.len() as u64;
            nodes.push(forged(&Block::DirNode(DirNode { size: 0, files: files_count, depth: 0, children })));
            blocks.extend(files.into_iter().flat_map(|(_, built)| built.blocks));
        }
        let files = groups.iter().map(|names| names.len() as u64).sum();
        let children = Children::Nodes(nodes.iter().map(|(cid, _)| *cid).collect());
        let root = forged(&Block::Dir(DirManifest { name: "d".to_owned(), size: 0, files, depth, children }));
        blocks.extend(nodes);
        blocks.push(root.clone());
        Built { root: root.0, blocks }
    }

    fn names(range: std::ops::Range<usize>) -> Vec<String> {
        range.map(|n| format!("{n:05}")).collect()
    }

    #[test]
    fn directory_nodes_have_one_shape() {
        let is_shape = |built: &Built| matches!(resolve(built), Err(ManifestError::Shape(_)));
        let right = dir_in_nodes(&[names(0..1024), names(1024..1030)], 1);
        assert_eq!(resolve(&right).unwrap().files.len(), 1030);
        // Not full; not needed; unsorted across nodes; the same name in two nodes; more levels than there are.
        assert!(is_shape(&dir_in_nodes(&[names(0..1023), names(1023..1030)], 1)));
        assert!(is_shape(&dir_in_nodes(&[names(0..1000)], 1)));
        assert!(is_shape(&dir_in_nodes(&[names(10..1034), names(0..10)], 1)));
        assert!(is_shape(&dir_in_nodes(&[names(0..1024), names(1023..1030)], 1)));
        assert!(is_shape(&dir_in_nodes(&[names(0..1024), names(1024..1030)], 2)));
    }

    #[test]
    fn wrong_sums_of_a_directory_node_are_refused() {
        let right = dir_in_nodes(&[names(0..1024), names(1024..1030)], 1);
        for (size, files) in [(1, 6), (0, 5), (0, u64::MAX)] {
            let mut built = right.clone();
            let (_, last) = &built.blocks[built.blocks.len() - 2];
            let Block::DirNode(node) = Block::decode(last).unwrap() else { panic!("no node") };
            let wrong = forged(&Block::DirNode(DirNode { size, files, ..node }));
            let (_, root) = built.blocks.pop().unwrap();
            let Block::Dir(mut dir) = Block::decode(&root).unwrap() else { panic!("no directory") };
            let Children::Nodes(nodes) = &mut dir.children else { panic!("no nodes") };
            nodes[1] = wrong.0;
            let root = forged(&Block::Dir(dir));
            built.blocks.extend([wrong, root.clone()]);
            let built = Built { root: root.0, ..built };
            assert!(matches!(resolve(&built), Err(ManifestError::Shape(_))), "{size} {files}");
        }
    }

    #[test]
    fn sizes_that_add_up_to_too_much_are_refused() {
        // Two files of 2^44 bytes would do for the chunks; sizes of entries are checked before anything adds up.
        let file = empty_file("f");
        for size in [1, MAX_SIZE, MAX_SIZE + 1, u64::MAX] {
            let entry = Entry { size, ..entry_of("f", file.root) };
            let children = Children::Entries(vec![entry]);
            let dir = DirManifest { name: "d".to_owned(), size: 0, files: 1, depth: 0, children };
            let root = forged(&Block::Dir(dir));
            let built = Built { root: root.0, blocks: [file.blocks.clone(), vec![root]].concat() };
            assert!(matches!(resolve(&built), Err(ManifestError::Shape(_))), "{size}");
        }
        let huge =
            [("a", u64::MAX), ("b", 1)].map(|(name, size)| (Entry { size, ..entry_of(name, file.root) }, 1));
        assert!(build_dir("d", huge.to_vec()).is_err());
    }

    #[test]
    fn an_executable_directory_is_refused() {
        let inner = build_dir("i", Vec::new()).unwrap();
        let entry = Entry { exec: true, ..entry_of("i", inner.root) };
        let outer = build_dir("d", vec![(entry, 0)]).unwrap();
        let built = Built { root: outer.root, blocks: [inner.blocks, outer.blocks].concat() };
        assert!(matches!(resolve(&built), Err(ManifestError::Shape(_))));
    }

    #[test]
    fn a_node_with_the_wrong_number_of_levels_is_refused_as_it_comes() {
        let leaf = forged(&Block::FileNode(FileNode {
            size: 5,
            depth: 1,
            links: Links::Nodes(vec![golden_file().root]),
        }));
        let root = FileManifest {
            name: "a".to_owned(),
            size: 1025 << 20,
            chunk_len: CHUNK_LEN,
            depth: 1,
            links: Links::Nodes(vec![leaf.0, leaf.0]),
        };
        let root = forged(&Block::File(root));
        let mut resolver = TreeResolver::new(root.0);
        resolver.insert(root.0, &root.1).unwrap();
        assert_eq!(resolver.needs(), [root.0, leaf.0]);
        assert!(matches!(resolver.insert(leaf.0, &leaf.1), Err(ManifestError::Shape(_))));
    }

    #[test]
    fn a_block_that_is_needed_often_is_asked_for_once() {
        let links = Links::Chunks(vec![chunk(0); 1024]);
        let node = forged(&Block::FileNode(FileNode { size: 1024 << 20, depth: 0, links }));
        let root = FileManifest {
            name: "a".to_owned(),
            size: 4096 << 20,
            chunk_len: CHUNK_LEN,
            depth: 1,
            links: Links::Nodes(vec![node.0; 4]),
        };
        let root = forged(&Block::File(root));
        let mut resolver = TreeResolver::new(root.0);
        assert_eq!(resolver.needs(), [root.0]);
        resolver.insert(root.0, &root.1).unwrap();
        assert_eq!(resolver.needs(), [node.0]);
        assert_eq!(resolver.needs(), []);
        resolver.insert(node.0, &node.1).unwrap();
        resolver.insert(node.0, &node.1).unwrap();
        assert!(resolver.is_complete());
        let tree = resolver.finish().unwrap();
        assert_eq!((tree.chunk_count, tree.unique_chunks()), (4096, vec![(chunk(0), CHUNK_LEN)]));
    }

    /// Levels of two directories, each with both of the level below: 2^levels files in a few blocks.
    fn crosswise(levels: u32, name_len: usize) -> Built {
        let name = |letter: &str| letter.repeat(name_len);
        let mut blocks = Vec::new();
        let mut below: Vec<(Entry, u64)> = Vec::new();
        for level in 0..=levels {
            let pair = ["a", "b"].map(|letter| {
                let files = 1 << level;
                let built = if level == 0 {
                    empty_file(&name(letter))
                } else {
                    build_dir(&name(letter), below.clone()).unwrap()
                };
                blocks.extend(built.blocks);
                (entry_of(&name(letter), built.root), files)
            });
            below = pair.to_vec();
        }
        let root = build_dir("d", below).unwrap();
        blocks.extend(root.blocks);
        Built { root: root.root, blocks }
    }

    #[test]
    fn directories_that_share_their_entries_unfold_to_every_path() {
        let tree = resolve(&crosswise(3, 1)).unwrap();
        assert_eq!((tree.files.len(), tree.dirs.len()), (16, 14));
        assert_eq!(tree.files[5].path.to_string(), "a/b/a/b");
    }

    #[test]
    fn a_few_blocks_that_mean_millions_of_files_are_refused_before_they_unfold() {
        let count = |built: &Built| match resolve(built) {
            Err(ManifestError::TooMany { what, .. }) => what,
            other => panic!("{other:?}"),
        };
        // 2^51 files; then 2^18 with paths of 4 KiB each, 1 GiB of them.
        assert_eq!(count(&crosswise(50, 1)), "entries in one tree");
        assert_eq!(count(&crosswise(17, 255)), "bytes of paths in one tree");
    }

    #[test]
    fn a_way_round_the_limit_of_nesting_is_found() {
        // Each directory of the chain is also an entry of the root, so each is first seen right below it.
        let mut blocks = Vec::new();
        let mut entries: Vec<(Entry, u64)> = Vec::new();
        for level in 0..200 {
            let name = format!("{level:03}");
            let built = build_dir(&name, entries.last().cloned().into_iter().collect()).unwrap();
            blocks.extend(built.blocks);
            entries.push((entry_of(&name, built.root), 0));
            let root = build_dir("d", entries.clone()).unwrap();
            let all = Built { root: root.root, blocks: [blocks.clone(), root.blocks].concat() };
            let is_fine = resolve(&all).is_ok();
            assert_eq!(is_fine, level < MAX_NESTING, "{level}");
        }
    }

    #[test]
    fn chunk_lengths_that_differ_between_files_are_found() {
        let (short, long) = (u64::from(MIN_CHUNK_LEN), u64::from(MAX_CHUNK_LEN));
        let a = build_file("a", 2 * short, MIN_CHUNK_LEN, &[chunk(0), chunk(1)]).unwrap();
        let resolved = |b: Built, size| {
            let entries = vec![file_entry("a", &a, 2 * short, false), file_entry("b", &b, size, false)];
            let dir = build_dir("d", entries).unwrap();
            resolve(&Built { root: dir.root, blocks: [a.blocks.clone(), b.blocks, dir.blocks].concat() })
        };
        let same_chunk = build_file("b", 2 * long, MAX_CHUNK_LEN, &[chunk(0), chunk(2)]).unwrap();
        assert!(matches!(resolved(same_chunk, 2 * long), Err(ManifestError::Shape(_))));
        let as_last = build_file("b", long + short, MAX_CHUNK_LEN, &[chunk(2), chunk(0)]).unwrap();
        assert!(resolved(as_last, long + short).is_ok());
    }
}
