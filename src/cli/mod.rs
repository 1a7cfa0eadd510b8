//! The command line: arguments → one file a verb → calls of the control API → text.

mod args;
mod attach;
mod client;
mod cmd;
mod elsewhere;
mod home;
mod keeper;
mod kept;
mod moment;
mod pasted;
mod progress;
pub mod render;
mod resources;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::os::voice::{self, complain};

pub use args::Cli;

/// How a verb ended, as its exit code (cli.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// The answer is no: differences found, invalid, not Ready in time.
    No,
    /// What was applied was rolled back.
    RolledBack,
    /// 130: a second Ctrl-C killed everything; or the code of a command that was run.
    Code(u8),
}

/// Why a verb could not do what it is for.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{message}")]
    Usage { message: String, hint: String },
    #[error("{message}")]
    NoDaemon { message: String, hint: String },
    #[error("{message}")]
    NotFound { message: String, hint: String },
    #[error("{message}")]
    Conflict { message: String, hint: String },
    /// The manifests were refused; the diagnostics say why.
    #[error("{message}")]
    Invalid {
        message: String,
        diagnostics: Vec<crate::manifest::Diagnostic>,
        /// What was sent, for excerpts of it; the rest is read from the disk.
        sent: Vec<crate::store::StoredFile>,
        /// All of it is that other sets own what was sent.
        conflict: bool,
    },
    #[error("{message}")]
    Other { message: String, hint: String },
}

impl Failure {
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: hint.into() }
    }

    pub fn other(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Other { message: message.into(), hint: hint.into() }
    }

    fn code(&self) -> u8 {
        match self {
            Self::Usage { .. } => 2,
            Self::NoDaemon { .. } => 3,
            Self::NotFound { .. } => 4,
            Self::Conflict { .. } => 5,
            Self::Invalid { conflict: true, .. } => 5,
            Self::Invalid { .. } | Self::Other { .. } => 1,
        }
    }

    fn hint(&self) -> &str {
        match self {
            Self::Usage { hint, .. }
            | Self::NoDaemon { hint, .. }
            | Self::NotFound { hint, .. }
            | Self::Conflict { hint, .. }
            | Self::Other { hint, .. } => hint,
            Self::Invalid { .. } => "",
        }
    }
}

/// A line on stderr. Nobody may read it, or nothing may take it: that changes nothing.
macro_rules! aside {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($words)*);
    }};
}
pub(crate) use aside;

/// Runs the program.
pub fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        complain!(
            "unisys: a bug in unisys: {panic}\n\
             hint: please report it, with what you did, at the project's issue tracker; services are not touched"
        );
        voice::finish();
    }));
    let result = std::panic::catch_unwind(|| {
        let cli = match <Cli as clap::Parser>::try_parse() {
            Ok(cli) => cli,
            Err(error) => return unparsed(&error),
        };
        let compares = cli.compares();
        let output = cli.global.output;
        match cmd::run(cli) {
            Ok(Outcome::Done) => 0,
            Ok(Outcome::No) => 1,
            Ok(Outcome::RolledBack) => 6,
            Ok(Outcome::Code(code)) => code,
            Err(failure) => {
                if let Failure::Invalid { diagnostics, sent, .. } = &failure {
                    let value = serde_json::json!({
                        "accepted": false, "valid": false, "message": failure.to_string(), "diagnostics": diagnostics,
                    });
                    if !matches!(render::structured(output, &value), Ok(true)) {
                        render::diagnostics(diagnostics, sent);
                    }
                }
                aside!("unisys: {failure}");
                if !failure.hint().is_empty() {
                    aside!("hint: {}", pasted::pastable(failure.hint()));
                }
                // `plan` and `diff`: 1 says that there is something to do, an error is above it.
                if compares { failure.code().max(2) } else { failure.code() }
            }
        }
    });
    voice::finish();
    ExitCode::from(result.unwrap_or(70))
}

/// Prints help or what is wrong with the arguments, and gives the exit code.
fn unparsed(error: &clap::Error) -> u8 {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    let meant = match error.get(ContextKind::InvalidSubcommand) {
        // Not of one that stands below another: `errors show`.
        Some(ContextValue::String(verb))
            if error.kind() == ErrorKind::InvalidSubcommand
                && error
                    .get(ContextKind::Usage)
                    .is_some_and(|usage| usage.to_string().contains("unisys [")) =>
        {
            elsewhere::meant(verb).map(|hint| (verb, hint))
        }
        _ => None,
    };
    match meant {
        Some((verb, hint)) => {
            aside!("unisys: there is no verb `{verb}`");
            aside!("hint: {hint}");
        }
        // Nobody may read it.
        None => drop(error.print()),
    }
    error.exit_code() as u8
}

/// The binary that is running, as a path that stays right when another is put in its place.
pub fn own_program() -> PathBuf {
    let path = std::env::current_exe().unwrap_or_else(|_| "unisys".into());
    // After the file was replaced the kernel says `… (deleted)`; the new one is at the old name.
    match path.to_str().and_then(|text| text.strip_suffix(" (deleted)")) {
        Some(path) => path.into(),
        None => path,
    }
}
