//! Why a fetch waits, in words.

use std::time::Duration;

use tokio::sync::watch;

use super::numbers::{count, thousands};
use super::types::{
    CatProgress, HashProgress, LookupsWaited, LsProgress, MissingChunks, ProviderGroup, ProvidersWaited,
    WaitCause, Waiting, WaitingProvider,
};
use crate::core::fetch::{self, Cause, FetchProgress, Group, PeerWait};

/// What is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The blocks of a manifest.
    Manifest,
    /// One chunk by itself.
    Chunk,
    /// The chunks of a file or directory.
    Chunks,
}

impl Waiting {
    /// What the machine says, for the API. Nothing if it is the reader who is slow: he would hear of it only when he reads
    /// again.
    pub(super) fn of(waiting: &fetch::Waiting, wanted: Wanted) -> Option<Self> {
        let groups: Vec<ProviderGroup> = groups(waiting).collect();
        Some(Self {
            cause: cause(waiting.cause)?,
            line: line(waiting, wanted),
            idle_secs: waiting.idle.as_secs_f64(),
            fails_in_secs: waiting.fails_in.map(|time| time.as_secs_f64()),
            providers: ProvidersWaited { known: number(waiting.known()), groups },
            chunks: MissingChunks {
                missing: number(waiting.missing),
                received: number(waiting.received),
                without_provider: number(waiting.without_provider),
                at_least: waiting.at_least,
            },
            lookups: LookupsWaited {
                running: number(waiting.lookups),
                next_in_secs: waiting.next_lookup_in.map(|time| time.as_secs_f64()),
            },
            unreached_hints: number(waiting.unreached_hints),
        })
    }
}

/// Progress that says why nothing comes.
pub(super) trait Explained: Send + Sync + 'static {
    /// Where it says so.
    fn waiting(&mut self) -> &mut Option<Waiting>;
}

impl Explained for CatProgress {
    fn waiting(&mut self) -> &mut Option<Waiting> {
        &mut self.waiting
    }
}

impl Explained for HashProgress {
    fn waiting(&mut self) -> &mut Option<Waiting> {
        &mut self.waiting
    }
}

impl Explained for LsProgress {
    fn waiting(&mut self) -> &mut Option<Waiting> {
        &mut self.waiting
    }
}

/// Tells why nothing comes whenever that changes.
pub(super) fn report_to<P: Explained>(
    progress: watch::Sender<P>,
    wanted: Wanted,
) -> impl Fn(&FetchProgress, Option<&fetch::Waiting>) + Send + Sync + 'static {
    move |_, waiting| {
        let waiting = waiting.and_then(|waiting| Waiting::of(waiting, wanted));
        progress.send_if_modified(|progress| {
            let is_new = *progress.waiting() != waiting;
            *progress.waiting() = waiting;
            is_new
        });
    }
}

fn cause(cause: Cause) -> Option<WaitCause> {
    Some(match cause {
        Cause::Disk => WaitCause::Disk,
        Cause::Limit => WaitCause::Limit,
        Cause::Reader => return None,
        Cause::NoProvider => WaitCause::NoProvider,
        Cause::Answers => WaitCause::Answers,
        Cause::Connections => WaitCause::Connections,
        Cause::Busy => WaitCause::Busy,
        Cause::Silence => WaitCause::Silence,
        Cause::Ready => WaitCause::Ready,
        Cause::Missing => WaitCause::Missing,
        Cause::Unreachable => WaitCause::Unreachable,
        Cause::WrongData => WaitCause::WrongData,
    })
}

fn state(wait: PeerWait) -> WaitingProvider {
    match wait {
        PeerWait::Asked => WaitingProvider::Asked,
        PeerWait::Ready => WaitingProvider::Ready,
        PeerWait::Connecting => WaitingProvider::Connecting,
        PeerWait::Found => WaitingProvider::Found,
        PeerWait::Busy => WaitingProvider::Busy,
        PeerWait::Silent => WaitingProvider::Silent,
        PeerWait::Lacking => WaitingProvider::Lacking,
        PeerWait::Unreachable => WaitingProvider::Unreachable,
        PeerWait::WrongData => WaitingProvider::WrongData,
    }
}

