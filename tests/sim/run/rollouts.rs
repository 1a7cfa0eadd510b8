//! Rollouts without other faults: how each has to go, and how it has to end.

use std::collections::BTreeSet;
use std::time::Duration;

use unisys::base::{Name, Part};
use unisys::unit::Strategy;

use super::super::machine::Faults;
use super::super::oracle;
use super::{Sim, system};

/// A rollout that has not ended after this long does not end.
const ENDS: Duration = Duration::from_secs(600);
/// One that never gets ready is given up after `progressDeadline` (a minute), however often daemons die; the rest is for stopping
/// and starting where the old one has to stop first.
const HANGS: Duration = Duration::from_secs(120);
/// What may be wrong with a version: nothing, or one of these.
const FATES: [Option<&str>; 3] = [None, Some("crashes"), Some("hangs")];

impl Sim {
    /// A bad revision always goes back and touches nobody, a good one always arrives, and neither takes more instances away
    /// than it may.
    pub(super) fn rollouts(&mut self) -> Result<(), String> {
        let faults = self.only_daemons_die();
        let mut name = String::new();
        for fate in [Some("crashes"), None, Some("hangs"), None] {
            // What was bad is mended in the next revision: one unit changes at a time.
            let mends = self.units.get(&name).is_some_and(|unit| unit.bad.is_some());
            if !mends {
                let services = self.units.iter().filter(|(_, unit)| !unit.job);
                let names: Vec<&String> = services.map(|(name, _)| name).collect();
                if names.is_empty() {
                    return Ok(());
                }
                name.clone_from(system::pick(&mut self.rng, &names));
            }
            let key: Name = name.parse().map_err(|_| "a name")?;
            let Some(unit) = self.units.get(&name) else { continue };
            // Without a probe, a program that only hangs is Ready.
            let noticed = fate != Some("hangs") || unit.probe != "none";
            // A well one of `policy: OnFailure` may have ended.
            if !mends && (!noticed || self.has_ended(&key) || self.wanted_gone(&key)) {
                continue;
            }
            // What has just become good need not be recorded yet, and what is not is nothing to go back to.
            self.commit();
            let before = self.serving(&key);
            self.faults = faults;
            self.change(&[(&name, fate)])?;
            self.roll(&key, fate)?;
            self.faults = Faults::NONE;
            if fate.is_some() && self.rng.chance(0.3) {
                self.is_not_tried_again(&key)?;
            }
            let update = &self.desired.units.get(&key).ok_or("gone")?.policy.update;
            let apart = match update.strategy {
                Strategy::Recreate => false,
                Strategy::Rolling => update.max_surge > 0 && update.max_unavailable == 0,
                _ => update.max_unavailable == 0,
            };
            // What only dies after it was available has taken its place before.
            let unnoticed =
                fate == Some("crashes") && self.units.get(&name).is_some_and(|unit| unit.probe == "none");
            if fate.is_some() && apart && !unnoticed && self.serving(&key) != before {
                return Err(format!(
                    "the bad revision of {name} touched what was good: {before:?} {:?}",
                    self.serving(&key)
                ));
            }
        }
        Ok(())
    }

    /// What was rolled back stays so under the next daemon.
    fn is_not_tried_again(&mut self, name: &Name) -> Result<(), String> {
        // Others may still be on their way out.
        let mains =
            |sim: &Self| -> Vec<_> { sim.mains().into_iter().filter(|id| id.unit == *name).collect() };
        let before = mains(self);
        // One that had not been written yet may be.
        self.commit();
        self.daemon_dies()?;
        let until = self.now + Duration::from_secs(30);
        while self.now < until {
            self.step(until)?;
        }
        let unit = self.world.units().get(name).ok_or("it is gone")?;
        match mains(self) == before && unit.rollout.word(false) == "RolledBack" {
            true => Ok(()),
            false => Err(format!("{name} is tried again: {before:?} {:?}", mains(self))),
        }
    }

    /// Edits that come while an earlier one is under way: whenever they do, the last one decides how it ends.
    pub(super) fn edits_on_edits(&mut self) -> Result<(), String> {
        let Some((name, key)) = self.changeable().pop() else { return Ok(()) };
        self.faults = self.only_daemons_die();
        let mut fate = None;
        for _ in 0..2 + self.rng.below(4) {
            for _ in 0..self.rng.below(12) {
                oracle::available(&self.keeper, &self.world, &key, self.now)?;
                self.step(self.now + Duration::from_secs(5))?;
            }
            fate = system::pick(&mut self.rng, &FATES);
            self.change(&[(&name, fate)])?;
        }
        self.roll(&key, fate)?;
        self.change(&[(&name, None)])?;
        self.roll(&key, None)?;
        self.faults = Faults::NONE;
        Ok(())
    }

