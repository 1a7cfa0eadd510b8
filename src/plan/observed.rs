//! What the plan sees of the units there are.

use crate::base::{Name, ObjectRef, Seat};
use crate::unit::{Circuit, Dependency, Lifecycle, UpdatePolicy};

use super::Drift;
use super::launch::Clash;

/// What is wanted of a unit once overrides and switches are applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    Up {
        replicas: u32,
    },
    /// Declared but not to run: why, as a sentence's end ("`unisys stop`", "BOT_ENABLED is false").
    Down {
        why: String,
    },
    /// In no manifest any more, or everything goes down.
    Gone {
        why: String,
    },
}

/// What dependents and dependencies look at in a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facets {
    pub object: ObjectRef,
    pub started: bool,
    pub ready: bool,
    pub completed: bool,
    /// A version of it has, be it an earlier one: enough for what ran on that ground already.
    pub completed_once: bool,
    /// Nothing of it is alive.
    pub gone: bool,
    /// It is not to run, or cannot: an optional dependent does not wait for it.
    pub hopeless: Option<String>,
    /// It is to run, and has failed or let its time to become ready go by: an optional dependent has waited long enough.
    pub unwell: bool,
    /// Its circuit, or one that it depends on over any number of edges, keeps it from starting: whose.
    pub circuit: Option<ObjectRef>,
    /// It is about to be replaced: dependents that are to be replaced as well let it go first.
    pub replacing: bool,
    /// It is wanted.
    pub wanted: bool,
}

/// One seat.
#[derive(Clone, Debug)]
pub struct ObservedSlot<'a> {
    pub seat: Seat,
    pub state: &'a Lifecycle,
    /// Ready at present.
    pub ready: bool,
    /// Ready for `minReady`.
    pub available: bool,
    /// Why an instance of the wanted version cannot run beside this one, if so: what both would claim.
    pub clash: Option<Clash>,
    /// It ended by itself during a rollout: it is started again as it was.
    pub former: bool,
    /// What it was told to reload by has not been answered yet.
    pub reloading: bool,
    /// How the spec that it was started with differs from the desired one.
    pub drift: &'a Drift,
    /// Someone asked for a restart, or a dependency with `restart: true` was replaced: the reason.
    pub restart: Option<&'a str>,
    /// A Failed or Done slot rests for this generation; another generation starts it again.
    pub rested_for_current: bool,
    /// How its last instance ended, for the reason of the next start.
    pub last_end: Option<&'a str>,
}

/// One unit.
#[derive(Clone, Debug)]
pub struct ObservedUnit<'a> {
    pub object: ObjectRef,
    pub wish: Wish,
    pub slots: Vec<ObservedSlot<'a>>,
    pub circuit: Circuit,
    /// What this machine lacks for it (E2xxx).
    pub machine: Option<&'a str>,
    /// `replicas` in force before: a difference is a Scale.
    pub scaled_from: Option<u32>,
    /// The wanted version was found well before: what starts it again brings nothing new.
    pub proven: bool,
    /// A Job, whose start is a Run.
    pub job: bool,
    pub update: &'a UpdatePolicy,
    pub rollout: ObservedRollout,
}

/// How far the rollout of a unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObservedRollout {
    pub paused: bool,
    /// It is paused on its way from a version that is good: what has to be started meanwhile is started as that.
    pub stays: bool,
    /// Its canaries hold, waiting for their time or a word.
    pub holding: bool,
    pub promoted: bool,
    /// It goes back to what was good.
    pub back: bool,
}

/// What a Job needed that has run: whoever follows the Job stands on it too.
#[derive(Clone, Debug)]
pub struct Ground<'a> {
    pub edge: &'a Dependency,
    /// What is seen of it now.
    pub facets: Facets,
    pub job: ObjectRef,
    /// The unit could go without that Job.
    pub optional: bool,
}

/// The surroundings of one unit: its neighbours and the machine-wide limits.
pub trait Surroundings {
    /// Hard and optional dependencies with what is seen of them; `None`: there is no such unit.
    fn dependencies(&self) -> Vec<(&Dependency, Option<Facets>)>;
    /// What the Jobs among them needed that have run already, over any number of such Jobs; without what is not to run any more.
    fn grounds(&self) -> Vec<Ground<'_>> {
        Vec::new()
    }
    /// One that depends on it and has to be gone first, if there is any.
    fn running_dependent(&self) -> Option<ObjectRef>;
    /// Another unit that is on its way out, or to a version without it, still has a port that this one binds: which.
    fn port_holder(&self) -> Option<(ObjectRef, String)> {
        None
    }
    /// Units wait for each other's ports, and this is the one that lets go of its own before it has the other: all of them.
    fn goes_first_for_port(&self) -> Option<Vec<Name>> {
        None
    }
    /// Another start is allowed now (`maxConcurrentStarts`).
    fn start_allowed(&self) -> bool;
    /// This unit may roll now (`maxConcurrentRollouts`), or does so already.
    fn roll_allowed(&self) -> bool;
}
