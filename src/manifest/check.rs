//! What the schema cannot say: references, ports, thresholds, names across objects.

use std::collections::BTreeMap;

use crate::base::Name;
use crate::graph::Graph;

use super::capabilities;
use super::check_ports;
use super::diagnostic::{Diagnostic, nearest};
use super::load::{Objects, Source};
use super::spec::NotifyWay;
use super::spec::dependency::DependencyCondition;
use super::spec::probe::{PortRef, Probe, ProbeAction};
use super::spec::process::{EnvSource, EnvValue};
use super::spec::service::{Port, ServiceSpec, Watchdog};
use super::spec::{Hooks, HumanDuration, Probes};

/// Checks everything that is declared, across all sets.
pub fn check(objects: &Objects, diagnostics: &mut Vec<Diagnostic>) {
    super::not_yet::check(objects, diagnostics);
    super::notifiers::check(objects, diagnostics);
    unit_names(objects, diagnostics);
    dependencies(objects, diagnostics);
    for object in objects.services.values() {
        service(&object.spec, &object.source, diagnostics);
        environment(&object.spec, &object.source, objects, diagnostics);
        capabilities::check(&object.spec.security, &object.source, diagnostics);
    }
    for object in objects.jobs.values() {
        let process = object.spec.process();
        hooks(&process.hooks, &object.source, diagnostics);
        if let Some(deadline) = object.spec.active_deadline {
            let words = (
                "spec.activeDeadline",
                "an activeDeadline of 0s lets nothing run",
                "write `activeDeadline: 10m`",
            );
            longer_than_nothing(deadline, words, &object.source, diagnostics);
        }
        program(&process, &object.source, diagnostics);
        capabilities::check(&process.security, &object.source, diagnostics);
        environment(&process, &object.source, objects, diagnostics);
    }
    for object in objects.externals.values() {
        if let Some(probe) = &object.spec.probes.readiness {
            external_probe(probe, &object.source, diagnostics);
        }
    }
    if let Some(system) = &objects.system
        && let Some(deadline) = system.spec.stop_deadline
    {
        let words = (
            "spec.stopDeadline",
            "a stopDeadline of 0s kills everything at once",
            "leave it out for none, or write `stopDeadline: 30s`",
        );
        longer_than_nothing(deadline, words, &system.source, diagnostics);
    }
    config_types(objects, diagnostics);
    check_ports::clashes(objects, diagnostics);
}

/// The dependency graph of all units and externals.
pub fn graph(objects: &Objects) -> Graph {
    let services = objects.services.iter().map(|(name, object)| (name, &object.spec.depends_on));
    let jobs = objects.jobs.iter().map(|(name, object)| (name, &object.spec.depends_on));
    let units: Vec<(&Name, Vec<&Name>)> = services
        .chain(jobs)
        .map(|(name, edges)| (name, edges.iter().map(|edge| &edge.name).collect()))
        .chain(objects.externals.keys().map(|name| (name, Vec::new())))
        .collect();
    Graph::new(units)
}

fn unit_names(objects: &Objects, diagnostics: &mut Vec<Diagnostic>) {
    let mut seen: BTreeMap<&Name, &Source> = BTreeMap::new();
    let services = objects.services.iter().map(|(name, object)| (name, &object.source));
    let jobs = objects.jobs.iter().map(|(name, object)| (name, &object.source));
    let externals = objects.externals.iter().map(|(name, object)| (name, &object.source));
    for (name, source) in services.chain(jobs).chain(externals) {
        if let Some(first) = seen.insert(name, source) {
            let message = format!(
                "{} has the name of {}; Services, Jobs and Externals share one name space",
                source.object, first.object
            );
            let span = source.span("metadata.name");
            diagnostics.push(
                Diagnostic::error("E1301", &span, "metadata.name", message).hint("rename one of the two"),
            );
        }
    }
}

