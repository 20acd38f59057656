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
    let records = match removed.withdrawn {
        0 => String::new(),
        records => format!(", {} withdrawn", format::count(records, "provider record")),
    };
    format!("no longer sharing {name}{records}; your files are untouched")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_that_the_files_stay() {
        let removed = Removed { cid: "bafy".to_owned(), name: "n".to_owned(), withdrawn: 12 };
        assert_eq!(
            sentence(&removed),
            "no longer sharing n, 12 provider records withdrawn; your files are untouched"
        );
        let offline = Removed { withdrawn: 0, ..removed };
        assert_eq!(sentence(&offline), "no longer sharing n; your files are untouched");
    }
}