/// Each state in which there is a provider.
fn present(waiting: &fetch::Waiting) -> impl Iterator<Item = (PeerWait, Group)> + '_ {
    PeerWait::ALL.into_iter().map(|wait| (wait, waiting.group(wait))).filter(|(_, group)| group.peers > 0)
}

fn groups(waiting: &fetch::Waiting) -> impl Iterator<Item = ProviderGroup> + '_ {
    present(waiting).map(|(wait, group)| ProviderGroup {
        state: state(wait),
        providers: number(group.peers),
        again_in_secs: group.again_in.map(|time| time.as_secs_f64()),
        queue: group.queue,
    })
}

/// The reason in one line, for somebody who waits.
fn line(waiting: &fetch::Waiting, wanted: Wanted) -> String {
    if waiting.cause == Cause::Disk {
        return format!("{} to be written to the disk", blocks(waiting.received, wanted));
    }
    if waiting.cause == Cause::Limit {
        return "the download limit of this node, which `dhtfs limits` shows".to_owned();
    }
    let mut parts = vec![providers(waiting, true)];
    parts.extend(unreached_hints(waiting));
    parts.extend(without_provider(waiting, wanted));
    if waiting.lookups > 0 {
        parts.push("looking for providers".to_owned());
    } else if let Some(next) = waiting.next_lookup_in {
        parts.push(format!("next lookup in {}", whole_seconds(next)));
    }
    parts.join("; ")
}

/// The reason as the end of the line about a fetch that has failed, in brackets; empty if nothing is known.
pub(super) fn verdict(waiting: &fetch::Waiting, wanted: Wanted) -> String {
    let mut parts = Vec::new();
    parts.extend((waiting.known() > 0).then(|| providers(waiting, false)));
    parts.extend(unreached_hints(waiting));
    parts.extend(without_provider(waiting, wanted));
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join("; ")) }
}

/// Which of the peers that the user named never answered.
fn unreached_hints(waiting: &fetch::Waiting) -> Option<String> {
    match (waiting.unreached_hints, waiting.hints) {
        (0, _) => None,
        (1, 1) => Some("the given peer does not answer".to_owned()),
        (unreached, given) if unreached == given => Some(format!("none of the {given} given peers answers")),
        (1, given) => Some(format!("1 of {given} given peers does not answer")),
        (unreached, given) => Some(format!("{unreached} of {given} given peers do not answer")),
    }
}

fn providers(waiting: &fetch::Waiting, with_times: bool) -> String {
    let known = waiting.known();
    let groups: Vec<(PeerWait, Group)> = present(waiting).collect();
    let said = |wait: PeerWait, group: Group| {
        let again = group.again_in.filter(|_| with_times);
        let again = again.map(|time| format!("again in {}", whole_seconds(time)));
        let queue = group.queue.filter(|queue| with_times && *queue > 0);
        let queue = queue.map(|queue| format!("queue {}", thousands(queue.into())));
        let more: Vec<String> = queue.into_iter().chain(again).collect();
        if more.is_empty() {
            words(wait).to_owned()
        } else {
            format!("{} ({})", words(wait), more.join(", "))
        }
    };
    match (known, groups.as_slice()) {
        (0, _) => "no provider found".to_owned(),
        (1, [(wait, group)]) => format!("1 provider: {}", said(*wait, *group)),
        (_, [(wait, group)]) => {
            format!("{} providers: all {}", thousands(number(known)), said(*wait, *group))
        }
        (_, groups) => {
            let each: Vec<String> = groups
                .iter()
                .map(|(wait, group)| format!("{} {}", thousands(number(group.peers)), said(*wait, *group)))
                .collect();
            format!("{} providers: {}", thousands(number(known)), each.join(", "))
        }
    }
}

