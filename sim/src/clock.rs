//! One clock and one source of entropy for everything in the process.
//!
//! libp2p, yamux, redb and std read the time through `clock_gettime` and draw randomness through `getrandom`. This
//! module defines both symbols, so that on the thread of a simulation they answer from tokio's paused clock and from
//! the seed. On every other thread, and before [`enter`], they are the kernel's own. The symbols exist only in
//! executables that link this crate: `dhtfs-sim` and its tests.
//!
//! With this and `futures-timer` replaced by tokio's timers, a run is a function of its seed: the order of events,
//! every key, every nonce, the order of every hash map. Code that starts a thread of its own or reads a clock by
//! another way (`rdtsc`, a raw system call) breaks that; the transports with such code (QUIC, TLS) are left out of
//! the simulation.
//!
//! Works on Linux with glibc or musl, where std and the `getrandom` crate take both from the C library.
#![allow(unsafe_code, reason = "the C library's functions are replaced, by its own rules")]

use std::{
    cell::Cell,
    hint::black_box,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Where the simulated time of day begins: 1 January 2026, 00:00 UTC, in seconds since 1970.
pub const EPOCH_SECS: u64 = 1_767_225_600;

/// Where the simulated monotonic clock begins, in seconds. Not zero, so that code may look back from the start.
const MONOTONIC_START_SECS: u64 = 1_000_000;

thread_local! {
    /// State of the generator; only simulated threads have one.
    static ENTROPY: Cell<Option<u64>> = const { Cell::new(None) };
    /// What `Instant::now()` was when the simulation was entered.
    static START: Cell<Option<Instant>> = const { Cell::new(None) };
    /// Set while tokio is asked: without a runtime it asks back here.
    static IS_ASKING: Cell<bool> = const { Cell::new(false) };
}

/// The clock or the entropy of this process cannot be replaced.
#[derive(Debug, thiserror::Error)]
#[error("this system takes its {0} from where the simulator cannot replace it; use Linux with glibc")]
pub struct NotReplaced(&'static str);

/// Makes this thread a simulated one: time stands still at its start until a paused tokio runtime on this thread
/// moves it, and all entropy follows from `seed`. There is no way back; use a fresh thread.
///
/// # Errors
/// If the replaced functions are not the ones that std uses; a run would not be repeatable.
pub fn enter(seed: u64) -> Result<(), NotReplaced> {
    ENTROPY.set(Some(seed));
    black_box((
        clock_gettime as *const () as usize,
        getrandom as *const () as usize,
        getentropy as *const () as usize,
    ));
    #[allow(clippy::disallowed_methods, reason = "this is the clock")]
    START.set(Some(Instant::now()));
    let is_start = SystemTime::now().duration_since(UNIX_EPOCH).is_ok_and(|t| t.as_secs() == EPOCH_SECS);
    if !is_start {
        return Err(NotReplaced("time"));
    }
    let before = ENTROPY.get();
    let _: u64 = rand::random();
    // The generator of `rand` is kept per thread; on a fresh one it has just been seeded from here.
    if ENTROPY.get() == before {
        return Err(NotReplaced("entropy"));
    }
    Ok(())
}

/// Simulated time since [`enter`]; zero on other threads.
pub fn elapsed() -> Duration {
    if IS_ASKING.replace(true) {
        return Duration::ZERO;
    }
    let now = tokio::time::Instant::now().into_std();
    IS_ASKING.set(false);
    START.get().map_or(Duration::ZERO, |start| now.saturating_duration_since(start))
}

/// Simulated time of day, seconds since 1970.
pub fn time_of_day() -> u64 {
    EPOCH_SECS + elapsed().as_secs()
}

/// CPU time that this process has used, user and system.
pub fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let secs = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(secs, u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn is_simulated() -> bool {
    ENTROPY.try_with(|state| state.get().is_some()).unwrap_or(false)
}

/// The next 8 bytes of entropy: splitmix64.
fn next_entropy() -> u64 {
    let state = ENTROPY.get().unwrap_or(0).wrapping_add(0x9E37_79B9_7F4A_7C15);
    ENTROPY.set(Some(state));
    let mut z = state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Replaces the C library's function of this name.
///
/// # Safety
/// As for the C function: `out` points to a `timespec` that may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, out: *mut libc::timespec) -> libc::c_int {
    let base = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE | libc::CLOCK_TAI => EPOCH_SECS,
        libc::CLOCK_MONOTONIC
        | libc::CLOCK_MONOTONIC_RAW
        | libc::CLOCK_MONOTONIC_COARSE
        | libc::CLOCK_BOOTTIME => MONOTONIC_START_SECS,
        _ => 0,
    };
    if base == 0 || !is_simulated() {
        // SAFETY: the caller's promise about `out` is the one that the system call asks for.
        let result = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, out) };
        return libc::c_int::try_from(result).unwrap_or(-1);
    }
    let since = elapsed();
    let time = libc::timespec {
        tv_sec: libc::time_t::try_from(base + since.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(since.subsec_nanos()),
    };
    // SAFETY: the caller promises that `out` may be written.
    unsafe { out.write(time) };
    0
}

/// Replaces the C library's function of this name.
///
/// # Safety
/// As for the C function: `buffer` points to `len` bytes that may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, len: usize, flags: libc::c_uint) -> isize {
    if !is_simulated() {
        // SAFETY: the caller's promise about `buffer` is the one that the system call asks for.
        let result = unsafe { libc::syscall(libc::SYS_getrandom, buffer, len, flags) };
        return isize::try_from(result).unwrap_or(-1);
    }
    // Some callers probe with no buffer at all.
    if len == 0 || buffer.is_null() {
        return 0;
    }
    // SAFETY: the caller promises that `len` bytes at `buffer` may be written; they are set before they are read.
    let bytes = unsafe {
        buffer.write_bytes(0, len);
        std::slice::from_raw_parts_mut(buffer, len)
    };
    for chunk in bytes.chunks_mut(8) {
        let entropy = next_entropy().to_le_bytes();
        chunk.copy_from_slice(&entropy[..chunk.len()]);
    }
    isize::try_from(len).unwrap_or(isize::MAX)
}