    /// What one revision changed goes back together (`rollbackScope: Set`), whoever of them failed.
    pub(super) fn units_that_change_together(&mut self) -> Result<(), String> {
        let mut names = self.changeable();
        let (Some((bad, bad_key)), Some((good, good_key))) = (names.pop(), names.pop()) else {
            return Ok(());
        };
        let fate = system::pick(&mut self.rng, &FATES[1..]);
        self.faults = self.only_daemons_die();
        self.commit();
        let before = self.version(&good);
        self.change(&[(&bad, fate), (&good, None)])?;
        self.roll(&bad_key, fate)?;
        self.until_over(&good_key, true)?;
        if self.running(&good_key) != BTreeSet::from([before.clone()]) {
            return Err(format!("{good} did not go back to {before}: {:?}", self.running(&good_key)));
        }
        self.change(&[(&bad, None), (&good, None)])?;
        self.roll(&bad_key, None)?;
        self.roll(&good_key, None)?;
        self.faults = Faults::NONE;
        Ok(())
    }

    fn only_daemons_die(&mut self) -> Faults {
        Faults { daemon_dies: if self.rng.chance(0.3) { 0.01 } else { 0.0 }, ..Faults::NONE }
    }

    /// Well services of which it is seen whether they are well, in a random order.
    fn changeable(&mut self) -> Vec<(String, Name)> {
        let noticed = self.units.iter().filter(|(_, unit)| !unit.job && unit.probe != "none");
        let keys = noticed.filter_map(|(name, _)| Some((name.clone(), name.parse().ok()?)));
        let mut found: Vec<(String, Name)> =
            keys.filter(|(_, key)| !self.has_ended(key) && !self.wanted_gone(key)).collect();
        for last in (1..found.len()).rev() {
            found.swap(last, self.rng.below(last as u64 + 1) as usize);
        }
        found
    }

    /// One revision with a new version of each of these.
    fn change(&mut self, units: &[(&str, Option<&'static str>)]) -> Result<(), String> {
        for (name, fate) in units {
            let unit = self.units.get_mut(*name).ok_or("it is gone")?;
            (unit.bad, unit.version) = (*fate, unit.version + 1);
        }
        let revision = self.desired.revision.next();
        let desired = system::desired(&self.units, revision, None, &mut self.cache).ok_or("rejected")?;
        self.accept(desired);
        self.turn()
    }

    fn wanted_gone(&self, name: &Name) -> bool {
        self.world.wanted_replicas(name) == 0
            || self.world.units().get(name).is_none_or(|unit| unit.good.is_none())
    }

    fn serving(&self, name: &Name) -> Vec<u32> {
        let unit = self.world.units().get(name);
        unit.into_iter()
            .flat_map(|unit| unit.serving())
            .filter_map(|slot| Some(slot.state.process()?.pid))
            .collect()
    }

    /// The version that is written, as its programs are told.
    fn version(&self, name: &str) -> String {
        self.units.get(name).map(|unit| format!("v{}", unit.version)).unwrap_or_default()
    }

    /// The versions of which something lives.
    fn running(&self, name: &Name) -> BTreeSet<String> {
        let held = self.keeper.held.iter().filter(|(id, held)| id.unit == *name && held.main_alive());
        held.filter(|(_, held)| held.parts.contains_key(&Part::Main))
            .filter_map(|(_, held)| held.spec.launch.argv.get(1).cloned())
            .collect()
    }

    /// Until the rollout of a unit is over, as it should be, for the reason that there is, and what runs is what should.
    fn roll(&mut self, name: &Name, fate: Option<&str>) -> Result<(), String> {
        let began = self.now;
        self.until_over(name, fate.is_some())?;
        if fate == Some("hangs") && self.now.since(began) > HANGS {
            return Err(format!("{name} was given up after {:?}", self.now.since(began)));
        }
        let written = self.version(name.as_str());
        let running = self.running(name);
        if running.contains(&written) != fate.is_none() || running.len() != 1 {
            return Err(format!("{name} runs {running:?}, {written} is written and is bad: {fate:?}"));
        }
        let failure = self.world.units().get(name).and_then(|unit| unit.rollout.failure());
        let reason = failure.map(|failure| failure.reason.as_str());
        let expected = match fate {
            None => None,
            Some("crashes") => Some("CrashLoop"),
            Some(_) => Some("ProgressDeadlineExceeded"),
        };
        // A daemon that dies may find a crash that it was not told of as one of the version before.
        match reason == expected || self.faults.daemon_dies > 0.0 {
            true => Ok(()),
            false => Err(format!("{name} went back because of {reason:?}, not {expected:?}")),
        }
    }

    fn until_over(&mut self, name: &Name, bad: bool) -> Result<(), String> {
        let until = self.now + ENDS;
        loop {
            oracle::available(&self.keeper, &self.world, name, self.now)?;
            let unit = self.world.units().get(name).ok_or("it is gone")?;
            let word = unit.rollout.word(false);
            let (ready, needed) = (unisys::world::conditions::ready_count(unit), oracle::needed(unit));
            // A restart of the daemon learns again who is Ready.
            if ready < needed && self.faults.daemon_dies == 0.0 {
                return Err(format!("{name}: {ready} Ready, {needed} needed, its rollout is {word}"));
            }
            match (word, bad) {
                ("RolledBack", true) | ("Complete", false) if !unit.rollout.is_active() => return Ok(()),
                _ if self.now >= until => {
                    return Err(format!(
                        "the rollout of {name} (bad: {bad}) is {word}: {:?}",
                        self.world.pending()
                    ));
                }
                _ => {}
            }
            self.step(until)?;
        }
    }
}
