//! `dhtfs id`: who this node is.

use dhtfs_node::{Role, api::types::Identity};

use crate::{context::Context, error::Result};

pub(crate) async fn run(context: &Context) -> Result<()> {
    let node = context.connect(Role::Offline).await?;
    let identity: Identity = node.get("/v0/id").await?;
    if identity.addrs.is_empty() && !node.is_daemon() {
        context.out.note("it has addresses only while `dhtfs daemon` runs");
    }
    context.out.either(&identity, lines)
}

fn lines(identity: &Identity) -> Vec<String> {
    std::iter::once(&identity.peer_id).chain(&identity.addrs).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_id_comes_first_and_then_the_addresses() {
        let identity = Identity {
            peer_id: "12D3".to_owned(),
            addrs: vec!["/ip4/10.0.0.1/tcp/1/p2p/12D3".to_owned()],
            version: "0.1.0".to_owned(),
            network: "main".to_owned(),
        };
        assert_eq!(lines(&identity), ["12D3", "/ip4/10.0.0.1/tcp/1/p2p/12D3"]);
    }
}
