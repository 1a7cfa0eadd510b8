//! The fault suite: what has to survive, with real processes and real kills. One command; every count is printed, and a count
//! that has to be zero and is not fails the run.
//!
//! `FAULTS=1000 cargo test --release --test survive` is the whole suite (about half an hour); without it a small one runs.
//! `FAULTS_ONLY=daemon,keeper,both,tree` picks, `FAULTS_SEED=7` repeats a run's random moments (the machine's own remain).
//! `FAULTS_TELL=1` prints each loss.

mod machine;
mod program;
mod rounds;
mod trees;

use std::process::ExitCode;

use rounds::{Round, Tally, Victim};
use unisys::base::Rng;

/// Each loss is to be printed, for who looks for its reason.
fn tells() -> bool {
    number("FAULTS_TELL").is_some()
}

/// Kills in one system before it is taken down and a new one begins.
const KILLS_A_ROUND: u64 = 5;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "--program") {
        program::run(&arguments[1..]);
    }
    if arguments.iter().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let faults = number("FAULTS").unwrap_or(5);
    let seed = number("FAULTS_SEED").unwrap_or(1);
    let only = std::env::var("FAULTS_ONLY").unwrap_or_default();
    let wanted = |name: &str| only.is_empty() || only.split(',').any(|one| one == name);
    let mut failed = false;
    for (name, victim) in [("daemon", Victim::Daemon), ("keeper", Victim::Keeper), ("both", Victim::Both)] {
        if wanted(name) {
            failed |= kills(name, victim, faults, &mut Rng::new(seed));
        }
    }
    if wanted("tree") {
        failed |= trees::run(faults);
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// True when something did not hold.
fn kills(name: &str, victim: Victim, faults: u64, rng: &mut Rng) -> bool {
    let mut sum = Tally::default();
    let mut failed = false;
    while sum.kills < faults && !failed {
        let mut round = Round::new(rng, victim);
        let result = round.run((faults - sum.kills).min(KILLS_A_ROUND));
        let tally = round.tally.clone();
        sum += &tally;
        let fault = result.err().or_else(|| tally.fault(victim));
        let processes = round.machine.processes();
        round.machine.destroy();
        if let Some(fault) = fault {
            eprintln!(
                "{name}, after {} kills: {fault}\n{}\n{processes}",
                sum.kills,
                round.machine.terminal()
            );
            for question in [&["get", "services"][..], &["get", "sets"], &["events"]] {
                let answer = round.machine.ask(question).unwrap_or_else(|why| why);
                let lines: Vec<&str> = answer.lines().rev().take(60).collect();
                eprintln!("unisys {question:?}:\n{}", lines.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
            eprintln!("its directory is kept: {}", round.machine.keep().display());
            failed = true;
        } else if tells() && tally.lines_lost + tally.unknown > 0 {
            println!("its directory is kept: {}", round.machine.keep().display());
        }
    }
    let share = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
    println!(
        "{name}: {} kills, {} services: {} restarted, {} lost, {} duplicates; {} ends, {} codes unknown ({:.2} %); \
         {} lines, {} lost, {} repeated",
        sum.kills,
        sum.services,
        sum.restarted,
        sum.lost,
        sum.duplicates,
        sum.ends,
        sum.unknown,
        share(sum.unknown, sum.ends),
        sum.lines,
        sum.lines_lost,
        sum.lines_repeated
    );
    failed
}
