//! The compression function in registers of 512 bits: a word of each of the sixteen messages.

use std::arch::x86_64::*;

use super::{BLOCK_LEN, LANES, ROUND, State};

type Words = __m512i;

/// Takes in whole blocks of sixteen messages.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn compress(state: &mut State, parts: &[&[u8]; LANES]) {
    let zero = _mm512_setzero_si512();
    let mut words = [zero; 8];
    for (joined, words) in words.iter_mut().zip(&*state) {
        *joined = join(words);
    }
    for block in 0..parts[0].len() / BLOCK_LEN {
        let mut rows = [zero; LANES];
        for (row, part) in rows.iter_mut().zip(parts) {
            *row = row_of(&part.as_chunks().0[block]);
        }
        words = compress_block(words, transposed(rows));
    }
    for (words, joined) in state.iter_mut().zip(words) {
        *words = split(joined);
    }
}

/// Closures would not be compiled for these instructions, here as below.
#[target_feature(enable = "avx512f")]
#[inline]
fn join(words: &[u32; LANES]) -> Words {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = words.map(u32::cast_signed);
    _mm512_setr_epi32(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn split(joined: Words) -> [u32; LANES] {
    let quarters = [
        _mm512_extracti32x4_epi32::<0>(joined),
        _mm512_extracti32x4_epi32::<1>(joined),
        _mm512_extracti32x4_epi32::<2>(joined),
        _mm512_extracti32x4_epi32::<3>(joined),
    ];
    let mut words = [0; LANES];
    for (words, quarter) in words.as_chunks_mut::<4>().0.iter_mut().zip(quarters) {
        *words = [
            _mm_cvtsi128_si32(quarter).cast_unsigned(),
            _mm_cvtsi128_si32(_mm_shuffle_epi32::<1>(quarter)).cast_unsigned(),
            _mm_cvtsi128_si32(_mm_shuffle_epi32::<2>(quarter)).cast_unsigned(),
            _mm_cvtsi128_si32(_mm_shuffle_epi32::<3>(quarter)).cast_unsigned(),
        ];
    }
    words
}

/// The sixteen words of one block of one message, which are big-endian there.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn row_of(block: &[u8; BLOCK_LEN]) -> Words {
    let mut eight = [0; 8];
    for (number, bytes) in eight.iter_mut().zip(block.as_chunks().0) {
        *number = i64::from_le_bytes(*bytes);
    }
    let [a, b, c, d, e, f, g, h] = eight;
    // The bytes of each word the other way round.
    let swap = _mm512_set4_epi32(0x0c0d_0e0f, 0x0809_0a0b, 0x0405_0607, 0x0001_0203);
    _mm512_shuffle_epi8(_mm512_setr_epi64(a, b, c, d, e, f, g, h), swap)
}

/// From a register for each message to one for each word.
#[target_feature(enable = "avx512f")]
#[inline]
fn transposed(rows: [Words; 16]) -> [Words; 16] {
    let zero = _mm512_setzero_si512();
    let mut pairs = [zero; 16];
    for i in (0..16).step_by(2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    // Of each four rows: the columns k, k + 4, k + 8 and k + 12, each in a quarter.
    let mut fours = [zero; 16];
    for i in (0..16).step_by(4) {
        fours[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
        fours[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
        fours[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
        fours[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
    }
    // Even and odd quarters of two, and of these again.
    let mut columns = [zero; 16];
    for k in 0..4 {
        let even = _mm512_shuffle_i32x4::<0x88>(fours[k], fours[k + 4]);
        let odd = _mm512_shuffle_i32x4::<0xdd>(fours[k], fours[k + 4]);
        let even_below = _mm512_shuffle_i32x4::<0x88>(fours[k + 8], fours[k + 12]);
        let odd_below = _mm512_shuffle_i32x4::<0xdd>(fours[k + 8], fours[k + 12]);
        columns[k] = _mm512_shuffle_i32x4::<0x88>(even, even_below);
        columns[k + 4] = _mm512_shuffle_i32x4::<0x88>(odd, odd_below);
        columns[k + 8] = _mm512_shuffle_i32x4::<0xdd>(even, even_below);
        columns[k + 12] = _mm512_shuffle_i32x4::<0xdd>(odd, odd_below);
    }
    columns
}

#[target_feature(enable = "avx512f")]
#[inline]
fn xor(a: Words, b: Words, c: Words) -> Words {
    _mm512_ternarylogic_epi32::<0x96>(a, b, c)
}

/// One round (FIPS 180-4, 6.2.2, step 3) with a word of the schedule.
#[target_feature(enable = "avx512f")]
#[inline]
fn round([a, b, c, d, e, f, g, h]: [Words; 8], word: Words, constant: u32) -> [Words; 8] {
    let sum = xor(_mm512_ror_epi32::<6>(e), _mm512_ror_epi32::<11>(e), _mm512_ror_epi32::<25>(e));
    let choice = _mm512_ternarylogic_epi32::<0xca>(e, f, g);
    let word = _mm512_add_epi32(word, _mm512_set1_epi32(constant.cast_signed()));
    let first = _mm512_add_epi32(_mm512_add_epi32(_mm512_add_epi32(h, word), sum), choice);
    let sum = xor(_mm512_ror_epi32::<2>(a), _mm512_ror_epi32::<13>(a), _mm512_ror_epi32::<22>(a));
    let majority = _mm512_ternarylogic_epi32::<0xe8>(a, b, c);
    let second = _mm512_add_epi32(sum, majority);
    [_mm512_add_epi32(first, second), a, b, c, _mm512_add_epi32(d, first), e, f, g]
}

/// The next word of the schedule from those 15, 2, 16 and 7 before it (FIPS 180-4, 6.2.2, step 1).
#[target_feature(enable = "avx512f")]
#[inline]
fn scheduled(before15: Words, before2: Words, before16: Words, before7: Words) -> Words {
    let small = xor(
        _mm512_ror_epi32::<7>(before15),
        _mm512_ror_epi32::<18>(before15),
        _mm512_srli_epi32::<3>(before15),
    );
    let large = xor(
        _mm512_ror_epi32::<17>(before2),
        _mm512_ror_epi32::<19>(before2),
        _mm512_srli_epi32::<10>(before2),
    );
    _mm512_add_epi32(_mm512_add_epi32(before16, small), _mm512_add_epi32(before7, large))
}

#[target_feature(enable = "avx512f")]
#[inline]
fn compress_block(before: [Words; 8], mut schedule: [Words; 16]) -> [Words; 8] {
    let mut words = before;
    for (constants, is_first) in ROUND.chunks_exact(16).zip([true, false, false, false]) {
        for (place, constant) in constants.iter().enumerate() {
            if !is_first {
                let before = schedule[place];
                schedule[place] = scheduled(
                    schedule[(place + 1) % 16],
                    schedule[(place + 14) % 16],
                    before,
                    schedule[(place + 9) % 16],
                );
            }
            words = round(words, schedule[place], *constant);
        }
    }
    let mut sums = before;
    for (sum, word) in sums.iter_mut().zip(words) {
        *sum = _mm512_add_epi32(*sum, word);
    }
    sums
}
