//! The arguments, from which help and completions come as well.

mod told;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use told::{Crashes, Errors, ErrorsLs, Events, Logs, Of};

/// Keeps the programs of a system running on a machine.
#[derive(Debug, Parser)]
#[command(name = "unisys", version, about, propagate_version = true, disable_help_subcommand = true)]
#[command(
    after_help = "Exit codes: 0 done · 1 the answer is no · 2 wrong usage · 3 no daemon · 4 not found · 5 conflict or forbidden · 6 rolled back · 70 a bug in unisys"
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Clone, Debug, Args)]
pub struct Global {
    /// The daemon's socket. Without it: .unified-system/ here and upwards, then /run/unisys/unisys.sock
    #[arg(long, global = true, env = "UNISYS_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// The state directory; default .unified-system/ here
    #[arg(long, global = true, env = "UNISYS_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// How to print
    #[arg(short, long, global = true, value_enum)]
    pub output: Option<Format>,
    /// Say nothing but what was asked for
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Wide,
    Json,
    Yaml,
    Name,
    Text,
    Sarif,
    Github,
    Dot,
    Mermaid,
    Svg,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Start the system and keep it running: keeper and daemon in the foreground
    Up(Up),
    /// Stop everything in reverse order, then the daemon and keeper
    Down(Down),
    /// Accept manifests and converge to them
    Apply(Apply),
    /// Show what differs from what is accepted, field by field
    Diff(Diff),
    /// Show what `apply` would do, or without -f what is still to be done
    Plan(Plan),
    /// Take objects away that `apply` made
    Delete(Delete),
    /// Check manifests; needs no daemon and executes nothing
    Validate(Validate),
    /// Print the JSON Schema of manifests
    Schema(Schema),
    /// Explain a field (service.spec.restart) or a code (E1203)
    Explain {
        /// A field's path or a code
        what: String,
    },
    /// Show objects
    Get(Get),
    /// Show all that is known of one object
    Describe(Object),
    /// Tell why a unit is as it is, back to the root
    Why(Object),
    /// Show the environment of units, each value with where it comes from; secrets masked
    Config(Config),
    /// Show what happened
    Events(Events),
    /// Show recorded changes, or one with its actions
    Changes {
        /// A change's number
        id: Option<u64>,
    },
    /// Show what went wrong, counted
    Errors {
        #[command(subcommand)]
        verb: Option<Errors>,
    },
    /// Show crash dumps
    Crashes {
        #[command(subcommand)]
        verb: Option<Crashes>,
    },
    /// Show what units wrote
    Logs(Logs),
    /// Start units, or let stopped ones run again; a disabled one runs until the next `up`. Waits for them, 60s at most
    Start(Names),
    /// Stop units until they are started again
    Stop(Names),
    /// Replace running instances. Waits for them, 60s at most
    Restart(Names),
    /// Let units be started again
    Enable(Names),
    /// Stop units and do not start them at `up`
    Disable(Names),
    /// Change the number of instances: api=3
    Scale {
        /// NAME=N
        #[arg(required = true, value_name = "NAME=N")]
        targets: Vec<String>,
    },
    /// Let running programs read their files again
    Reload(Names),
    /// Look at rollouts and have a say in them
    #[command(subcommand)]
    Rollout(Rollout),
    /// Circuit breakers
    #[command(subcommand)]
    Circuit(Circuit),
    /// Wait until units are as wanted
    Wait(Wait),
    /// Run a command in a unit's environment, directory and as its user
    Exec {
        #[command(flatten)]
        name: Object,
        /// The command and its arguments
        #[arg(required = true, last = true, value_name = "CMD")]
        command: Vec<String>,
    },
    /// Show the dependency graph
    Graph,
    /// Check what this machine offers
    Doctor,
    /// Become the binary on disk; services are not touched
    Upgrade,
    /// Prometheus text of the daemon
    Metrics,
    /// Completions for a shell
    Completions {
        /// bash, zsh, fish, elvish, powershell
        shell: clap_complete::Shell,
    },
    #[command(hide = true)]
    Daemon(Daemon),
    #[command(hide = true)]
    Keeper(KeeperArgs),
}

