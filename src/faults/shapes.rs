//! Where a program's last words begin and what their headline is: tracebacks of Python, Node, Java, Go, Rust, PostgreSQL's log.

/// The last words of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Story<'a> {
    /// Lines from its beginning on.
    pub lines: &'a [String],
    /// The one line that says it.
    pub headline: String,
}

/// Lines looked at when nothing has the shape of a traceback.
const PLAIN: usize = 20;

/// Finds the last story in the last lines of stderr; `None` when nothing was written.
pub fn story(lines: &[String]) -> Option<Story<'_>> {
    let found = [python(lines), rust(lines), go(lines), java(lines), node(lines)];
    let latest = found.into_iter().flatten().max_by_key(|(start, _)| *start);
    if let Some((start, headline)) = latest {
        return Some(Story { lines: &lines[start..], headline });
    }
    let start = lines.len().saturating_sub(PLAIN);
    let lines = &lines[start..];
    let headline = plain_headline(lines)?;
    Some(Story { lines, headline })
}

/// A start and its headline.
type Found = Option<(usize, String)>;

const TRACEBACK: &str = "Traceback (most recent call last):";

/// The exception is the last line that is not indented; of a chain, the last one, and the story begins with the first.
fn python(lines: &[String]) -> Found {
    let is_chain = |line: &String| {
        line.starts_with("During handling of the above exception")
            || line.starts_with("The above exception was the direct cause")
    };
    let last = lines.iter().rposition(|line| line.trim_end().ends_with(TRACEBACK))?;
    let mut start = last;
    while let Some(chain) =
        lines[..start].iter().rposition(|line| !line.trim().is_empty()).filter(|at| is_chain(&lines[*at]))
    {
        match lines[..chain].iter().rposition(|line| line.trim_end().ends_with(TRACEBACK)) {
            Some(earlier) => start = earlier,
            None => break,
        }
    }
    let after = &lines[last + 1..];
    let headline = after.iter().find(|line| !line.trim().is_empty() && !line.starts_with([' ', '\t']))?;
    Some((start, headline.trim().to_owned()))
}

/// `thread 'main' panicked at src/main.rs:2:5:` and then the message, or with the message in quotes (before Rust 1.73).
fn rust(lines: &[String]) -> Found {
    let start =
        lines.iter().rposition(|line| line.starts_with("thread '") && line.contains("panicked at "))?;
    let (_, place) = lines[start].split_once("panicked at ")?;
    let message = lines.get(start + 1).filter(|_| place.ends_with(':')).map(|line| line.trim());
    let headline = match message {
        Some(message) => format!("panicked at {place} {message}"),
        None => format!("panicked at {place}"),
    };
    Some((start, headline))
}

/// `panic: …` or `fatal error: …`, then goroutines.
fn go(lines: &[String]) -> Found {
    let start = lines.iter().rposition(|line| {
        (line.starts_with("panic: ") || line.starts_with("fatal error: ")) && !line.contains("[recovered]")
    })?;
    let traced =
        lines[start..].iter().any(|line| line.starts_with("goroutine ") || line.starts_with("runtime"));
    traced.then(|| (start, lines[start].trim().to_owned()))
}

/// `Exception in thread "main" …`, frames, and `Caused by: …`; the last cause is the root.
fn java(lines: &[String]) -> Found {
    const HEAD: &str = "Exception in thread \"";
    let start = lines.iter().rposition(|line| line.starts_with(HEAD))?;
    let (_, head) = lines[start][HEAD.len()..].split_once("\" ")?;
    let cause = lines[start..].iter().rev().find_map(|line| line.strip_prefix("Caused by: "));
    let headline = match cause {
        Some(cause) => format!("{}; caused by {}", head.trim(), cause.trim()),
        None => head.trim().to_owned(),
    };
    Some((start, headline))
}

/// `TypeError: …` above frames that begin with `at`; before it the place, after it perhaps the error's fields.
fn node(lines: &[String]) -> Found {
    let is_frame = |line: &String| line.starts_with("    at ");
    let version = lines.iter().rposition(|line| line.starts_with("Node.js v"));
    let last_frame = lines.iter().rposition(is_frame);
    let end = version.or(last_frame)?;
    let is_error = |line: &String| {
        let line = line.strip_prefix("Uncaught ").unwrap_or(line);
        let word = line.split([':', ' ']).next().unwrap_or_default();
        (word.ends_with("Error") || word.ends_with("Exception")) && line.len() > word.len()
            || line.starts_with("FATAL ERROR: ")
    };
    let mut at = lines[..end].iter().rposition(is_error)?;
    // The frames of one error: those above belong to an earlier one.
    while let Some(above) = at.checked_sub(1).filter(|above| is_error(&lines[*above])) {
        at = above;
    }
    Some((at, lines[at].trim().to_owned()))
}

/// The last line that speaks of an error, else the last line.
fn plain_headline(lines: &[String]) -> Option<String> {
    const STARTS: [&str; 5] = ["FATAL ERROR: ", "Error: ", "error: ", "fatal: ", "ERROR: "];
    const WORDS: [&str; 8] =
        ["error", "fatal", "panic", "exception", "failed", "cannot", "could not", "denied"];
    let speaks = |line: &&String| {
        let line = line.to_ascii_lowercase();
        WORDS.iter().any(|word| line.contains(word))
    };
    let last = lines.iter().rev().find(|line| !line.trim().is_empty())?;
    let starts = |line: &&String| STARTS.iter().any(|start| line.starts_with(start));
    let headline = lines.iter().rev().find(starts).or_else(|| lines.iter().rev().find(speaks));
    Some(headline.unwrap_or(last).trim().to_owned())
}
