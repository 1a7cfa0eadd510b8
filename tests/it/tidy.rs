//! The shape of the sources: what is pure stays pure, `unsafe` stays where it belongs.

use std::path::{Path, PathBuf};

use crate::support::root;

fn sources(dir: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    found
}

#[test]
fn above_the_purity_line_nothing_blocks_reads_a_clock_or_iterates_without_order() {
    let forbidden = [
        "std::fs",
        "std::net",
        "std::process::",
        "std::thread",
        "std::time::Instant",
        "SystemTime",
        "tokio::",
        "async fn",
        "HashMap",
        "HashSet",
        "rustix::",
        "libc::",
        "getrandom",
    ];
    let modules = ["base", "manifest", "graph", "unit", "plan", "world"];
    let pure = modules.into_iter().flat_map(|module| sources(&root().join("src").join(module)));
    // Below the line, the parts of `faults` that decide.
    let deciding = [
        "book",
        "classify",
        "curve",
        "events",
        "patterns",
        "quota",
        "shapes",
        "notifier/desk",
        "notifier/template",
    ];
    let deciding = deciding.into_iter().map(|name| root().join(format!("src/faults/{name}.rs")));
    let deciding = deciding.map(|path| (path.clone(), std::fs::read_to_string(path).unwrap()));
    for (path, text) in pure.chain(deciding) {
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for word in forbidden {
            assert!(!code.contains(word), "{} speaks of {word} (invariant 1)", path.display());
        }
    }
}

#[test]
fn unsafe_code_is_only_in_os_and_keeper_and_each_says_why() {
    for (path, text) in sources(&root().join("src")) {
        let relative = path.strip_prefix(root().join("src")).unwrap().to_owned();
        let allowed = relative.starts_with("os") || relative.starts_with("keeper");
        let blocks = text.matches("unsafe {").count();
        assert!(allowed || blocks == 0, "{} has unsafe code", path.display());
        let reasons = text.matches("SAFETY:").count();
        assert!(reasons >= blocks, "{}: {blocks} unsafe blocks, {reasons} reasons", path.display());
    }
}

#[test]
fn nothing_is_said_by_macros_that_panic_where_the_output_takes_nothing() {
    for (path, text) in sources(&root().join("src")) {
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for word in ["eprint", "eprintln", "print", "println"] {
            let found = code
                .split_whitespace()
                .find(|part| part.trim_start_matches('{').starts_with(&format!("{word}!(")));
            assert!(found.is_none(), "{}: `{word}!`; see os/voice.rs and `cli::aside!`", path.display());
        }
    }
}
