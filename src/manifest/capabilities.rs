//! Names of capabilities (capabilities(7)), and `security` as what a program is kept from.

use std::path::Path;

use crate::base::{PathAccess, Sandbox};

use super::diagnostic::{Diagnostic, nearest};
use super::load::Source;
use super::spec::Security;

/// By number, as in linux/capability.h.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];
const ALL: &str = "ALL";

/// CAP_SYS_ADMIN: mounts.
pub const SYS_ADMIN: u64 = 1 << 21;

/// The bit of a name, with or without `CAP_`, in capitals or not; every bit for `ALL`.
fn bits(name: &str) -> Option<u64> {
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix("CAP_").unwrap_or(&name);
    let number = NAMES.iter().position(|known| *known == name);
    number.map(|number| 1 << number).or((name == ALL).then_some(u64::MAX))
}

/// The names of some bits.
pub fn names(bits: u64) -> Vec<&'static str> {
    NAMES.iter().enumerate().filter(|(number, _)| bits & (1 << number) != 0).map(|(_, name)| *name).collect()
}

/// What `security` keeps a program from; relative paths count from `base`. `None`: nothing that takes a sandbox.
pub fn sandbox(security: &Security, base: &Path) -> Option<Sandbox> {
    let all = |names: &[String]| names.iter().filter_map(|name| bits(name)).fold(0, |sum, bits| sum | bits);
    let (drop, add) = (all(&security.capabilities.drop), all(&security.capabilities.add));
    let rules = [
        (&security.read_only_paths, PathAccess::ReadOnly),
        (&security.read_write_paths, PathAccess::ReadWrite),
        (&security.inaccessible_paths, PathAccess::None),
    ];
    let full =
        |path: &String| base.join(path).components().collect::<std::path::PathBuf>().display().to_string();
    let mut paths: Vec<(String, PathAccess)> = rules
        .iter()
        .flat_map(|(paths, access)| paths.iter().map(move |path| (full(path), *access)))
        .collect();
    // What lies deeper has the last word.
    paths.sort_by_key(|(path, access)| (Path::new(path).components().count(), path.clone(), *access));
    let sandbox = Sandbox {
        bounding: (drop != 0).then_some(!drop | add),
        ambient: add,
        paths,
        private_tmp: security.private_tmp,
        restrict_network: security.restrict_network,
        best_effort: security.best_effort,
    };
    (sandbox != Sandbox { best_effort: sandbox.best_effort, ..Sandbox::default() }).then_some(sandbox)
}

/// E1609: names that no capability has, two words about one path, and what works only without new privileges.
pub fn check(security: &Security, source: &Source, diagnostics: &mut Vec<Diagnostic>) {
    let mut tell = |path: String, message: String, hint: String| {
        diagnostics.push(Diagnostic::error("E1609", &source.span(&path), path, message).hint(hint));
    };
    for (list, names) in [("drop", &security.capabilities.drop), ("add", &security.capabilities.add)] {
        for (index, name) in names.iter().enumerate().filter(|(_, name)| bits(name).is_none()) {
            let word = name.to_ascii_uppercase();
            let near = nearest(word.strip_prefix("CAP_").unwrap_or(&word), NAMES.into_iter().chain([ALL]));
            let hint =
                near.map_or("see capabilities(7)".to_owned(), |near| format!("did you mean `{near}`?"));
            tell(
                format!("spec.security.capabilities.{list}.{index}"),
                format!("there is no capability `{name}`"),
                hint,
            );
        }
    }
    if security.capabilities.add.iter().any(|name| bits(name) == Some(u64::MAX)) {
        let path = "spec.security.capabilities.add".to_owned();
        tell(path, "`ALL` cannot be added".into(), "name those that it needs".into());
    }
    let paths = sandbox(security, &source.base_dir).map(|sandbox| sandbox.paths).unwrap_or_default();
    if let Some(twice) = paths.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        let message = format!("two rules for the path {}", twice[0].0);
        tell("spec.security".into(), message, "leave it in one of the lists".into());
    }
    let needs = [
        (security.restrict_network, "restrictNetwork"),
        (!security.capabilities.drop.is_empty(), "capabilities"),
    ];
    for (_, field) in needs.iter().filter(|(asked, _)| *asked && !security.no_new_privileges) {
        let message = format!("`{field}` could be undone by executing a set-user-ID program");
        tell(format!("spec.security.{field}"), message, "leave `noNewPrivileges` at true".into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn security(value: serde_json::Value) -> Security {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn capabilities_become_bits() {
        let bind = 1 << 10;
        for (value, expected) in [
            (serde_json::json!({}), None),
            (serde_json::json!({"bestEffort": true}), None),
            (serde_json::json!({"capabilities": {"drop": ["ALL"]}}), Some((Some(0), 0))),
            (
                serde_json::json!({"capabilities": {"drop": ["all"], "add": ["CAP_NET_BIND_SERVICE"]}}),
                Some((Some(bind), bind)),
            ),
            (serde_json::json!({"capabilities": {"drop": ["net_bind_service"]}}), Some((Some(!bind), 0))),
            (serde_json::json!({"capabilities": {"add": ["NET_BIND_SERVICE"]}}), Some((None, bind))),
        ] {
            let found = sandbox(&security(value.clone()), Path::new("/"));
            assert_eq!(found.map(|found| (found.bounding, found.ambient)), expected, "{value}");
        }
        assert_eq!(names(bind | SYS_ADMIN), ["NET_BIND_SERVICE", "SYS_ADMIN"]);
    }

    #[test]
    fn the_deepest_path_has_the_last_word() {
        let value = serde_json::json!({"readOnlyPaths": ["/"], "readWritePaths": ["data"], "inaccessiblePaths": ["/srv/app/data/keys", "/home"]});
        let paths = sandbox(&security(value), Path::new("/srv/app")).unwrap().paths;
        let expected = [
            ("/", PathAccess::ReadOnly),
            ("/home", PathAccess::None),
            ("/srv/app/data", PathAccess::ReadWrite),
            ("/srv/app/data/keys", PathAccess::None),
        ];
        assert_eq!(paths, expected.map(|(path, access)| (path.to_owned(), access)));
    }
}
