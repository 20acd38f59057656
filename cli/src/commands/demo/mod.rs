//! `dhtfs demo`: the whole of it on one machine, in a minute.

mod content;
mod daemons;
mod fetch;
mod paint;
mod report;
mod story;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use dhtfs_node::api::types::{
    AddRequest, Added, Event, GetReport, HashProgress, LookupReport, Provider, ProvidersRequest,
    Source as Peer,
};
use futures::future::{join_all, try_join_all};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use self::{
    content::Source,
    daemons::Daemon,
    fetch::{Fetch, is_half, victim},
    report::{Killed, Report, Served, Step},
    story::Story,
};
use crate::{
    args::DemoArgs,
    context::Context,
    error::{CliError, Result},
    format,
    output::Output,
};

/// How many daemons run.
const DAEMONS: usize = 5;

/// Who holds the file before daemon 4 fetches it: the one that added it and two that fetched it.
const PROVIDERS: u64 = 3;

/// How long the records of all providers may take to be found.
const MAX_FINDING: Duration = Duration::from_secs(20);

/// Pause between two lookups.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How often the removal of the temporary directory is tried, and the pause between.
const MAX_REMOVALS: u32 = 20;
const REMOVE_AGAIN: Duration = Duration::from_millis(50);

pub(crate) async fn run(context: &Context, args: &DemoArgs) -> Result<()> {
    let source = Source::resolve(args)?;
    let temp = std::env::temp_dir();
    source.check_room(&temp)?;
    let dir = tempfile::Builder::new().prefix("dhtfs-demo-").tempdir_in(&temp).map_err(|error| {
        CliError::failed(format!("cannot make a directory in {}: {error}; set TMPDIR", temp.display()))
    })?;
    let mut demo = Demo {
        story: Story::new(&context.out),
        source,
        dir: dir.path().to_owned(),
        daemons: Vec::new(),
        report: Report::default(),
    };
    let played = context.interrupt.guard(demo.play()).await;
    if let Err(error) = &played
        && !error.is_interrupted()
    {
        demo.show_logs();
    }
    daemons::end_all(demo.daemons).await;
    remove(dir, &context.out).await;
    match played {
        Ok(()) => Ok(()),
        Err(error) if error.is_interrupted() => {
            Err(CliError::interrupted("interrupted; everything is cleaned up"))
        }
        Err(CliError::Api(error)) => Err(CliError::failed(format!("the demo failed: {error}"))),
        Err(error) => Err(error),
    }
}

/// Removes what the demo made. A daemon that was killed while it wrote may be in the way for an instant.
async fn remove(dir: TempDir, out: &Output) {
    let path = dir.keep();
    let mut tries = 0;
    while let Err(error) = std::fs::remove_dir_all(&path) {
        if error.kind() == std::io::ErrorKind::NotFound {
            break;
        }
        tries += 1;
        if tries >= MAX_REMOVALS {
            out.warn(format!("cannot remove {}: {error}", path.display()));
            break;
        }
        sleep(REMOVE_AGAIN).await;
    }
}

struct Demo<'a> {
    story: Story<'a>,
    source: Source,
    dir: PathBuf,
    daemons: Vec<Daemon>,
    report: Report,
}

impl<'a> Demo<'a> {
    async fn play(&mut self) -> Result<()> {
        let story = self.story;
        story.line(&story.paint.bold("dhtfs demo: five daemons, one file, no tracker, no server"))?;
        story.line("")?;
        self.start().await?;
        self.add().await?;
        self.fetch_twice().await?;
        self.find().await?;
        self.fetch_and_kill().await?;
        self.compare().await?;
        if story.out.is_json() {
            return story.out.json(&self.report);
        }
        story.line("")?;
        self.report.table(story.paint).iter().try_for_each(|line| story.out.line(line))?;
        story.line("")?;
        story.line(&story.paint.dim("  hops: DHT nodes that answered until the first provider was known"))?;
        story.line("  Your turn: `dhtfs daemon` here, `dhtfs add FILE`, and `dhtfs get CID` elsewhere.")
    }

    async fn start(&mut self) -> Result<()> {
        let begun = self.story.begin("starting five daemons");
        self.daemons.push(Daemon::spawn(&self.dir, 1, None)?);
        let mut bootstrap = String::new();
        for first in &mut self.daemons {
            first.wait_ready().await?;
            bootstrap = first.addr()?.to_owned();
        }
        for number in 2..=DAEMONS {
            self.daemons.push(Daemon::spawn(&self.dir, number, Some(&bootstrap))?);
        }
        let others = self.daemons.iter_mut().skip(1).map(Daemon::wait_ready);
        join_all(others).await.into_iter().collect::<Result<()>>()?;
        self.story.done(begun, "five daemons run; all they were told is the address of the first")?;
        Ok(())
    }

