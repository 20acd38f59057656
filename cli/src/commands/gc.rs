//! `dhtfs gc`: free what no share needs.

use dhtfs_node::{Role, api::types::GcInfo};

use crate::{context::Context, error::Result, format};

pub(crate) async fn run(context: &Context) -> Result<()> {
    let node = context.connect(Role::Offline).await?;
    let freed: GcInfo = node.post("/v0/gc", &serde_json::json!({})).await?;
    context.out.either(&freed, |freed| vec![sentence(freed)])
}

fn sentence(freed: &GcInfo) -> String {
    let copies = if freed.copies == 1 {
        "1 copy".to_owned()
    } else {
        format!("{} copies", format::thousands(freed.copies))
    };
    let manifests = format::count(freed.manifests, "manifest block");
    format!("freed {}: {manifests}, {copies}", format::bytes(freed.freed_len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tells_what_was_freed() {
        assert_eq!(sentence(&GcInfo::default()), "freed 0 B: 0 manifest blocks, 0 copies");
        let freed = GcInfo { manifests: 1, copies: 1, freed_len: 1 << 20 };
        assert_eq!(sentence(&freed), "freed 1.0 MiB: 1 manifest block, 1 copy");
    }
}
