//! Tests of the command line as typed.
#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use std::path::Path;

use clap::{CommandFactory, error::ErrorKind};

use super::*;

const ADDR: &str = "/ip4/127.0.0.1/tcp/4343";

fn parse(line: &str) -> Cli {
    try_parse(line).unwrap()
}

fn try_parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("dhtfs").chain(line.split_whitespace()))
}

fn refused(line: &str) -> clap::Error {
    try_parse(line).expect_err(line)
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_has_an_example_and_says_its_version() {
    for command in Cli::command().get_subcommands() {
        let name = command.get_name();
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.contains(&format!("dhtfs {name}")) || help.contains(name), "{name}: {help}");
        assert!(help.contains("Examples:\n"), "{name}");
        assert_eq!(refused(&format!("{name} --version")).kind(), ErrorKind::DisplayVersion);
        // The simulator explains itself.
        if name != "sim" {
            assert_eq!(refused(&format!("{name} --help")).kind(), ErrorKind::DisplayHelp);
        }
    }
}

#[test]
fn global_flags_stand_before_or_after_every_command() {
    let commands = [
        "add x",
        "get x",
        "cat x",
        "transfers",
        "pause x",
        "resume --all",
        "abort x",
        "refresh x",
        "ls",
        "rm x",
        "verify p x",
        "providers x",
        "status",
        "peers",
        "id",
        "daemon",
        "shutdown",
        "gc",
        "demo",
    ];
    let globals = "--data-dir /d --config c.toml --json -q -v";
    for command in commands {
        for line in [format!("{globals} {command}"), format!("{command} {globals}")] {
            let global = parse(&line).global;
            assert_eq!(global.data_dir.as_deref(), Some(Path::new("/d")), "{line}");
            assert_eq!(global.config.as_deref(), Some(Path::new("c.toml")), "{line}");
            assert!(global.json && global.quiet && global.verbose == 1, "{line}");
        }
    }
    assert_eq!(parse("-v status -v").global.verbose, 1, "each place counts for itself, the later one wins");
    assert_eq!(parse("status -vv").global.verbose, 2);
}

#[test]
fn add_takes_paths_a_dash_and_names_that_begin_with_a_dash() {
    let Command::Add(args) = parse("add a b --copy --link --seed").command else { panic!() };
    assert_eq!(args.paths, [Path::new("a"), Path::new("b")]);
    assert!(args.copy && args.link && args.seed);
    let Command::Add(args) = parse("add - --name n").command else { panic!() };
    assert_eq!((args.paths, args.name.as_deref()), (vec![PathBuf::from("-")], Some("n")));
    let Command::Add(args) = parse("add --copy -- -x --name").command else { panic!() };
    assert_eq!(args.paths, [Path::new("-x"), Path::new("--name")]);
    let Command::Add(args) = parse("add ./-x").command else { panic!() };
    assert_eq!(args.paths, [Path::new("./-x")]);
    assert_eq!(refused("add").kind(), ErrorKind::MissingRequiredArgument);
}

#[test]
fn add_takes_what_is_announced_and_how_long_to_wait() {
    let Command::Add(args) = parse("add x").command else { panic!() };
    assert_eq!((args.announce, args.wait, args.timeout), (None, false, None));
    for (text, announce) in [("all", Announce::All), ("roots", Announce::Roots), ("none", Announce::None)] {
        let line = format!("add x --announce {text} --wait --timeout 1.5");
        let Command::Add(args) = parse(&line).command else { panic!() };
        assert_eq!((args.announce, args.wait, args.timeout), (Some(announce), true, Some(1.5)));
    }
    for line in ["add x --announce some", "add x --announce", "add x --announce ALL", "add x --timeout 3"] {
        assert_eq!(refused(line).exit_code(), 2, "{line}");
    }
    assert!(refused("add x --announce some").to_string().contains("[possible values: all, roots, none]"));
}

