//! `replay`: the same run again, compared with its record.

use std::path::Path;

use clap::Parser as _;
use dhtfs_sim::{
    plan::Plan,
    record::RunRecord,
    report,
    scenario::{Options, Scenario},
};

use crate::{
    Ended,
    args::{Args, Command},
    complain, conclude, create_trace, failed, files, find_scenario, finish, print, read_file, shell,
    simulate, usage, write_trace,
};

/// Runs what `file` records and says what is not the same.
pub(crate) fn replay(file: &Path, trace: Option<&Path>) -> Result<u8, Ended> {
    let before: RunRecord = serde_json::from_str(&read_file(file)?)
        .map_err(|e| usage(format!("{} is no record of a run: {e}", file.display())))?;
    let (scenario, options) = recorded(&before, file)?;
    let outputs = trace.map(|trace| ("--trace", trace.to_owned()));
    let all: Vec<_> = [("the record", file.to_owned())].into_iter().chain(outputs).collect();
    files::all_differ(&all).map_err(usage)?;
    let trace = create_trace(trace)?;
    if before.version != env!("CARGO_PKG_VERSION") {
        complain(&format!("recorded by version {}, this is {}", before.version, env!("CARGO_PKG_VERSION")));
    }
    let record = simulate(scenario, &options, &before.replay, (trace.as_ref(), false));
    let unwritten = write_trace(trace.as_ref()).err().into_iter().collect();
    conclude(unwritten, record.and_then(|record| compared(&before, record)))
}

/// Says how the two runs differ, and how this one ended if they do not.
fn compared(before: &RunRecord, mut record: RunRecord) -> Result<u8, Ended> {
    if let (false, Some(chaos)) = (before.plan.is_empty(), before.options.get("chaos")) {
        // The plan in the record has the faults that were drawn.
        record.options.insert("chaos".to_owned(), chaos.clone());
    }
    let differences = report::differences(before, &record);
    let is_same = record.trace_hash == before.trace_hash;
    if is_same && differences.is_empty() {
        print("the same run, byte for byte");
        return finish(&record);
    }
    print(&format!("trace hash: {}", record.trace_hash));
    let head = if is_same {
        "the same bytes, but not the same results".to_owned()
    } else {
        format!("not the same run: {} was recorded", before.trace_hash)
    };
    Err(failed([head].into_iter().chain(differences).collect::<Vec<_>>().join("\n")))
}

/// What was run: the plan with everything already applied to it, or the command.
fn recorded(before: &RunRecord, file: &Path) -> Result<(Scenario, Options), Ended> {
    if !before.plan.is_empty() {
        let plan = Plan::from_toml(&before.plan).map_err(|e| usage(format!("{}: {e}", file.display())))?;
        return Ok((Scenario::Plan(Box::new(plan)), Options { seed: before.seed, ..Options::default() }));
    }
    let unknown = || usage(format!("{}: no command that can be run again", file.display()));
    let words = shell::words(&before.replay).ok_or_else(unknown)?;
    let args = Args::try_parse_from(words).map_err(|_| unknown())?;
    let Command::Run(args) = args.command else { return Err(unknown()) };
    Ok((find_scenario(&args.scenario)?, args.options()))
}
