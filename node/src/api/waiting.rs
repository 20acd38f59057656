//! Why a fetch waits, in words.

use std::time::Duration;

use super::types::{
    LookupsWaited, MissingChunks, ProviderGroup, ProvidersWaited, WaitCause, Waiting, WaitingProvider,
};
use crate::core::fetch::{self, Cause, PeerWait};

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
    /// What the machine says, for the API.
    pub(super) fn of(waiting: &fetch::Waiting, wanted: Wanted) -> Self {
        let groups: Vec<ProviderGroup> = groups(waiting).collect();
        Self {
            cause: cause(waiting.cause),
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
        }
    }
}

fn cause(cause: Cause) -> WaitCause {
    match cause {
        Cause::Disk => WaitCause::Disk,
        Cause::Reader => WaitCause::Reader,
        Cause::NoProvider => WaitCause::NoProvider,
        Cause::Answers => WaitCause::Answers,
        Cause::Connections => WaitCause::Connections,
        Cause::Busy => WaitCause::Busy,
        Cause::Silence => WaitCause::Silence,
        Cause::Missing => WaitCause::Missing,
        Cause::Unreachable => WaitCause::Unreachable,
        Cause::WrongData => WaitCause::WrongData,
    }
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

fn groups(waiting: &fetch::Waiting) -> impl Iterator<Item = ProviderGroup> + '_ {
    let group = |wait: PeerWait| {
        let group = waiting.group(wait);
        let again_in_secs = group.again_in.map(|time| time.as_secs_f64());
        ProviderGroup { state: state(wait), providers: number(group.peers), again_in_secs }
    };
    PeerWait::ALL.into_iter().map(group).filter(|group| group.providers > 0)
}

/// The reason in one line, for somebody who waits.
fn line(waiting: &fetch::Waiting, wanted: Wanted) -> String {
    match waiting.cause {
        Cause::Disk => {
            return format!("{} to be written to the disk", blocks(waiting.received, wanted));
        }
        Cause::Reader => return "the next chunk is here, the reader does not take it".to_owned(),
        _ => {}
    }
    let mut parts = vec![providers(waiting, true)];
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
    if waiting.known() == 0 {
        return String::new();
    }
    let mut parts = vec![providers(waiting, false)];
    parts.extend(without_provider(waiting, wanted));
    format!(" ({})", parts.join("; "))
}

fn providers(waiting: &fetch::Waiting, with_times: bool) -> String {
    let known = waiting.known();
    let groups: Vec<ProviderGroup> = groups(waiting).collect();
    let said = |group: &ProviderGroup| {
        let again = group
            .again_in_secs
            .filter(|_| with_times)
            .and_then(|secs| Duration::try_from_secs_f64(secs).ok());
        let again = again.map_or_else(String::new, |time| format!(" (again in {})", whole_seconds(time)));
        format!("{}{again}", words(group.state))
    };
    match (known, groups.as_slice()) {
        (0, _) => "no provider found".to_owned(),
        (1, [group]) => format!("1 provider: {}", said(group)),
        (_, [group]) => format!("{} providers: all {}", thousands(known), said(group)),
        (_, groups) => {
            let each: Vec<String> =
                groups.iter().map(|group| format!("{} {}", group.providers, said(group))).collect();
            format!("{} providers: {}", thousands(known), each.join(", "))
        }
    }
}

fn words(state: WaitingProvider) -> &'static str {
    match state {
        WaitingProvider::Asked => "yet to answer",
        WaitingProvider::Ready => "connected",
        WaitingProvider::Connecting => "connecting",
        WaitingProvider::Found => "not dialled yet",
        WaitingProvider::Busy => "busy",
        WaitingProvider::Silent => "not answering",
        WaitingProvider::Lacking => "without what is missing",
        WaitingProvider::Unreachable => "unreachable",
        WaitingProvider::WrongData => "with wrong data",
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
    Some(format!("{at_least}{} of {of} {have} no live provider", thousands(without)))
}

fn blocks(number: usize, wanted: Wanted) -> String {
    let noun = if wanted == Wanted::Manifest { "manifest block" } else { "chunk" };
    format!("{} {noun}{}", thousands(number), if number == 1 { "" } else { "s" })
}

/// Whole seconds, never none.
fn whole_seconds(time: Duration) -> String {
    let secs = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    format!("{} s", secs.max(1))
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// A whole number with separators: `4,096`.
fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::fetch::Group;

    /// Each letter is a provider: `a`sked, `r`eady, `c`onnecting, `f`ound, `b`usy, `s`ilent, `l`acking, `u`nreachable,
    /// `w`rong data. The first of a state is tried again after 3.2 s where that means something.
    fn waiting(providers: &str, without_provider: usize, missing: usize) -> fetch::Waiting {
        let group = |wait: PeerWait| {
            let letter = "arcfbsluw".chars().nth(wait as usize);
            let peers = providers.chars().filter(|other| Some(*other) == letter).count();
            let again = matches!(wait, PeerWait::Busy | PeerWait::Unreachable);
            let again_in = (again && peers > 0).then_some(Duration::from_millis(3_200));
            Group { peers, again_in }
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
        }
    }

    #[test]
    fn the_line_says_what_is_the_matter_with_whom() {
        let line = |providers, without, missing| line(&waiting(providers, without, missing), Wanted::Chunks);
        assert_eq!(
            line("uub", 12, 4_096),
            "3 providers: 1 busy (again in 4 s), 2 unreachable (again in 4 s); 12 of 4,096 chunks have no live \
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
        assert!(line(&slow(Cause::Reader), Wanted::Chunks).contains("reader"));
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
        let tree = Waiting::of(&waiting("uubw", 12, 4_096), Wanted::Chunks);
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