fn dependencies(objects: &Objects, diagnostics: &mut Vec<Diagnostic>) {
    let known: Vec<&str> = [
        objects.services.keys().collect::<Vec<_>>(),
        objects.jobs.keys().collect(),
        objects.externals.keys().collect(),
    ]
    .concat()
    .into_iter()
    .map(Name::as_str)
    .collect();
    let services = objects.services.values().map(|object| (&object.source, &object.spec.depends_on));
    let jobs = objects.jobs.values().map(|object| (&object.source, &object.spec.depends_on));
    for (source, edges) in services.chain(jobs) {
        for (index, edge) in edges.iter().enumerate() {
            let path = format!("spec.dependsOn.{index}");
            let span = source.span(&path);
            if edge.name == source.object.name {
                let message = format!("{} depends on itself", source.object);
                diagnostics.push(Diagnostic::error("E1402", &span, path, message).hint("remove this entry"));
            } else if !known.contains(&edge.name.as_str()) && !edge.optional {
                if objects.may_declare(&edge.name) {
                    continue;
                }
                let message = format!("{} depends on `{}`, which is not declared", source.object, edge.name);
                let others = known.iter().copied().filter(|name| *name != source.object.name.as_str());
                let hint = nearest(edge.name.as_str(), others)
                    .map_or("declare it, remove the dependency, or say `optional: true`".into(), |near| {
                        format!("did you mean `{near}`?")
                    });
                diagnostics.push(Diagnostic::error("E1401", &span, path, message).hint(hint));
            } else if edge.condition == DependencyCondition::Completed
                && !objects.jobs.contains_key(&edge.name)
                && known.contains(&edge.name.as_str())
            {
                let message = format!("`{}` is not a Job: it never completes", edge.name);
                diagnostics
                    .push(Diagnostic::error("E1404", &span, path, message).hint("write `condition: Ready`"));
            }
        }
    }
    cycles(objects, diagnostics);
}

fn cycles(objects: &Objects, diagnostics: &mut Vec<Diagnostic>) {
    for cycle in graph(objects).cycles().into_iter().filter(|cycle| cycle.0.len() > 1) {
        let places: Vec<String> = (0..cycle.0.len())
            .filter_map(|index| edge_place(objects, &cycle.0[index], &cycle.0[(index + 1) % cycle.0.len()]))
            .map(|(source, path)| {
                let span = source.span(&path);
                format!("{}:{}", span.file.display(), span.line)
            })
            .collect();
        let Some((source, path)) = edge_place(objects, &cycle.0[0], &cycle.0[1 % cycle.0.len()]) else {
            continue;
        };
        let message = format!("dependency cycle: {} (at {})", cycle.path(), places.join(", "));
        let diagnostic = Diagnostic::error("E1403", &source.span(&path), path, message);
        diagnostics.push(
            diagnostic.hint("remove one of these dependencies: nothing in the circle could start first"),
        );
    }
}

fn edge_place<'a>(objects: &'a Objects, from: &Name, to: &Name) -> Option<(&'a Source, String)> {
    let (source, edges) = match (objects.services.get(from), objects.jobs.get(from)) {
        (Some(object), _) => (&object.source, &object.spec.depends_on),
        (None, Some(object)) => (&object.source, &object.spec.depends_on),
        (None, None) => return None,
    };
    let index = edges.iter().position(|edge| edge.name == *to)?;
    Some((source, format!("spec.dependsOn.{index}")))
}

fn service(spec: &ServiceSpec, source: &Source, diagnostics: &mut Vec<Diagnostic>) {
    probes(&spec.probes, &spec.ports, source, diagnostics);
    hooks(&spec.hooks, source, diagnostics);
    program(spec, source, diagnostics);
    if let Some(breaker) = &spec.circuit_breaker
        && breaker.open_for > breaker.max_open
    {
        let path = "spec.circuitBreaker.openFor";
        let diagnostic =
            Diagnostic::error("E1207", &source.span(path), path, "openFor is longer than maxOpen");
        diagnostics.push(diagnostic.hint("make maxOpen at least as long"));
    }
    if let Some(written) = &spec.watchdog {
        watchdog(written, spec, source, diagnostics);
    }
    if let Some(reload) = &spec.reload {
        let words =
            ("spec.reload.timeout", "within a timeout of 0s no reload is over", "write `timeout: 30s`");
        longer_than_nothing(reload.timeout, words, source, diagnostics);
    }
    check_ports::service(spec, source, diagnostics);
}

