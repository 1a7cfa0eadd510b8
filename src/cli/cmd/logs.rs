use std::sync::atomic::{AtomicBool, Ordering};

use regex::Regex;

use crate::api::follow::Reached;
use crate::base::{ObjectKind, Ordinal};
use crate::logs::read::{Line, Position, Query};

use super::super::args::{Format, Global, Logs};
use super::super::client::{Client, encoded};
use super::super::{Failure, Outcome, kept, moment, render};

/// Without a filter so many of the last lines are shown.
const LINES: usize = 100;

/// `unisys logs`: what units wrote, several units by time, and with -f as they write.
pub fn run(global: &Global, args: &Logs) -> Result<Outcome, Failure> {
    render::only(global.output, &[Format::Text, Format::Json])?;
    if args.level.is_some() {
        return Err(Failure::usage(
            "--level is not carried out yet: what a line's level is, is not read from logs so far",
            "look for it in the text: --grep 'WARN|ERROR'",
        ));
    }
    let unit = |client: &Client, word: &str| {
        ["service", "job"].iter().any(|kind| {
            client.get::<serde_json::Value>(&format!("/v1/objects/{kind}/{}", encoded(word)), &[]).is_ok()
        })
    };
    let called = |word: &str| Client::connect(global).is_ok_and(|client| unit(&client, word));
    let words = ObjectKind::joined(&args.names, called);
    let sources: Vec<Source> = words.iter().map(|word| Source::of(word, args.instance)).collect();
    let grep = args.grep.as_deref().map(Regex::new).transpose();
    let grep =
        grep.map_err(|error| Failure::usage(format!("--grep: {error}"), "write a regular expression"))?;
    let all = args.since.is_some() || grep.is_some();
    let tail = args.tail.or((!all).then_some(LINES));
    let since = moment::of("--since", args.since.as_deref())?;
    let mut query: Vec<_> = tail.into_iter().map(|count| ("tail", count.to_string())).collect();
    query.extend(since.map(|since| ("sinceMs", since.0.to_string())));
    query.extend(args.previous.then(|| ("previous", "true".into())));
    let colours = render::colour_on_stdout();
    let prefix = Prefix {
        several: sources.len() > 1,
        one: sources.iter().all(|source| source.ordinal.is_some()),
        replicated: sources.iter().any(|source| is_replicated(global, source)).into(),
    };
    let wanted = |line: &Line| grep.as_ref().is_none_or(|grep| grep.is_match(&line.message));
    let show = |line: &Line| {
        if !wanted(line) {
            return;
        }
        match global.output {
            Some(Format::Json) => {
                render::print(&format!("{}\n", serde_json::to_string(line).unwrap_or_default()))
            }
            _ => {
                let at = if args.timestamps { format!("{} ", line.ts) } else { String::new() };
                let of = prefix.of(line);
                render::print(&format!("{at}{of}{}\n", render::painted(&line.message, colours)));
            }
        }
    };
    // What has ended is not followed.
    if args.follow && Client::connect(global).is_ok() {
        return follow(global, &sources, &query, &show);
    }
    let all = |read: &Read<'_>| {
        if let [source] = &sources[..] {
            return read(source, &mut |line| show(&line));
        }
        let mut lines = Vec::new();
        for source in &sources {
            read(source, &mut |line| lines.extend(Some(line).filter(&wanted)))?;
        }
        lines.sort_by_key(|line| line.ts);
        lines.iter().for_each(show);
        Ok(())
    };
    let kept_query = |source: &Source| Query { tail, since, ordinal: source.ordinal, ..Query::default() };
    kept::ask(
        global,
        |client| all(&|source, take| read(client, source, &query, take)),
        |kept| all(&|source, take| kept.logs(&source.name, kept_query(source), args.previous, take)),
    )?;
    Ok(Outcome::Done)
}

/// Reads the log of one unit.
type Read<'r> = dyn Fn(&Source, &mut dyn FnMut(Line)) -> Result<(), Failure> + 'r;

/// Whether a unit has several instances, where somebody can tell: else its lines do.
fn is_replicated(global: &Global, source: &Source) -> bool {
    let Ok(client) = Client::connect(global) else { return false };
    let name = source.name.rsplit('/').next().unwrap_or_default();
    let found = client.get::<serde_json::Value>(&format!("/v1/objects/service/{}", encoded(name)), &[]);
    found.is_ok_and(|unit| unit["status"]["replicas"].as_u64() > Some(1))
}

fn read(
    client: &Client,
    source: &Source,
    query: &[(&str, String)],
    mut take: impl FnMut(Line),
) -> Result<(), Failure> {
    each_object(client, source, query, |text| {
        if let Ok(line) = serde_json::from_slice(text) {
            take(line);
        }
    })
}

