//! Which limits this process may set for its children: tried in one that executes nothing.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::AsRawFd;

use crate::base::SpawnStage;
use crate::plan::machine::Limit;

use super::own;
use super::spawn::{Child, Stack, spawn};

/// Tries a limit as a start sets it. The child has nothing to execute, and ends there at the latest; `Err` says why it came not
/// that far.
pub fn allows(limit: Limit) -> Result<(), String> {
    let Ok(null) = File::open("/dev/null") else { return Ok(()) };
    let nothing = null.as_raw_fd();
    let child = Child {
        path: CString::default(),
        argv: Vec::new(),
        envp: Vec::new(),
        dir: c"/".to_owned(),
        stdin: nothing,
        stdout: nothing,
        stderr: nothing,
        extra: None,
        handed: Vec::new(),
        user: None,
        umask: None,
        nofile: match limit {
            Limit::OpenFiles(number) => (number, number),
            _ => own::file_limits(),
        },
        tag: None,
        nice: if let Limit::Nice(nice) = limit { Some(nice) } else { None },
        oom_score_adjust: match limit {
            Limit::OomScore(adjust) => CString::new(adjust.to_string()).ok(),
            _ => None,
        },
        no_new_privileges: false,
        dies_with_parent: true,
        watchdog: false,
        cgroup: None,
        sandbox: None,
    };
    match spawn(&child, &mut Stack::default()) {
        Err(error)
            if matches!(error.stage, SpawnStage::Scheduling | SpawnStage::Rlimits)
                && matches!(error.error.raw_os_error(), Some(libc::EPERM | libc::EACCES)) =>
        {
            Err(why(limit))
        }
        // What else is in its way is told by the start.
        _ => Ok(()),
    }
}

fn why(limit: Limit) -> String {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    match limit {
        Limit::Nice(_) => format!("unisys may not give less than {}", own::lowest_nice()),
        Limit::OomScore(_) => {
            let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
            format!("unisys, which has {} itself, may not give less than it was given", own.trim())
        }
        Limit::OpenFiles(wanted) => match number("/proc/sys/fs/nr_open").filter(|most| wanted > *most) {
            Some(most) => format!("the kernel allows no more than {most} (fs.nr_open)"),
            None => format!("the hard limit of unisys is {}", own::file_limits().1),
        },
    }
}