    async fn add(&mut self) -> Result<()> {
        let begun = self.story.begin("preparing the file");
        let (source, dir) = (self.source.clone(), self.dir.clone());
        let (path, digest) = blocking(move || source.prepare(&dir)).await?;
        drop(begun);
        let begun = self.story.begin("daemon 1 adds the file");
        let request = AddRequest { path, ..AddRequest::default() };
        let node = self.daemon(1)?.connect().await?;
        let events = node.events::<HashProgress, Added>("/v0/add", &request).await?;
        let mut bar = self.story.out.hash_bar_for("    #1 ", "reading", "the file");
        let added = events.finish(|progress| bar.update(&progress)).await?;
        drop(bar);
        let name = format::shorten(&format::clean(&added.name), 24);
        let (len, chunks) = (format::bytes(added.len), format::count(added.chunks, "chunk"));
        self.story.done(begun, &format!("daemon 1 adds {name}: {len}, {chunks}"))?;
        self.story.detail(&self.story.paint.marked(&added.cid))?;
        self.report.steps.push(Step {
            what: "#1 adds".to_owned(),
            seconds: added.seconds,
            len: added.len,
            hops: None,
            served: Vec::new(),
        });
        self.report.sha256 = digest;
        (self.report.cid, self.report.name, self.report.len) = (added.cid, added.name, added.len);
        Ok(())
    }

    async fn fetch_twice(&mut self) -> Result<()> {
        let begun = self.story.begin("daemons 2 and 3 fetch it");
        let fetches = [2, 3].map(|number| self.fetch(number));
        let reports = try_join_all(fetches).await?;
        self.story.done(begun, "daemons 2 and 3 find it in the DHT and fetch it at the same time")?;
        for (number, report) in [2, 3].into_iter().zip(&reports) {
            let step = self.step(format!("#{number} fetches"), report);
            self.report.steps.push(step);
        }
        Ok(())
    }

    /// Asks from the daemon that has nothing, until everybody who has the file is found.
    async fn find(&mut self) -> Result<()> {
        let begun = self.story.begin("daemon 5 asks the DHT who provides it");
        let deadline = Instant::now() + MAX_FINDING;
        let (mut providers, lookup) = loop {
            let (providers, lookup) = self.lookup(5).await?;
            if lookup.found >= PROVIDERS || Instant::now() >= deadline {
                break (providers, lookup);
            }
            sleep(LOOK_AGAIN).await;
        };
        if providers.is_empty() {
            return Err(CliError::failed("daemon 5 found no provider record"));
        }
        self.report.providers = lookup.found;
        let found = format::count(lookup.found, "provider record");
        self.story.done(begun, &format!("daemon 5, which has nothing, finds {found} in the DHT"))?;
        providers.sort_by_key(|provider| self.number_of(&provider.peer));
        for provider in &providers {
            let who = self
                .number_of(&provider.peer)
                .map_or_else(|| "unknown".to_owned(), |n| format!("daemon {n}"));
            let addr = provider.addrs.first().map_or("", String::as_str);
            let addr = addr.split_once("/p2p/").map_or(addr, |(addr, _)| addr);
            let peer = format::shorten(&format::clean(&provider.peer), 24);
            self.story.detail(&self.story.paint.dim(&format!("{who}  {peer}  {}", format::clean(addr))))?;
        }
        Ok(())
    }

    async fn lookup(&self, number: usize) -> Result<(Vec<Provider>, LookupReport)> {
        let node = self.daemon(number)?.connect().await?;
        let request = ProvidersRequest { cid: self.report.cid.clone(), ..ProvidersRequest::default() };
        let mut events = node.events::<Provider, LookupReport>("/v0/providers", &request).await?;
        let mut providers = Vec::new();
        loop {
            match events.next().await? {
                Event::Progress(provider) => providers.push(provider),
                Event::Done(lookup) => return Ok((providers, lookup)),
                Event::Error(error) => return Err(error.into()),
            }
        }
    }

