//! Nodes of one local network find each other with nothing configured. Each machine is a network namespace, joined to others by
//! a cable and to nothing else: not one packet leaves it. Needs root; without, says SKIPPED.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(clippy::disallowed_methods, reason = "other processes are watched from outside, on the real clock")]

mod common;

use std::{
    ffi::OsString,
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use common::{CHUNK_LEN, Daemon, LONG, Output, PATIENCE, Process, Scratch, args, noise, wait_until};

/// How soon a new address has to be announced.
const ANNOUNCED_WITHIN: Duration = Duration::from_secs(3);

/// How soon a neighbour's file has to be there. A second on a quiet machine; and far below what a question in vain costs.
const SOON: Duration = Duration::from_secs(10);

/// A machine of its own, as far as the network is concerned, while this lives.
struct Machine(Process);

impl Machine {
    /// `None` if the system allows none.
    fn new() -> Option<Self> {
        // `cat` does nothing until its standard input ends, and that is with this test.
        let mut holder =
            Process::try_spawn(Command::new("unshare").args(["-n", "cat"]).stdin(Stdio::piped())).ok()?;
        let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/net"));
        let pid = holder.pid().to_string();
        let is_apart = wait_until("a network namespace is made or refused", PATIENCE, || {
            let is_apart = of(&pid).is_ok_and(|of_it| of("self").is_ok_and(|ours| ours != of_it));
            (is_apart || !holder.is_running()).then_some(is_apart)
        });
        let machine = Self(holder);
        (is_apart && machine.ip(&["link", "set", "lo", "up"])).then_some(machine)
    }

    /// Machines that are numbered from 0; or says that the test is skipped.
    fn some<const N: usize>() -> Option<[Self; N]> {
        let machines: Vec<Self> = (0..N).map_while(|_| Self::new()).collect();
        let machines = machines.try_into().ok();
        if machines.is_none() {
            eprintln!("SKIPPED: no network namespace can be made here");
        }
        machines
    }

    fn pid(&self) -> String {
        self.0.pid().to_string()
    }

    /// A command on this machine.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.pid(), "--", program]).stdin(Stdio::null());
        command
    }

    /// Changes the network; false if that is refused.
    fn ip(&self, args: &[&str]) -> bool {
        let output = Process::spawn(self.command("ip").args(args)).wait(PATIENCE);
        output.code == Some(0)
    }

    /// Connects the interface `name` of this machine with `other_name` of another one.
    fn connect(&self, name: &str, other: &Self, other_name: &str) {
        let peer = ["peer", "name", other_name, "netns", &other.pid()];
        assert!(self.ip(&[&["link", "add", name, "type", "veth"][..], &peer].concat()));
    }

    /// Gives an interface an IPv4 address and no other.
    fn set_v4(&self, name: &str, addr: &str) {
        assert!(self.ip(&["link", "set", name, "addrgenmode", "none"]));
        assert!(self.ip(&["addr", "add", addr, "dev", name]));
        assert!(self.ip(&["link", "set", name, "up"]));
    }

    /// The program on a data directory on this machine, with nothing of the user's environment.
    fn dhtfs(&self, dir: &Path) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_dhtfs"));
        for name in ["DHTFS_DATA_DIR", "DHTFS_LOG", "DHTFS_NO_MDNS"] {
            command.env_remove(name);
        }
        command.env("XDG_DATA_HOME", dir.join("never-used")).arg("--data-dir").arg(dir);
        command
    }

    fn daemon(&self, dir: &Path, args: Vec<OsString>) -> Daemon {
        Daemon::start_as(self.dhtfs(dir), dir, args)
    }

    /// Runs the program to its end.
    fn run(&self, dir: &Path, args: Vec<OsString>) -> Output {
        Process::spawn(self.dhtfs(dir).args(args)).wait(LONG)
    }

    /// How many listen to mDNS over IPv4, on all interfaces together.
    fn listening_v4(&self) -> usize {
        let groups = fs::read_to_string(format!("/proc/{}/net/igmp", self.pid())).unwrap();
        let members = groups.lines().filter(|line| line.contains("FB0000E0"));
        members.map(|line| line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()).sum()
    }

    /// Interfaces on which somebody listens to mDNS over IPv6.
    fn listening_v6(&self) -> usize {
        let groups = fs::read_to_string(format!("/proc/{}/net/igmp6", self.pid())).unwrap();
        groups.lines().filter(|line| line.contains("ff0200000000000000000000000000fb")).count()
    }
}

