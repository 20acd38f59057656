//! The program `dhtfs-sim`: what it prints, its exit codes, and that a seed is a run.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;

/// Eight nodes, one file, two gets, a crash in between; about a second of CPU time.
const SMALL: &str = r#"
name = "small"
nodes = 8
duration = "20m"
network = { security = "plaintext", geography = "regions", one_way = "5ms", jitter = "5ms", loss = 0.01 }
expect = { gets_complete = 1.0 }

[[groups]]
name = "boot"
nodes = 3

[[groups]]
name = "peers"
share = 1.0
joins_at = "2s"
joins_within = "10s"

[[contents]]
name = "film"
len = "1500 KiB"
group = "boot"
holders = 2

[[events]]
at = "2m"
do = "get"
who = { at_most = 2 }

[[events]]
at = "3m"
do = "kill"
who = { group = "peers", share = 0.5 }
disk = "torn"
back_after = "1m"

[[events]]
at = "5m"
do = "get"
who = { at_most = 2 }
"#;

fn sim(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dhtfs-sim")).current_dir(dir).args(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn hash(output: &Output) -> String {
    let text = stdout(output);
    let last = text.lines().last().unwrap();
    let hash = last.strip_prefix("trace hash: ").unwrap_or_else(|| panic!("{text}{}", stderr(output)));
    assert!((16..=64).contains(&hash.len()), "{hash}");
    assert!(hash.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)), "{hash}");
    hash.to_owned()
}

fn small() -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("small.toml"), SMALL).unwrap();
    dir
}

#[test]
fn a_seed_is_a_run_and_another_seed_another_one() {
    let dir = small();
    let run = |seed: &str| sim(dir.path(), &["run", "small.toml", "--seed", seed]);
    let (first, again, other) = (run("7"), run("7"), run("8"));
    assert!(first.status.success(), "{}", stderr(&first));
    assert_eq!(stdout(&first), stdout(&again), "every line is the same");
    assert_ne!(hash(&first), hash(&other));
    let text = stdout(&first);
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("dhtfs-sim run small.toml --seed 7"));
    let options = lines.next().unwrap();
    for option in ["nodes 8", "loss 0.01", "security plaintext", "seed 7", "chaos off"] {
        assert!(options.contains(option), "{option} is not in {options}");
    }
}

#[test]
fn a_recorded_run_is_run_again_and_compared() {
    let dir = small();
    let run = sim(dir.path(), &["run", "small.toml", "--seed", "3", "--chaos", "--json", "run.json"]);
    let hash = hash(&run);
    // The plan is in the record: the file it came from is not needed.
    fs::remove_file(dir.path().join("small.toml")).unwrap();
    let again = sim(dir.path(), &["replay", "run.json"]);
    assert_eq!(again.status.code(), run.status.code(), "{}", stderr(&again));
    assert!(stdout(&again).contains("the same run, byte for byte"), "{}", stdout(&again));
    let json = fs::read_to_string(dir.path().join("run.json")).unwrap();
    let mut record: serde_json::Value = serde_json::from_str(&json).unwrap();
    let replay = |record: &serde_json::Value| {
        fs::write(dir.path().join("run.json"), record.to_string()).unwrap();
        let again = sim(dir.path(), &["replay", "run.json"]);
        assert_eq!(again.status.code(), Some(1));
        stderr(&again)
    };
    // The bytes are the same, but not what was made of them.
    record["options"]["loss"] = "0.5".into();
    record["gets"][0]["complete"] = (!record["gets"][0]["complete"].as_bool().unwrap()).into();
    let error = replay(&record);
    for words in
        ["not the same results", "option loss: 0.5 was recorded, 0.01 now", "recorded: gets complete"]
    {
        assert!(error.contains(words), "{words} is not in {error}");
    }
    assert!(error.contains("first difference: gets[0].complete: "), "{error}");
    let (first, rest) = hash.split_at(1);
    record["trace_hash"] = format!("{}{rest}", if first == "0" { "1" } else { "0" }).into();
    record["hours"][0]["hash"] = "0123".into();
    let error = replay(&record);
    for words in ["not the same run", "first seen in hour 1, which ended at", "0123\n"] {
        assert!(error.contains(words), "{words} is not in {error}");
    }
}

