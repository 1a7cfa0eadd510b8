use regex::Regex;

use crate::api::follow::Reached;
use crate::base::{ObjectKind, Stamp, parse_duration};
use crate::logs::read::{Line, Position, Query};
use crate::os::clock;

use super::super::args::{Format, Global, Logs};
use super::super::client::{Client, encoded};
use super::super::{Failure, Outcome, kept, render};

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
    let args = &Logs { names: ObjectKind::joined(&args.names, called), ..args.clone() };
    let grep = args.grep.as_deref().map(Regex::new).transpose();
    let grep =
        grep.map_err(|error| Failure::usage(format!("--grep: {error}"), "write a regular expression"))?;
    let all = args.since.is_some() || grep.is_some();
    let tail = args.tail.or((!all).then_some(LINES));
    let since = args.since.as_ref().map(|since| beginning(since, clock::wall())).transpose()?;
    let mut query: Vec<_> = tail.into_iter().map(|count| ("tail", count.to_string())).collect();
    query.extend(since.map(|since| ("sinceMs", since.0.to_string())));
    query.extend(args.previous.then(|| ("previous", "true".into())));
    let colours = render::colour_on_stdout();
    let several = args.names.len() > 1;
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
                let of = if several { format!("{} | ", line.service) } else { String::new() };
                render::print(&format!("{at}{of}{}\n", render::painted(&line.message, colours)));
            }
        }
    };
    // What has ended is not followed.
    if args.follow && Client::connect(global).is_ok() {
        return follow(global, args, &query, &show);
    }
    let all = |read: &Read<'_>| {
        if let [name] = &args.names[..] {
            return read(name, &mut |line| show(&line));
        }
        let mut lines = Vec::new();
        for name in &args.names {
            read(name, &mut |line| lines.extend(Some(line).filter(&wanted)))?;
        }
        lines.sort_by_key(|line| line.ts);
        lines.iter().for_each(show);
        Ok(())
    };
    let kept_query = || Query { tail, since, ..Query::default() };
    kept::ask(
        global,
        |client| all(&|name, take| read(client, name, &query, take)),
        |kept| all(&|name, take| kept.logs(name, kept_query(), args.previous, take)),
    )?;
    Ok(Outcome::Done)
}

/// Reads the log of one unit.
type Read<'r> = dyn Fn(&str, &mut dyn FnMut(Line)) -> Result<(), Failure> + 'r;

/// `5m`: so long ago; or a time as RFC 3339 writes it.
fn beginning(text: &str, now: Stamp) -> Result<Stamp, Failure> {
    if let Ok(ago) = parse_duration(text) {
        return Ok(Stamp(now.0.saturating_sub(i64::try_from(ago.as_millis()).unwrap_or(i64::MAX))));
    }
    serde_json::from_value(text.into()).map_err(|_| {
        Failure::usage(
            format!("--since: `{text}` is neither a duration nor a time"),
            "write --since 5m, or --since 2026-01-01T00:00:00Z",
        )
    })
}

fn read(
    client: &Client,
    name: &str,
    query: &[(&str, String)],
    mut take: impl FnMut(Line),
) -> Result<(), Failure> {
    each_object(client, name, query, |text| {
        if let Ok(line) = serde_json::from_slice(text) {
            take(line);
        }
    })
}

/// What the daemon says of a log, one JSON object a line.
fn each_object(
    client: &Client,
    name: &str,
    query: &[(&str, String)],
    mut take: impl FnMut(&[u8]),
) -> Result<(), Failure> {
    let mut rest: Vec<u8> = Vec::new();
    client.stream(&format!("/v1/logs/{}", encoded(name)), query, |chunk| {
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
    args: &Logs,
    query: &[(&str, String)],
    show: &(dyn Fn(&Line) + Sync),
) -> Result<Outcome, Failure> {
    if args.names.len() > 1 {
        // That there is none of them is said at once, not when the others have ended.
        let client = Client::connect(global)?;
        for name in &args.names {
            read(&client, name, &[("tail", "0".into())], drop)?;
        }
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = args
            .names
            .iter()
            .map(|name| {
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
                        each_object(client, name, &query, |text| {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_is_a_duration_before_now_or_a_time() {
        let now = Stamp(1_767_225_600_000);
        for (text, expected) in [
            ("5m", Some(now.0 - 300_000)),
            ("2026-01-01T00:00:00Z", Some(now.0)),
            ("2026-01-01T02:00:00.500+02:00", Some(now.0 + 500)),
            ("2026-01-01", None),
            ("5", None),
            ("yesterday", None),
        ] {
            assert_eq!(beginning(text, now).ok().map(|at| at.0), expected, "{text}");
        }
    }
}
