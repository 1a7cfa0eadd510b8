//! What has been told: events, logs, errors, crashes.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Clone, Debug, Args)]
pub struct Events {
    /// Go on as things happen
    #[arg(short, long)]
    pub watch: bool,
    /// Only events of the last 5m, or since 2026-01-01T00:00:00Z
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only events of before that; as --since
    #[arg(long, value_name = "TIME", conflicts_with = "watch")]
    pub until: Option<String>,
    /// The last so many events
    #[arg(short = 'n', long)]
    pub tail: Option<usize>,
    #[command(flatten)]
    pub of: Of,
}

/// What is asked about, or everything.
#[derive(Clone, Debug, Default, Args)]
pub struct Of {
    /// Only of this unit or object: NAME, KIND/NAME or KIND NAME
    #[arg(num_args = 0..=2, value_name = "NAME")]
    words: Vec<String>,
}

impl Of {
    /// `KIND/NAME`, or a name alone.
    pub fn name(&self) -> Option<String> {
        (!self.words.is_empty()).then(|| self.words.join("/"))
    }
}

#[derive(Clone, Debug, Args)]
pub struct Logs {
    /// Units, or one of several instances: web.1
    #[arg(required = true)]
    pub names: Vec<String>,
    /// Only of the instance of this ordinal
    #[arg(long, value_name = "N")]
    pub instance: Option<u32>,
    /// Go on as lines are written
    #[arg(short, long)]
    pub follow: bool,
    /// Only lines of the last 5m, or since 2026-01-01T00:00:00Z
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// The last so many lines [default: 100; with --since or --grep all that there are]
    #[arg(short = 'n', long)]
    pub tail: Option<usize>,
    /// Each line with the time at which it was written
    #[arg(short, long)]
    pub timestamps: bool,
    /// Only lines of this level and above: not carried out yet
    #[arg(long, value_name = "LEVEL", hide = true)]
    pub level: Option<String>,
    /// Only lines that match
    #[arg(long, value_name = "REGEX")]
    pub grep: Option<String>,
    /// Of the instance before the present one
    #[arg(long)]
    pub previous: bool,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Errors {
    /// List error records, latest first
    #[command(alias = "list")]
    Ls(ErrorsLs),
    /// Count them by category, severity and unit
    Stats,
}

#[derive(Clone, Debug, Default, Args)]
pub struct ErrorsLs {
    #[command(flatten)]
    pub of: Of,
    /// Only of this category: crash, oom, timeout, dependency, network, database, api …
    #[arg(long)]
    pub category: Option<String>,
    /// Only of this severity: warning, recoverable, fatal
    #[arg(long)]
    pub severity: Option<String>,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Crashes {
    /// List crash dumps, latest first
    #[command(alias = "list")]
    Ls {
        #[command(flatten)]
        of: Of,
    },
    /// Show all that is known of one crash
    Show {
        /// As `crashes ls` shows it
        id: String,
    },
    /// Pack one into a tar archive or copy it into a directory
    Export {
        /// As `crashes ls` shows it
        id: String,
        /// A file that does not exist yet, or a directory; default ID.tar here
        to: Option<PathBuf>,
    },
}
