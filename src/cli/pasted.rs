//! Commands in what is told, as they can be pasted: for the daemon and the files that this command was given.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::args::{Global, Verb};

/// What was given on the command line.
#[derive(Clone, Debug, Default)]
struct Given {
    /// `--state-dir DIR` or `--socket PATH`, but for what is taken from the environment: that is there when it is pasted.
    daemon: Option<(&'static str, PathBuf)>,
    /// Of `-f PATH`, where one was given.
    file: Option<PathBuf>,
}

static GIVEN: OnceLock<Given> = OnceLock::new();

/// Remembers what was given.
pub fn given(global: &Global, verb: &Verb) {
    let named = |name: &str, path: &Option<PathBuf>| {
        path.clone().filter(|path| std::env::var_os(name).is_none_or(|known| known != *path))
    };
    let dir = || named("UNISYS_STATE_DIR", &global.state_dir).map(|dir| ("--state-dir", dir));
    let socket = named("UNISYS_SOCKET", &global.socket).map(|socket| ("--socket", socket));
    let one = |files: &[PathBuf]| if let [file] = files { Some(file.clone()) } else { None };
    let file = match verb {
        Verb::Up(args) => one(&args.files),
        Verb::Apply(args) => Some(args.files.file.clone()),
        Verb::Diff(args) => Some(args.files.file.clone()),
        Verb::Plan(args) => args.file.clone(),
        Verb::Delete(args) => args.file.clone(),
        Verb::Validate(args) => one(&[&args.paths[..], &args.file[..]].concat()),
        _ => None,
    };
    let _ =
        GIVEN.set(Given { daemon: socket.or_else(dir), file: file.filter(|file| file != Path::new("-")) });
}

/// The same words, in which commands carry what was given.
pub fn pastable(text: &str) -> String {
    GIVEN.get().map_or_else(|| text.to_owned(), |given| carrying(text, given))
}

fn carrying(text: &str, given: &Given) -> String {
    let mut carried = match &given.file {
        Some(file) => text.replace("-f PATH", &format!("-f {}", quoted(file))),
        None => text.to_owned(),
    };
    if let Some((option, path)) = &given.daemon {
        let with = format!("`unisys {option} {} ", quoted(path));
        // What starts a daemon is told no socket.
        let parts =
            carried.split("`unisys ").enumerate().map(|(index, part)| match part.split([' ', '`']).next() {
                _ if index == 0 => part.to_owned(),
                Some("up") if *option == "--socket" => format!("`unisys {part}"),
                _ => format!("{with}{part}"),
            });
        carried = parts.collect();
    }
    carried
}

/// As one word of a shell (POSIX, 2.2.2).
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_carry_what_was_given_and_other_words_stay() {
        let check = |daemon: Option<(&'static str, &str)>, file: Option<&str>, text: &str, expected: &str| {
            let given = Given {
                daemon: daemon.map(|(option, path)| (option, path.into())),
                file: file.map(Into::into),
            };
            assert_eq!(carrying(text, &given), expected);
        };
        check(None, None, "see `unisys get`", "see `unisys get`");
        check(None, Some("m"), "`unisys apply -f PATH --force`", "`unisys apply -f m --force`");
        check(None, Some("my m"), "or unisys apply -f PATH", "or unisys apply -f 'my m'");
        check(None, Some("it's"), "-f PATH", "-f 'it'\\''s'");
        let dir = Some(("--state-dir", "/s"));
        check(dir, None, "`unisys why a`, unisys", "`unisys --state-dir /s why a`, unisys");
        check(dir, None, "start one with `unisys up`", "start one with `unisys --state-dir /s up`");
        check(
            Some(("--socket", "/x")),
            None,
            "`unisys up`, `unisys get`",
            "`unisys up`, `unisys --socket /x get`",
        );
    }
}
