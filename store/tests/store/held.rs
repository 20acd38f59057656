//! What the store says about which chunks of a share are here.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dhtfs_store::{ChunkSet, Held, ManifestCid};

use crate::common::{CHUNK, Home, add, begin, data, fetch, hand_over, noise};

fn set(len: u32, held: impl IntoIterator<Item = u32>) -> Held {
    let mut set = ChunkSet::new(len);
    held.into_iter().for_each(|index| assert!(set.insert(index)));
    Held::Some(set)
}

#[test]
fn a_share_holds_what_is_committed_and_says_so_by_position() {
    let (from, to) = (Home::new(), Home::new());
    let (source, target) = (from.open(), to.open());
    // Two files, of which the second repeats a chunk of the first, and is short.
    let (a, b, c) = (noise(1, CHUNK), noise(2, CHUNK), noise(3, 100));
    from.write("dir/1", &[a.clone(), b.clone(), a.clone()].concat());
    from.write("dir/2", &[b.clone(), c].concat());
    let root = add(&source, &from.path("dir")).root;
    assert_eq!(source.held(&root).unwrap(), Some(Held::All));
    let tree = hand_over(&source, &target, &root);
    let second = tree.files[1].cid;
    assert_eq!(source.held(&second).unwrap(), Some(Held::All), "part of a complete share");
    assert_eq!(target.held(&root).unwrap(), None, "blocks that nothing pins prove nothing");

    let download = begin(&target, &tree, &to.path("out"));
    assert_eq!(target.held(&root).unwrap(), Some(set(5, [])));
    let places = download.missing_places();
    assert_eq!(places.iter().map(|(_, _, place)| *place).collect::<Vec<_>>(), [0, 1, 4]);
    let chunks: Vec<_> = places.iter().map(|(cid, len, _)| (*cid, *len)).collect();
    assert_eq!(chunks, download.missing());

    let (cid, ..) = places[1];
    download.write(&cid, &data(&source, &cid)).unwrap();
    assert_eq!(target.held(&root).unwrap(), Some(set(5, [])), "not durable yet");
    download.commit().unwrap();
    assert_eq!(target.held(&root).unwrap(), Some(set(5, [1, 3])));
    assert_eq!(target.held(&second).unwrap(), Some(set(2, [0])));
    assert_eq!(download.missing_places().iter().map(|(_, _, place)| *place).collect::<Vec<_>>(), [0, 4]);

    fetch(&download, &source, usize::MAX);
    download.commit().unwrap();
    assert_eq!(target.held(&root).unwrap(), Some(Held::All), "although it has no final name");
    download.finish().unwrap();
    assert_eq!(target.held(&root).unwrap(), Some(Held::All));
    target.remove_share(&root).unwrap();
    assert_eq!(target.held(&root).unwrap(), None);
    assert_eq!(target.held(&ManifestCid::from_digest([7; 32])).unwrap(), None);
}

#[test]
fn a_file_of_more_than_one_block_is_walked_in_order() {
    let (from, to) = (Home::in_memory(), Home::in_memory());
    let (source, target) = (from.open(), to.open());
    // 1,030 chunks: two nodes below the root. All but three are the same.
    let mut content = vec![5; 1_029 * CHUNK + 9];
    content[1_026 * CHUNK] = 1;
    let root = add(&source, &from.write("film", &content)).root;
    let tree = hand_over(&source, &target, &root);
    let download = begin(&target, &tree, &to.path("film"));
    let places = download.missing_places();
    assert_eq!(places.iter().map(|(_, _, place)| *place).collect::<Vec<_>>(), [0, 1_026, 1_029]);
    for (cid, _, place) in places {
        if place != 1_026 {
            download.write(&cid, &data(&source, &cid)).unwrap();
        }
    }
    download.commit().unwrap();
    let expected = (0..1_030).filter(|index| *index != 1_026);
    assert_eq!(target.held(&root).unwrap(), Some(set(1_030, expected)));
}

#[test]
fn every_change_of_content_is_told_and_nothing_else() {
    let home = Home::new();
    let store = home.open();
    let told = Arc::new(AtomicUsize::new(0));
    let count = told.clone();
    store.on_change(move || {
        count.fetch_add(1, Ordering::SeqCst);
    });
    let root = add(&store, &home.write("a", &noise(1, 10))).root;
    let added = told.load(Ordering::SeqCst);
    assert!(added > 0);
    store.held(&root).unwrap();
    store.shares().unwrap();
    assert_eq!(told.load(Ordering::SeqCst), added);
    store.remove_share(&root).unwrap();
    assert!(told.load(Ordering::SeqCst) > added);
}
