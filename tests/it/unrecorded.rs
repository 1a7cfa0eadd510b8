//! The daemon is killed before it has written down what it knows.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{System, python, until};

/// Looks more often than [`until`] does: the daemon is to be killed right after it.
fn until_forgotten(system: &System, job: &str) {
    let journal = system.path(".unified-system/run/journal");
    let id = format!("\"id\":{{\"unit\":\"{job}\"");
    let deadline = Instant::now() + Duration::from_secs(30);
    let forgot = |line: &str| line.contains("{\"forgot\":") && line.contains(&id);
    while !fs::read_to_string(&journal).unwrap_or_default().lines().any(forgot) {
        assert!(Instant::now() < deadline, "waited in vain for the keeper to forget {job}");
        std::thread::yield_now();
    }
}

#[test]
fn a_job_that_has_run_is_not_run_again_by_the_next_daemon_however_early_this_one_is_killed() {
    let jobs = ["first", "second", "third", "fourth", "fifth"];
    let files: Vec<(String, String)> = jobs
        .iter()
        .map(|job| {
            let script = format!("until [ -e {job}.go ]; do sleep 0.01; done; printf x >> {job}.runs");
            let head = format!("apiVersion: unisys.dev/v1\nkind: Job\nmetadata: {{name: {job}}}\n");
            let text = format!("{head}spec: {{command: [sh, -c, '{script}']}}\n");
            (format!("{job}.yaml"), text)
        })
        .collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let system = System::up(&files);
    for job in jobs {
        let daemon = until("a daemon", || system.daemon_pid());
        system.write(&format!("manifests/{job}.go"), "");
        until_forgotten(&system, job);
        // From here on only the store knows of it.
        kill_process(Pid::from_raw(daemon as i32).unwrap(), Signal::KILL).unwrap();
        until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
        system.ok(&["wait", "--for=condition=Completed", "--timeout", "30s", job]);
        assert_eq!(fs::read_to_string(system.path(&format!("manifests/{job}.runs"))).unwrap(), "x", "{job}");
    }
}

#[test]
fn a_failure_is_recorded_however_early_the_daemon_is_killed_after_it() {
    let units = ["first", "second", "third", "fourth", "fifth"];
    let files: Vec<(String, String)> = units
        .iter()
        .map(|unit| {
            let code = format!(
                "import os,time\nwhile not os.path.exists('{unit}.go'): time.sleep(0.01)\nraise RuntimeError('no luck')"
            );
            (format!("{unit}.yaml"), python(unit, &code, "  restart: {policy: Never}\n"))
        })
        .collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let system = System::up(&files);
    for unit in units {
        let daemon = until("a daemon", || system.daemon_pid());
        system.write(&format!("manifests/{unit}.go"), "");
        until_forgotten(&system, unit);
        kill_process(Pid::from_raw(daemon as i32).unwrap(), Signal::KILL).unwrap();
        until("another daemon", || system.daemon_pid().filter(|pid| *pid != daemon));
        let errors = system.json(&["errors", "ls", unit]);
        let messages: Vec<&str> =
            errors.as_array().unwrap().iter().filter_map(|error| error["message"].as_str()).collect();
        assert!(messages.iter().any(|message| message.contains("no luck")), "{unit}: {messages:?}");
        let dumps = system.json(&["crashes", "ls", unit]);
        assert_eq!(dumps.as_array().map(Vec::len), Some(1), "{unit}: {dumps}");
    }
}