    /// Fetches on daemon 4; once half of it is there, a daemon that serves is killed.
    async fn fetch_and_kill(&mut self) -> Result<()> {
        let begun = self.story.begin("daemon 4 fetches it");
        let peers: Vec<(usize, String)> =
            self.daemons.iter().map(|daemon| (daemon.number, daemon.ready.peer_id.clone())).collect();
        let fetch = self.prepare_fetch(4)?;
        let mut killed: Option<Killed> = None;
        let mut failed = None;
        let daemons = &mut self.daemons;
        let report = fetch
            .run(|bar, progress| {
                bar.update(&progress);
                if killed.is_some() || !is_half(&progress) {
                    return;
                }
                let victim = victim(&progress.sources, &peers);
                let at_percent = progress.have_len.saturating_mul(100) / progress.total_len.max(1);
                killed = Some(Killed { daemon: victim, at_percent });
                if let Some(daemon) = daemons.iter_mut().find(|daemon| daemon.number == victim) {
                    failed = daemon.kill().err();
                }
            })
            .await?;
        if let Some(error) = failed {
            return Err(error);
        }
        let served = format::count(u64::try_from(report.sources.len()).unwrap_or(u64::MAX), "provider");
        self.story.done(begun, &format!("daemon 4 fetches it from {served}"))?;
        let what = match killed {
            Some(Killed { daemon, at_percent }) => {
                let text =
                    format!("✗ daemon {daemon} was killed (SIGKILL) at {at_percent} %; the others went on");
                self.story.detail(&self.story.paint.bad(&text))?;
                format!("#4 fetches, #{daemon} dies")
            }
            None => {
                self.story.detail("it was done before a provider could be killed; try a larger --size")?;
                "#4 fetches".to_owned()
            }
        };
        let step = self.step(what, &report);
        self.report.steps.push(step);
        self.report.killed = killed;
        Ok(())
    }

    /// Compares every copy with the original, by a hash that has nothing to do with the program's own checks.
    async fn compare(&mut self) -> Result<()> {
        let begun = self.story.begin("comparing");
        let copies = [2, 3, 4].map(|number| (number, copy_path(&self.dir, number)));
        let digests = copies.map(|(number, path)| async move {
            Ok::<_, CliError>((number, blocking(move || content::sha256(&path)).await?))
        });
        for (number, digest) in try_join_all(digests).await? {
            if digest != self.report.sha256 {
                return Err(CliError::failed(format!(
                    "the file on daemon {number} differs from the original"
                )));
            }
        }
        self.story.done(begun, "the three copies have the SHA-256 of the original")?;
        self.story.detail(&self.story.paint.dim(&self.report.sha256))
    }

    async fn fetch(&self, number: usize) -> Result<GetReport> {
        self.prepare_fetch(number)?.run(|bar, progress| bar.update(&progress)).await
    }

    fn prepare_fetch(&self, number: usize) -> Result<Fetch<'a>> {
        let to = copy_path(&self.dir, number);
        Ok(Fetch::new(self.story.out, self.daemon(number)?, &self.report.cid, to))
    }

    fn step(&self, what: String, report: &GetReport) -> Step {
        let by =
            |source: &Peer| Some(Served { daemon: self.number_of(&source.peer)?, chunks: source.chunks });
        let mut served: Vec<Served> = report.sources.iter().filter_map(by).collect();
        served.sort_unstable();
        Step { what, seconds: report.seconds, len: report.received_len, hops: report.hops, served }
    }

    fn daemon(&self, number: usize) -> Result<&Daemon> {
        let found = self.daemons.iter().find(|daemon| daemon.number == number);
        found.ok_or_else(|| CliError::failed(format!("daemon {number} does not run")))
    }

    fn number_of(&self, peer: &str) -> Option<usize> {
        self.daemons.iter().find(|daemon| daemon.ready.peer_id == peer).map(|daemon| daemon.number)
    }

    /// After a failure: the ends of the logs of those that should run and do not; of all if all run.
    fn show_logs(&mut self) {
        let killed = self.report.killed.map(|killed| killed.daemon);
        let ended: Vec<usize> = self
            .daemons
            .iter_mut()
            .filter_map(|daemon| {
                (Some(daemon.number) != killed && daemon.has_ended()).then_some(daemon.number)
            })
            .collect();
        for daemon in self.daemons.iter().filter(|daemon| ended.is_empty() || ended.contains(&daemon.number))
        {
            for line in daemon.last_lines() {
                self.story.out.error_detail(&format!("daemon {}: {line}", daemon.number));
            }
        }
    }
}

/// Where daemon `number` puts what it fetches.
fn copy_path(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("fetched-by-{number}"))
}

/// Runs what blocks beside everything else.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| CliError::failed(format!("cut off: {error}")))?
}
