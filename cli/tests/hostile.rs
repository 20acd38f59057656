//! Manifests made by strangers to write where they must not: refused whole, and nothing is written anywhere.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{fs, os::unix::fs::symlink, path::Path};

use common::{CHUNK_LEN, Daemon, Scratch, args, noise, run, tree};
use dhtfs_store::{ManifestCid, OpenOptions, Store};

/// What DAG-CBOR of a manifest is made of. Written by hand: the program's own encoder refuses these names.
enum Value {
    Uint(u64),
    Text(String),
    Link(ManifestCid),
    List(Vec<Value>),
    Map(Vec<(&'static str, Value)>),
}

use Value::{Link, List, Map, Text, Uint};

fn head(major: u8, number: u64, out: &mut Vec<u8>) {
    let major = major << 5;
    let bytes = number.to_be_bytes();
    match number {
        0..24 => out.push(major | bytes[7]),
        24..0x100 => out.extend([major | 24, bytes[7]]),
        0x100..0x1_0000 => {
            out.push(major | 25);
            out.extend(&bytes[6..]);
        }
        0x1_0000..0x1_0000_0000 => {
            out.push(major | 26);
            out.extend(&bytes[4..]);
        }
        _ => {
            out.push(major | 27);
            out.extend(bytes);
        }
    }
}

fn encode(value: &Value, out: &mut Vec<u8>) {
    match value {
        Uint(number) => head(0, *number, out),
        Text(text) => {
            head(3, text.len() as u64, out);
            out.extend(text.as_bytes());
        }
        Link(cid) => {
            out.extend([0xd8, 42]);
            head(2, 37, out);
            out.extend([0, 0x01, 0x71, 0x12, 0x20]);
            out.extend(cid.digest());
        }
        List(items) => {
            head(4, items.len() as u64, out);
            items.iter().for_each(|item| encode(item, out));
        }
        Map(fields) => {
            head(5, fields.len() as u64, out);
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(key, _)| (key.len(), *key));
            for (key, value) in fields {
                encode(&Text((*key).to_owned()), out);
                encode(value, out);
            }
        }
    }
}

type Block = (ManifestCid, Vec<u8>);

fn block(value: &Value) -> Block {
    let mut bytes = Vec::new();
    encode(value, &mut bytes);
    (ManifestCid::of(&bytes), bytes)
}

fn text(text: &str) -> Value {
    Text(text.to_owned())
}

/// An empty file: a hostile name needs no content to do harm.
fn file(name: &str) -> Block {
    block(&Map(vec![
        ("v", Uint(1)),
        ("kind", text("file")),
        ("name", text(name)),
        ("size", Uint(0)),
        ("chunk_len", Uint(CHUNK_LEN as u64)),
        ("depth", Uint(0)),
        ("links", List(Vec::new())),
    ]))
}

/// A directory of these names, whatever their order and however often they come; each leads to the block beside it.
fn dir(name: &str, files: u64, entries: &[(&str, &ManifestCid)]) -> Block {
    let entry = |(name, cid): &(&str, &ManifestCid)| {
        Map(vec![("cid", Link(**cid)), ("name", text(name)), ("size", Uint(0))])
    };
    block(&Map(vec![
        ("v", Uint(1)),
        ("kind", text("dir")),
        ("name", text(name)),
        ("size", Uint(0)),
        ("files", Uint(files)),
        ("depth", Uint(0)),
        ("entries", List(entries.iter().map(entry).collect())),
    ]))
}

/// Names that mean another place, a device, or look like something else than they are.
const NAMES: [&str; 14] = [
    "..",
    ".",
    "",
    "../evil",
    "../../../../../../tmp/dhtfs-test-evil",
    "/tmp/dhtfs-test-evil",
    "a/b",
    "..\\evil",
    "C:evil",
    "con",
    "nul\0",
    "line\nfeed",
    "\u{202e}txt.exe",
    "evil ",
];

/// Every hostile tree, by what is wrong with it.
fn hostile_trees() -> Vec<(String, ManifestCid, Vec<Block>)> {
    let mut trees = Vec::new();
    for name in NAMES {
        let (leaf, fine) = (file(name), file("fine"));
        trees.push((format!("a file named {name:?}"), leaf.0, vec![leaf.clone()]));
        let root = dir("share", 1, &[(name, &leaf.0)]);
        trees.push((format!("a file named {name:?} in a directory"), root.0, vec![root, leaf]));
        let root = dir(name, 1, &[("fine", &fine.0)]);
        trees.push((format!("a directory named {name:?}"), root.0, vec![root.clone(), fine.clone()]));
        let above = dir("share", 1, &[(name, &root.0)]);
        trees.push((format!("a directory named {name:?} in a directory"), above.0, vec![above, root, fine]));
    }
    let (a, b) = (file("a"), file("b"));
    let twice = dir("share", 2, &[("a", &a.0), ("a", &a.0)]);
    trees.push(("one name twice".to_owned(), twice.0, vec![twice, a.clone()]));
    let unsorted = dir("share", 2, &[("b", &b.0), ("a", &a.0)]);
    trees.push(("entries out of order".to_owned(), unsorted.0, vec![unsorted, a.clone(), b]));
    let lying = dir("share", 1, &[("..", &a.0)]);
    trees.push(("an entry that names its file another way".to_owned(), lying.0, vec![lying, a]));
    trees
}

/// Puts blocks into the store that a daemon on `dir` will have.
fn plant(dir: &Path, blocks: &[Block]) {
    Store::open(dir, OpenOptions::default()).unwrap().put_manifest_blocks(blocks).unwrap();
}

#[test]
fn a_tree_with_names_that_lead_out_of_the_target_is_refused_and_nothing_is_written() {
    let scratch = Scratch::new();
    let stranger_dir = scratch.path("stranger");
    let trees = hostile_trees();
    let blocks: Vec<Block> = trees.iter().flat_map(|(_, _, blocks)| blocks.clone()).collect();
    plant(&stranger_dir, &blocks);
    let stranger = Daemon::start(&stranger_dir, &[]);
    let victim = Daemon::start(&scratch.path("victim"), &[&stranger]);
    let into = scratch.dir("home/user/into");
    for (what, cid, _) in &trees {
        let line = args!["get", cid.to_string(), "-o", into, "--peer", stranger.addr(), "--timeout", "10"];
        let output = victim.run(line);
        assert!(
            !output.stderr.contains('\u{202e}') && !output.stderr.contains('\0'),
            "{what}: {:?}",
            output.stderr
        );
        output.refused(1);
        let exact = args!["get", cid.to_string(), "-o", into.join("out"), "--peer", stranger.addr()];
        assert_eq!(victim.run(exact).code, Some(1), "{what}");
        assert_eq!(
            victim.run(args!["ls", cid.to_string(), "--peer", stranger.addr()]).code,
            Some(1),
            "{what}"
        );
        let found = tree(&scratch.path("home"));
        assert_eq!(found.len(), 2, "{what}: {found:?}");
    }
    assert!(!Path::new("/tmp/dhtfs-test-evil").exists());
}

#[test]
fn a_tree_made_by_hand_with_harmless_names_is_fetched() {
    // The counterpart: what is refused above is refused for its names alone.
    let scratch = Scratch::new();
    let stranger_dir = scratch.path("stranger");
    let (a, b) = (file("a"), file("b"));
    let inner = dir("inner", 1, &[("b", &b.0)]);
    let root = dir("share", 2, &[("a", &a.0), ("inner", &inner.0)]);
    plant(&stranger_dir, &[a, b, inner, root.clone()]);
    let stranger = Daemon::start(&stranger_dir, &[]);
    let out = scratch.path("out");
    run(&scratch.path("getter"), args!["get", root.0.to_string(), "-o", out, "--peer", stranger.addr()]).ok();
    let names: Vec<_> = tree(&out).into_keys().collect();
    assert_eq!(names, [Path::new("a"), Path::new("inner"), Path::new("inner/b")]);
}

#[test]
fn a_link_in_the_way_of_a_fetch_is_not_followed() {
    let scratch = Scratch::new();
    let node = Daemon::start(&scratch.path("node"), &[]);
    scratch.file("share/sub/file", noise(1, CHUNK_LEN));
    let cid = node.add(&scratch.path("share")).cid;
    let getter = scratch.path("getter");
    let outside = scratch.dir("outside");
    let into = scratch.dir("into");

    let get = || run(&getter, args!["get", cid, "-o", into, "--peer", node.addr()]);
    symlink(&outside, into.join("share.part")).unwrap();
    get().refused(1);
    fs::remove_file(into.join("share.part")).unwrap();
    symlink(&outside, into.join("share")).unwrap();
    get().refused(1);
    fs::remove_file(into.join("share")).unwrap();
    fs::create_dir(into.join("share.part")).unwrap();
    symlink(&outside, into.join("share.part/sub")).unwrap();
    get().refused(1);
    assert_eq!(tree(&outside).len(), 0, "something was written through a link");
    fs::remove_dir_all(into.join("share.part")).unwrap();
    get().ok();
    assert_eq!(tree(&into.join("share")), tree(&scratch.path("share")));
}
