//! What the schema cannot say of a Notifier.

use super::diagnostic::{Diagnostic, nearest};
use super::load::{Objects, Source};
use super::spec::NotifierSpec;
use super::spec::process::EnvValue;

/// Fields of `template`; `faults::notifier::template` fills them in.
pub const TEMPLATE_FIELDS: [&str; 15] = [
    "text",
    "errors",
    "omitted",
    "notifier",
    "id",
    "fingerprint",
    "category",
    "severity",
    "unit",
    "incarnation",
    "revision",
    "message",
    "count",
    "firstSeen",
    "lastSeen",
];

pub fn check(objects: &Objects, diagnostics: &mut Vec<Diagnostic>) {
    for object in objects.notifiers.values() {
        notifier(&object.spec, &object.source, objects, diagnostics);
    }
    let Some(system) = &objects.system else { return };
    for (index, name) in system.spec.notifications.iter().flat_map(|chosen| &chosen.notifiers).enumerate() {
        if !objects.notifiers.contains_key(name) {
            let path = format!("spec.notifications.notifiers.{index}");
            let message = format!("there is no Notifier `{name}`");
            let names = objects.notifiers.keys().map(|name| name.as_str());
            let hint = nearest(name.as_str(), names)
                .map_or("declare it".into(), |near| format!("did you mean `{near}`?"));
            let span = system.source.span(&path);
            diagnostics.push(Diagnostic::error("E1606", &span, path, message).hint(hint));
        }
    }
    for (index, row) in system.spec.errors.iter().flat_map(|settings| &settings.patterns).enumerate() {
        if let Err(error) = regex::bytes::Regex::new(&row.pattern) {
            let path = format!("spec.errors.patterns.{index}.pattern");
            let why = error.to_string().lines().last().unwrap_or_default().trim().to_owned();
            let message = format!("`{}` is not a regular expression: {why}", row.pattern);
            let span = system.source.span(&path);
            let diagnostic = Diagnostic::error("E1601", &span, path, message);
            diagnostics.push(diagnostic.hint("put a backslash before a character that is meant as itself"));
        }
    }
}

fn notifier(spec: &NotifierSpec, source: &Source, objects: &Objects, diagnostics: &mut Vec<Diagnostic>) {
    let mut tell = |path: &str, message: String, hint: &str| {
        diagnostics.push(Diagnostic::error("E1606", &source.span(path), path, message).hint(hint));
    };
    let ways = [spec.webhook.is_some(), spec.exec.is_some(), spec.file.is_some()];
    if ways.into_iter().filter(|way| *way).count() != 1 {
        let message = format!("{} tells nobody, or in more than one way", source.object);
        tell("spec", message, "give exactly one of `webhook`, `exec` and `file`");
    }
    for (index, name) in spec.on.services.iter().enumerate() {
        if !objects.services.contains_key(name) && !objects.jobs.contains_key(name) {
            let message = format!("there is no Service or Job `{name}`");
            tell(&format!("spec.on.services.{index}"), message, "correct the name, or remove it");
        }
    }
    if spec.exec.as_ref().is_some_and(|exec| exec.command.is_empty()) {
        tell(
            "spec.exec.command",
            "there is no command to execute".into(),
            "write `command: [PROGRAM, ARGUMENT…]`",
        );
    }
    let Some(webhook) = &spec.webhook else { return };
    for name in webhook.template.iter().flat_map(|text| template_fields(text)) {
        if !TEMPLATE_FIELDS.contains(&name) {
            let hint = nearest(name, TEMPLATE_FIELDS).map_or_else(
                || format!("fields: {}", TEMPLATE_FIELDS.join(", ")),
                |near| format!("did you mean `{{{{{near}}}}}`?"),
            );
            tell("spec.webhook.template", format!("a template has no field `{name}`"), &hint);
        }
    }
    let references = webhook.headers.values().chain([&webhook.url]);
    for reference in references {
        let missing = match reference {
            EnvValue::Text(_) => continue,
            EnvValue::Config(of) => !objects.configs.contains_key(&of.config),
            EnvValue::Secret(of) => {
                !objects.secrets.get(&of.secret).is_some_and(|secret| secret.spec.data.contains_key(&of.key))
            }
        };
        if missing {
            tell(
                "spec.webhook",
                "it refers to a Config or Secret key that is not declared".into(),
                "declare it",
            );
        }
    }
    if let EnvValue::Text(url) = &webhook.url {
        let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        if host.is_none_or(str::is_empty) {
            tell("spec.webhook.url", format!("`{url}` is not a URL"), "write https://HOST:PORT/PATH");
        }
    }
}

/// The names between `{{` and `}}`.
pub fn template_fields(template: &str) -> impl Iterator<Item = &str> {
    template.split("{{").skip(1).filter_map(|part| part.split_once("}}")).map(|(name, _)| name.trim())
}