/// One that cannot find anything would be silently no watchdog.
fn watchdog(watchdog: &Watchdog, spec: &ServiceSpec, source: &Source, diagnostics: &mut Vec<Diagnostic>) {
    let mut report = |path: &str, message: String, hint: &str| {
        diagnostics.push(Diagnostic::error("E1610", &source.span(path), path, message).hint(hint));
    };
    let freeze = watchdog.freeze.as_ref();
    let (soft, hard) = (freeze.and_then(|freeze| freeze.soft), freeze.and_then(|freeze| freeze.hard));
    if watchdog.heartbeat.is_none() && soft.is_none() && hard.is_none() {
        let hint =
            "say `heartbeat: 30s` for a program that sends WATCHDOG=1, or `freeze: {soft: 60s, hard: 5m}`";
        report("spec.watchdog", "this watchdog watches nothing".into(), hint);
    }
    let times = [("heartbeat", watchdog.heartbeat), ("freeze.soft", soft), ("freeze.hard", hard)];
    for (name, _) in times.into_iter().filter(|(_, time)| time.is_some_and(|time| time.0.is_zero())) {
        let path = format!("spec.watchdog.{name}");
        report(&path, format!("`{name}` has to be longer than nothing"), "leave it out to do without");
    }
    if let (Some(soft), Some(hard)) = (soft, hard)
        && soft > hard
    {
        report(
            "spec.watchdog.freeze.soft",
            "`soft` is longer than `hard`: it would be ended before it is told".into(),
            "make `hard` at least as long",
        );
    }
    let descriptor = [("startup", &spec.probes.startup), ("readiness", &spec.probes.readiness)]
        .into_iter()
        .find(|(_, probe)| matches!(probe.as_deref().and_then(|probe| probe.notify), Some(NotifyWay::Fd(_))));
    if let (Some(_), Some((kind, _))) = (watchdog.heartbeat, descriptor) {
        report(
            "spec.watchdog.heartbeat",
            format!(
                "a heartbeat comes through NOTIFY_SOCKET, and the {kind} probe has the program notify a descriptor"
            ),
            "write `notify: systemd` in the probe, or leave the heartbeat out",
        );
    }
}

/// A command has to name a program.
fn program(spec: &ServiceSpec, source: &Source, diagnostics: &mut Vec<Diagnostic>) {
    if spec.command.is_empty() {
        let path = "spec.command";
        let diagnostic = Diagnostic::error("E1207", &source.span(path), path, "the command is empty");
        diagnostics.push(diagnostic.hint("name a program and its arguments: `command: [python3, app.py]`"));
    }
}

fn probes(probes: &Probes, ports: &[Port], source: &Source, diagnostics: &mut Vec<Diagnostic>) {
    let all =
        [("startup", &probes.startup), ("readiness", &probes.readiness), ("liveness", &probes.liveness)];
    for (kind, probe) in
        all.into_iter().filter_map(|(kind, probe)| probe.as_deref().map(|probe| (kind, probe)))
    {
        let path = format!("spec.probes.{kind}");
        one_action(probe, &path, source, diagnostics);
        if kind != "readiness" && probe.success_threshold != 1 {
            let path = format!("{path}.successThreshold");
            let message = format!("successThreshold of a {kind} probe has to be 1");
            diagnostics
                .push(Diagnostic::error("E1602", &source.span(&path), path, message).hint("remove it"));
        }
        if kind == "liveness" && matches!(probe.action(), Some(ProbeAction::Notify(_) | ProbeAction::Log(_)))
        {
            let message = "a program cannot tell once that it is alive: liveness has to be asked";
            diagnostics.push(
                Diagnostic::error("E1603", &source.span(&path), path.clone(), message)
                    .hint("use http, tcp, grpc, exec or file"),
            );
        }
        probe_times(probe, &path, source, diagnostics);
        check_ports::probe(probe, &path, ports, source, diagnostics);
    }
}

