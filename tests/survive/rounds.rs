//! Rounds of kills: a system of fifty services is started, changed, left to crash and ended, and somebody kills the daemon, the
//! keeper, or both, at a random moment of each.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::time::Duration;

use rustix::process::Signal;
use unisys::base::Rng;

use super::machine::{Life, Machine, is_alive, kill, own_program, until};

const STEADY: usize = 30;
const ROLLED: usize = 10;
const CRASHERS: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    Daemon,
    Keeper,
    Both,
}

/// What was counted.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub kills: u64,
    pub services: u64,
    /// Programs that should have gone on and were started again.
    pub restarted: u64,
    /// Programs that should have gone on and are not there.
    pub lost: u64,
    pub duplicates: u64,
    pub ends: u64,
    /// Ends whose code is not known or is another.
    pub unknown: u64,
    pub lines: u64,
    pub lines_lost: u64,
    pub lines_repeated: u64,
}

impl AddAssign<&Self> for Tally {
    fn add_assign(&mut self, other: &Self) {
        self.kills += other.kills;
        self.services += other.services;
        self.restarted += other.restarted;
        self.lost += other.lost;
        self.duplicates += other.duplicates;
        self.ends += other.ends;
        self.unknown += other.unknown;
        self.lines += other.lines;
        self.lines_lost += other.lines_lost;
        self.lines_repeated += other.lines_repeated;
    }
}

impl Tally {
    /// What may not be, with these victims (the table of architecture §2).
    pub fn fault(&self, victim: Victim) -> Option<String> {
        let of_all = [
            ("restarted", self.restarted),
            ("lost", self.lost),
            ("duplicates", self.duplicates),
            ("lines repeated", self.lines_repeated),
        ];
        let of_daemon = [("exit codes unknown", self.unknown), ("lines lost", self.lines_lost)];
        let all = of_all.into_iter().chain(of_daemon.into_iter().filter(|_| victim == Victim::Daemon));
        let found: Vec<String> =
            all.filter(|(_, count)| *count > 0).map(|(what, count)| format!("{count} {what}")).collect();
        (!found.is_empty()).then(|| found.join(", "))
    }
}

fn manifests(machine: &Machine, version: u32) -> String {
    let (program, dir) = (own_program().display().to_string(), machine.dir.path().display().to_string());
    let service = |name: String, kind: &str, version: u32| {
        format!(
            "---\napiVersion: unisys.dev/v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  \
             command: [\"{program}\", --program, {kind}, \"{dir}\", {name}, v{version}]\n  \
             circuitBreaker: null\n  restart: {{backoff: {{initial: 20ms, factor: 1, max: 20ms}}}}\n  \
             update: {{minReady: 0s}}\n"
        )
    };
    let steady = (0..STEADY).map(|index| service(format!("steady{index}"), "steady", 1));
    let rolled = (0..ROLLED).map(|index| service(format!("rolled{index}"), "steady", version));
    let crashers = (0..CRASHERS).map(|index| service(format!("crasher{index}"), "crasher", 1));
    steady.chain(rolled).chain(crashers).collect()
}

fn wait(rng: &mut Rng, most: u64) {
    std::thread::sleep(Duration::from_micros(rng.below(most * 1000)));
}

pub struct Round<'a> {
    pub machine: Machine,
    rng: &'a mut Rng,
    victim: Victim,
    pub tally: Tally,
}

impl<'a> Round<'a> {
    pub fn new(rng: &'a mut Rng, victim: Victim) -> Self {
        let tally = Tally { services: (STEADY + ROLLED + CRASHERS) as u64, ..Tally::default() };
        Self { machine: Machine::new(), rng, victim, tally }
    }

    /// One system, from boot to its end, with `kills` of five kills: in the boot, while crashers crash, twice in a rollout, in
    /// the shutdown.
    pub fn run(&mut self, kills: u64) -> Result<(), String> {
        self.machine.write(&manifests(&self.machine, 1));
        self.machine.launch();
        let moments = self.moments(kills);
        if moments[0] {
            wait(self.rng, 250);
            self.kill()?;
        }
        self.started("v1")?;
        let before = self.pids("steady", "v1");
        if moments[1] {
            wait(self.rng, 150);
            self.kill()?;
            self.well()?;
        }
        self.machine.write(&manifests(&self.machine, 2));
        if moments[2] {
            // The watch waits for 200 ms of quiet.
            wait(self.rng, 400);
            self.kill()?;
        }
        if moments[3] {
            self.well()?;
            wait(self.rng, 300);
            self.kill()?;
        }
        self.well()?;
        // What was written while nobody watched is read by the next daemon; nobody has to be asked.
        until("the new version of what was changed", || {
            (self.pids("rolled", "v2").len() == ROLLED && self.pids("rolled", "v1").is_empty()).then_some(())
        })?;
        self.tally.lost += before.iter().filter(|pid| !is_alive(**pid)).count() as u64;
        self.finish(moments[4])?;
        self.count();
        Ok(())
    }