#[test]
fn get_takes_hints_an_output_and_a_timeout() {
    let line =
        format!("get x -o - --peer {ADDR} --peer {ADDR} --bootstrap {ADDR} --timeout 1.5 --force --seed");
    let Command::Get(args) = parse(&line).command else { panic!() };
    assert_eq!(args.output.as_deref(), Some(std::ffi::OsStr::new("-")));
    assert_eq!((args.hints.peer.len(), args.hints.bootstrap.len()), (2, 1));
    assert_eq!(args.hints.timeout, Some(1.5));
    assert!(args.force && args.seed);
}

#[test]
fn a_transfer_is_named_by_its_cid_or_all_are_meant() {
    let Command::Pause(args) = parse("pause x").command else { panic!() };
    assert_eq!((args.steer.cid.as_deref(), args.steer.all), (Some("x"), false));
    let Command::Abort(args) = parse("abort --all").command else { panic!() };
    assert_eq!((args.steer.cid.as_deref(), args.steer.all), (None, true));
    for command in ["pause", "resume", "abort", "refresh"] {
        assert_eq!(refused(command).exit_code(), 2, "{command}");
        assert_eq!(refused(&format!("{command} x --all")).exit_code(), 2, "{command}");
    }
    let Command::Transfers(args) = parse("transfers --once").command else { panic!() };
    assert!(args.once);
    let Command::Get(args) = parse("get -d x").command else { panic!() };
    assert!(args.detach);
    assert_eq!(refused("get --detach --seed x").exit_code(), 2);
}

#[test]
fn the_other_commands_take_what_they_document() {
    let Command::Cat(args) = parse("cat x --offset 7 --length 9").command else { panic!() };
    assert_eq!((args.offset, args.length), (7, Some(9)));
    let Command::Ls(args) = parse("ls --chunks x").command else { panic!() };
    assert!(args.chunks && args.cid.as_deref() == Some("x"));
    let Command::Verify(args) = parse("verify p x").command else { panic!() };
    assert_eq!((args.path.as_path(), args.cid.as_str()), (Path::new("p"), "x"));
    let Command::Demo(args) = parse("demo").command else { panic!() };
    assert_eq!((args.file, args.size), (None, 64));
    let Command::Demo(args) = parse("demo f").command else { panic!() };
    assert_eq!(args.file.as_deref(), Some(Path::new("f")));
    let line = format!("daemon --listen {ADDR} --listen {ADDR} --bootstrap {ADDR} --network lab");
    let Command::Daemon(args) = parse(&line).command else { panic!() };
    assert_eq!((args.listen.len(), args.bootstrap.len(), args.network.as_deref()), (2, 1, Some("lab")));
}

#[test]
fn a_malformed_multiaddr_is_refused_by_the_name_of_its_argument() {
    for (line, argument) in [
        ("get x --peer 127.0.0.1:80", "--peer <MULTIADDR>"),
        ("get x --bootstrap nonsense", "--bootstrap <MULTIADDR>"),
        ("daemon --listen /ip4/1.2.3.4.5/tcp/1", "--listen <MULTIADDR>"),
    ] {
        let error = refused(line);
        assert_eq!((error.kind(), error.exit_code()), (ErrorKind::ValueValidation, 2), "{line}");
        assert!(error.to_string().contains(argument), "{error}");
        assert!(error.to_string().contains("/ip4/192.0.2.1/tcp/4343"), "{error}");
    }
}

#[test]
fn numbers_that_make_no_sense_are_refused() {
    for line in [
        "get x --timeout 0",
        "get x --timeout nan",
        "get x --timeout inf",
        "get x --timeout 1e9",
        "add x --wait --timeout 0",
        "demo --size 0",
        "demo f --size 3",
        "demo --size 65537",
        "cat x --offset -1",
        "ls --chunks",
    ] {
        assert_eq!(refused(line).exit_code(), 2, "{line}");
    }
}

#[test]
fn nothing_typed_shows_the_help_and_is_a_usage_mistake() {
    let error = refused("");
    assert_eq!(error.kind(), ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand);
    assert_eq!(error.exit_code(), 2);
}
