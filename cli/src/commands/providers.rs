//! `dhtfs providers`: who announces a CID, and whether they can be reached.

use dhtfs_node::{
    Role,
    api::types::{Event, Have, LookupReport, Provider, ProviderCheck, ProviderState, ProvidersRequest},
};

use crate::{
    args::ProvidersArgs,
    context::{Context, check_cid},
    error::Result,
    format,
    output::Output,
};

/// Widths of the columns, in characters, so that lines can be printed as they come: an Ed25519 peer ID, the longest
/// state, `12345.6 ms`, some of a file of 100 GiB.
const PEER_WIDTH: usize = 52;
const STATE_WIDTH: usize = 11;
const RTT_WIDTH: usize = 10;
const HAS_WIDTH: usize = 17;

pub(crate) async fn run(context: &Context, args: &ProvidersArgs) -> Result<()> {
    let request = ProvidersRequest { cid: check_cid(&args.cid)?, check: true, hints: args.hints.resolve() };
    let node = context.connect(Role::Client).await?;
    let mut events = node.events::<Provider, LookupReport>("/v0/providers", &request).await?;
    let mut reached = 0;
    let report = loop {
        match events.next().await? {
            Event::Progress(provider) => {
                reached += u64::from(is_reached(&provider));
                print(&context.out, &provider)?;
            }
            Event::Done(report) => break report,
            Event::Error(error) => return Err(error.into()),
        }
    };
    context.out.note(summary(&report, reached));
    Ok(())
}

fn print(out: &Output, provider: &Provider) -> Result<()> {
    if out.is_json() { out.json(provider) } else { out.line(line(provider)) }
}

fn is_reached(provider: &Provider) -> bool {
    let is_reached = |state| !matches!(state, ProviderState::Unreachable | ProviderState::NotChecked);
    provider.check.as_ref().is_some_and(|check| is_reached(check.state))
}

/// Columns in the order of interest; the addresses, which may be many, come last.
fn line(provider: &Provider) -> String {
    let peer = format::clean(&provider.peer);
    let addrs: Vec<_> = provider.addrs.iter().map(|addr| format::clean(addr)).collect();
    let check = provider.check.as_ref();
    let state = match check.map(|check| check.state) {
        Some(ProviderState::ThisNode) => "this node",
        Some(ProviderState::Live) => "live",
        Some(ProviderState::Relayed) => "relayed",
        Some(ProviderState::Unreachable) => "unreachable",
        Some(ProviderState::NotChecked) => "not checked",
        None => "-",
    };
    let rtt =
        check.and_then(|check| check.rtt_ms).map_or_else(|| "-".to_owned(), |rtt| format!("{rtt:.1} ms"));
    let has = check.map_or_else(|| "-".to_owned(), has);
    let addrs = addrs.join(" ");
    let line =
        format!("{peer:<PEER_WIDTH$}  {state:<STATE_WIDTH$}  {rtt:>RTT_WIDTH$}  {has:<HAS_WIDTH$}  {addrs}");
    line.trim_end().to_owned()
}

/// How much of the content a provider has; if it does not tell, whether it has the manifest.
fn has(check: &ProviderCheck) -> String {
    match (check.have, check.manifest) {
        (Some(Have { held, of }), _) if held == of && of > 0 => "complete".to_owned(),
        (Some(Have { held, of }), _) if held > 0 => {
            format!("{} of {}", format::thousands(held), format::thousands(of))
        }
        (_, Some(true)) => "manifest".to_owned(),
        (_, Some(false)) => "no manifest".to_owned(),
        (Some(_), None) => "nothing".to_owned(),
        (None, None) => "-".to_owned(),
    }
}

fn summary(report: &LookupReport, reached: u64) -> String {
    let hops = match report.hops {
        Some(hops) => format!(", the first after {}", format::count(hops.into(), "hop")),
        None => String::new(),
    };
    format!(
        "{}, {} of them reached, in {}{hops}",
        format::count(report.found, "provider"),
        format::thousands(reached),
        format::seconds(report.seconds)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

    fn provider(
        state: ProviderState,
        rtt_ms: Option<f64>,
        manifest: Option<bool>,
        addrs: &[&str],
    ) -> Provider {
        Provider {
            peer: PEER.to_owned(),
            addrs: addrs.iter().map(|&addr| addr.to_owned()).collect(),
            this_node: state == ProviderState::ThisNode,
            check: Some(ProviderCheck { state, rtt_ms, manifest, have: None, error: None }),
        }
    }

    #[test]
    fn a_provider_is_a_line_in_columns_with_its_addresses_at_the_end() {
        let addrs = ["/ip4/10.0.0.1/tcp/1", "/ip4/10.0.0.1/udp/1/quic-v1"];
        let providers = [
            provider(ProviderState::Live, Some(12.34), Some(true), &addrs),
            provider(ProviderState::Relayed, Some(1234.5), Some(false), &addrs[..1]),
            provider(ProviderState::Unreachable, None, None, &addrs[..1]),
            provider(ProviderState::NotChecked, None, None, &[]),
            provider(ProviderState::ThisNode, None, Some(true), &[]),
        ];
        let expected = [
            format!("{PEER}  live            12.3 ms  manifest           {} {}", addrs[0], addrs[1]),
            format!("{PEER}  relayed       1234.5 ms  no manifest        {}", addrs[0]),
            format!("{PEER}  unreachable           -  -                  {}", addrs[0]),
            format!("{PEER}  not checked           -  -"),
            format!("{PEER}  this node             -  manifest"),
        ];
        assert_eq!(providers.each_ref().map(line), expected);
        assert_eq!(providers.each_ref().map(is_reached), [true, true, false, false, true]);
    }

    #[test]
    fn how_much_a_provider_has_is_said_if_it_says_so() {
        let said = |have: Option<(u64, u64)>, manifest| {
            let have = have.map(|(held, of)| Have { held, of });
            has(&ProviderCheck { state: ProviderState::Live, rtt_ms: None, manifest, have, error: None })
        };
        assert_eq!(said(Some((10, 10)), Some(true)), "complete");
        assert_eq!(said(Some((12_345, 100_000)), Some(true)), "12,345 of 100,000");
        assert_eq!(said(Some((0, 10)), Some(true)), "manifest");
        assert_eq!(said(Some((0, 10)), None), "nothing");
        assert_eq!(said(None, Some(false)), "no manifest");
        assert_eq!(said(None, None), "-");
    }

    #[test]
    fn what_a_peer_says_cannot_steer_the_terminal() {
        let hostile = Provider { peer: "12D3\u{1b}[2J".to_owned(), ..Provider::default() };
        assert!(line(&hostile).starts_with("12D3\\u{1b}[2J  "), "{}", line(&hostile));
    }

    #[test]
    fn the_lookup_is_summed_up() {
        let report = LookupReport { found: 3, requests: 9, hops: Some(2), seconds: 0.31 };
        assert_eq!(summary(&report, 2), "3 providers, 2 of them reached, in 0.3 s, the first after 2 hops");
    }
}
