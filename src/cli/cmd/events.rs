use crate::api::follow::EventsQuery;
use crate::api::types::Event;

use super::super::args::{Events, Format, Global};
use super::super::client::Client;
use super::super::{Failure, Outcome, kept, moment, render};

/// `unisys events`: what happened, and with -w what happens.
pub fn run(global: &Global, args: &Events) -> Result<Outcome, Failure> {
    render::only(global.output, &[Format::Text, Format::Table, Format::Json])?;
    let wanted = EventsQuery {
        name: args.of.name(),
        since_ms: moment::of("--since", args.since.as_deref())?.map(|since| since.0),
        until_ms: moment::of("--until", args.until.as_deref())?.map(|until| until.0),
        tail: args.tail,
        after: None,
    };
    let name = wanted.name.clone().map(|name| ("name", name));
    let mut query = Vec::from_iter(name.clone());
    query.extend(wanted.since_ms.map(|since| ("sinceMs", since.to_string())));
    query.extend(wanted.until_ms.map(|until| ("untilMs", until.to_string())));
    query.extend(wanted.tail.map(|tail| ("tail", tail.to_string())));
    // What comes while these are read is not passed over, though none of these was wanted.
    let before = |client: &Client| -> Result<u64, Failure> {
        let last: Vec<Event> = match args.watch {
            true => client.get("/v1/events", &[("tail", "1".to_owned())])?,
            false => Vec::new(),
        };
        Ok(last.last().map_or(0, |event| event.id))
    };
    let (events, goes_on): (Vec<Event>, Option<u64>) = kept::ask(
        global,
        |client| {
            let before = before(client)?;
            Ok((client.get("/v1/events", &query)?, Some(before)))
        },
        |kept| Ok((kept.events(&wanted)?, None)),
    )?;
    events.iter().for_each(|event| show(global, event));
    let Some(before) = goes_on.filter(|_| args.watch) else { return Ok(Outcome::Done) };
    let mut after = events.last().map_or(before, |event| event.id.max(before));
    Client::follow(global, |client| {
        let mut query = vec![("after", after.to_string())];
        query.extend(name.clone());
        let mut text = String::new();
        client.stream("/v1/watch", &query, |chunk| {
            text.push_str(&String::from_utf8_lossy(chunk));
            while let Some((line, rest)) = text.split_once('\n') {
                let data = line.strip_prefix("data:").map(str::trim);
                if let Some(event) = data.and_then(|data| serde_json::from_str::<Event>(data).ok()) {
                    after = event.id;
                    show(global, &event);
                }
                text = rest.to_owned();
            }
            true
        })?;
        Ok(true)
    })
}

fn show(global: &Global, event: &Event) {
    if global.output == Some(Format::Json) {
        return render::print(&format!("{}\n", serde_json::to_string(event).unwrap_or_default()));
    }
    let message = render::neutral(&event.message);
    render::print(&format!(
        "{}  {:<7}  {:<18}  {:<18}  {message}\n",
        event.ts, event.kind, event.reason, event.object
    ));
}