    fn moments(&mut self, kills: u64) -> [bool; 5] {
        let mut moments = [false; 5];
        let mut left = kills.min(5);
        while left > 0 {
            let place = &mut moments[self.rng.below(5) as usize];
            left -= u64::from(!std::mem::replace(place, true));
        }
        moments
    }

    fn kill(&mut self) -> Result<(), String> {
        if self.victim == Victim::Keeper {
            // Without a daemon of its own it is the former one's heir, and with it both would be dead.
            until("a daemon of the keeper", || self.machine.has_own_daemon().then_some(()))?;
        }
        let (daemon, keeper) = (self.machine.daemon(), self.machine.keeper());
        let both = [keeper, daemon];
        let victims: Vec<u32> = match self.victim {
            Victim::Daemon => daemon.into_iter().collect(),
            Victim::Keeper => keeper.into_iter().collect(),
            Victim::Both => both.into_iter().flatten().collect(),
        };
        self.tally.kills += 1;
        for pid in victims {
            kill(pid, Signal::KILL);
        }
        if self.victim == Victim::Both {
            wait(self.rng, 100);
            self.machine.destroy_daemons();
            self.machine.launch();
        }
        self.machine.reap();
        Ok(())
    }

    /// The latest daemon answers.
    fn well(&mut self) -> Result<(), String> {
        let machine = &mut self.machine;
        until("an answer of the daemon", || {
            machine.reap();
            machine.answers().then_some(())
        })
    }

    fn started(&mut self, version: &str) -> Result<(), String> {
        self.well()?;
        let machine = &self.machine;
        until("the start of every service", || {
            let lives = machine.lives();
            let started = |kind: &str, count: usize| {
                (0..count).all(|index| lives.iter().any(|life| life.name == format!("{kind}{index}")))
            };
            let all = started("steady", STEADY) && started("rolled", ROLLED) && started("crasher", CRASHERS);
            (all && !version.is_empty()).then_some(())
        })
    }

    fn pids(&self, kind: &str, version: &str) -> Vec<u32> {
        let lives = self.machine.lives().into_iter();
        let wanted = lives.filter(|life| life.name.starts_with(kind) && life.version == version);
        wanted.map(|life| life.pid).filter(|pid| is_alive(*pid)).collect()
    }

    /// SIGTERM to the keeper, and another kill on the way.
    fn finish(&mut self, killed: bool) -> Result<(), String> {
        let keeper = until("a keeper", || self.machine.keeper())?;
        kill(keeper, Signal::TERM);
        if killed && self.victim != Victim::Both {
            wait(self.rng, 80);
            self.kill()?;
        }
        let machine = &mut self.machine;
        until("the end of everything", || {
            machine.reap();
            // A keeper that was killed before it had read the signal cannot know of it.
            let known = machine.told().iter().any(|record| record["reason"] == "ShuttingDown");
            if let (false, Some(keeper)) = (known, machine.keeper()) {
                kill(keeper, Signal::TERM);
            }
            let ended = machine.keeper().is_none() && machine.daemon().is_none();
            (ended && machine.lives().iter().all(|life| !is_alive(life.pid))).then_some(())
        })
    }

    fn count(&mut self) {
        let lives = self.machine.lives();
        let mut starts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for life in lives.iter().filter(|life| !life.name.starts_with("crasher")) {
            *starts.entry((&life.name, &life.version)).or_default() += 1;
        }
        self.tally.restarted += starts.values().map(|count| count - 1).sum::<u64>();
        self.tally.duplicates += self.machine.reported("duplicate").len() as u64;
        self.tally.ends += lives.iter().filter(|life| life.end.is_some()).count() as u64;
        self.tally.unknown += self.misjudged(&lives);
        let lines = lives.iter().filter_map(|life| life.end).map(|(_, out, err)| u64::from(out + err));
        self.tally.lines += lines.sum::<u64>();
        let (lost, repeated) = self.machine.compare_logs(&lives);
        self.tally.lines_lost += lost;
        self.tally.lines_repeated += repeated;
    }

    /// Ends that unisys did not tell of as they were. A daemon that is killed right after it told of an end may have it told
    /// again by the next one, so the same code twice in a row is one end.
    fn misjudged(&self, lives: &[Life]) -> u64 {
        let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for record in self.machine.told() {
            let (Some(object), Some(message)) = (record["object"].as_str(), record["message"].as_str())
            else {
                continue;
            };
            let code = message
                .split("exit code ")
                .nth(1)
                .map(|rest| rest.chars().take_while(char::is_ascii_digit).collect::<String>());
            let ended = ["Exited", "Stopped", "Replaced"].contains(&record["reason"].as_str().unwrap_or(""));
            if let (true, Some(name), Some(code)) = (ended, object.strip_prefix("service/"), code) {
                told.entry(name.to_owned()).or_default().push(code);
            }
        }
        let mut wrong = 0;
        for life in lives {
            let Some((code, ..)) = life.end else { continue };
            let codes = told.entry(life.name.clone()).or_default();
            match codes.iter().position(|told| *told == code.to_string()) {
                Some(at) => drop(codes.drain(..=at)),
                None => {
                    wrong += 1;
                    if super::tells() {
                        println!("the code is not known of {life:?}");
                    }
                }
            }
        }
        wrong
    }
}