fn probe_times(probe: &Probe, path: &str, source: &Source, diagnostics: &mut Vec<Diagnostic>) {
    let times = [
        (
            probe.period,
            "period",
            "a probe with a period of 0s is asked without a pause",
            "write `period: 10s`",
        ),
        (probe.timeout, "timeout", "within a timeout of 0s nothing can answer", "write `timeout: 1s`"),
    ];
    for (_, field, message, hint) in times.into_iter().filter(|(time, ..)| time.0.is_zero()) {
        let path = format!("{path}.{field}");
        diagnostics.push(Diagnostic::error("E1207", &source.span(&path), path, message).hint(hint));
    }
}

/// A time within which something has to be over.
fn longer_than_nothing(
    time: HumanDuration,
    (path, message, hint): (&str, &str, &str),
    source: &Source,
    diagnostics: &mut Vec<Diagnostic>,
) {
    if time.0.is_zero() {
        diagnostics.push(Diagnostic::error("E1207", &source.span(path), path, message).hint(hint));
    }
}

fn one_action(probe: &Probe, path: &str, source: &Source, diagnostics: &mut Vec<Diagnostic>) {
    let count = probe.actions().len();
    if count != 1 {
        let message = format!(
            "a probe has exactly one of http, tcp, grpc, exec, notify, log and file; this has {count}"
        );
        diagnostics.push(
            Diagnostic::error("E1601", &source.span(path), path, message)
                .hint("keep one, such as `http: {path: /health, port: http}`"),
        );
    }
    if let Some(ProbeAction::Log(log)) = probe.action()
        && let Err(error) = regex::bytes::Regex::new(&log.pattern)
    {
        let path = format!("{path}.log.pattern");
        let message = format!(
            "this is not a regular expression: {}",
            error.to_string().lines().last().unwrap_or_default()
        );
        diagnostics.push(
            Diagnostic::error("E1206", &source.span(&path), path, message)
                .hint("RE2 syntax; escape `(`, `[` and `{` with a backslash"),
        );
    }
}

fn external_probe(probe: &Probe, source: &Source, diagnostics: &mut Vec<Diagnostic>) {
    let path = "spec.probes.readiness";
    one_action(probe, path, source, diagnostics);
    probe_times(probe, path, source, diagnostics);
    let (way, named) = match probe.action() {
        Some(ProbeAction::Http(http)) => ("http", matches!(http.port, PortRef::Name(_))),
        Some(ProbeAction::Tcp(tcp)) => ("tcp", matches!(tcp.port, PortRef::Name(_))),
        Some(ProbeAction::Grpc(grpc)) => ("grpc", matches!(grpc.port, PortRef::Name(_))),
        Some(ProbeAction::Notify(_) | ProbeAction::Log(_) | ProbeAction::File(_)) => {
            let message =
                "an External has no program of ours: it can be asked by http, tcp, grpc or exec only";
            diagnostics.push(
                Diagnostic::error("E1603", &source.span(path), path, message)
                    .hint("use tcp: {host: …, port: …}"),
            );
            return;
        }
        _ => return,
    };
    if named {
        let path = format!("{path}.{way}.port");
        let diagnostic =
            Diagnostic::error("E1604", &source.span(&path), path, "an External has no named ports");
        diagnostics.push(diagnostic.hint("write the number"));
    }
}

fn hooks(hooks: &Hooks, source: &Source, diagnostics: &mut Vec<Diagnostic>) {
    for (list, name) in [(&hooks.pre_start, "preStart"), (&hooks.post_stop, "postStop")] {
        for (index, hook) in list.iter().enumerate().filter(|(_, hook)| hook.timeout.0.is_zero()) {
            let path = format!("spec.hooks.{name}.{index}.timeout");
            let message =
                format!("a timeout of {} lets nothing run", crate::base::format_duration(hook.timeout.0));
            diagnostics.push(
                Diagnostic::error("E1207", &source.span(&path), path, message).hint("write `timeout: 60s`"),
            );
        }
    }
}

