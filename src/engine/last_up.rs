//! With what the last `up` was given that was accepted: the next one that is given none of it is meant to be the same system.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::os::files;

use super::Options;

/// No more is read.
const BYTES: u64 = 1 << 20;
const VERSION: u32 = 1;

/// Paths below the directory that the state directory lies in are kept relative to it: it may be moved, or copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastUp {
    version: u32,
    paths: Vec<PathBuf>,
    overlays: Vec<PathBuf>,
    set: Option<String>,
    profile: Option<String>,
    /// Manifests are read again when they are saved.
    #[serde(default = "yes")]
    watch: bool,
    /// Which units were to run, if not all: told, and not done again. Who names some means that one time.
    #[serde(default)]
    units: Vec<String>,
}

fn yes() -> bool {
    true
}

/// What becomes of what the last `up` was given.
#[derive(Debug, PartialEq, Eq)]
pub enum Recalled {
    /// It had nothing that this one has not.
    Nothing,
    /// This one has it as well: these options.
    Taken(String),
    /// This one is told something else.
    Left(String),
}

impl LastUp {
    pub fn of(options: &Options) -> Self {
        let base = base(&options.state_dir);
        let kept = |paths: &[PathBuf]| -> Vec<PathBuf> {
            paths.iter().map(|path| path.strip_prefix(base).unwrap_or(path).to_owned()).collect()
        };
        Self {
            version: VERSION,
            paths: kept(&options.paths),
            overlays: kept(&options.overlays),
            set: options.set.clone(),
            profile: options.profile.clone(),
            watch: options.watch,
            units: options.units.clone(),
        }
    }

    /// The same system, read alike.
    pub fn is_like(&self, other: &Self) -> bool {
        let own = (&self.paths, &self.overlays, &self.set, &self.profile, self.watch);
        own == (&other.paths, &other.overlays, &other.set, &other.profile, other.watch)
    }

    /// The units that it was of alone, where this one is of all.
    pub fn narrower(&self, options: &Options) -> Option<String> {
        let is_so = !self.units.is_empty() && options.units.is_empty() && !options.paths.is_empty();
        is_so.then(|| self.units.join(" "))
    }

    /// None: there was none, or it is told by a unisys of another kind.
    pub fn read(state_dir: &Path) -> Option<Self> {
        let text = files::read_bounded(&file(state_dir), BYTES).ok()?;
        serde_json::from_slice(&text).ok().filter(|last: &Self| last.version == VERSION)
    }

    /// What this one is given has been accepted.
    pub fn remember(options: &Options) {
        let (own, dir) = (Self::of(options), &options.state_dir);
        if Self::read(dir).as_ref() != Some(&own)
            && let Err(error) = own.write(dir)
        {
            tracing::error!(%error, "cannot write up.json: the next `up` will not know of overlays and profile");
        }
    }

    fn write(&self, state_dir: &Path) -> std::io::Result<()> {
        files::write_atomically(&file(state_dir), &serde_json::to_vec(self)?, 0o600)
    }

    /// Manifests that are not named are those of the last one.
    pub fn paths(&self, state_dir: &Path) -> Vec<PathBuf> {
        self.paths.iter().map(|path| base(state_dir).join(path)).collect()
    }

    /// Fills up what these options do not say. Who names other manifests, an overlay, a profile or a set says all of it; who says
    /// `--no-watch` says nothing of these.
    pub fn recall(&self, options: &mut Options) -> Recalled {
        let own = Self::of(options);
        let words = self.words(options.watch);
        if words.is_empty() || own.is_like(self) {
            return Recalled::Nothing;
        }
        if own.paths != self.paths || !own.words(false).is_empty() {
            return Recalled::Left(words);
        }
        options.watch &= self.watch;
        options.overlays = self.overlays.iter().map(|path| base(&options.state_dir).join(path)).collect();
        options.set.clone_from(&self.set);
        options.profile.clone_from(&self.profile);
        Recalled::Taken(words)
    }