#[test]
fn a_failed_check_is_told_with_the_command_that_repeats_it() {
    let dir = small();
    // Nobody who is asked to fetch can: all holders are dead.
    let fatal = SMALL
        .replace("disk = \"torn\"\nback_after = \"1m\"", "disk = \"kept\"")
        .replace("who = { group = \"peers\", share = 0.5 }", "who = { group = \"boot\" }");
    fs::write(dir.path().join("it's fatal.toml"), fatal.replace("at = \"2m\"", "at = \"4m\"")).unwrap();
    let run = sim(dir.path(), &["run", "it's fatal.toml", "--seed", "5", "--nodes", "9"]);
    assert_eq!(run.status.code(), Some(1), "{}", stdout(&run));
    hash(&run);
    let error = stderr(&run);
    assert!(error.contains("gets complete"), "{error}");
    let replay = error.lines().last().unwrap().strip_prefix("replay: dhtfs-sim ").unwrap();
    assert_eq!(replay, r"run 'it'\''s fatal.toml' --nodes 9 --seed 5");
    // What is printed can be given to a shell as it is.
    let words = Command::new("sh").args(["-c", &format!("printf '%s|' {replay}")]).output().unwrap();
    assert_eq!(stdout(&words), "run|it's fatal.toml|--nodes|9|--seed|5|");
}

#[test]
fn a_trace_has_a_line_for_every_event_and_a_report_is_a_page() {
    let dir = small();
    let args = ["run", "small.toml", "--quiet", "--trace", "trace", "--report", "out"];
    let (with, without) = (sim(dir.path(), &args), sim(dir.path(), &["run", "small.toml", "--quiet"]));
    assert_eq!(hash(&with), hash(&without), "looking does not change the run");
    let trace = fs::read_to_string(dir.path().join("trace")).unwrap();
    assert!(trace.lines().count() > 1_000);
    assert!(trace.lines().any(|line| line.contains("Connect ")), "{}", trace.lines().next().unwrap());
    let page = fs::read_to_string(dir.path().join("out/index.html")).unwrap();
    assert!(page.contains("<svg") && page.contains(&hash(&with)));
}

#[test]
fn scenarios_are_listed_and_shown_as_files_that_run() {
    let dir = TempDir::new().unwrap();
    let list = stdout(&sim(dir.path(), &["list"]));
    let issue = [
        "join-add-get",
        "growth-law",
        "churn24",
        "mass-death",
        "partition-heal",
        "flash-crowd",
        "swarm-of-partials",
        "nat-mix",
        "hostile-providers",
        "sybil-eclipse",
        "record-flood",
        "rolling-upgrade",
        "sleep-wake",
    ];
    for name in issue {
        assert!(list.lines().any(|line| line.starts_with(&format!("{name} "))), "{name} is not in {list}");
    }
    let shown = sim(dir.path(), &["show", "join-add-get"]);
    fs::write(dir.path().join("mine.toml"), &shown.stdout).unwrap();
    let run = sim(dir.path(), &["run", "mine.toml", "--nodes", "8", "--security", "plaintext", "--quiet"]);
    let named =
        sim(dir.path(), &["run", "join-add-get", "--nodes", "8", "--security", "plaintext", "--quiet"]);
    assert!(run.status.success(), "{}", stderr(&run));
    assert_eq!(hash(&run), hash(&named));
}

#[test]
fn files_that_cannot_be_written_are_noticed_before_the_run() {
    let dir = small();
    fs::write(dir.path().join("old.json"), "old").unwrap();
    for output in [
        ["--json", "missing/run.json"],
        ["--json", "."],
        ["--report", "small.toml/out"],
        ["--trace", "missing/trace"],
    ] {
        let run = sim(dir.path(), &[&["run", "small.toml"], &output[..]].concat());
        let error = stderr(&run);
        assert_eq!(run.status.code(), Some(2), "{output:?}: {error}");
        assert!(run.stdout.is_empty(), "{output:?}: {}", stdout(&run));
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.starts_with(&format!("dhtfs-sim: cannot write {}: ", output[1])), "{error}");
    }
    // What makes no sense leaves what was there before.
    let run =
        sim(dir.path(), &["run", "small.toml", "--nodes", "1", "--json", "old.json", "--report", "out"]);
    assert_eq!(run.status.code(), Some(2));
    assert_eq!(fs::read_to_string(dir.path().join("old.json")).unwrap(), "old");
    assert!(!dir.path().join("out").exists());
}

