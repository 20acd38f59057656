//! A thread of its own for a run: simulated clock, simulated entropy, one paused runtime.

use std::thread;

use crate::{clock, world::Failure};

/// Stack of the thread: deep enough for debug builds of large futures.
const STACK_LEN: usize = 64 << 20;

/// Runs `work` in a fresh simulated world of the seed and returns what it returns.
///
/// One run per process repeats exactly: libp2p counts connections process-wide.
///
/// # Errors
/// What `work` returns; or if the clock cannot be replaced, or `work` panics.
pub fn simulate<T, F, W>(seed: u64, work: W) -> Result<T, Failure>
where
    T: Send + 'static,
    W: FnOnce() -> F + Send + 'static,
    F: Future<Output = Result<T, Failure>>,
{
    let run = move || {
        clock::enter(seed)?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
        runtime.block_on(work())
    };
    let thread = thread::Builder::new().name("simulation".to_owned()).stack_size(STACK_LEN).spawn(run)?;
    thread.join().map_err(|_| "the simulation panicked; see above")?
}
