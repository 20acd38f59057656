//! Content of every size and shape arrives byte for byte.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::{FileExt, PermissionsExt},
    path::Path,
};

use common::{
    CHUNK_LEN, Daemon, Entry, MIB, Scratch, allocated_len, args, chunk_cid, chunks_of, names_in, noise,
    range_of, run, run_in, sha256, sha256_file, tree, write_noise,
};
use dhtfs_node::api::types::{Added, GetReport, LsReport, Verified};

/// Two daemons that know each other.
fn pair(scratch: &Scratch) -> (Daemon, Daemon) {
    let one = Daemon::start(&scratch.path("one"), &[]);
    let two = Daemon::start(&scratch.path("two"), &[&one]);
    (one, two)
}

#[test]
fn sizes_around_a_chunk_arrive_byte_for_byte() {
    let scratch = Scratch::new();
    let (one, two) = pair(&scratch);
    let sizes = [0, 1, CHUNK_LEN - 1, CHUNK_LEN, CHUNK_LEN + 1, 2 * CHUNK_LEN, 5 * CHUNK_LEN + 7];
    for (seed, len) in (1..).zip(sizes) {
        let name = format!("{len}.bin");
        let source = scratch.file(&name, noise(seed, len));
        let added = one.add(&source);
        let chunks = len.div_ceil(CHUNK_LEN) as u64;
        assert_eq!((added.len, added.files, added.chunks, &added.name), (len as u64, 1, chunks, &name));
        let out = scratch.path(format!("out-{name}"));
        let report = two.get(&added.cid, &out);
        assert_eq!((report.len, report.files, &report.name), (len as u64, 1, &name));
        assert_eq!(fs::read(&out).unwrap(), fs::read(&source).unwrap(), "{len} bytes");
        assert_eq!(two.status_of(&added.cid).state, "complete");
    }
}

#[test]
fn a_name_of_the_greatest_length_is_no_obstacle() {
    let scratch = Scratch::new();
    let (one, two) = pair(&scratch);
    let name = format!("{}.bin", "n".repeat(251));
    let source = scratch.file(Path::new("from").join(&name), noise(3, CHUNK_LEN + 1));
    let cid = one.add(&source).cid;
    let into = scratch.dir("into");
    two.run(args!["get", cid, "-o", into]).ok();
    assert_eq!(names_in(&into), [name.as_str()]);
    assert_eq!(sha256_file(&into.join(&name)), sha256_file(&source));
}

#[test]
fn a_sparse_file_of_three_gib_costs_neither_disk_nor_network() {
    let scratch = Scratch::new();
    let (one, two) = pair(&scratch);
    let source = scratch.path("sparse.img");
    let len = 3 * 1024 * MIB;
    let file = File::create(&source).unwrap();
    file.set_len(len).unwrap();
    for (seed, offset) in [(1, 0), (2, 1500 * MIB + 77), (3, len - 4096)] {
        file.write_all_at(&noise(seed, 4096), offset).unwrap();
    }
    let added = one.add(&source);
    assert_eq!((added.len, added.chunks), (len, 3 * 1024));
    let out = scratch.path("out.img");
    let report = two.get(&added.cid, &out);
    assert_eq!(report.len, len);
    assert!(report.received_len < 16 * MIB, "zeros travel once: {report:?}");
    assert!(allocated_len(&out) < 64 * MIB, "{} bytes on disk", allocated_len(&out));
    assert_eq!(sha256_file(&out), sha256_file(&source));
}

#[test]
fn a_file_of_one_and_a_half_gib_has_two_manifest_levels_and_arrives() {
    let scratch = Scratch::new();
    let (one, two) = pair(&scratch);
    let source = scratch.path("long.bin");
    let chunks = 1536;
    let digest = write_noise(&source, 4, chunks * MIB);
    let added = one.add(&source);
    assert_eq!((added.len, added.chunks), (chunks * MIB, chunks));
    let listed = chunks_of(one.dir(), &added.cid).remove(0).chunks;
    assert_eq!(listed.len() as u64, chunks);
    assert_eq!(listed.iter().collect::<BTreeSet<_>>().len() as u64, chunks, "every chunk is another");
    for index in [0, 1023, 1024, 1535] {
        let chunk = range_of(&source, index * MIB, CHUNK_LEN);
        assert_eq!(listed[usize::try_from(index).unwrap()], chunk_cid(&chunk), "chunk {index}");
    }
    let out = scratch.path("out.bin");
    let report = two.get(&added.cid, &out);
    assert_eq!(sha256_file(&out), digest);
    assert!(report.requested_len >= report.len, "{report:?}");
}

