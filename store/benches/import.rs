//! Import rate of a 1 GiB file in the page cache, as a ratio to the bare SHA-256 rate of all cores measured in the
//! same run. `cargo bench -p dhtfs-store`; best of several rounds, the two measured in turn.
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::{
    error::Error,
    fs::File,
    io::{BufWriter, Read, Write},
    ops::ControlFlow,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Instant,
};

use dhtfs_store::{ImportOptions, OpenOptions, Store};
use sha2::{Digest, Sha256};

const FILE_LEN: u64 = 1 << 30;
const CHUNK_LEN: usize = 1 << 20;
const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    // `cargo test --benches` runs this too; there is nothing to test here.
    if !std::env::args().any(|arg| arg == "--bench") {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("file");
    write_file(&file)?;
    read_through(&file)?;
    let (mut import, mut bare) = (0.0_f64, 0.0_f64);
    for round in 0..ROUNDS {
        bare = bare.max(bare_rate());
        let store = Store::open(&dir.path().join(format!("store-{round}")), OpenOptions::default())?;
        let options = ImportOptions::default();
        let begun = Instant::now();
        store.import_path(&file, &options, &|_| ControlFlow::Continue(()))?;
        import = import.max(mib_per_second(FILE_LEN, begun));
    }
    println!("bare SHA-256, all cores   {bare:7.0} MiB/s");
    println!("import of 1 GiB, cached   {import:7.0} MiB/s   ratio {:.2}", import / bare);
    Ok(())
}

fn write_file(path: &Path) -> Result<(), Box<dyn Error>> {
    let mut out = BufWriter::with_capacity(CHUNK_LEN, File::create(path)?);
    let mut state = 1_u64;
    for _ in 0..FILE_LEN / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.write_all(&state.to_le_bytes())?;
    }
    out.flush()?;
    Ok(())
}

fn read_through(path: &Path) -> Result<(), Box<dyn Error>> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; CHUNK_LEN];
    while file.read(&mut buffer)? > 0 {}
    Ok(())
}

/// Every core hashes the same 1 MiB again and again until 1 GiB is done.
fn bare_rate() -> f64 {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let chunks_left = AtomicU64::new(FILE_LEN / CHUNK_LEN as u64);
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                let buffer = vec![7_u8; CHUNK_LEN];
                let take = |left: u64| left.checked_sub(1);
                while chunks_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                    std::hint::black_box(Sha256::digest(std::hint::black_box(&buffer)));
                }
            });
        }
    });
    mib_per_second(FILE_LEN, begun)
}

fn mib_per_second(len: u64, begun: Instant) -> f64 {
    len as f64 / f64::from(1 << 20) / begun.elapsed().as_secs_f64()
}