fn words(wait: PeerWait) -> &'static str {
    match wait {
        PeerWait::Asked => "yet to answer",
        PeerWait::Ready => "connected",
        PeerWait::Connecting => "connecting",
        PeerWait::Found => "not dialled yet",
        PeerWait::Busy => "busy",
        PeerWait::Silent => "not answering",
        PeerWait::Lacking => "without what is missing",
        PeerWait::Unreachable => "unreachable",
        PeerWait::WrongData => "with wrong data",
    }
}

/// How much nobody has who answers, if anybody is known at all.
fn without_provider(waiting: &fetch::Waiting, wanted: Wanted) -> Option<String> {
    let (without, missing) = (waiting.without_provider, waiting.missing);
    if waiting.known() == 0 || without == 0 {
        return None;
    }
    if missing == 1 {
        let what = if wanted == Wanted::Manifest { "manifest" } else { "chunk" };
        return Some(format!("the {what} has no live provider"));
    }
    if without == missing {
        return Some(format!("none of {} has a live provider", blocks(missing, wanted)));
    }
    let at_least = if waiting.at_least { "at least " } else { "" };
    let of = blocks(missing, wanted);
    let have = if without == 1 { "has" } else { "have" };
    Some(format!("{at_least}{} of {of} {have} no live provider", thousands(number(without))))
}

fn blocks(blocks: usize, wanted: Wanted) -> String {
    count(number(blocks), if wanted == Wanted::Manifest { "manifest block" } else { "chunk" })
}