fn counter(daemon: &Daemon, name: &str) -> u64 {
    daemon.status().counters[name]
}

#[test]
fn neighbours_find_each_other_with_nothing_configured() {
    let Some([one, other]) = Machine::some() else { return };
    one.connect("lan0", &other, "lan0");
    one.set_v4("lan0", "10.77.0.1/24");
    other.set_v4("lan0", "10.77.0.2/24");
    let scratch = Scratch::new();
    let content = noise(7, 5 * CHUNK_LEN + 3);
    let file = scratch.file("source", &content);
    let begun = Instant::now();
    let (a, b) = (one.daemon(&scratch.dir("a"), vec![]), other.daemon(&scratch.dir("b"), vec![]));
    let cid = a.add(&file).cid;
    b.get(&cid, &scratch.path("out-b"));
    let taken = begun.elapsed();
    println!("a neighbour's file was there {taken:?} after both had been started");
    assert!(taken < SOON, "{taken:?}");
    assert!(fs::read(scratch.path("out-b")).unwrap() == content);
    assert_eq!((one.listening_v4(), one.listening_v6()), (1, 0));

    // A node that is not announced looks for others all the same.
    let client = scratch.dir("c");
    other.run(&client, args!["get", cid, "-o", scratch.path("out-c")]).ok();
    assert!(fs::read(scratch.path("out-c")).unwrap() == content);
    let none = other
        .run(&scratch.dir("d"), args!["--no-mdns", "get", cid, "-o", scratch.path("x"), "--timeout", "1"]);
    assert_eq!(none.code, Some(3), "{none:?}");
    let config = scratch.file("other.toml", "network = \"other\"\n");
    let foreign = args!["--config", config, "get", cid, "-o", scratch.path("x"), "--timeout", "1"];
    assert_eq!(other.run(&scratch.dir("e"), foreign).code, Some(3));
    let peers = b.run(args!["peers"]).ok().stdout;
    assert!(String::from_utf8_lossy(&peers).contains("/ip4/10.77.0.1/"), "{peers:?}");
    for name in
        ["lan_malformed", "lan_far", "lan_dropped", "lan_refused", "lan_dials_foreign", "lan_not_sent"]
    {
        assert_eq!(counter(&b, name), 0, "{name}");
    }
    assert_eq!(b.status().connected, 1, "one connection is enough");
    a.end();
    b.end();
    assert_eq!(one.listening_v4(), 0);
}

#[test]
fn a_node_of_one_machine_says_nothing_to_others() {
    let Some([one, other]) = Machine::some() else { return };
    one.connect("lan0", &other, "lan0");
    one.set_v4("lan0", "10.77.0.1/24");
    other.set_v4("lan0", "10.77.0.2/24");
    let scratch = Scratch::new();
    let alone = one.daemon(&scratch.dir("alone"), args!["--listen", "/ip4/127.0.0.1/tcp/0"]);
    let off = one.daemon(&scratch.dir("off"), args!["--no-mdns"]);
    let config = scratch.file("off.toml", "mdns = false\n");
    let by_file = one.daemon(&scratch.dir("by-file"), args!["--config", config]);
    assert!(!off.status().counters.contains_key("lan_sent"));
    assert_eq!((one.listening_v4(), one.listening_v6()), (0, 0));
    let on = one.daemon(&scratch.dir("on"), vec![]);
    wait_until("it is announced", PATIENCE, || (counter(&on, "lan_sent") > 0).then_some(()));
    // The others, which were started before, would have been seen by now.
    assert_eq!(one.listening_v4(), 1);
    assert_eq!(counter(&alone, "lan_sent"), 0);
    for daemon in [alone, off, by_file, on] {
        daemon.end();
    }
}

