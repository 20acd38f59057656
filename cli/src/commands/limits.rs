//! `dhtfs limits`: how fast the daemon may send and fetch.

use dhtfs_node::{
    Role,
    api::types::{LimitsInfo, LimitsRequest},
    core::rate::Limit,
};

use crate::{
    args::LimitsArgs,
    context::Context,
    error::{CliError, Result},
};

pub(crate) async fn run(context: &Context, args: &LimitsArgs) -> Result<()> {
    let text = |limit: Option<Limit>| limit.map(|limit| limit.to_string());
    let request =
        LimitsRequest { up: text(args.up), down: text(args.down), up_per_peer: text(args.up_per_peer) };
    let limits: LimitsInfo = if request == LimitsRequest::default() {
        context.connect(Role::Offline).await?.get("/v0/limits").await?
    } else {
        let Some(daemon) = context.connect_daemon().await? else {
            return Err(CliError::failed(format!(
                "no daemon is running on {}; what is to hold for the next one goes into its configuration (limit_up, \
                 limit_down), or after `dhtfs daemon` (--limit-up, --limit-down)",
                context.data_dir.display()
            )));
        };
        let limits = daemon.post("/v0/limits", &request).await?;
        context.out.note("until the daemon ends; the configuration is as it was");
        limits
    };
    context.out.either(&limits, all_lines)
}

/// All of them.
fn all_lines(limits: &LimitsInfo) -> Vec<String> {
    let mut lines = vec![format!("up {}", limits.up), format!("down {}", limits.down)];
    lines.push(format!("up to each peer {}", limits.up_per_peer));
    lines.push(local(limits).to_owned());
    lines
}

/// Those that are set, for the status.
pub(crate) fn lines(limits: &LimitsInfo) -> Vec<String> {
    let named = [("up", limits.up), ("down", limits.down), ("up to each peer", limits.up_per_peer)];
    let set = named.into_iter().filter(|(_, limit)| limit.is_set());
    let mut lines: Vec<String> = set.map(|(name, limit)| format!("{name} {limit}")).collect();
    lines.extend(limits.lan.then(|| local(limits).to_owned()));
    lines
}

fn local(limits: &LimitsInfo) -> &'static str {
    if limits.lan { "the local network counts" } else { "the local network is free" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_limits_are_shown_and_in_the_status_those_that_are_set() {
        let limits = LimitsInfo { up: "500KiB/s".parse().unwrap_or_default(), ..LimitsInfo::default() };
        let all = ["up 500 KiB/s", "down none", "up to each peer none", "the local network is free"];
        assert_eq!(all_lines(&limits), all);
        assert_eq!(lines(&limits), ["up 500 KiB/s"]);
        let lan = LimitsInfo { lan: true, up_per_peer: limits.up, ..limits };
        let set = ["up 500 KiB/s", "up to each peer 500 KiB/s", "the local network counts"];
        assert_eq!(lines(&lan), set);
    }
}
