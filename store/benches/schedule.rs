//! A store with a million keys to announce: memory, opening, one region of the keyspace, a batch of marks. Each time
//! as a ratio to what bare redb takes for rows of the same size in the same run. `cargo bench -p dhtfs-store`.
//!
//! Half of the keys are file manifests, half are chunks: many small files, added in batches and deleted again, which a
//! store does not notice before it is asked to look.
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use dhtfs_store::{
    DEFAULT_DB_CACHE_LEN, ImportOptions, KeyPosition, ManifestCid, OpenOptions, ProvideClass, ProvideMark,
    Store, no_progress,
};
use redb::{Database, ReadableDatabase, TableDefinition};
use sha2::{Digest, Sha256};

const BATCHES: u64 = 16;
const FILES_PER_BATCH: u64 = 31_250;
/// What one walk of a region may cover, and one batch of marks.
const MARKS: usize = 4096;
/// A 64th of the keyspace.
const REGION: (u8, u8) = (0x80, 0x83);

const DIR_VARIABLE: &str = "DHTFS_BENCH_DIR";
const PART_VARIABLE: &str = "DHTFS_BENCH_PART";

const PLAIN: TableDefinition<&[u8; 32], &[u8; 38]> = TableDefinition::new("plain");

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    // `cargo test --benches` runs this too; there is nothing to test here.
    if !std::env::args().any(|arg| arg == "--bench") {
        return Ok(());
    }
    // Every part is a process of its own, so that its memory is its own.
    if let (Some(dir), Ok(part)) = (std::env::var_os(DIR_VARIABLE), std::env::var(PART_VARIABLE)) {
        let dir = PathBuf::from(dir);
        return match part.as_str() {
            "fill" => fill(&dir),
            "use" => use_it(&dir),
            _ => check(&dir),
        };
    }
    let dir = tempfile::tempdir()?;
    for part in ["fill", "use", "check"] {
        let mut child = Command::new(std::env::current_exe()?);
        child.arg("--bench").env(DIR_VARIABLE, dir.path()).env(PART_VARIABLE, part);
        if !child.status()?.success() {
            return Err(format!("part {part} failed").into());
        }
    }
    Ok(())
}

/// Adds everything.
fn fill(dir: &Path) -> Outcome<()> {
    let store = Store::open(&dir.join("data"), OpenOptions::default())?;
    let plain = plain(dir)?;
    // The files are not what is measured: they lie in memory where the system offers that.
    let shelf = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
    let (mut import, mut insert, mut early) = (0.0, 0.0, 0);
    for batch in 0..BATCHES {
        let files = shelf.path().join(format!("files-{batch}"));
        fs::create_dir(&files)?;
        for file in 0..FILES_PER_BATCH {
            fs::write(files.join(file.to_string()), (batch * FILES_PER_BATCH + file).to_be_bytes())?;
        }
        let begun = Instant::now();
        let root = store.import_path(&files, &ImportOptions::default(), &no_progress)?.root;
        import += begun.elapsed().as_secs_f64();
        fs::remove_dir_all(&files)?;
        fs::write(dir.join("root"), root.to_string())?;
        insert += insert_plain(&plain, batch)?;
        if batch == 1 {
            early = memory("VmRSS:")?;
        }
    }
    let keys = store.provide_counts()?.keys;
    let late = memory("VmRSS:")?;
    println!("keys                              {keys:9}");
    println!("add, a key (with its file)        {:9.1} us", 1e6 * import / keys as f64);
    println!("bare redb, insert a row           {:9.1} us", 1e6 * insert / keys as f64);
    println!("memory after 2 of {BATCHES} batches       {:9.1} MiB", mib(early));
    println!("memory after all                  {:9.1} MiB", mib(late));
    Ok(())
}