#[test]
fn neighbours_without_any_ipv4_address_find_each_other() {
    let Some([one, other]) = Machine::some() else { return };
    one.connect("lan0", &other, "lan0");
    for machine in [&one, &other] {
        assert!(machine.ip(&["link", "set", "lan0", "up"]));
    }
    for machine in [&one, &other] {
        wait_until("its address is its own", PATIENCE, || {
            let mut show = machine.command("ip");
            let output = Process::spawn(show.args(["-6", "addr", "show", "dev", "lan0"])).wait(PATIENCE);
            let shown = String::from_utf8_lossy(&output.stdout).into_owned();
            (shown.contains("fe80:") && !shown.contains("tentative")).then_some(())
        });
    }
    let scratch = Scratch::new();
    let content = noise(8, 2 * CHUNK_LEN + 3);
    let begun = Instant::now();
    let (a, b) = (one.daemon(&scratch.dir("a"), vec![]), other.daemon(&scratch.dir("b"), vec![]));
    let cid = a.add(&scratch.file("source", &content)).cid;
    b.get(&cid, &scratch.path("out-b"));
    let taken = begun.elapsed();
    println!("a neighbour's file was there {taken:?} after both had been started");
    assert!(taken < SOON, "{taken:?}");
    assert!(fs::read(scratch.path("out-b")).unwrap() == content);
    assert_eq!((one.listening_v4(), one.listening_v6()), (0, 1));
    // Only one of them has dialled the other; both can ask.
    let back = noise(9, CHUNK_LEN);
    let cid = b.add(&scratch.file("back", &back)).cid;
    a.get(&cid, &scratch.path("out-a"));
    assert!(fs::read(scratch.path("out-a")).unwrap() == back);
    let client = other.run(&scratch.dir("c"), args!["get", cid, "-o", scratch.path("out-c")]);
    client.ok();
    a.end();
    b.end();
}

#[test]
fn a_new_address_is_announced_soon() {
    let Some([one, other]) = Machine::some() else { return };
    one.connect("lan0", &other, "lan0");
    one.set_v4("lan0", "10.77.0.1/24");
    other.set_v4("lan0", "10.77.0.2/24");
    let scratch = Scratch::new();
    let (a, b) = (one.daemon(&scratch.dir("a"), vec![]), other.daemon(&scratch.dir("b"), vec![]));
    wait_until("they have met", PATIENCE, || (b.status().connected == 1).then_some(()));
    wait_until("it was heard of", PATIENCE, || (counter(&b, "lan_known") == 1).then_some(()));
    assert!(one.ip(&["addr", "del", "10.77.0.1/24", "dev", "lan0"]));
    assert!(one.ip(&["addr", "add", "10.77.0.9/24", "dev", "lan0"]));
    wait_until("it is heard of anew", ANNOUNCED_WITHIN, || (counter(&b, "lan_known") == 2).then_some(()));
    assert!(a.process().stderr_so_far().contains("10.77.0.9"), "{}", a.process().stderr_so_far());
    a.end();
    b.end();
}

#[test]
fn a_node_in_two_networks_knows_the_neighbours_of_both() {
    let Some([middle, left, right]) = Machine::some() else { return };
    middle.connect("lan0", &left, "lan0");
    middle.connect("lan1", &right, "lan0");
    middle.set_v4("lan0", "10.77.0.1/24");
    middle.set_v4("lan1", "192.168.7.1/24");
    left.set_v4("lan0", "10.77.0.2/24");
    right.set_v4("lan0", "192.168.7.2/24");
    let scratch = Scratch::new();
    let daemons = [(&middle, "middle"), (&left, "left"), (&right, "right")]
        .map(|(machine, name)| machine.daemon(&scratch.dir(name), vec![]));
    wait_until("it listens to both", PATIENCE, || (middle.listening_v4() == 2).then_some(()));
    for (daemon, peers) in daemons.iter().zip([2, 1, 1]) {
        wait_until("all neighbours are connected", PATIENCE, || {
            (daemon.status().connected >= peers).then_some(())
        });
    }
    let [middle, ..] = &daemons;
    let shown = String::from_utf8(middle.run(args!["peers"]).ok().stdout).unwrap();
    assert!(shown.contains("/ip4/10.77.0.2/") && shown.contains("/ip4/192.168.7.2/"), "{shown}");
    for daemon in daemons {
        daemon.end();
    }
}
