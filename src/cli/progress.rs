//! What a command waits for, on standard error: a table that is drawn anew on a terminal, one line a change elsewhere.

use std::collections::HashSet;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::render::neutral;

/// What takes no longer needs no words (cli.md).
const SOON: Duration = Duration::from_secs(1);
/// Lines of the table, or of one change; the rest is counted.
const LINES: usize = 12;

pub struct Progress {
    began: Instant,
    quiet: bool,
    terminal: bool,
    /// What the last look gave.
    shown: Vec<String>,
    /// Lines of it that stand on the terminal.
    drawn: usize,
}

impl Progress {
    pub fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { began: Instant::now(), quiet, terminal, shown: Vec::new(), drawn: 0 }
    }

    /// What is not as wanted yet, each with why.
    pub fn show(&mut self, unmet: &[String]) {
        if self.quiet || self.began.elapsed() < SOON || self.shown == unmet {
            return;
        }
        let text = if self.terminal { self.table(unmet) } else { changes(&self.shown, unmet) };
        // Who does not want to hear of it does not hear of it.
        let _ = std::io::stderr().write_all(text.as_bytes());
        self.shown = unmet.to_vec();
    }

    /// The table in place of the former one.
    fn table(&mut self, unmet: &[String]) -> String {
        let former = self.erased();
        let lines = listed(unmet.iter().map(|line| cut(&neutral(line))));
        self.drawn = lines.len();
        former + &text(lines)
    }

    /// Up to the table's first line, and nothing from there on (CUU and ED of ECMA-48).
    fn erased(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            lines => format!("\u{1b}[{lines}A\u{1b}[J"),
        }
    }
}

impl Drop for Progress {
    /// The answer stands where the table was.
    fn drop(&mut self) {
        let _ = std::io::stderr().write_all(self.erased().as_bytes());
    }
}

/// Lines that were not there at the last look.
fn changes(before: &[String], now: &[String]) -> String {
    let before: HashSet<&String> = before.iter().collect();
    let new = now.iter().filter(|line| !before.contains(line)).map(|line| neutral(line));
    text(listed(new).into_iter().map(|line| format!("waiting: {line}")))
}

/// The first of them, and how many more there are.
fn listed(lines: impl Iterator<Item = String>) -> Vec<String> {
    let mut lines: Vec<String> = lines.collect();
    let more = lines.len().saturating_sub(LINES);
    if more > 0 {
        lines.truncate(LINES);
        lines.push(format!("… and {more} more"));
    }
    lines
}

fn text(lines: impl IntoIterator<Item = String>) -> String {
    lines.into_iter().map(|line| line + "\n").collect()
}

/// One line of the terminal: what is longer would be counted wrong when the table is drawn anew.
fn cut(line: &str) -> String {
    let width = rustix::termios::tcgetwinsize(std::io::stderr()).map_or(80, |size| usize::from(size.ws_col));
    let most = width.max(20) - 1;
    match line.chars().count() > most {
        true => line.chars().take(most - 1).chain(['…']).collect(),
        false => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn elsewhere_a_line_is_said_once_and_again_when_it_has_changed() {
        assert_eq!(changes(&[], &lines(&["a is Starting"])), "waiting: a is Starting\n");
        assert_eq!(
            changes(&lines(&["a is Starting", "b is Held"]), &lines(&["a is BackOff", "b is Held"])),
            "waiting: a is BackOff\n"
        );
        let many: Vec<String> = (0..1000).map(|index| index.to_string()).collect();
        let said = changes(&[], &many);
        assert_eq!((said.lines().count(), said.lines().last()), (LINES + 1, Some("waiting: … and 988 more")));
    }

    #[test]
    fn on_a_terminal_the_table_takes_the_place_of_the_former_one_and_leaves_nothing() {
        let mut progress = Progress::new(true);
        progress.terminal = true;
        assert_eq!(progress.table(&lines(&["a", "b"])), "a\nb\n");
        assert_eq!(progress.table(&lines(&["b"])), "\u{1b}[2A\u{1b}[Jb\n");
        let many: Vec<String> = (0..LINES + 3).map(|index| index.to_string()).collect();
        assert!(progress.table(&many).ends_with("… and 3 more\n"));
        assert_eq!(progress.erased(), format!("\u{1b}[{}A\u{1b}[J", LINES + 1));
        assert_eq!(progress.erased(), "");
    }
}
