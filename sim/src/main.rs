//! `dhtfs-sim`: networks of real dhtfs nodes in one process; see the library for how.
#![deny(unsafe_code)]

mod args;
mod files;
mod output;
mod replay;
mod shell;

use std::{
    fs,
    io::{self, Write},
    path::Path,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

use clap::Parser;
use dhtfs_sim::{
    plan::Plan,
    record::RunRecord,
    report, run,
    scenario::{self, Options, Scenario},
    world::{self, Failure},
};

use args::{Args, Command, Run};
use files::Trace;
use output::Terminal;

/// Exit code when a check does not hold or the simulator fails.
const FAILED: u8 = 1;

/// Exit code for a command line or file that makes no sense.
const USAGE: u8 = 2;

/// Longest TOML or JSON file that is read, in bytes.
const MAX_FILE_LEN: u64 = 1 << 30;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => error.exit(),
    };
    let filter = tracing_subscriber::EnvFilter::from_env("DHTFS_SIM_LOG");
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
    let done = match args.command {
        Command::List => list(),
        Command::Show { scenario } => show(&scenario),
        Command::Run(run) => run_scenario(&run),
        Command::Replay { file, trace } => replay::replay(&file, trace.as_deref()),
    };
    match done {
        Ok(0) if OUTPUT_FAILED.load(Ordering::Relaxed) => ExitCode::from(FAILED),
        Ok(code) => ExitCode::from(code),
        Err(Ended { message, code }) => {
            // Nothing is left to do if stderr is closed.
            let _ = writeln!(std::io::stderr(), "dhtfs-sim: {message}");
            ExitCode::from(code)
        }
    }
}

/// Why the program ends early.
struct Ended {
    message: String,
    code: u8,
}

fn usage(message: impl Into<String>) -> Ended {
    Ended { message: message.into(), code: USAGE }
}

fn failed(message: impl std::fmt::Display) -> Ended {
    Ended { message: message.to_string(), code: FAILED }
}

/// Set when a line of results could not be written.
static OUTPUT_FAILED: AtomicBool = AtomicBool::new(false);

/// Prints a line of results. A reader that has seen enough is no failure; the run goes on to its exit code.
fn print(line: &str) {
    if let Err(error) = writeln!(std::io::stdout(), "{line}")
        && error.kind() != std::io::ErrorKind::BrokenPipe
        && !OUTPUT_FAILED.swap(true, Ordering::Relaxed)
    {
        let _ = writeln!(std::io::stderr(), "dhtfs-sim: cannot write to standard output: {error}");
    }
}

fn list() -> Result<u8, Ended> {
    let all = scenario::list();
    let width = all.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, about) in all {
        print(&format!("{name:width$}  {about}"));
    }
    Ok(0)
}

fn show(name: &str) -> Result<u8, Ended> {
    match scenario::named(name) {
        Some(Scenario::Plan(plan)) => {
            print(plan.to_toml().trim_end());
            Ok(0)
        }
        Some(_) => Err(usage(format!("{name} is more than one plan; it cannot be written as TOML"))),
        None => Err(unknown(name)),
    }
}

fn unknown(name: &str) -> Ended {
    usage(format!(
        "no scenario \"{}\"; `dhtfs-sim list` names them, a file must end in .toml",
        name.escape_debug()
    ))
}

fn read_file(path: &Path) -> Result<String, Ended> {
    let fail = |why: String| usage(format!("cannot read {}: {why}", path.display()));
    let len = fs::metadata(path).map_err(|e| fail(e.to_string()))?.len();
    if len > MAX_FILE_LEN {
        return Err(fail("it is longer than 1 GiB".to_owned()));
    }
    fs::read_to_string(path).map_err(|e| fail(e.to_string()))
}

fn find_scenario(name: &str) -> Result<Scenario, Ended> {
    if let Some(scenario) = scenario::named(name) {
        return Ok(scenario);
    }
    let path = Path::new(name);
    if path.extension().is_none_or(|extension| extension != "toml") {
        return Err(unknown(name));
    }
    let plan = Plan::from_toml(&read_file(path)?).map_err(|e| usage(format!("{}: {e}", path.display())))?;
    Ok(Scenario::Plan(Box::new(plan)))
}

