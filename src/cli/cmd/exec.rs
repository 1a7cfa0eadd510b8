use std::os::unix::process::CommandExt;

use crate::api::types::ExecContext;

use super::super::args::Global;
use super::super::client::Client;
use super::super::{Failure, Outcome};

/// `unisys exec`: becomes the command, on this terminal, in the unit's environment, directory and as its user.
pub fn run(global: &Global, name: &str, command: &[String]) -> Result<Outcome, Failure> {
    let context: ExecContext = Client::connect(global)?.get(&format!("/v1/exec/{name}"), &[])?;
    let mut process = std::process::Command::new(&command[0]);
    process.args(&command[1..]).env_clear().envs(context.env).current_dir(&context.dir);
    if let Some((uid, gid, _)) = context.user {
        process.uid(uid).gid(gid);
    }
    if let Ok(term) = std::env::var("TERM") {
        process.env("TERM", term);
    }
    let error = process.exec();
    Err(Failure::NotFound {
        message: format!("cannot run `{}` as {name} would: {}", command[0], crate::os::files::why(&error)),
        hint: "PATH is that of the service".into(),
    })
}