#[derive(Clone, Debug, Args)]
pub struct Up {
    /// Manifests: a directory or file; default ./manifests, else ./unisys.yaml
    #[arg(short, long = "file", value_name = "PATH")]
    pub files: Vec<PathBuf>,
    /// Patches over the manifests, in order
    #[arg(long, value_name = "PATH")]
    pub overlay: Vec<PathBuf>,
    /// Profile of Configs
    #[arg(long)]
    pub profile: Option<String>,
    /// Name of the set; default the directory's
    #[arg(long)]
    pub set: Option<String>,
    /// Without the overlays, profile and set of the last `up`, which one that names none of them has as well
    #[arg(long)]
    pub plain: bool,
    /// Read the manifests at start, SIGHUP and apply only
    #[arg(long)]
    pub no_watch: bool,
    /// Return once it runs
    #[arg(short, long)]
    pub detach: bool,
    /// With --detach: return once everything is Ready, or after TIME with exit code 1 [--wait alone: 60s]
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "60s")]
    pub wait: Option<String>,
    /// Only these units (NAME, KIND/NAME or KIND NAME …) and what they need; the others rest until `unisys start`
    pub units: Vec<String>,
}

#[derive(Clone, Debug, Args)]
pub struct Apply {
    #[command(flatten)]
    pub files: Files,
    /// What is not in the files is deleted from the set
    #[arg(long)]
    pub prune: bool,
    /// Show what would be done and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Return once what was handed in, and what else changed, is Ready; exit code 6 when it was rolled back, 1 when it is not Ready
    /// after TIME (it is accepted all the same) [--wait alone: 60s]
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "60s")]
    pub wait: Option<String>,
    /// Try again what was rolled back though its manifest has not changed
    #[arg(long)]
    pub force: bool,
    /// Take over objects that belong to other sets; what those declare of them counts for nothing from then on
    #[arg(long)]
    pub force_conflicts: bool,
    /// Refuse unless the accepted revision is this one
    #[arg(long, value_name = "R")]
    pub if_revision: Option<u64>,
}

