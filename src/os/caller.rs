//! Who has called over a unix socket, in words.

use super::identity;

/// The other end of a connection ([`super::process::peer`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    pub pid: u32,
    pub uid: u32,
}

impl Caller {
    /// `ada (pts/3)`. Two people on one account are told from each other by their terminals; a script has none, and is told by its
    /// pid. Who became root is who logged in (proc_pid_loginuid(5)). Asks for names, which may take a while.
    pub fn words(self) -> String {
        let name = |uid: u32| identity::name_of(uid).unwrap_or_else(|| format!("user {uid}"));
        let own = name(self.uid);
        let who = match login(self.pid).filter(|login| *login != self.uid) {
            Some(login) => format!("{} as {own}", name(login)),
            None => own,
        };
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        match (terminal(&stat), self.pid) {
            (Some(terminal), _) => format!("{who} ({terminal})"),
            (None, 0) => who,
            (None, pid) => format!("{who} (pid {pid})"),
        }
    }
}

/// Whom somebody logged in as; nobody did where it is -1.
fn login(pid: u32) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/loginuid")).ok()?;
    text.trim().parse().ok().filter(|uid| *uid != u32::MAX)
}

/// The controlling terminal, by its number in proc_pid_stat(5): a pseudo terminal or a console.
fn terminal(stat: &str) -> Option<String> {
    let number: u32 = stat.rsplit_once(')')?.1.split_whitespace().nth(4)?.parse().ok()?;
    let (major, minor) = (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xf_ff00);
    match major {
        136..=143 => Some(format!("pts/{}", minor + (major - 136) * 256)),
        4 if minor < 64 => Some(format!("tty{minor}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_told_by_name_and_terminal_or_pid() {
        for (number, expected) in [
            ("34819", Some("pts/3")),
            ("1083435", Some("pts/299")),
            ("1025", Some("tty1")),
            ("0", None),
            ("1088", None),
        ] {
            let stat = format!("7 (a) b) S 1 2 3 {number} 5 6");
            assert_eq!(terminal(&stat).as_deref(), expected, "{number}");
        }
        let own = Caller { pid: std::process::id(), uid: rustix::process::geteuid().as_raw() };
        assert!(own.words().ends_with(')'), "{}", own.words());
        assert!(!Caller { pid: 0, ..own }.words().contains("pid"));
    }
}
