//! A stopped set leaves nobody: services whose descendants try to escape, stopped many times.

use super::machine::{Machine, is_alive, own_program};

const REPLICAS: u64 = 20;
/// Of each: plain, deaf, in a group, in a session, orphaned, and daemonised.
const DESCENDANTS: usize = 6;

/// True when something did not hold.
pub fn run(faults: u64) -> bool {
    let mut machine = Machine::new();
    let result = stops(&mut machine, faults);
    machine.destroy();
    match result {
        Ok((stopped, descendants)) => {
            println!("tree: {stopped} instances with {descendants} descendants stopped: 0 survivors");
            false
        }
        Err(fault) => {
            eprintln!("tree: {fault}\n{}", machine.terminal());
            eprintln!("its directory is kept: {}", machine.keep().display());
            true
        }
    }
}

fn stops(machine: &mut Machine, faults: u64) -> Result<(u64, usize), String> {
    let (program, dir) = (own_program().display().to_string(), machine.dir.path().display().to_string());
    let replicas = REPLICAS.min(faults);
    machine.write(&format!(
        "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {{name: t}}\nspec:\n  replicas: {replicas}\n  \
         command: [\"{program}\", --program, tree, \"{dir}\", t, v1]\n  stop: {{grace: 100ms}}\n"
    ));
    machine.launch();
    let (mut stopped, mut descendants) = (0, 0);
    while stopped < faults {
        stopped += replicas;
        let wanted = stopped as usize;
        super::machine::until("every descendant", || {
            let there = machine.reported("descendant").len() >= wanted * DESCENDANTS;
            (there && machine.lives().len() >= wanted).then_some(())
        })?;
        machine.ask(&["stop", "t"])?;
        // `stop` has said that nothing is left: it has to be so at once.
        let pids = machine.reported("descendant");
        let pids =
            pids.iter().skip(descendants).filter_map(|line| line.split(' ').nth(2)?.parse::<u32>().ok());
        let mains = machine.lives().into_iter().skip(wanted - replicas as usize).map(|life| life.pid);
        let alive: Vec<u32> = pids.chain(mains).filter(|pid| is_alive(*pid)).collect();
        if !alive.is_empty() {
            return Err(format!("{} survivors after {stopped} stops: {alive:?}", alive.len()));
        }
        descendants = wanted * DESCENDANTS;
        machine.ask(&["start", "t"])?;
    }
    Ok((stopped, descendants))
}
