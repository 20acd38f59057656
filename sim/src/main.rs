//! `dhtfs-sim`: networks of real dhtfs nodes in one process; see the library for how.
#![deny(unsafe_code)]

mod args;
mod files;
mod output;
mod replay;
mod shell;
mod study;

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

use clap::Parser;
use dhtfs_sim::{
    plan::Plan,
    record::RunRecord,
    report, run,
    scenario::{self, Options, Scenario},
    whole,
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
        Command::Study(study) => study::study(&study),
        Command::Replay { file, trace } => replay::replay(&file, trace.as_deref()),
    };
    match done {
        Ok(0) if OUTPUT_FAILED.load(Ordering::Relaxed) => ExitCode::from(FAILED),
        Ok(code) => ExitCode::from(code),
        Err(Ended { message, code }) => {
            complain(&message);
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

/// Says on stderr what is wrong. What steers a terminal is not passed on: names come from files.
fn complain(message: &str) {
    let lines: Vec<String> = message.lines().map(report::printable).collect();
    // Nothing is left to do if stderr is closed.
    let _ = writeln!(io::stderr(), "dhtfs-sim: {}", lines.join("\n"));
}

/// Prints lines of results. A reader that has seen enough is no failure; the run goes on to its exit code.
fn print(lines: &str) {
    let lines: Vec<String> = lines.split('\n').map(report::printable).collect();
    if let Err(error) = writeln!(io::stdout(), "{}", lines.join("\n"))
        && error.kind() != io::ErrorKind::BrokenPipe
        && !OUTPUT_FAILED.swap(true, Ordering::Relaxed)
    {
        complain(&format!("cannot write to standard output: {error}"));
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
    read_text(path).map_err(|e| usage(format!("cannot read {}: {e}", path.display())))
}

fn read_text(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > MAX_FILE_LEN {
        return Err(io::Error::other("it is longer than 1 GiB"));
    }
    fs::read_to_string(path)
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
    all_differ(args)?;
    try_outputs(args)?;
    let trace = create_trace(args.trace.as_deref())?;
    let record = simulate(scenario, &options, &command, (trace.as_ref(), args.quiet));
    let record = record.map_err(|e| match e.code {
        USAGE => e,
        _ => Ended { message: format!("{}\nreplay: {command}", e.message), ..e },
    });
    let mut unwritten: Vec<String> = write_trace(trace.as_ref()).err().into_iter().collect();
    let ended = record.and_then(|record| {
        unwritten.extend(write_files(args, &record));
        finish(&record)
    });
    conclude(unwritten, ended)
}

/// Tells what could not be written, before how the run ended: that has the last line.
fn conclude(unwritten: Vec<String>, ended: Result<u8, Ended>) -> Result<u8, Ended> {
    unwritten.iter().for_each(|why| complain(why));
    ended.map(|code| if unwritten.is_empty() { code } else { FAILED })
}

/// Fails if an output would overwrite an input or another output.
fn all_differ(args: &Run) -> Result<(), Ended> {
    let mut all = Vec::new();
    if scenario::named(&args.scenario).is_none() {
        all.push(("the scenario", PathBuf::from(&args.scenario)));
    }
    all.extend(args.trace.iter().map(|file| ("--trace", file.clone())));
    if let Some(dir) = &args.report {
        all.push(("--report", dir.clone()));
        all.extend(report::file_names().into_iter().map(|name| ("--report", dir.join(name))));
    }
    // The record of a report and that of --json are the same, byte for byte: they may be one file.
    let is_record = |file: &Path| {
        args.report.as_ref().is_some_and(|dir| files::is_same(file, &dir.join(report::RECORD_NAME)))
    };
    all.extend(args.json.iter().filter(|file| !is_record(file)).map(|file| ("--json", file.clone())));
    files::all_differ(&all).map_err(usage)
}

/// Fails now, not after hours, if what comes out could not be written.
fn try_outputs(args: &Run) -> Result<(), Ended> {
    let tried = |tried: Result<(), files::Unwritable>| tried.map_err(|(path, e)| unwritable(&path, &e));
    // The file may lie in the directory.
    args.report.as_ref().map_or(Ok(()), |dir| tried(files::try_report(dir)))?;
    args.json.as_ref().map_or(Ok(()), |file| tried(files::try_file(file)))
}

fn create_trace(file: Option<&Path>) -> Result<Option<Trace>, Ended> {
    file.map(|file| Trace::create(file).map_err(|e| unwritable(file, &e))).transpose()
}

fn write_trace(trace: Option<&Trace>) -> Result<(), String> {
    trace.map_or(Ok(()), Trace::finish)
}

fn unwritable(path: &Path, error: &io::Error) -> Ended {
    usage(format!("cannot write {}: {error}", path.display()))
}

/// Writes what was asked for, each whatever becomes of the other; gives what could not be written, and why.
fn write_files(args: &Run, record: &RunRecord) -> Vec<String> {
    let mut unwritten = Vec::new();
    if let Some(file) = &args.json {
        let written = report::json(record).and_then(|json| whole::write(file, json.as_bytes()));
        unwritten.extend(written.err().map(|e| format!("cannot write {}: {e}", file.display())));
    }
    if let Some(dir) = &args.report {
        match report::write(record, dir) {
            Ok(files) => {
                print(&format!("report: {} ({} files)", dir.join("index.html").display(), files.len()));
            }
            Err(e) => unwritten.push(format!("cannot write the report to {}: {e}", dir.display())),
        }
    }
    unwritten
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
            // A line each: none may look like the command that comes last.
            let first = report::printable(check.first_failure.as_deref().unwrap_or(""));
            format!("failed: {} ({} of {}): {first}", check.name, check.failed, check.looked)
        })
        .collect();
    Err(failed(format!("{}\nreplay: {}", failures.join("\n"), report::printable(&record.replay))))
}

fn simulate(
    scenario: Scenario,
    options: &Options,
    command: &str,
    (trace, quiet): (Option<&Trace>, bool),
) -> Result<RunRecord, Ended> {
    let settings = scenario.settings(options).map_err(|e| usage(e.to_string()))?;
    if let (left_out @ 1.., all) = scenario.events_left_out(options) {
        complain(&format!("{left_out} of {all} events come after the end (--hours) and are left out"));
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
