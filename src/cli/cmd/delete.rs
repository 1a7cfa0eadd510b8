use serde_json::json;

use crate::api::types::Done;
use crate::manifest::tree;

use super::super::args::{Delete, Global};
use super::super::client::Client;
use super::super::{Failure, Outcome};
use super::submit;

/// `unisys delete`: takes away what `apply` made.
pub fn run(global: &Global, args: &Delete) -> Result<Outcome, Failure> {
    let mut objects = args.objects.clone();
    if let Some(path) = &args.file {
        for file in submit::read(path, None)?.files {
            let documents = tree::parse_to_values(&file.text).map_err(|why| {
                Failure::usage(format!("{}: {why}", file.path.display()), "`unisys validate` says more")
            })?;
            for document in documents {
                let kind = document["kind"].as_str().unwrap_or_default().to_lowercase();
                objects.push(format!("{kind}/{}", document["metadata"]["name"].as_str().unwrap_or_default()));
            }
        }
    }
    let done: Done = Client::connect(global)?.post("/v1/delete", &json!({"objects": objects}))?;
    if !global.quiet {
        println!("{}: deleted {}", done.message, objects.join(", "));
    }
    Ok(Outcome::Done)
}
