//! The commands, one small file each. Each resolves its own arguments, calls the node, and prints.

mod add;
mod cat;
mod daemon;
mod demo;
mod findable;
mod gc;
mod get;
mod id;
mod limits;
mod ls;
mod net;
mod peers;
mod providers;
mod rm;
mod seed;
mod shutdown;
mod sim;
mod status;
mod transfers;
mod verify;

use dhtfs_node::config::RelayShare;

use crate::{args::Command, context::Context, error::Result};

/// Runs one command to its end. Commands that have something to say or to clean up when they are interrupted do so
/// themselves; the others are dropped.
pub(crate) async fn run(context: &Context, command: Command) -> Result<()> {
    let guard = &context.interrupt;
    match command {
        Command::Add(args) => add::run(context, &args).await,
        Command::Get(args) => get::run(context, &args).await,
        Command::Cat(args) => guard.guard(cat::run(context, &args)).await,
        Command::Ls(args) => guard.guard(ls::run(context, &args)).await,
        Command::Rm(args) => guard.guard(rm::run(context, &args)).await,
        Command::Verify(args) => guard.guard(verify::run(context, &args)).await,
        Command::Providers(args) => guard.guard(providers::run(context, &args)).await,
        Command::Status(args) => guard.guard(status::run(context, &args)).await,
        Command::Peers(_) => guard.guard(peers::run(context)).await,
        Command::Net(_) => guard.guard(net::run(context)).await,
        Command::Limits(args) => guard.guard(limits::run(context, &args)).await,
        Command::Id(_) => guard.guard(id::run(context)).await,
        Command::Daemon(args) => daemon::run(context, &args, None).await,
        Command::Relay(args) => daemon::run(context, &args.daemon, Some(RelayShare::Much)).await,
        Command::Transfers(args) => guard.guard(transfers::run(context, &args)).await,
        Command::Pause(args) => guard.guard(transfers::steer(context, "pause", "paused", &args.steer)).await,
        Command::Resume(args) => {
            guard.guard(transfers::steer(context, "resume", "resumed", &args.steer)).await
        }
        Command::Abort(args) => guard.guard(transfers::steer(context, "abort", "aborted", &args.steer)).await,
        Command::Refresh(args) => {
            guard.guard(transfers::steer(context, "refresh", "looking anew for", &args.steer)).await
        }
        Command::Shutdown(_) => guard.guard(shutdown::run(context)).await,
        Command::Gc(_) => guard.guard(gc::run(context)).await,
        Command::Demo(args) => demo::run(context, &args).await,
        Command::Sim(args) => sim::run(&args),
    }
}
