use std::path::Path;

use crate::api::types::ExecContext;
use crate::os::command::{Own, become_it};
use crate::os::sandbox::Prepared;

use super::super::args::Global;
use super::super::client::{Client, encoded};
use super::super::{Failure, Outcome};

/// `unisys exec`: becomes the command, on this terminal, in the unit's environment, directory and sandbox, and as its user.
pub fn run(global: &Global, name: &str, command: &[String]) -> Result<Outcome, Failure> {
    let context: ExecContext = Client::connect(global)?.get(&format!("/v1/exec/{}", encoded(name)), &[])?;
    let mut process = std::process::Command::new(&command[0]);
    process.args(&command[1..]).env_clear().envs(context.env);
    if let Ok(term) = std::env::var("TERM") {
        process.env("TERM", term);
    }
    let prepare = |sandbox| Prepared::new(sandbox, Path::new(&context.run), &context.instance);
    let sandbox = context.sandbox.as_ref().map(prepare);
    let error = match sandbox.transpose() {
        Ok(sandbox) => {
            let own = Own {
                dir: context.dir,
                user: context.user,
                umask: context.umask,
                no_new_privileges: context.no_new_privileges,
                sandbox,
            };
            become_it(process, own)
        }
        Err(error) => error,
    };
    Err(Failure::NotFound {
        message: format!("cannot run `{}` as {name} would: {}", command[0], crate::os::files::why(&error)),
        hint: "PATH is that of the service".into(),
    })
}
