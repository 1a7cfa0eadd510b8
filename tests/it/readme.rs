//! Every console block of the README is real output: its commands are run in a copy of the project, in order, and what they
//! print is compared, with times, pids and figures made alike. `UPDATE_GENERATED=1` writes what was printed.

use std::process::Command;

use regex::Regex;

use crate::support::{System, root, text};

fn alike(text: &str) -> String {
    let rules = [
        (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME"),
        (r"\d\d:\d\d:\d\d\.\d{3}", "TIME"),
        (r"pid \d+", "pid N"),
        (r"\b\d+(\.\d+)?(ms|us|s|m)\b", "AGE"),
        (r"at \d+\.\d+", "at PRICE"),
        (r"/tmp/[^ ]*?/", "/DIR/"),
        (r" +", " "),
        (r"─+", "─"),
    ];
    rules.iter().fold(text.trim_end().to_owned(), |text, (pattern, word)| {
        Regex::new(pattern).unwrap().replace_all(&text, *word).into_owned()
    })
}

#[test]
fn every_console_block_of_the_readme_is_real() {
    let path = root().join("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let system = project();
    let bin = std::path::Path::new(crate::support::BINARY).parent().unwrap().display().to_string();
    let path_variable = format!("{bin}:{}", std::env::var("PATH").unwrap());
    let run = |command: &str| {
        let output = Command::new("sh")
            .args(["-c", &format!("({command}) 2>&1")])
            .current_dir(system.dir.path())
            .env("PATH", &path_variable)
            .output();
        // How long something is waited for is the machine's affair.
        let said = text(&output.unwrap().stdout);
        said.lines()
            .filter(|line| !line.starts_with("waiting: "))
            .map(|line| format!("{line}\n"))
            .collect::<String>()
    };
    let mut written = String::new();
    let mut faults = Vec::new();
    for (index, part) in readme.split("```").enumerate() {
        if index > 0 {
            written.push_str("```");
        }
        let Some(body) = part.strip_prefix("console\n").filter(|_| index % 2 == 1) else {
            written.push_str(part);
            continue;
        };
        written.push_str("console\n");
        for block in body.split("$ ").skip(1) {
            let (command, expected) = block.split_once('\n').unwrap_or((block, ""));
            // What sets the machine up is run by whoever runs this test.
            let found = if command.starts_with("cargo") || command.starts_with("git") {
                expected.to_owned()
            } else {
                run(command)
            };
            written.push_str(&format!(
                "$ {command}\n{}",
                if found.is_empty() || found.ends_with('\n') { found.clone() } else { format!("{found}\n") }
            ));
            if alike(&found) != alike(expected) {
                faults.push(format!("$ {command}\n--- README\n{expected}\n--- real\n{found}"));
            }
        }
    }
    run("unisys down");
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        std::fs::write(&path, written).unwrap();
        return;
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A copy of what a newcomer has.
fn project() -> System {
    let system = System::new(&[]);
    for part in ["manifests", "examples", ".env.example"] {
        let status =
            Command::new("cp").arg("-r").arg(root().join(part)).arg(system.dir.path()).status().unwrap();
        assert!(status.success());
    }
    system
}