fn run_scenario(args: &Run) -> Result<u8, Ended> {
    let (scenario, options) = (find_scenario(&args.scenario)?, args.options());
    let command = args.replay_command();
    // Before the outputs are tried: what makes no sense leaves no files.
    scenario.settings(&options).map_err(|e| usage(e.to_string()))?;
    try_outputs(args)?;
    let trace = create_trace(args.trace.as_deref())?;
    let record = simulate(scenario, &options, &command, (trace.as_ref(), args.quiet));
    let traced = write_trace(trace.as_ref());
    let record = record.map_err(|e| match e.code {
        USAGE => e,
        _ => Ended { message: format!("{}\nreplay: {command}", e.message), ..e },
    })?;
    let written = write_files(args, &record).and(traced);
    // How the run ended comes first: it took longer than the files.
    finish(&record)?;
    written.map(|()| 0)
}

/// Fails now, not after hours, if what comes out could not be written.
fn try_outputs(args: &Run) -> Result<(), Ended> {
    let tried = |path: &Path, tried: io::Result<()>| tried.map_err(|e| unwritable(path, &e));
    args.json.as_ref().map_or(Ok(()), |file| tried(file, files::try_file(file)))?;
    args.report.as_ref().map_or(Ok(()), |dir| tried(dir, files::try_report(dir)))
}

fn create_trace(file: Option<&Path>) -> Result<Option<Trace>, Ended> {
    file.map(|file| Trace::create(file).map_err(|e| unwritable(file, &e))).transpose()
}

fn write_trace(trace: Option<&Trace>) -> Result<(), Ended> {
    trace.map_or(Ok(()), |trace| trace.finish().map_err(failed))
}

fn unwritable(path: &Path, error: &io::Error) -> Ended {
    usage(format!("cannot write {}: {error}", path.display()))
}

fn write_files(args: &Run, record: &RunRecord) -> Result<(), Ended> {
    if let Some(file) = &args.json {
        let json = serde_json::to_string_pretty(record).map_err(failed)?;
        fs::write(file, json + "\n").map_err(|e| failed(format!("cannot write {}: {e}", file.display())))?;
    }
    if let Some(dir) = &args.report {
        let written = report::write(record, dir)
            .map_err(|e| failed(format!("cannot write the report to {}: {e}", dir.display())))?;
        print(&format!("report: {} ({} files)", dir.join("index.html").display(), written.len()));
    }
    Ok(())
}

/// Prints the last lines and says how it ended.
fn finish(record: &RunRecord) -> Result<u8, Ended> {
    if record.trace_hash.is_empty() {
        return Err(failed("nothing was run"));
    }
    print(&format!("trace hash: {}", record.trace_hash));
    if record.passed {
        return Ok(0);
    }
    let failures = record.checks.iter().filter(|check| check.failed > 0);
    let failures: Vec<String> = failures
        .map(|check| {
            let first = check.first_failure.as_deref().unwrap_or("");
            format!("failed: {} ({} of {}): {first}", check.name, check.failed, check.looked)
        })
        .collect();
    Err(failed(format!("{}\nreplay: {}", failures.join("\n"), record.replay)))
}

fn simulate(
    scenario: Scenario,
    options: &Options,
    command: &str,
    (trace, quiet): (Option<&Trace>, bool),
) -> Result<RunRecord, Ended> {
    let settings = scenario.settings(options).map_err(|e| usage(e.to_string()))?;
    if let (left_out @ 1.., all) = scenario.events_left_out(options) {
        eprintln!("dhtfs-sim: {left_out} of {all} events come after the end (--hours) and are left out");
    }
    print(command);
    let settings: Vec<String> = settings.iter().map(|(name, value)| format!("{name} {value}")).collect();
    print(&settings.join(", "));
    let (sink, options, seed) = (trace.map(Trace::sink), options.clone(), options.seed);
    let record = run::simulate(seed, move || async move {
        if let Some(sink) = sink {
            world::trace_to(sink);
        }
        let terminal = Terminal::new(quiet);
        let record = scenario.run(&options, &terminal).await;
        terminal.finish();
        record
    });
    let mut record = record.map_err(|e: Failure| failed(e))?;
    command.clone_into(&mut record.replay);
    for line in report::result_lines(&record) {
        print(&line);
    }
    Ok(record)
}
