//! `dhtfs rm`: stop sharing something.

use dhtfs_node::{
    Role,
    api::types::{Removed, RmRequest},
};

use crate::{
    args::RmArgs,
    context::{Context, check_cid},
    error::Result,
    format,
};

pub(crate) async fn run(context: &Context, args: &RmArgs) -> Result<()> {
    let request = RmRequest { cid: check_cid(&args.cid)? };
    let node = context.connect(Role::Offline).await?;
    let removed: Removed = node.post("/v0/rm", &request).await?;
    if context.out.is_json() {
        return context.out.json(&removed);
    }
    context.out.note(sentence(&removed));
    Ok(())
}

fn sentence(removed: &Removed) -> String {
    let name = format::clean(&removed.name);
    let records = match (removed.withdrawn, removed.left) {
        (0, 0) => String::new(),
        (0, left) => format!(
            "; no daemon runs here to tell others, who may name this node for {} up to 24 h longer",
            format::count(left, "key")
        ),
        (keys, _) => format!(", and telling others for {}", format::count(keys, "key")),
    };
    format!("no longer sharing {name}{records}; your files are untouched")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_that_the_files_stay() {
        let removed = Removed { cid: "bafy".to_owned(), name: "n".to_owned(), withdrawn: 12, left: 0 };
        assert_eq!(
            sentence(&removed),
            "no longer sharing n, and telling others for 12 keys; your files are untouched"
        );
        let offline = Removed { withdrawn: 0, left: 12, ..removed.clone() };
        assert_eq!(
            sentence(&offline),
            "no longer sharing n; no daemon runs here to tell others, who may name this node for 12 keys up to 24 h \
             longer; your files are untouched"
        );
        let never = Removed { withdrawn: 0, left: 0, ..removed };
        assert_eq!(sentence(&never), "no longer sharing n; your files are untouched");
    }
}