#[test]
fn outputs_that_are_the_same_file_as_another_or_as_an_input_are_refused() {
    let dir = small();
    fs::create_dir(dir.path().join("sub")).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink("small.toml", dir.path().join("link")).unwrap();
    let cases: [(&[&str], &str); 7] = [
        (&["--json", "small.toml"], "the scenario and --json are the same file: small.toml"),
        (&["--trace", "sub/../small.toml"], "the scenario and --trace are the same file"),
        (&["--json", "link"], "the scenario and --json are the same file: link"),
        (&["--json", "x", "--trace", "./x"], "--trace and --json are the same file: x"),
        (&["--json", "x", "--report", "x"], "--report and --json are the same file: x"),
        (&["--json", "new/../new/hops.svg", "--report", "new"], "--report and --json are the same file"),
        (&["--trace", "new/run.json", "--report", "new"], "--trace and --report are the same file"),
    ];
    for (outputs, words) in cases {
        let run = sim(dir.path(), &[&["run", "small.toml"], outputs].concat());
        let error = stderr(&run);
        assert_eq!(run.status.code(), Some(2), "{outputs:?}: {error}");
        assert!(error.starts_with(&format!("dhtfs-sim: {words}")), "{outputs:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    assert_eq!(fs::read_to_string(dir.path().join("small.toml")).unwrap(), SMALL);
    assert!(!dir.path().join("new").exists() && !dir.path().join("x").exists());
    let record = dhtfs_sim::record::RunRecord { plan: SMALL.to_owned(), ..Default::default() };
    fs::write(dir.path().join("run.json"), dhtfs_sim::report::json(&record).unwrap()).unwrap();
    let error = stderr(&sim(dir.path(), &["replay", "run.json", "--trace", "./run.json"]));
    assert_eq!(error, "dhtfs-sim: the record and --trace are the same file: ./run.json\n");
}

#[test]
fn every_file_of_a_report_is_tried_and_a_link_to_nothing_stays() {
    let dir = small();
    fs::create_dir_all(dir.path().join("out/hops.svg")).unwrap();
    let run = sim(dir.path(), &["run", "small.toml", "--report", "out"]);
    assert_eq!(run.status.code(), Some(2));
    assert!(stderr(&run).starts_with("dhtfs-sim: cannot write out/hops.svg: "), "{}", stderr(&run));
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("target.json", dir.path().join("link.json")).unwrap();
        let args = ["run", "small.toml", "--json", "link.json", "--report", "out"];
        assert_eq!(sim(dir.path(), &args).status.code(), Some(2));
        assert!(fs::symlink_metadata(dir.path().join("link.json")).unwrap().is_symlink());
        assert!(!dir.path().join("target.json").exists());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn an_output_that_fails_takes_no_other_with_it_and_the_replay_line_is_the_last() {
    let dir = small();
    let fatal = SMALL
        .replace("disk = \"torn\"\nback_after = \"1m\"", "disk = \"kept\"")
        .replace("who = { group = \"peers\", share = 0.5 }", "who = { group = \"boot\" }");
    fs::write(dir.path().join("fatal.toml"), fatal.replace("at = \"2m\"", "at = \"4m\"")).unwrap();
    let args = ["--quiet", "--json", "/dev/full", "--trace", "/dev/full", "--report", "out"];
    let run = sim(dir.path(), &[&["run", "fatal.toml", "--seed", "5"], &args[..]].concat());
    assert_eq!(run.status.code(), Some(1));
    hash(&run);
    let error = stderr(&run);
    let lines: Vec<&str> = error.lines().collect();
    assert!(lines[0].starts_with("dhtfs-sim: cannot write the trace to /dev/full: "), "{error}");
    assert!(lines[1].starts_with("dhtfs-sim: cannot write /dev/full: "), "{error}");
    assert!(lines[2].starts_with("dhtfs-sim: failed: gets complete"), "{error}");
    assert_eq!(lines.last(), Some(&"replay: dhtfs-sim run fatal.toml --seed 5"));
    assert!(dir.path().join("out/index.html").exists());
    // The record in a report that is not there yet may be the one that is asked for.
    let run = sim(
        dir.path(),
        &["run", "fatal.toml", "--hours", "0.05", "--quiet", "--json", "rr/run.json", "--report", "rr"],
    );
    hash(&run);
    assert!(dir.path().join("rr/run.json").exists() && !stderr(&run).contains("cannot write"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_stderr_that_cannot_be_written_is_no_panic() {
    let dir = small();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let run = Command::new(env!("CARGO_BIN_EXE_dhtfs-sim"))
        .current_dir(dir.path())
        .args(["run", "small.toml", "--seed", "2", "--quiet", "--hours", "0.08"])
        .stderr(full)
        .output()
        .unwrap();
    hash(&run);
    assert_ne!(run.status.code(), Some(101));
}

#[cfg(target_os = "linux")]
#[test]
fn a_trace_that_ends_early_is_a_failure_at_the_end() {
    let dir = small();
    let run = sim(dir.path(), &["run", "small.toml", "--seed", "2", "--trace", "/dev/full"]);
    hash(&run);
    assert_eq!(run.status.code(), Some(1));
    assert!(stderr(&run).starts_with("dhtfs-sim: cannot write the trace to /dev/full: "), "{}", stderr(&run));
}

#[test]
fn events_that_a_short_run_leaves_out_are_told() {
    let dir = small();
    let told = |hours: &str| {
        stderr(&sim(dir.path(), &["run", "small.toml", "--seed", "2", "--quiet", "--hours", hours]))
    };
    let words = "dhtfs-sim: 1 of 3 events come after the end (--hours) and are left out";
    assert_eq!(told("0.08").lines().next(), Some(words));
    assert_eq!(told("0.5"), "");
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_runs() {
    let dir = small();
    fs::write(dir.path().join("odd.toml"), SMALL.replace("jitter", "jiter")).unwrap();
    fs::write(dir.path().join("text.json"), "not a record").unwrap();
    let misspelt = SMALL.replace("back_after", "bakc_after");
    fs::write(dir.path().join("misspelt.toml"), misspelt).unwrap();
    let cases: [(&[&str], &str); 17] = [
        (&["run", "growth-law", "--hours", "NaN"], "--hours NaN"),
        (&["run", "growth-law", "--hours", "99999"], "duration"),
        (&["run", "misspelt.toml"], "event kill at 3m: unknown field `bakc_after`"),
        (&["run", "small.toml", "--hours", "0"], "duration"),
        (&["run", "nat-mix", "--nodes", "20"], "--nodes means nothing to nat-mix"),
        (&["run", "nat-mix", "--chaos"], "--chaos means nothing to nat-mix"),
        (&["run", "cost", "--hours", "1"], "--hours means nothing to cost"),
        (&["run", "cost", "--chaos"], "--chaos means nothing to cost"),
        (&["run", "nothing"], "dhtfs-sim list"),
        (&["run", "missing.toml"], "missing.toml"),
        (&["run", "odd.toml"], "jiter"),
        (&["run", "small.toml", "--nodes", "2"], "nodes"),
        (&["run", "small.toml", "--nodes", "100000"], "5000"),
        (&["run", "small.toml", "--hours=-1"], "hours"),
        (&["run", "small.toml", "--seed", "x"], "x"),
        (&["show", "growth-law"], "more than one plan"),
        (&["replay", "text.json"], "no record"),
    ];
    for (args, word) in cases {
        let output = sim(dir.path(), args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(word), "{args:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{args:?}: {}", stdout(&output));
    }
}

#[test]
fn a_study_takes_up_what_it_kept_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("small.toml"), SMALL).unwrap();
    let study = |args: &[&str]| {
        let all = [&["study", "small.toml", "--jobs", "1", "--keep", "kept"], args].concat();
        let output = sim(dir.path(), &all);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        output
    };
    study(&["--seeds", "1"]);
    // What was kept is counted as it is, so it did not run again; the second seed did.
    let file = dir.path().join("kept/small-1.json");
    let kept = fs::read_to_string(&file).unwrap();
    assert!(kept.contains(r#""complete": true"#), "{kept}");
    fs::write(&file, kept.replace(r#""complete": true"#, r#""complete": false"#)).unwrap();
    let both = study(&["--seeds", "2"]);
    assert!(stdout(&both).contains("3 of 6, 50.00 %"), "{}", stdout(&both));
    assert!(stderr(&both).is_empty(), "{}", stderr(&both));
    // A record of other options, or one that is none, is made anew.
    let shorter = study(&["--seeds", "1", "--hours", "0.2"]);
    assert!(stderr(&shorter).contains("kept/small-1.json: not of this study"), "{}", stderr(&shorter));
    fs::write(&file, "{").unwrap();
    let whole = study(&["--seeds", "2"]);
    assert!(stderr(&whole).contains("kept/small-1.json: not of this study"), "{}", stderr(&whole));
    assert!(stdout(&whole).contains("6 of 6, 100.00 %"), "{}", stdout(&whole));
}
