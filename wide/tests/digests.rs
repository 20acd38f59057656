//! The digests are those of the sha2 crate. On a CPU without the instructions nothing can be tested, which is said.

use dhtfs_wide::{BLOCK_LEN, LANES, Wide};
use sha2::{Digest as _, Sha256};

/// Bytes that look like nothing, another run for each lane.
fn noise(lane: usize, len: usize) -> Vec<u8> {
    let seed = u32::try_from(lane).unwrap_or(0) + 1;
    let mut word = seed.wrapping_mul(0x9e37_79b9);
    let next = |_| {
        word ^= word << 13;
        word ^= word >> 17;
        word ^= word << 5;
        word.to_le_bytes()[1]
    };
    (0..len).map(next).collect()
}

#[test]
fn sixteen_messages_have_the_digests_they_have_one_by_one() {
    for blocks in [0, 1, 2, 17, 1024] {
        let messages: [Vec<u8>; LANES] = std::array::from_fn(|lane| noise(lane, blocks * BLOCK_LEN));
        let Some(mut wide) = Wide::new() else {
            println!("this CPU has no AVX-512: nothing was tested");
            return;
        };
        // In two parts, as a file is read.
        let cut = blocks / 3 * BLOCK_LEN;
        wide.update(&std::array::from_fn(|lane| &messages[lane][..cut]));
        wide.update(&std::array::from_fn(|lane| &messages[lane][cut..]));
        let expected = messages.map(|message| <[u8; 32]>::from(Sha256::digest(&message)));
        assert_eq!(wide.finish(), expected, "{blocks} blocks");
    }
}

#[test]
fn parts_that_are_no_whole_blocks_or_differ_are_a_mistake() {
    let Some(wide) = Wide::new() else { return };
    let update = |lens: [usize; 2]| {
        let mut wide = wide.clone();
        let parts = [vec![0; lens[0]], vec![0; lens[1]]];
        let parts: [&[u8]; LANES] = std::array::from_fn(|lane| &parts[usize::from(lane == 9)][..]);
        std::panic::catch_unwind(move || wide.update(&parts)).is_ok()
    };
    assert!(update([128, 128]));
    assert!(!update([63, 63]));
    assert!(!update([64, 128]));
}
