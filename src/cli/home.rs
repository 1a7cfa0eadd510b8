//! Where `up` begins a system, or takes one up: what the other commands find from here is what it means.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::client::STATE_DIR;
use super::keeper::keeper_pid;

/// What is read where nothing is named.
const MANIFESTS: [&str; 2] = ["manifests", "unisys.yaml"];

/// The manifests of a directory.
pub fn manifests_in(dir: &Path) -> Option<PathBuf> {
    MANIFESTS.into_iter().map(|name| dir.join(name)).find(|path| path.exists())
}

/// What lies here and above.
#[derive(Debug)]
pub struct Look {
    /// A system has its state here.
    begun: bool,
    /// There are manifests here.
    manifests: bool,
    /// The nearest directory above with the state of a system, and the keeper if it runs.
    above: Option<(PathBuf, Option<u32>)>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Home {
    /// This directory.
    Here,
    /// This one, though there is another system above.
    HereBelow(PathBuf),
    /// That of the system above.
    Above(PathBuf),
    /// Files are named, and the system above runs, to which they may be meant to belong.
    Taken(PathBuf, u32),
}

impl Look {
    pub fn around(here: &Path) -> Self {
        let own = rustix::process::geteuid().as_raw();
        let is_begun = |dir: &Path| {
            dir.join(STATE_DIR).symlink_metadata().is_ok_and(|meta| meta.is_dir() && meta.uid() == own)
        };
        let above = here
            .ancestors()
            .skip(1)
            .find(|dir| is_begun(dir))
            .map(|dir| (dir.to_owned(), keeper_pid(&dir.join(STATE_DIR).join("unisys.sock"))));
        Self { begun: is_begun(here), manifests: manifests_in(here).is_some(), above }
    }

    /// `named`: manifests are.
    pub fn home(self, named: bool) -> Home {
        match self.above {
            None => Home::Here,
            Some(_) if self.begun => Home::Here,
            Some((dir, Some(keeper))) if named => Home::Taken(dir, keeper),
            Some((dir, None)) if named => Home::HereBelow(dir),
            Some((dir, _)) if self.manifests => Home::HereBelow(dir),
            Some((dir, _)) => Home::Above(dir),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn up_means_what_the_other_commands_find_unless_a_system_is_begun_here_on_purpose() {
        let dir = || PathBuf::from("/shop");
        let (none, rests, runs) = (None, Some((dir(), None)), Some((dir(), Some(7))));
        for (begun, manifests, above, named, expected) in [
            (false, false, &none, false, Home::Here),
            (true, true, &runs, false, Home::Here),
            (true, true, &runs, true, Home::Here),
            (false, false, &runs, false, Home::Above(dir())),
            (false, false, &rests, false, Home::Above(dir())),
            (false, true, &runs, false, Home::HereBelow(dir())),
            (false, false, &runs, true, Home::Taken(dir(), 7)),
            (false, true, &runs, true, Home::Taken(dir(), 7)),
            (false, false, &rests, true, Home::HereBelow(dir())),
        ] {
            let look = Look { begun, manifests, above: above.clone() };
            let asked = format!("{look:?}, named: {named}");
            assert_eq!(look.home(named), expected, "{asked}");
        }
    }
}
