//! Deterministic simulation of the decisions: the real manifest, graph, unit, plan and world code against a fake keeper, with a
//! virtual clock and a seed. Every run draws its own mix of faults; oracles look at every turn; then the faults stop, and
//! everything has to become well within a bounded virtual time.
//!
//! `SIM_SEEDS=10000 cargo test --release --test sim` runs more seeds, `SIM_SEED=17` replays one.

mod edited_probes;
mod edits;
mod externals;
mod going_back;
mod lessons;
mod machine;
mod next_daemon;
mod oracle;
mod run;
mod scenes;
mod shutdown;
mod stage;
mod system;
mod trials;
mod unrecorded;
mod why;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn every_seed_holds_the_invariants_and_becomes_well_once_faults_stop() {
    if let Some(seed) = number("SIM_SEED") {
        run::run(seed, true).unwrap_or_else(|fault| panic!("seed {seed}: {fault}"));
        return;
    }
    let seeds = number("SIM_SEEDS").unwrap_or(150);
    let workers = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let faults: Vec<(u64, String)> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..workers)
            .map(|worker| {
                scope.spawn(move || {
                    (0..seeds)
                        .filter(|seed| seed % workers == worker)
                        .filter_map(|seed| run::run(seed, false).err().map(|fault| (seed, fault)))
                        .take(3)
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        handles.into_iter().flat_map(|handle| handle.join().expect("a seed panicked")).collect()
    });
    let told: Vec<String> = faults
        .iter()
        .map(|(seed, fault)| format!("seed {seed}: {fault}\n  replay: SIM_SEED={seed} cargo test --test sim"))
        .collect();
    assert!(faults.is_empty(), "{}", told.join("\n"));
}

#[test]
fn a_seed_gives_the_same_run_every_time() {
    let first = run::run(7, false).unwrap();
    assert_eq!(first, run::run(7, false).unwrap());
}
