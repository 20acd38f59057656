//! Writes the report of a made-up run, to look at: `cargo run -p dhtfs-sim --example sample_report -- DIR`.

mod sample;

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let dir = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "report".to_owned()));
    let record = sample::record();
    println!("{}", dhtfs_sim::report::hour_heading());
    for (number, hour) in record.hours.iter().enumerate() {
        let previous = number.checked_sub(1).map(|number| &record.hours[number]);
        println!("{}", dhtfs_sim::report::hour_line(hour, previous));
    }
    println!();
    for line in dhtfs_sim::report::result_lines(&record) {
        println!("{line}");
    }
    for path in dhtfs_sim::report::write(&record, &dir)? {
        println!("{}", path.display());
    }
    Ok(())
}