/// Configs, Secrets and keys that are referred to exist; a source has exactly one kind.
fn environment(spec: &ServiceSpec, source: &Source, objects: &Objects, diagnostics: &mut Vec<Diagnostic>) {
    for name in spec.env.keys().filter(|name| !is_variable(name)) {
        let message = format!("`{}` cannot be the name of a variable", name.escape_debug());
        diagnostics.push(
            Diagnostic::error("E1208", &source.span("spec.env"), format!("spec.env.{name}"), message)
                .hint("it is not empty, and has no `=` in it"),
        );
    }
    let mut refer = |path: String, kind: &str, name: &Name, key: Option<&str>| {
        let (exists, names, key_missing) = match kind {
            "Config" => {
                let config = objects.configs.get(name);
                // A key may come from a file or the environment: only a Config of literal data can be checked here.
                let closed = config.is_some_and(|c| c.spec.files.is_empty());
                let has = key.is_none_or(|key| config.is_some_and(|c| config_has(&c.spec, key)));
                (config.is_some(), objects.configs.keys().collect::<Vec<_>>(), closed && !has)
            }
            _ => {
                let secret = objects.secrets.get(name);
                let has = key.is_none_or(|key| secret.is_some_and(|s| s.spec.data.contains_key(key)));
                (secret.is_some(), objects.secrets.keys().collect(), secret.is_some() && !has)
            }
        };
        let span = source.span(&path);
        if !exists && objects.may_declare(name) {
            return;
        }
        if !exists {
            let message = format!("there is no {kind} `{name}`");
            let hint = nearest(name.as_str(), names.iter().map(|name| name.as_str()))
                .map_or("declare it".to_owned(), |near| format!("did you mean `{near}`?"));
            diagnostics.push(Diagnostic::error("E1405", &span, path, message).hint(hint));
        } else if key_missing {
            let message = format!("the {kind} `{name}` has no key `{}`", key.unwrap_or_default());
            diagnostics.push(
                Diagnostic::error("E1406", &span, path, message).hint("add the key, or correct its name"),
            );
        }
    };
    for (name, value) in &spec.env {
        match value {
            EnvValue::Text(_) => {}
            EnvValue::Config(of) => refer(format!("spec.env.{name}"), "Config", &of.config, Some(&of.key)),
            EnvValue::Secret(of) => refer(format!("spec.env.{name}"), "Secret", &of.secret, Some(&of.key)),
        }
    }
    for (index, from) in spec.env_from.iter().enumerate() {
        let path = format!("spec.envFrom.{index}");
        match from {
            EnvSource { config: Some(config), file: None, secret: None, .. } => {
                refer(path, "Config", config, None)
            }
            EnvSource { secret: Some(secret), file: None, config: None, .. } => {
                refer(path, "Secret", secret, None)
            }
            _ => {}
        }
    }
    if let Some(switch) = &spec.enabled_when {
        refer("spec.enabledWhen".into(), "Config", &switch.config, Some(&switch.key));
    }
    for (index, from) in spec.env_from.iter().enumerate() {
        let count = [from.file.is_some(), from.config.is_some(), from.secret.is_some()]
            .into_iter()
            .filter(|set| *set)
            .count();
        if count != 1 {
            let path = format!("spec.envFrom.{index}");
            let message = "a source has exactly one of file, config and secret";
            diagnostics.push(Diagnostic::error("E1601", &source.span(&path), path, message).hint("keep one"));
        }
    }
}

/// What the environment of a program can hold (environ(7)).
fn is_variable(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c == '=' || c.is_control())
}

fn config_has(spec: &super::spec::ConfigSpec, key: &str) -> bool {
    spec.data.contains_key(key)
        || spec.profiles.values().any(|profile| profile.contains_key(key))
        || spec.from_environment.iter().any(|name| name == key)
        || spec.types.contains_key(key)
}

fn config_types(objects: &Objects, diagnostics: &mut Vec<Diagnostic>) {
    for object in objects.configs.values() {
        for (key, wanted) in &object.spec.types {
            if let Some(default) = &wanted.default
                && let Err(why) = super::resolve::check_type(wanted, default)
            {
                let path = format!("spec.types.{key}.default");
                let message = format!("the default of `{key}` is wrong: {why}");
                diagnostics.push(
                    Diagnostic::error("E1503", &object.source.span(&path), path, message)
                        .hint("correct the default or the type"),
                );
            }
        }
    }
}