/// Names that are odd, yet legal everywhere that matters here.
const ODD_NAMES: [&str; 24] = [
    "with space",
    " leading space",
    "-dash",
    "--help",
    ".hidden",
    "..two dots",
    "übergröße",
    "u\u{308}ber",
    "日本語",
    "🦀 crab",
    "עברית",
    "quote\"s",
    "apo'strophe",
    "$HOME",
    "`id`",
    "*",
    "?",
    "a|b",
    "<tag>",
    "#hash",
    "100%",
    "Case",
    "case",
    "a\u{a0}b",
];

fn make_odd_directory(root: &Path) {
    fs::create_dir_all(root.join("nested/deeper/-dash dir/🦀")).unwrap();
    fs::create_dir_all(root.join("empty/with empty below")).unwrap();
    for index in 0..2_000 {
        let odd = ODD_NAMES[index % ODD_NAMES.len()];
        let dir = ["", "nested", "nested/deeper", "nested/deeper/-dash dir", "nested/deeper/-dash dir/🦀"]
            [index % 5];
        // The first of each kind has the odd name alone, the others a number behind it.
        let name = if index < ODD_NAMES.len() { odd.to_owned() } else { format!("{odd}{index}") };
        let content = noise(index as u64 + 1, index * 7 % 3000);
        let path = root.join(dir).join(name);
        fs::write(&path, content).unwrap();
        if index % 10 == 0 {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
    fs::write(root.join("x".repeat(255)), "the longest name").unwrap();
    fs::write(root.join("three chunks"), noise(5000, 2 * CHUNK_LEN + 3)).unwrap();
}

#[test]
fn a_directory_of_two_thousand_files_with_odd_names_arrives_as_it_was() {
    let scratch = Scratch::new();
    let (one, two) = pair(&scratch);
    let root = scratch.dir("-odd 📁 name");
    make_odd_directory(&root);
    let before = tree(&root);
    let files = before.values().filter(|entry| matches!(entry, Entry::File { .. })).count();
    assert_eq!(files, 2_002);

    let added = one.add(&root);
    assert!(added.directory);
    assert_eq!((added.files, added.skipped, added.name.as_str()), (files as u64, 0, "-odd 📁 name"));
    let into = scratch.dir("into");
    let report: GetReport = two.run(args!["--json", "get", added.cid, "-o", into]).ok().json();
    assert_eq!((report.files, &report.path), (files as u64, &into.join("-odd 📁 name")));
    assert_eq!(names_in(&into), ["-odd 📁 name"], "nothing else is left behind");
    assert_eq!(tree(&into.join("-odd 📁 name")), before);

    let LsReport::Manifest { files: listed, directories, .. } =
        two.run(args!["--json", "ls", added.cid]).ok().json::<LsReport>()
    else {
        panic!("ls of a CID lists its content")
    };
    assert_eq!(listed.len(), files);
    assert!(listed.iter().any(|file| file.path == "nested/deeper/-dash"), "{:?}", listed.first());
    assert!(directories.iter().any(|dir| dir == "empty/with empty below"), "{directories:?}");
    two.run(args!["verify", into.join("-odd 📁 name"), added.cid]).ok();
    assert_eq!(one.add(&into.join("-odd 📁 name")).cid, added.cid, "what arrived has the same CID");
}

#[test]
fn standard_input_is_shared_under_a_name_of_its_own() {
    let scratch = Scratch::new();
    let (one, two) = pair(&scratch);
    // Every byte value, and a length that is no multiple of anything.
    let content = [(0..=255).collect::<Vec<u8>>(), noise(6, 3 * CHUNK_LEN + 17)].concat();
    let unnamed: Added = run_in(one.dir(), args!["--json", "add", "-"], &content).ok().json();
    assert_eq!((unnamed.name.as_str(), unnamed.len), ("stdin", content.len() as u64));
    let named: Added =
        run_in(one.dir(), args!["--json", "add", "-", "--name", "a b.bin"], &content).ok().json();
    assert_eq!(named.name, "a b.bin");
    assert_ne!(named.cid, unnamed.cid);
    let file = scratch.file("a b.bin", &content);
    assert_eq!(one.add(&file).cid, named.cid, "the content and the name decide, not where it came from");
    let empty: Added = run_in(one.dir(), args!["--json", "add", "-", "--name", "empty"], b"").ok().json();
    assert_eq!((empty.len, empty.chunks), (0, 0));
    let into = scratch.dir("into");
    for cid in [&named.cid, &unnamed.cid, &empty.cid] {
        two.run(args!["get", cid, "-o", into]).ok();
    }
    assert_eq!(names_in(&into), ["a b.bin", "empty", "stdin"]);
    assert_eq!(fs::read(into.join("a b.bin")).unwrap(), content);
    assert_eq!(fs::read(into.join("empty")).unwrap(), b"");
}

#[test]
fn content_is_printed_whole_and_in_ranges() {
    let scratch = Scratch::new();
    let (one, two) = pair(&scratch);
    let content = noise(7, 3 * CHUNK_LEN + 99);
    let cid = one.add(&scratch.file("file.bin", &content)).cid;
    assert_eq!(sha256(&two.run(args!["get", cid, "-o", "-"]).ok().stdout), sha256(&content));
    assert_eq!(sha256(&two.run(args!["cat", cid]).ok().stdout), sha256(&content));
    let chunk = CHUNK_LEN;
    let ranges = [
        (0, 0),
        (0, 1),
        (0, chunk),
        (chunk - 1, 2),
        (chunk, chunk),
        (chunk + 5, 2 * chunk),
        (3 * chunk, 99),
        (3 * chunk + 98, 1),
        (3 * chunk + 98, 1000),
        (content.len(), 5),
        (content.len() * 2, 5),
    ];
    for (offset, len) in ranges {
        let (from, to) = (offset.min(content.len()), (offset + len).min(content.len()));
        let output =
            two.run(args!["cat", cid, "--offset", offset.to_string(), "--length", len.to_string()]).ok();
        assert_eq!(sha256(&output.stdout), sha256(&content[from..to]), "{len} bytes at {offset}");
        assert_eq!(output.stdout.len(), to - from, "{len} bytes at {offset}");
    }
    let rest = two.run(args!["cat", cid, "--offset", (2 * chunk + 1).to_string()]).ok();
    assert_eq!(sha256(&rest.stdout), sha256(&content[2 * chunk + 1..]));
    assert_eq!(names_in(&scratch.path("")), ["file.bin", "one", "two"], "printing writes no file");
}

#[test]
fn a_single_chunk_is_fetched_and_printed_by_its_own_cid() {
    let scratch = Scratch::new();
    let (one, two) = pair(&scratch);
    let content = noise(8, 2 * CHUNK_LEN + 5);
    let added = one.add(&scratch.file("file.bin", &content));
    one.wait_announced(4);
    for (index, chunk) in content.chunks(CHUNK_LEN).enumerate() {
        let cid = chunk_cid(chunk);
        let out = scratch.path(format!("chunk-{index}"));
        let report = two.get(&cid, &out);
        assert_eq!((report.cid.as_str(), report.len), (cid.as_str(), chunk.len() as u64));
        assert_eq!(sha256_file(&out), sha256(chunk));
        assert_eq!(sha256(&two.run(args!["cat", cid]).ok().stdout), sha256(chunk));
        let part = two.run(args!["cat", cid, "--offset", "3", "--length", "2"]).ok();
        assert_eq!(part.stdout, &chunk[3..5]);
    }
    assert_eq!(two.status_of(&added.cid).state, "none", "chunks alone make no share");
}

#[test]
fn verify_tells_the_same_from_the_different_and_where_they_differ() {
    let scratch = Scratch::new();
    let dir = scratch.path("data");
    let content = noise(9, 4 * CHUNK_LEN);
    let file = scratch.file("file.bin", &content);
    let cid = run(&dir, args!["add", file]).ok().line().to_owned();
    assert!(run(&dir, args!["verify", file, cid]).ok().line().starts_with("ok"));
    let verified: Verified = run(&dir, args!["--json", "verify", file, cid]).ok().json();
    assert_eq!((verified.len, verified.files), (content.len() as u64, 1));

    let copy = scratch.file("other name.bin", &content);
    run(&dir, args!["verify", copy, cid]).ok();
    let mut flipped = content.clone();
    flipped[3 * CHUNK_LEN + 1] ^= 1;
    let longer = [content.as_slice(), b"x"].concat();
    for (what, wrong) in
        [("flipped", flipped.as_slice()), ("shorter", &content[1..]), ("longer", &longer), ("empty", b"")]
    {
        fs::write(&copy, wrong).unwrap();
        run(&dir, args!["verify", copy, cid]).refused(1);
        assert_eq!(fs::read(&copy).unwrap(), wrong, "{what}: verify only reads");
    }
    fs::remove_file(&copy).unwrap();
    run(&dir, args!["verify", copy, cid]).refused(1);

    let root = scratch.dir("tree");
    scratch.file("tree/a", "1");
    scratch.file("tree/sub/b", "2");
    let cid = run(&dir, args!["add", root]).ok().line().to_owned();
    run(&dir, args!["verify", root, cid]).ok();
    fs::write(root.join("sub/b"), "3").unwrap();
    assert!(run(&dir, args!["verify", root, cid]).refused(1).contains("sub/b"));
    fs::remove_file(root.join("sub/b")).unwrap();
    assert!(run(&dir, args!["verify", root, cid]).refused(1).contains("sub/b"));
}