/// Whole seconds, never none.
fn whole_seconds(time: Duration) -> String {
    let secs = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    format!("{} s", secs.max(1))
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each letter is a provider: `a`sked, `r`eady, `c`onnecting, `f`ound, `b`usy, `s`ilent, `l`acking, `u`nreachable,
    /// `w`rong data. The first of a state is tried again after 3.2 s where that means something.
    fn waiting(providers: &str, without_provider: usize, missing: usize) -> fetch::Waiting {
        let group = |wait: PeerWait| {
            let letter = "arcfbsluw".chars().nth(wait as usize);
            let peers = providers.chars().filter(|other| Some(*other) == letter).count();
            let again = matches!(wait, PeerWait::Busy | PeerWait::Unreachable);
            let again_in = (again && peers > 0).then_some(Duration::from_millis(3_200));
            let queue = (wait == PeerWait::Busy && peers > 0).then_some(4);
            Group { peers, again_in, queue }
        };
        fetch::Waiting {
            cause: if providers.is_empty() { Cause::NoProvider } else { Cause::Unreachable },
            idle: Duration::from_secs(4),
            fails_in: Some(Duration::from_secs(26)),
            groups: PeerWait::ALL.map(group),
            missing,
            received: 0,
            without_provider,
            at_least: false,
            lookups: 0,
            next_lookup_in: Some(Duration::from_millis(7_100)),
            hints: 0,
            unreached_hints: 0,
        }
    }

    #[test]
    fn the_line_says_what_is_the_matter_with_whom() {
        let line = |providers, without, missing| line(&waiting(providers, without, missing), Wanted::Chunks);
        assert_eq!(
            line("uub", 12, 4_096),
            "3 providers: 1 busy (queue 4, again in 4 s), 2 unreachable (again in 4 s); 12 of 4,096 chunks have no live \
             provider; next lookup in 8 s"
        );
        assert_eq!(
            line("u", 1, 1),
            "1 provider: unreachable (again in 4 s); the chunk has no live provider; next lookup in 8 s"
        );
        assert_eq!(
            line("ss", 1, 3),
            "2 providers: all not answering; 1 of 3 chunks has no live provider; next lookup in 8 s"
        );
        assert_eq!(
            line("aalw", 0, 3),
            "4 providers: 2 yet to answer, 1 without what is missing, 1 with wrong data; next lookup in 8 s"
        );
        assert_eq!(line("", 3, 3), "no provider found; next lookup in 8 s");
        assert_eq!(
            line("rcf", 0, 3),
            "3 providers: 1 connected, 1 connecting, 1 not dialled yet; next lookup in 8 s"
        );
    }

    #[test]
    fn what_is_not_known_exactly_is_said_to_be_so() {
        let most = fetch::Waiting { at_least: true, lookups: 2, ..waiting("l", 4_095, 10_000) };
        assert_eq!(
            line(&most, Wanted::Chunks),
            "1 provider: without what is missing; at least 4,095 of 10,000 chunks have no live provider; looking for \
             providers"
        );
    }

    #[test]
    fn what_is_slow_here_is_not_blamed_on_others() {
        let slow = |cause| fetch::Waiting { cause, received: 40, ..waiting("aa", 0, 99) };
        assert_eq!(line(&slow(Cause::Disk), Wanted::Chunks), "40 chunks to be written to the disk");
        assert_eq!(
            line(&slow(Cause::Limit), Wanted::Chunks),
            "the download limit of this node, which `dhtfs limits` shows"
        );
        assert_eq!(
            Waiting::of(&slow(Cause::Reader), Wanted::Chunks),
            None,
            "who reads knows that he does not"
        );
    }

    #[test]
    fn progress_changes_with_its_reason_and_with_nothing_else() {
        let (progress, mut seen) = watch::channel(HashProgress { done_len: 7, ..HashProgress::default() });
        let report = report_to(progress, Wanted::Manifest);
        let mut told = |waiting: Option<&fetch::Waiting>| {
            report(&FetchProgress::default(), waiting);
            let is_new = seen.has_changed().unwrap_or_default();
            let now = seen.borrow_and_update();
            assert_eq!(now.done_len, 7);
            (is_new, now.waiting.as_ref().map(|waiting| waiting.cause))
        };
        let gone = waiting("u", 1, 1);
        assert_eq!(told(None), (false, None));
        assert_eq!(told(Some(&gone)), (true, Some(WaitCause::Unreachable)));
        assert_eq!(told(Some(&gone)), (false, Some(WaitCause::Unreachable)));
        let reader = fetch::Waiting { cause: Cause::Reader, ..gone };
        assert_eq!(told(Some(&reader)), (true, None));
    }

    #[test]
    fn peers_that_the_user_named_and_that_never_answered_are_told_apart() {
        let of = |hints, unreached_hints, providers| fetch::Waiting {
            hints,
            unreached_hints,
            ..waiting(providers, 0, 3)
        };
        let line = |hints, unreached, providers| line(&of(hints, unreached, providers), Wanted::Chunks);
        assert_eq!(line(1, 1, ""), "no provider found; the given peer does not answer; next lookup in 8 s");
        let some = "1 provider: yet to answer; 2 of 3 given peers do not answer; next lookup in 8 s";
        assert_eq!(line(3, 2, "a"), some);
        assert!(line(2, 2, "").contains("; none of the 2 given peers answers; "));
        assert!(line(3, 1, "a").contains("; 1 of 3 given peers does not answer; "));
        assert_eq!(line(3, 0, "a"), "1 provider: yet to answer; next lookup in 8 s");
        let verdict = |hints, unreached, providers| verdict(&of(hints, unreached, providers), Wanted::Chunks);
        assert_eq!(verdict(1, 1, ""), " (the given peer does not answer)");
        assert_eq!(verdict(2, 1, "u"), " (1 provider: unreachable; 1 of 2 given peers does not answer)");
        let tree = Waiting::of(&of(3, 2, "a"), Wanted::Chunks).unwrap_or_default();
        assert_eq!((tree.unreached_hints, tree.providers.known), (2, 1));
    }

    #[test]
    fn what_a_newer_node_says_is_understood_but_for_what_is_new() {
        let mut json =
            serde_json::to_value(Waiting::of(&waiting("b", 0, 3), Wanted::Chunks)).unwrap_or_default();
        json["cause"] = "weather".into();
        json["providers"]["groups"][0]["state"] = "asleep".into();
        let tree: Waiting = serde_json::from_value(json).unwrap_or_default();
        assert_eq!((tree.cause, tree.providers.known), (WaitCause::Other, 1));
        assert_eq!(tree.providers.groups.first().map(|group| group.state), Some(WaitingProvider::Other));
    }

    /// The JSON in the documentation is an answer that could be given.
    #[test]
    fn the_documented_example_adds_up() {
        let docs = include_str!("../../../docs/api.md");
        let example = docs.split("```json\n").nth(1).and_then(|rest| rest.split("```").next());
        let tree: Waiting = serde_json::from_str(example.unwrap_or_default()).unwrap_or_default();
        let sum: u64 = tree.providers.groups.iter().map(|group| group.providers).sum();
        assert_eq!((tree.providers.known, sum, tree.cause), (3, 3, WaitCause::Busy));
        let group = |wait: PeerWait| {
            let group = tree.providers.groups.iter().find(|group| group.state == state(wait));
            group.map_or_else(Group::default, |group| Group {
                peers: usize::try_from(group.providers).unwrap_or_default(),
                again_in: group.again_in_secs.map(Duration::from_secs_f64),
                queue: group.queue,
            })
        };
        let count = |number: u64| usize::try_from(number).unwrap_or_default();
        let told = fetch::Waiting {
            cause: Cause::Busy,
            idle: Duration::from_secs_f64(tree.idle_secs),
            fails_in: tree.fails_in_secs.map(Duration::from_secs_f64),
            groups: PeerWait::ALL.map(group),
            missing: count(tree.chunks.missing),
            received: count(tree.chunks.received),
            without_provider: count(tree.chunks.without_provider),
            at_least: tree.chunks.at_least,
            lookups: count(tree.lookups.running),
            next_lookup_in: tree.lookups.next_in_secs.map(Duration::from_secs_f64),
            hints: 0,
            unreached_hints: 0,
        };
        assert_eq!(Waiting::of(&told, Wanted::Chunks), Some(tree), "the line and the numbers are the same");
    }

    #[test]
    fn a_failure_ends_with_the_reason_and_no_plans() {
        let chunks = |providers, without| verdict(&waiting(providers, without, 10), Wanted::Chunks);
        assert_eq!(
            chunks("uub", 10),
            " (3 providers: 1 busy, 2 unreachable; none of 10 chunks has a live provider)"
        );
        assert_eq!(chunks("", 10), "");
        let manifest = verdict(&waiting("u", 1, 1), Wanted::Manifest);
        assert_eq!(manifest, " (1 provider: unreachable; the manifest has no live provider)");
    }

    #[test]
    fn the_tree_has_the_same_numbers() {
        let tree = Waiting::of(&waiting("uubw", 12, 4_096), Wanted::Chunks).unwrap_or_default();
        assert_eq!(tree.providers.known, 4);
        let groups: Vec<_> =
            tree.providers.groups.iter().map(|group| (group.state, group.providers)).collect();
        let expected =
            [(WaitingProvider::Busy, 1), (WaitingProvider::Unreachable, 2), (WaitingProvider::WrongData, 1)];
        assert_eq!(groups, expected);
        assert_eq!((tree.chunks.missing, tree.chunks.without_provider), (4_096, 12));
        let json = serde_json::to_value(&tree).unwrap_or_default();
        assert_eq!(json["cause"], "unreachable");
        assert_eq!(json["providers"]["groups"][0]["state"], "busy");
        assert_eq!(json["lookups"]["next_in_secs"], 7.1);
        assert_eq!(serde_json::from_value::<Waiting>(json).ok(), Some(tree));
    }
}
