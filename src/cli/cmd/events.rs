use crate::api::types::Event;

use super::super::args::{Events, Format, Global};
use super::super::client::Client;
use super::super::{Failure, Outcome, kept, render};

/// `unisys events`: what happened, and with -w what happens.
pub fn run(global: &Global, args: &Events) -> Result<Outcome, Failure> {
    render::only(global.output, &[Format::Text, Format::Table, Format::Json])?;
    let name = args.of.name().map(|name| ("name", name));
    let query = Vec::from_iter(name.clone());
    let (events, goes_on): (Vec<Event>, bool) = kept::ask(
        global,
        |client| Ok((client.get("/v1/events", &query)?, true)),
        |kept| Ok((kept.events(args.of.name().as_deref())?, false)),
    )?;
    events.iter().for_each(|event| show(global, event));
    if !args.watch || !goes_on {
        return Ok(Outcome::Done);
    }
    let mut after = events.last().map_or(0, |event| event.id);
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