    /// As it is written behind `up`; `watch`: with `--no-watch`, if it was.
    fn words(&self, watch: bool) -> String {
        let overlays = self.overlays.iter().map(|path| format!("--overlay {}", path.display()));
        let set = self.set.iter().map(|set| format!("--set {set}"));
        let profile = self.profile.iter().map(|profile| format!("--profile {profile}"));
        let watch = (watch && !self.watch).then(|| "--no-watch".to_owned());
        overlays.chain(profile).chain(set).chain(watch).collect::<Vec<_>>().join(" ")
    }
}

fn base(state_dir: &Path) -> &Path {
    state_dir.parent().unwrap_or(state_dir)
}

fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("up.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(dir: &str, manifests: &str, overlays: &[&str], profile: Option<&str>) -> Options {
        Options {
            state_dir: Path::new(dir).join(".unified-system"),
            paths: vec![Path::new(dir).join(manifests)],
            overlays: overlays.iter().map(|path| Path::new(dir).join(path)).collect(),
            set: None,
            profile: profile.map(str::to_owned),
            watch: true,
            units: Vec::new(),
            nofile: (0, 0),
            quiet: false,
        }
    }

    #[test]
    fn an_up_that_says_nothing_is_the_last_one_again() {
        let last = LastUp::of(&options("/srv/app", "manifests", &["overlays/prod"], Some("eu")));
        let words = || "--overlay overlays/prod --profile eu".to_owned();
        // It may have been moved meanwhile.
        for dir in ["/srv/app", "/srv/other"] {
            let mut next = options(dir, "manifests", &[], None);
            assert_eq!(last.recall(&mut next), Recalled::Taken(words()));
            assert_eq!(LastUp::of(&next), last);
            assert_eq!(next.overlays, [Path::new(dir).join("overlays/prod")]);
            assert_eq!(last.recall(&mut next), Recalled::Nothing);
        }
        for mut other in [
            options("/srv/app", "others", &[], None),
            options("/srv/app", "manifests", &["overlays/test"], None),
            options("/srv/app", "manifests", &[], Some("us")),
        ] {
            let before = LastUp::of(&other);
            assert_eq!(last.recall(&mut other), Recalled::Left(words()));
            assert_eq!(LastUp::of(&other), before);
        }
    }

    #[test]
    fn who_did_not_have_saved_files_taken_in_is_not_surprised_by_that() {
        let unwatched = || Options { watch: false, ..options("/srv/app", "manifests", &[], None) };
        let last = LastUp::of(&unwatched());
        let mut next = options("/srv/app", "manifests", &[], None);
        assert_eq!(last.recall(&mut next), Recalled::Taken("--no-watch".into()));
        assert!(!next.watch);
        assert_eq!(last.recall(&mut unwatched()), Recalled::Nothing);
        let mut other = options("/srv/app", "manifests", &["overlays/prod"], None);
        assert_eq!(last.recall(&mut other), Recalled::Left("--no-watch".into()));
        assert!(other.watch);
        // It says nothing of overlays.
        let last = LastUp::of(&options("/srv/app", "manifests", &["overlays/prod"], None));
        let mut next = unwatched();
        assert_eq!(last.recall(&mut next), Recalled::Taken("--overlay overlays/prod".into()));
        assert!(!next.watch && next.overlays.len() == 1);
    }

    #[test]
    fn units_that_were_named_are_told_and_not_chosen_again() {
        let some = || Options { units: vec!["web".into()], ..options("/srv/app", "manifests", &[], None) };
        let last = LastUp::of(&some());
        let mut next = options("/srv/app", "manifests", &[], None);
        assert_eq!(last.recall(&mut next), Recalled::Nothing);
        assert!(next.units.is_empty());
        assert_eq!(last.narrower(&next).as_deref(), Some("web"));
        assert_eq!(last.narrower(&some()), None);
        let old = r#"{"version":1,"paths":["manifests"],"overlays":[],"set":null,"profile":null}"#;
        let old: LastUp = serde_json::from_str(old).unwrap();
        assert!(old.watch && old.narrower(&next).is_none());
    }

    #[test]
    fn a_last_one_of_which_there_is_nothing_to_tell_changes_nothing() {
        let last = LastUp::of(&options("/srv/app", "manifests", &[], None));
        let mut next = options("/srv/app", "manifests", &["overlays/prod"], None);
        assert_eq!(last.recall(&mut next), Recalled::Nothing);
        assert_eq!(next.overlays.len(), 1);
    }
}
