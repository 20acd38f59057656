//! `dhtfs providers`: who announces a CID.

use dhtfs_node::{
    Role,
    api::types::{ApiError, ErrorKind, Event, LookupReport, Provider, ProvidersRequest},
};

use crate::{
    args::ProvidersArgs,
    context::{Context, check_cid},
    error::Result,
    format,
    output::Output,
};

pub(crate) async fn run(context: &Context, args: &ProvidersArgs) -> Result<()> {
    let request = ProvidersRequest { cid: check_cid(&args.cid)?, hints: args.hints.resolve() };
    let node = context.connect(Role::Client).await?;
    let mut events = node.events::<Provider, LookupReport>("/v0/providers", &request).await?;
    let mut shown: u64 = 0;
    let report = loop {
        match events.next().await? {
            Event::Progress(provider) => {
                shown += 1;
                print(&context.out, &provider)?;
            }
            Event::Done(report) => break report,
            Event::Error(error) => return Err(error.into()),
        }
    };
    if shown == 0 {
        return Err(ApiError::new(ErrorKind::NotFound, nobody(&report)).into());
    }
    context.out.note(summary(&report));
    Ok(())
}

fn print(out: &Output, provider: &Provider) -> Result<()> {
    if out.is_json() { out.json(provider) } else { out.line(line(provider)) }
}

fn line(provider: &Provider) -> String {
    let mut words = vec![format::clean(&provider.peer)];
    words.extend(provider.addrs.iter().map(|addr| format::clean(addr)));
    if provider.this_node {
        words.push("(this node)".to_owned());
    }
    words.join(" ")
}

fn summary(report: &LookupReport) -> String {
    let hops = match report.hops {
        Some(hops) => format!(", the first after {}", format::count(hops.into(), "hop")),
        None => String::new(),
    };
    format!("{} in {}{hops}", format::count(report.found, "provider"), format::seconds(report.seconds))
}

fn nobody(report: &LookupReport) -> String {
    if report.requests == 0 {
        return "nobody could be asked; join a network first: `dhtfs daemon --bootstrap MULTIADDR`, or --bootstrap here"
            .to_owned();
    }
    let asked = format::count(report.requests.into(), "request");
    format!(
        "nobody announces it ({asked} in {}); is a daemon with it running?",
        format::seconds(report.seconds)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_is_a_line_of_its_peer_and_its_addresses() {
        let provider = Provider {
            peer: "12D3KooW".to_owned(),
            addrs: vec!["/ip4/10.0.0.1/tcp/1".to_owned(), "/ip4/10.0.0.1/udp/1/quic-v1".to_owned()],
            this_node: false,
        };
        assert_eq!(line(&provider), "12D3KooW /ip4/10.0.0.1/tcp/1 /ip4/10.0.0.1/udp/1/quic-v1");
        let own = Provider { addrs: vec![], this_node: true, ..provider };
        assert_eq!(line(&own), "12D3KooW (this node)");
    }

    #[test]
    fn the_lookup_is_summed_up() {
        let report = LookupReport { found: 3, requests: 9, hops: Some(2), seconds: 0.31 };
        assert_eq!(summary(&report), "3 providers in 0.3 s, the first after 2 hops");
        assert_eq!(
            nobody(&report),
            "nobody announces it (9 requests in 0.3 s); is a daemon with it running?"
        );
        assert!(nobody(&LookupReport::default()).contains("--bootstrap"));
    }
}
