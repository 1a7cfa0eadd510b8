//! E1900: fields that this version knows and does not carry out yet. Never silently ignored; `null` or a value equal to
//! the default never raises it. Shrink this file when something is built.

use crate::base::ObjectKind;

use super::diagnostic::Diagnostic;
use super::load::{Objects, Source};
use super::spec::service::ServiceSpec;
use super::spec::{Deliver, JobSpec, Logging, SecretSource};

/// What `explain` says of them: the field, and which of its values if others are carried out.
const FIELDS: [(ObjectKind, &str, &str); 16] = [
    (ObjectKind::Service, "spec.metrics", ""),
    (ObjectKind::Service, "spec.logging.format", ""),
    (ObjectKind::Service, "spec.logging.maxSize", ""),
    (ObjectKind::Service, "spec.logging.maxFiles", ""),
    (ObjectKind::Service, "spec.logging.overflow", ""),
    (ObjectKind::Service, "spec.logging.redact", ""),
    (ObjectKind::Job, "spec.schedule", ""),
    (ObjectKind::Job, "spec.timeZone", ""),
    (ObjectKind::Job, "spec.concurrencyPolicy", ""),
    (ObjectKind::Job, "spec.startingDeadline", ""),
    (ObjectKind::Job, "spec.history", ""),
    (ObjectKind::Secret, "spec.data", "`exec`"),
    (ObjectKind::Secret, "spec.deliver", "`files`"),
    (ObjectKind::System, "spec.logging", ""),
    (ObjectKind::System, "spec.metrics", ""),
    (ObjectKind::System, "spec.api", ""),
];

/// What of a field is not carried out yet: all of it (an empty text), or one of its values.
pub fn of_field(kind: ObjectKind, path: &str) -> Option<&'static str> {
    let is_it = |of: ObjectKind, field: &str| {
        // A Job logs as a Service does.
        let logs = kind == ObjectKind::Job && of == ObjectKind::Service && field.starts_with("spec.logging.");
        let below = path.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        (of == kind || logs) && below
    };
    FIELDS.iter().find(|(of, field, _)| is_it(*of, field)).map(|(.., which)| *which)
}

/// All of E1900.
pub fn check(objects: &Objects, diagnostics: &mut Vec<Diagnostic>) {
    for object in objects.services.values() {
        let mut found = service(&object.spec);
        found.extend(process(&object.spec.logging));
        report(&object.source, found, diagnostics);
    }
    for object in objects.jobs.values() {
        let mut found = job(&object.spec);
        found.extend(process(&object.spec.logging));
        report(&object.source, found, diagnostics);
    }
    for object in objects.secrets.values() {
        let execs = object.spec.data.iter().filter(|(_, source)| matches!(source, SecretSource::Exec(_)));
        let execs = execs.map(|(key, _)| format!("spec.data.{key}.exec"));
        let files = chosen([(object.spec.deliver == Deliver::Files, "spec.deliver")]);
        report(&object.source, execs.chain(files).collect(), diagnostics);
    }
    if let Some(object) = &objects.system {
        let spec = &object.spec;
        let set = [
            (spec.logging.is_some(), "spec.logging"),
            (spec.metrics.is_some(), "spec.metrics"),
            (spec.api.is_some(), "spec.api"),
        ];
        report(&object.source, chosen(set), diagnostics);
    }
}

fn service(spec: &ServiceSpec) -> Vec<String> {
    chosen([(spec.metrics.is_some(), "spec.metrics")])
}

fn job(spec: &JobSpec) -> Vec<String> {
    chosen([
        (spec.schedule.is_some(), "spec.schedule"),
        (spec.time_zone.is_some(), "spec.timeZone"),
        (spec.concurrency_policy != Default::default(), "spec.concurrencyPolicy"),
        (spec.starting_deadline.is_some(), "spec.startingDeadline"),
        (spec.history != Default::default(), "spec.history"),
    ])
}

fn process(logging: &Logging) -> Vec<String> {
    let log = Logging::default();
    chosen([
        (logging.format != log.format, "spec.logging.format"),
        (logging.max_size != log.max_size, "spec.logging.maxSize"),
        (logging.max_files != log.max_files, "spec.logging.maxFiles"),
        (logging.overflow != log.overflow, "spec.logging.overflow"),
        (!logging.redact.is_empty(), "spec.logging.redact"),
    ])
}

fn chosen<const N: usize>(rows: [(bool, &str); N]) -> Vec<String> {
    rows.into_iter().filter(|(set, _)| *set).map(|(_, path)| path.to_owned()).collect()
}

fn report(source: &Source, paths: Vec<String>, diagnostics: &mut Vec<Diagnostic>) {
    for path in paths {
        debug_assert!(of_field(source.object.kind, &path).is_some(), "`explain` does not know it of {path}");
        let message = format!("`{path}` cannot be carried out by this version of unisys yet");
        let diagnostic = Diagnostic::error("E1900", &source.span(&path), path, message);
        diagnostics.push(diagnostic.hint("remove it; unisys never ignores a field silently"));
    }
}