/// Opens the store as a daemon does, and goes through a region. Bare redb comes last, so that memory is the store's.
fn use_it(dir: &Path) -> Outcome<()> {
    let open = |name: &str| Ok(Store::open(&dir.join(name), OpenOptions::default())?);
    drop(open("empty")?);
    let (reopen, _) = time(|| open("empty"))?;
    let before = memory("VmRSS:")?;
    let (opening, store) = time(|| open("data"))?;
    let (counting, counts) = time(|| Ok(store.provide_counts()?))?;
    let opened = memory("VmRSS:")?;
    println!(
        "opening                           {:9.2} ms   an empty store {:.2} ms",
        1e3 * opening,
        1e3 * reopen
    );
    println!("counts                            {:9.2} ms", 1e3 * counting);
    println!("memory for both                   {:9.1} MiB", mib(opened.saturating_sub(before)));

    let (mut from, mut to) = (KeyPosition::MIN, KeyPosition::MAX);
    (from.0[0], to.0[0]) = REGION;
    let (scan, keys) = best(|| Ok(store.provide_range(from, to, usize::MAX)?))?;
    let (fresh, found) = best(|| Ok(store.provide_fresh(ProvideClass::Other, from, to, MARKS)?))?;
    assert_eq!(found.len(), MARKS);
    let mut mark = f64::MAX;
    for batch in keys.chunks_exact(MARKS) {
        let marks: Vec<_> =
            batch.iter().map(|key| ProvideMark { position: key.position, unix: 1, holders: 20 }).collect();
        mark = mark.min(time(|| Ok(store.provide_mark(&marks)?))?.0);
    }
    let root: ManifestCid = fs::read_to_string(dir.join("root"))?.parse()?;
    let (summary, summed) = time(|| Ok(store.provide_summary(&root)?.ok_or("no share")?))?;
    let peak = memory("VmHWM:")?;
    assert_eq!(store.provide_counts()?.fresh, counts.fresh - (keys.len() / MARKS * MARKS) as u64);

    let plain = plain(dir)?;
    let (bare_scan, _) = best(|| scan_plain(&plain, from, to))?;
    let mut bare_mark = f64::MAX;
    for batch in keys.chunks_exact(MARKS) {
        bare_mark = bare_mark.min(time(|| write_plain(&plain, batch.iter().map(|key| key.position.0)))?.0);
    }
    println!(
        "a 64th, {:6} keys               {:9.2} ms   ratio {:.2}",
        keys.len(),
        1e3 * scan,
        scan / bare_scan
    );
    println!("{MARKS} fresh keys of it             {:9.2} ms", 1e3 * fresh);
    println!("{MARKS} first marks                  {:9.2} ms   ratio {:.2}", 1e3 * mark, mark / bare_mark);
    println!("summary of a share, a key         {:9.2} us", 1e6 * summary / summed.all().keys as f64);
    println!("most memory beyond the start      {:9.1} MiB", mib(peak.saturating_sub(before)));
    println!("of that for database pages        {:9.1} MiB at most", mib(DEFAULT_DB_CACHE_LEN as u64));
    Ok(())
}

/// Everything is as it should be.
fn check(dir: &Path) -> Outcome<()> {
    Ok(Store::open(&dir.join("data"), OpenOptions::default())?.check_invariants()??)
}

fn plain(dir: &Path) -> Outcome<Database> {
    let mut builder = Database::builder();
    builder.set_cache_size(DEFAULT_DB_CACHE_LEN);
    Ok(builder.create(dir.join("plain.redb"))?)
}

/// Inserts as many rows as a batch of files has keys, in order; returns the seconds.
fn insert_plain(plain: &Database, batch: u64) -> Outcome<f64> {
    let rows = batch * 2 * FILES_PER_BATCH..(batch + 1) * 2 * FILES_PER_BATCH;
    let mut rows: Vec<[u8; 32]> = rows.map(|row| Sha256::digest(row.to_be_bytes()).into()).collect();
    rows.sort_unstable();
    Ok(time(|| write_plain(plain, rows.iter().copied()))?.0)
}

fn write_plain(plain: &Database, rows: impl Iterator<Item = [u8; 32]>) -> Outcome<()> {
    let mut txn = plain.begin_write()?;
    txn.set_two_phase_commit(true);
    {
        let mut table = txn.open_table(PLAIN)?;
        for row in rows {
            table.insert(&row, &[7; 38])?;
        }
    }
    Ok(txn.commit()?)
}

fn scan_plain(plain: &Database, from: KeyPosition, to: KeyPosition) -> Outcome<usize> {
    let table = plain.begin_read()?.open_table(PLAIN)?;
    let mut rows = Vec::new();
    for row in table.range::<&[u8; 32]>(&from.0..=&to.0)? {
        let (key, value) = row?;
        rows.push((*key.value(), *value.value()));
    }
    Ok(std::hint::black_box(rows).len())
}

/// The seconds that something takes, and what comes of it.
fn time<T>(work: impl FnOnce() -> Outcome<T>) -> Outcome<(f64, T)> {
    let begun = Instant::now();
    let value = work()?;
    Ok((begun.elapsed().as_secs_f64(), value))
}

/// The shortest of several times.
fn best<T>(work: impl Fn() -> Outcome<T>) -> Outcome<(f64, T)> {
    let mut best = time(&work)?;
    for _ in 1..5 {
        let (seconds, value) = time(&work)?;
        best = (best.0.min(seconds), value);
    }
    Ok(best)
}

/// A line of this process's status, in bytes.
fn memory(what: &str) -> Outcome<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(what)).ok_or("no such line")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

fn mib(len: u64) -> f64 {
    len as f64 / f64::from(1 << 20)
}
