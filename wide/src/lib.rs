//! SHA-256 (FIPS 180-4) of sixteen messages of one length at once, where the CPU has AVX-512.
//!
//! Instructions for SHA-256 work on one message, whose every step needs the one before. Sixteen messages side by side have no such
//! chain: each step is done for all of them in one register, twice as fast in all. Without AVX-512 there is no [`Wide`], and
//! whoever hashes takes one message after the other.
//!
//! The only `unsafe` of the program `dhtfs` is the call of a function that needs these instructions, after they were found.
#![deny(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod avx512;

/// Messages that are hashed at once.
pub const LANES: usize = 16;

/// What a message is taken in by, in bytes.
pub const BLOCK_LEN: usize = 64;

/// The first 32 bits of the fractional parts of the square roots of the first eight primes (FIPS 180-4, 5.3.3).
const START: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// Of the cube roots of the first 64 primes (FIPS 180-4, 4.2.2).
const ROUND: [u32; 64] = [
    0x428a_2f98,
    0x7137_4491,
    0xb5c0_fbcf,
    0xe9b5_dba5,
    0x3956_c25b,
    0x59f1_11f1,
    0x923f_82a4,
    0xab1c_5ed5,
    0xd807_aa98,
    0x1283_5b01,
    0x2431_85be,
    0x550c_7dc3,
    0x72be_5d74,
    0x80de_b1fe,
    0x9bdc_06a7,
    0xc19b_f174,
    0xe49b_69c1,
    0xefbe_4786,
    0x0fc1_9dc6,
    0x240c_a1cc,
    0x2de9_2c6f,
    0x4a74_84aa,
    0x5cb0_a9dc,
    0x76f9_88da,
    0x983e_5152,
    0xa831_c66d,
    0xb003_27c8,
    0xbf59_7fc7,
    0xc6e0_0bf3,
    0xd5a7_9147,
    0x06ca_6351,
    0x1429_2967,
    0x27b7_0a85,
    0x2e1b_2138,
    0x4d2c_6dfc,
    0x5338_0d13,
    0x650a_7354,
    0x766a_0abb,
    0x81c2_c92e,
    0x9272_2c85,
    0xa2bf_e8a1,
    0xa81a_664b,
    0xc24b_8b70,
    0xc76c_51a3,
    0xd192_e819,
    0xd699_0624,
    0xf40e_3585,
    0x106a_a070,
    0x19a4_c116,
    0x1e37_6c08,
    0x2748_774c,
    0x34b0_bcb5,
    0x391c_0cb3,
    0x4ed8_aa4a,
    0x5b9c_ca4f,
    0x682e_6ff3,
    0x748f_82ee,
    0x78a5_636f,
    0x84c8_7814,
    0x8cc7_0208,
    0x90be_fffa,
    0xa450_6ceb,
    0xbef9_a3f7,
    0xc671_78f2,
];

/// The words of sixteen states, word by word.
type State = [[u32; LANES]; 8];

/// Sixteen messages that are being hashed.
#[derive(Debug, Clone)]
pub struct Wide {
    state: State,
    /// Bytes of each message so far.
    len: u64,
}

impl Wide {
    /// Sixteen empty messages; `None` if this CPU has not the instructions.
    #[must_use]
    pub fn new() -> Option<Self> {
        is_supported().then(|| Self { state: START.map(|word| [word; LANES]), len: 0 })
    }

    /// Adds a part to each message.
    ///
    /// # Panics
    /// If the parts have not all one length, or that is no multiple of [`BLOCK_LEN`].
    pub fn update(&mut self, parts: &[&[u8]; LANES]) {
        let len = parts[0].len();
        assert!(parts.iter().all(|part| part.len() == len), "parts of different lengths");
        assert!(len.is_multiple_of(BLOCK_LEN), "no whole blocks");
        compress(&mut self.state, parts);
        self.len += len as u64;
    }

    /// The digests of the messages.
    #[must_use]
    pub fn finish(mut self) -> [[u8; 32]; LANES] {
        let mut last = [0; BLOCK_LEN];
        last[0] = 0x80;
        last[BLOCK_LEN - 8..].copy_from_slice(&(self.len * 8).to_be_bytes());
        compress(&mut self.state, &[&last; LANES]);
        std::array::from_fn(|lane| {
            let mut digest = [0; 32];
            for (bytes, word) in digest.chunks_exact_mut(4).zip(&self.state) {
                bytes.copy_from_slice(&word[lane].to_be_bytes());
            }
            digest
        })
    }
}

#[cfg(target_arch = "x86_64")]
fn is_supported() -> bool {
    std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("avx512bw")
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "the call of a function that needs instructions that not every CPU has")]
fn compress(state: &mut State, parts: &[&[u8]; LANES]) {
    // SAFETY: there is a `Wide` only where these instructions were found.
    unsafe { avx512::compress(state, parts) }
}

#[cfg(not(target_arch = "x86_64"))]
fn is_supported() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn compress(_: &mut State, _: &[&[u8]; LANES]) {
    unreachable!("there is no Wide here")
}
