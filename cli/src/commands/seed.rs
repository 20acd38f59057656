//! What `--seed` does after the work: stay and serve.

use crate::{context::Context, format};

/// Serves until Ctrl-C or `dhtfs shutdown`; if a daemon did the work there is nothing to stay for.
pub(crate) async fn stay(context: &Context) {
    let out = &context.out;
    let Some(node) = context.node() else {
        out.note("the daemon that runs here serves it");
        return;
    };
    let ready = node.ready().await;
    if ready.listen.is_empty() {
        out.warn("listening nowhere, so only peers that this node dials can fetch it");
    }
    for addr in &ready.listen {
        out.note(format!("serving on {}", format::clean(addr)));
    }
    out.note("press Ctrl-C to end");
    tokio::select! {
        () = context.interrupt.wait() => {}
        () = node.shutdown_requested() => {}
    }
}
