//! `dhtfs daemon`: a node in the foreground.

use dhtfs_node::{Config, Role, api::types::Ready, config::RelayShare};
use tokio::io::AsyncReadExt;

use crate::{args::DaemonArgs, context::Context, error::Result};

/// Runs until a signal, a `shutdown`, or the end of standard input if that was asked for.
pub(crate) async fn run(context: &Context, args: &DaemonArgs, relay: Option<RelayShare>) -> Result<()> {
    let mut config = config(&context.config, args);
    config.relay = relay.unwrap_or(config.relay);
    let node = context.start_node(config, Role::Server).await?;
    node.serve_socket()?;
    let ready = context.interrupt.guard(async { Ok(node.ready().await) }).await?;
    context.out.either(&ready, |ready| vec![line(ready)])?;
    tokio::select! {
        () = context.interrupt.wait() => {}
        () = node.shutdown_requested() => {}
        () = stdin_ends(), if args.until_stdin_ends => {}
    }
    tracing::info!("shutting down");
    Ok(())
}

/// What was typed goes before what is written in the file.
fn config(base: &Config, args: &DaemonArgs) -> Config {
    let mut config = base.clone();
    if !args.listen.is_empty() {
        config.listen.clone_from(&args.listen);
    }
    if !args.bootstrap.is_empty() {
        config.bootstrap.clone_from(&args.bootstrap);
    }
    if let Some(network) = &args.network {
        config.network.clone_from(network);
    }
    args.limits.apply(&mut config);
    config
}

fn line(ready: &Ready) -> String {
    if ready.listen.is_empty() {
        return format!("ready: {} listening nowhere", ready.peer_id);
    }
    format!("ready: {} listening on {}", ready.peer_id, ready.listen.join(" "))
}

async fn stdin_ends() {
    let mut stdin = tokio::io::stdin();
    let mut ignored = [0; 256];
    while matches!(stdin.read(&mut ignored).await, Ok(1..)) {}
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn args(line: &str) -> DaemonArgs {
        match Cli::parse_from(line.split(' ')).command {
            Command::Daemon(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_typed_goes_before_the_configuration_file() {
        let base = Config {
            network: "file".to_owned(),
            listen: vec!["/ip4/10.0.0.1/tcp/1".parse().unwrap()],
            bootstrap: vec!["/ip4/10.0.0.2/tcp/1".parse().unwrap()],
            limit_up: "1MB/s".parse().unwrap(),
            limit_down: "2MB/s".parse().unwrap(),
            ..Config::default()
        };
        assert_eq!(config(&base, &args("dhtfs daemon")), base);
        let typed =
            args("dhtfs daemon --listen /ip4/127.0.0.1/tcp/0 --bootstrap /ip4/127.0.0.1/tcp/9 --network lab");
        let config = config(&base, &typed);
        assert_eq!(config.network, "lab");
        assert_eq!((config.listen, config.bootstrap), (typed.listen, typed.bootstrap));
        assert_eq!((config.limit_up, config.limit_down), (base.limit_up, base.limit_down));
        let limited = super::config(&base, &args("dhtfs daemon --limit-up none --limit-down 30KiB/s"));
        assert_eq!(
            (limited.limit_up.to_string(), limited.limit_down.to_string()),
            ("none".into(), "30 KiB/s".into())
        );
    }

    #[test]
    fn the_ready_line_names_the_peer_and_its_addresses() {
        let ready = Ready { peer_id: "12D3".to_owned(), listen: vec!["/a".to_owned(), "/b".to_owned()] };
        assert_eq!(line(&ready), "ready: 12D3 listening on /a /b");
        assert_eq!(line(&Ready { listen: vec![], ..ready }), "ready: 12D3 listening nowhere");
    }
}