/// Replaces the C library's function of this name.
///
/// # Safety
/// As for the C function: `buffer` points to `len` bytes that may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn getentropy(buffer: *mut u8, len: usize) -> libc::c_int {
    // SAFETY: the caller's promise is passed on.
    let written = unsafe { getrandom(buffer, len, 0) };
    if usize::try_from(written) == Ok(len) { 0 } else { -1 }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::disallowed_methods,
        reason = "a failure is a failed test; clocks are the subject"
    )]

    use std::{collections::HashSet, thread, time::Instant};

    use super::*;

    fn simulated<T: Send + 'static>(seed: u64, run: impl FnOnce() -> T + Send + 'static) -> T {
        thread::spawn(move || {
            enter(seed).unwrap();
            run()
        })
        .join()
        .unwrap()
    }

    fn paused() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
    }

    #[test]
    fn std_clocks_follow_the_paused_runtime() {
        simulated(1, || {
            paused().block_on(async {
                let (instant, time) = (Instant::now(), SystemTime::now());
                tokio::time::sleep(Duration::from_secs(3600)).await;
                assert_eq!(instant.elapsed(), Duration::from_secs(3600));
                assert_eq!(time.elapsed().unwrap(), Duration::from_secs(3600));
                assert_eq!(elapsed(), Duration::from_secs(3600));
                assert_eq!(time_of_day(), EPOCH_SECS + 3600);
            });
        });
    }

    #[test]
    fn outside_a_runtime_time_stands_still() {
        simulated(1, || {
            let instant = Instant::now();
            while cpu_time() < Duration::from_millis(20) {}
            assert_eq!(instant.elapsed(), Duration::ZERO);
        });
    }

    #[test]
    fn entropy_and_hash_order_follow_from_the_seed() {
        let draw = || {
            let mut order: HashSet<u32> = (0..64).collect();
            order.shrink_to_fit();
            (rand::random::<u64>(), libp2p::PeerId::random(), order.into_iter().collect::<Vec<_>>())
        };
        let (a, b, c) = (simulated(7, draw), simulated(7, draw), simulated(8, draw));
        assert_eq!(a, b);
        assert_ne!(a.0, c.0);
        assert_ne!(a.1, c.1);
        assert_ne!(a.2, c.2);
    }

    #[test]
    fn other_threads_keep_the_real_clock_and_entropy() {
        simulated(1, || {
            thread::spawn(|| {
                let real = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
                assert!(real > EPOCH_SECS + 60, "{real}");
                assert_ne!(rand::random::<u64>(), rand::random::<u64>());
                assert_eq!(elapsed(), Duration::ZERO);
            })
            .join()
            .unwrap();
        });
    }

    #[test]
    fn the_timers_of_libp2p_follow_too() {
        simulated(1, || {
            paused().block_on(async {
                let instant = Instant::now();
                futures_timer::Delay::new(Duration::from_secs(7200)).await;
                assert_eq!(instant.elapsed(), Duration::from_secs(7200));
            });
        });
    }
}
