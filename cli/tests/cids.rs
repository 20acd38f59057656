//! Content IDs are what other programs compute, and the same on every machine.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::path::Path;

use common::{CHUNK_LEN, Scratch, args, chunk_cid, chunks_of, noise, run, run_in};
use dhtfs_node::api::types::Added;

/// Chunks and their CIDs as Python's `hashlib` and `base64` give them:
/// `'b' + base64.b32encode(bytes([1, 0x55, 0x12, 0x20]) + hashlib.sha256(chunk).digest()).decode().lower().rstrip('=')`.
fn python_vectors() -> [(Vec<u8>, &'static str); 5] {
    [
        (b"hello world\n".to_vec(), "bafkreifjjcie6lypi6ny7amxnfftagclbuxndqonfipmb64f2km2devei4"),
        (b"x".to_vec(), "bafkreibnoelefnzgwbcacyt4vh52ymxvzbjq7mmqhtcnwarfq4lzegsiqe"),
        (vec![0; CHUNK_LEN], "bafkreibq4fevl27rgurgnxbp7adh42aqiyd6ouflxhj3gzmcxcxzbh6lla"),
        (
            (0..=255).cycle().take(CHUNK_LEN).collect(),
            "bafkreih3xkzit57zjmsxg3cyxzdktfgeih6qevjmyybcguxd3bws7k34qm",
        ),
        (squares(CHUNK_LEN), "bafkreifmogbcxblanw4jehom6op4qxujt4cguj4d7bcg4kpicsutmb7iom"),
    ]
}

/// The squares of 0, 1, 2 .. modulo 251.
fn squares(len: usize) -> Vec<u8> {
    (0..len).map(|index| u8::try_from(index % 251 * (index % 251) % 251).unwrap()).collect()
}

/// CIDs of whole files as an independent encoder of the documented manifest gives them, with their chunks.
fn known_files() -> [(&'static str, Vec<u8>, &'static str, Vec<&'static str>); 3] {
    [
        (
            "hello.txt",
            b"hello world\n".to_vec(),
            "bafyreif334ychoznucl2h4ooy6aaribcje22eap7medoeh4btciezha6ci",
            vec!["bafkreifjjcie6lypi6ny7amxnfftagclbuxndqonfipmb64f2km2devei4"],
        ),
        ("empty", Vec::new(), "bafyreig6zbbcxdi7rheedd52htpiqrp3n6e6trzwmj4q7r37sd5ma6lzsu", Vec::new()),
        (
            "squares.bin",
            squares(2_500_000),
            "bafyreieoh7xy2chknji5j3k7s3ckqt3qfnequwdyralze3r22twbb4dtq4",
            vec![
                "bafkreifmogbcxblanw4jehom6op4qxujt4cguj4d7bcg4kpicsutmb7iom",
                "bafkreid3dlo73lhhdydtqed3ij2z5flcsqr52krrt2o24rfafhagdox57a",
                "bafkreidu7yqcad6l5jhi5xogwshvgv2cwz7vhmrrvh3gw42fjntoqxodem",
            ],
        ),
    ]
}

fn add(data_dir: &Path, path: &Path) -> String {
    run(data_dir, args!["add", path]).ok().line().to_owned()
}

#[test]
fn the_cids_of_known_files_never_change() {
    let scratch = Scratch::new();
    let dir = scratch.path("data");
    for (name, content, cid, chunks) in known_files() {
        assert_eq!(add(&dir, &scratch.file(name, content)), cid, "{name}");
        assert_eq!(chunks_of(&dir, cid).remove(0).chunks, chunks, "{name}");
    }
}

#[test]
fn chunk_cids_are_version_1_raw_sha256_as_python_computes_them() {
    let scratch = Scratch::new();
    let dir = scratch.path("data");
    for (index, (chunk, cid)) in python_vectors().into_iter().enumerate() {
        assert_eq!(chunk_cid(&chunk), cid, "vector {index} against this test's own computation");
        let file = scratch.file(format!("vector {index}"), &chunk);
        let root = add(&dir, &file);
        assert_eq!(chunks_of(&dir, &root).remove(0).chunks, [cid], "vector {index}");
        assert_eq!(run(&dir, args!["cat", cid]).ok().stdout, chunk, "vector {index}");
    }
}

#[test]
fn every_chunk_of_a_file_has_the_cid_of_its_bytes() {
    let scratch = Scratch::new();
    let dir = scratch.path("data");
    let content = noise(1, 7 * CHUNK_LEN + 12_345);
    let cid = add(&dir, &scratch.file("file.bin", &content));
    let expected: Vec<String> = content.chunks(CHUNK_LEN).map(chunk_cid).collect();
    let mut files = chunks_of(&dir, &cid);
    assert_eq!(files.len(), 1);
    let file = files.remove(0);
    assert_eq!((file.path.as_str(), file.cid, file.len), ("file.bin", cid, content.len() as u64));
    assert_eq!(file.chunks, expected);
}

#[test]
fn the_same_content_under_the_same_name_has_the_same_cid_on_every_machine() {
    let scratch = Scratch::new();
    let (one, two) = (scratch.path("one"), scratch.path("two"));
    let content = noise(2, 2 * CHUNK_LEN + 1);
    let here = scratch.file("here/file.bin", &content);
    let there = scratch.file("over/there/file.bin", &content);
    let cid = add(&one, &here);
    assert_eq!(add(&two, &there), cid);
    assert_eq!(add(&one, &here), cid, "adding again changes nothing");
    let copied: Added = run(&two, args!["--json", "add", "--copy", there]).ok().json();
    assert_eq!(copied.cid, cid);
    let piped: Added = run_in(&two, args!["--json", "add", "-", "--name", "file.bin"], &content).ok().json();
    assert_eq!(piped.cid, cid);

    let renamed: Added = run(&two, args!["--json", "add", there, "--name", "other.bin"]).ok().json();
    assert_ne!(renamed.cid, cid, "the name is part of the manifest");
    assert_eq!(chunks_of(&two, &renamed.cid).remove(0).chunks, chunks_of(&two, &cid).remove(0).chunks);
}

#[test]
fn the_same_directory_has_the_same_cid_on_every_machine_and_another_when_anything_differs() {
    let scratch = Scratch::new();
    let make = |at: &str| {
        for name in ["b", "a", "sub/c", "sub/d"] {
            scratch.file(Path::new(at).join("share").join(name), name.repeat(1000));
        }
        scratch.dir(Path::new(at).join("share/empty"));
        scratch.path(at).join("share")
    };
    let (one, two) = (make("one"), make("two"));
    let data = [scratch.path("data-1"), scratch.path("data-2")];
    let cid = add(&data[0], &one);
    assert_eq!(add(&data[1], &two), cid);
    std::fs::remove_dir(two.join("empty")).unwrap();
    let without = add(&data[1], &two);
    assert_ne!(without, cid);
    let script = two.join("a");
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert_ne!(add(&data[1], &two), without, "the executable bit is part of the directory");
}