#[derive(Clone, Debug, Args)]
pub struct Files {
    /// Manifests: a directory, a file, or - for standard input
    #[arg(short, long = "file", value_name = "PATH", required = true)]
    pub file: PathBuf,
    /// Patches over the manifests, in order; without it those that `up` was given
    #[arg(long, value_name = "PATH")]
    pub overlay: Vec<PathBuf>,
    /// Name of the set. `plan` and `diff` take files from elsewhere than where it is read from as its content
    #[arg(long)]
    pub set: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub struct Diff {
    #[command(flatten)]
    pub files: Files,
    /// As `apply --force-conflicts` would have it: objects of other sets are taken over
    #[arg(long)]
    pub force_conflicts: bool,
}

#[derive(Clone, Debug, Args)]
pub struct Plan {
    /// Manifests; without it: what is still to be done
    #[arg(short, long = "file", value_name = "PATH")]
    pub file: Option<PathBuf>,
    /// Patches over the manifests, in order; without it those that `up` was given
    #[arg(long, value_name = "PATH", requires = "file")]
    pub overlay: Vec<PathBuf>,
    /// Name of the set; of one that is read from elsewhere, these files are taken as its content
    #[arg(long)]
    pub set: Option<String>,
    /// Before `up`: what `up --plain` would do, without the overlays, profile and set of the last one
    #[arg(long, requires = "file")]
    pub plain: bool,
    /// As `apply --force-conflicts` would have it: objects of other sets are taken over
    #[arg(long, requires = "file")]
    pub force_conflicts: bool,
}

#[derive(Clone, Debug, Args)]
pub struct Config {
    /// The NAME of a unit, KIND/NAME or KIND NAME; without it: all
    #[arg(num_args = 0..=2, value_name = "UNIT")]
    pub words: Vec<String>,
    /// One variable: its whole value, where it comes from, and what it hides
    #[arg(long, value_name = "KEY")]
    pub explain: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub struct Delete {
    /// NAME, KIND/NAME or KIND NAME
    #[arg(required_unless_present = "file")]
    pub objects: Vec<String>,
    /// Everything that these manifests declare
    #[arg(short, long = "file", value_name = "PATH")]
    pub file: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub struct Validate {
    /// Directories or files, or - for standard input
    #[arg(required_unless_present = "file")]
    pub paths: Vec<PathBuf>,
    /// The same, written as with `apply` and `plan`
    #[arg(short, long, value_name = "PATH", hide = true)]
    pub file: Vec<PathBuf>,
    /// Patches over the manifests, in order
    #[arg(long, value_name = "PATH")]
    pub overlay: Vec<PathBuf>,
    /// Also check what only this machine has: files that have to be there, values from the environment, as a daemon reads them;
    /// executables, users, ports. Without it, env files are checked where they are there
    #[arg(long)]
    pub machine: bool,
}

#[derive(Clone, Debug, Args)]
pub struct Schema {
    /// A kind; without it: any
    pub kind: Option<String>,
    /// Write all schemas into this directory
    #[arg(long)]
    pub dir: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub struct Get {
    /// A kind (services, jobs, configs, externals, sets, system …), KIND/NAME, or the name of something
    pub kind: Option<String>,
    /// A name
    pub name: Option<String>,
    /// Only with these labels: tier=backend,track!=canary; `tier in (a,b)`, `tier notin (a)`, `tier`, `!tier`
    #[arg(short = 'l', long)]
    pub label: Option<String>,
    /// Show again whenever something changes
    #[arg(short, long)]
    pub watch: bool,
}

#[derive(Clone, Debug, Args)]
pub struct Object {
    /// The NAME of a unit, KIND/NAME or KIND NAME
    #[arg(required = true, num_args = 1..=2, value_name = "OBJECT")]
    words: Vec<String>,
}

impl Object {
    /// `KIND/NAME`, or a name alone.
    pub fn text(&self) -> String {
        self.words.join("/")
    }
}

#[derive(Clone, Debug, Args)]
pub struct Names {
    /// Units
    #[arg(required = true)]
    pub names: Vec<String>,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Rollout {
    /// How far a rollout is, or how it ended: exit code 6 when it was rolled back, 1 when it failed or what it brought is not
    /// Ready
    Status {
        #[command(flatten)]
        name: Object,
    },
    /// The rollouts of a unit: revision, cause, files, duration, outcome
    History {
        #[command(flatten)]
        name: Object,
    },
    /// Go back to the version before, or to that of a kept revision
    Undo {
        #[command(flatten)]
        name: Object,
        /// The revision to go back to
        #[arg(long, value_name = "N")]
        to_revision: Option<u64>,
    },
    /// Take no further step
    Pause {
        #[command(flatten)]
        name: Object,
    },
    /// Go on
    Resume {
        #[command(flatten)]
        name: Object,
    },
    /// The canaries are well: the rest follows
    Promote {
        #[command(flatten)]
        name: Object,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub enum Circuit {
    /// Close a circuit and start the unit again
    Reset(Names),
}

#[derive(Clone, Debug, Args)]
pub struct Wait {
    /// condition=Ready, delete, lifecycle=Done. A condition counts once no instance is to be replaced any more;
    /// condition=Progressing=False waits for the rollout's end, minReady and all
    #[arg(long = "for", value_name = "WHAT")]
    pub what: String,
    /// Units; without any: all that are to run
    pub names: Vec<String>,
    /// How long; exit code 1 when it is not so by then
    #[arg(long, value_name = "TIME", default_value = "60s")]
    pub timeout: String,
}

#[derive(Clone, Debug, Args)]
pub struct Down {
    /// Everything has to have stopped within this time: what is left shortly before goes together, and is killed then. Without it:
    /// as `stopDeadline` of the System says, else as long as it takes
    #[arg(long, value_name = "TIME")]
    pub timeout: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub struct Daemon {
    #[arg(long)]
    pub options: String,
    #[arg(long)]
    pub keeper_fd: i32,
}

#[derive(Clone, Debug, Args)]
pub struct KeeperArgs {
    #[arg(long)]
    pub options: String,
    /// Descriptors that an earlier image of this process kept: list, lock
    #[arg(long)]
    pub resume: Option<String>,
    /// Started by a daemon whose keeper, of this pid, was killed
    #[arg(long)]
    pub heir_of: Option<u32>,
    /// With it: a list of the descriptors over which programs tell
    #[arg(long)]
    pub notify: Option<i32>,
}

impl Cli {
    /// `plan` and `diff` say by 1 that there is something to do.
    pub fn compares(&self) -> bool {
        matches!(self.verb, Verb::Plan(_) | Verb::Diff(_))
    }
}