/// What the daemon says of a log, one JSON object a line.
fn each_object(
    client: &Client,
    source: &Source,
    query: &[(&str, String)],
    mut take: impl FnMut(&[u8]),
) -> Result<(), Failure> {
    let mut rest: Vec<u8> = Vec::new();
    let mut query = query.to_vec();
    query.extend(source.query());
    client.stream(&format!("/v1/logs/{}", encoded(&source.name)), &query, |chunk| {
        rest.extend_from_slice(chunk);
        let whole = memchr::memrchr(b'\n', &rest).map_or(0, |last| last + 1);
        rest[..whole].split_inclusive(|byte| *byte == b'\n').for_each(&mut take);
        rest.drain(..whole);
        true
    })
}

/// One connection a unit, each in a thread of its own.
fn follow(
    global: &Global,
    sources: &[Source],
    query: &[(&str, String)],
    show: &(dyn Fn(&Line) + Sync),
) -> Result<Outcome, Failure> {
    if sources.len() > 1 {
        // That there is none of them is said at once, not when the others have ended.
        let client = Client::connect(global)?;
        for source in sources {
            read(&client, source, &[("tail", "0".into())], drop)?;
        }
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = sources
            .iter()
            .map(|source| {
                scope.spawn(move || {
                    // Up to where the next daemon is to pass over what was shown: a position, and so many lines.
                    let mut last: Option<(Position, usize)> = None;
                    Client::follow(global, |client| {
                        let mut query = match last {
                            Some((from, shown)) => {
                                vec![("from", from.into()), ("skip", shown.to_string())]
                            }
                            None => query.to_vec(),
                        };
                        query.extend(["follow", "positions"].map(|word| (word, "true".into())));
                        each_object(client, source, &query, |text| {
                            if let Ok(line) = serde_json::from_slice(text) {
                                last.iter_mut().for_each(|(_, shown)| *shown += 1);
                                show(&line);
                            } else if let Ok(Reached { position, skip }) = serde_json::from_slice(text) {
                                last = Some((position, skip));
                            }
                        })?;
                        Ok(true)
                    })
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap_or(Ok(Outcome::Done))?;
        }
        Ok(Outcome::Done)
    })
}

/// One log, or what one instance wrote into it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    /// `web`, or `service/web`.
    name: String,
    ordinal: Option<Ordinal>,
}

impl Source {
    /// `web.1` is instance 1 of web: names have no dots.
    fn of(word: &str, ordinal: Option<u32>) -> Self {
        let own = word.rsplit_once('.').and_then(|(name, number)| Some((name, number.parse().ok()?)));
        let (name, ordinal) = own.map_or((word, ordinal), |(name, own)| (name, Some(own)));
        Self { name: name.to_owned(), ordinal: ordinal.map(Ordinal) }
    }

    fn query(&self) -> Option<(&'static str, String)> {
        self.ordinal.map(|ordinal| ("instance", ordinal.to_string()))
    }
}

/// Who wrote a line, where that is not plain: `web`, or `web.1` of a unit that has several instances.
struct Prefix {
    several: bool,
    /// One that is asked for alone needs no number.
    one: bool,
    replicated: AtomicBool,
}

impl Prefix {
    fn of(&self, line: &Line) -> String {
        if line.instance > 0 {
            self.replicated.store(true, Ordering::Relaxed);
        }
        match (self.several, self.replicated.load(Ordering::Relaxed)) {
            (true, false) => format!("{} | ", line.service),
            (false, true) if self.one => String::new(),
            (_, true) => format!("{}.{} | ", line.service, line.instance),
            (false, false) => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_named_by_its_number() {
        for (word, option, name, ordinal) in [
            ("web", None, "web", None),
            ("web.1", None, "web", Some(1)),
            ("service/web.12", Some(3), "service/web", Some(12)),
            ("web", Some(3), "web", Some(3)),
            ("web.x", None, "web.x", None),
        ] {
            let expected = Source { name: name.to_owned(), ordinal: ordinal.map(Ordinal) };
            assert_eq!(Source::of(word, option), expected, "{word}");
        }
    }

    #[test]
    fn who_wrote_a_line_is_said_where_it_is_not_plain() {
        let line = |instance| {
            let text = format!(
                r#"{{"ts":"2026-01-01T00:00:00Z","service":"web","instance":{instance},"incarnation":1,"stream":"stdout","level":null,"message":"m","traceId":null,"fields":{{}}}}"#
            );
            serde_json::from_str::<Line>(&text).unwrap()
        };
        for (several, one, replicated, expected) in [
            (false, false, false, ["", "web.1 | ", "web.0 | "]),
            (false, false, true, ["web.0 | ", "web.1 | ", "web.0 | "]),
            (false, true, true, ["", "", ""]),
            (true, false, false, ["web | ", "web.1 | ", "web.0 | "]),
        ] {
            let prefix = Prefix { several, one, replicated: AtomicBool::new(replicated) };
            assert_eq!([0, 1, 0].map(|instance| prefix.of(&line(instance))), expected);
        }
    }
}
