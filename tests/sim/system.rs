//! A random system as manifests, and its changes over time.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use unisys::base::{Revision, Rng};
use unisys::manifest::load::ParseCache;
use unisys::manifest::resolve::Context;
use unisys::manifest::{Diagnostic, FileError, Files, LoadInput, SourceFile, load};
use unisys::plan::Desired;
use unisys::plan::build::build;

/// One unit as it will be written.
#[derive(Clone)]
pub struct UnitText {
    pub job: bool,
    pub version: u64,
    pub replicas: u64,
    pub depends_on: Vec<(String, &'static str, bool)>,
    pub probe: &'static str,
    pub liveness: bool,
    pub pre_start: bool,
    pub post_stop: bool,
    pub stop_command: bool,
    pub breaker: bool,
    pub policy: &'static str,
    pub watchdog: &'static str,
    pub grace: u64,
    pub update: &'static str,
    /// Its program ends at once, or never becomes ready.
    pub bad: Option<&'static str>,
    /// Which of its files it reads again when they change.
    pub conf: u64,
    /// A port that it binds itself.
    pub own_port: Option<u64>,
    pub label: u64,
}

pub type Units = BTreeMap<String, UnitText>;

/// No file is ever there: values come from the manifests alone.
struct NoFiles;

impl Files for NoFiles {
    fn read(&self, _: &Path) -> Result<Arc<[u8]>, FileError> {
        Err(FileError::Missing)
    }

    fn digest(&self, _: &Path) -> Result<u64, FileError> {
        Err(FileError::Missing)
    }
}

pub fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.below(from.len() as u64) as usize]
}

/// Two to nine units; each may depend on earlier ones.
pub fn draw(rng: &mut Rng) -> Units {
    let mut units = Units::new();
    for index in 0..2 + rng.below(8) {
        let name = format!("u{index}");
        let unit = draw_unit(rng, &units);
        units.insert(name, unit);
    }
    units
}

fn draw_unit(rng: &mut Rng, earlier: &Units) -> UnitText {
    let job = rng.chance(0.15);
    let names: Vec<String> = earlier.keys().cloned().collect();
    let mut depends_on = Vec::new();
    for name in names {
        if rng.chance(0.3) {
            let on_job = earlier[&name].job;
            let condition = match on_job {
                true => "Completed",
                false => pick(rng, &["Ready", "Ready", "Started"]),
            };
            depends_on.push((name, condition, rng.chance(0.2)));
        }
    }
    UnitText {
        job,
        version: 1,
        replicas: if rng.chance(0.2) { 2 + rng.below(2) } else { 1 },
        depends_on,
        probe: pick(rng, &["none", "exec", "notify", "file"]),
        liveness: rng.chance(0.3),
        pre_start: rng.chance(0.15),
        post_stop: rng.chance(0.15),
        stop_command: rng.chance(0.1),
        breaker: rng.chance(0.8),
        policy: pick(rng, &["Always", "Always", "OnFailure"]),
        watchdog: pick(
            rng,
            &[
                "null",
                "null",
                "{heartbeat: 4s}",
                "{freeze: {soft: 3s, hard: 9s}}",
                "{heartbeat: 6s, freeze: {soft: 3s, hard: 9s}, onFreeze: Restart}",
                "{freeze: {soft: 3s, hard: 9s}, onFreeze: Alert}",
            ],
        ),
        grace: pick(rng, &[1, 5, 10]),
        update: pick(
            rng,
            &[
                "{}",
                "{}",
                "{maxSurge: 2}",
                "{maxSurge: 0, maxUnavailable: 1}",
                "{maxUnavailable: 1}",
                "{strategy: BlueGreen}",
                "{strategy: Recreate}",
                "{strategy: Canary, canary: {replicas: 1, hold: 5s, autoPromote: true}}",
            ],
        ),
        bad: None,
        conf: 0,
        own_port: None,
        label: 0,
    }
}

/// Edits of some units, each of one kind: what a plan is compared with.
pub fn edit(rng: &mut Rng, units: &mut Units, number: u64) {
    let names: Vec<String> = units.keys().cloned().collect();
    for (index, name) in names.iter().enumerate() {
        let Some(unit) = units.get_mut(name).filter(|unit| !unit.job) else { continue };
        match rng.below(10) {
            0 | 1 => unit.version += 1,
            2 => unit.grace = unit.grace % 10 + 1,
            3 => unit.label += 1,
            4 => unit.conf += 1,
            5 if unit.own_port.is_none() => unit.replicas = unit.replicas % 3 + 1,
            6 if unit.replicas == 1 => unit.own_port = Some(20_000 + index as u64),
            7 => {
                unit.version += 1;
                unit.update = pick(rng, &["{}", "{strategy: Recreate}", "{strategy: BlueGreen}"]);
            }
            _ => {}
        }
    }
    if rng.chance(0.3) {
        let unit = draw_unit(rng, units);
        units.insert(format!("w{number}"), UnitText { job: false, ..unit });
    }
    if rng.chance(0.3)
        && let Some(last) = names.last()
        && names.len() > 2
        && !units.values().any(|unit| unit.depends_on.iter().any(|(on, _, _)| on == last))
    {
        units.remove(last);
    }
}

/// One change of what is written.
pub fn change(rng: &mut Rng, units: &mut Units) {
    let names: Vec<String> = units.keys().cloned().collect();
    match rng.below(6) {
        0 if names.len() > 2 => {
            // The latest one goes: nothing depends on it.
            let last = names[names.len() - 1].clone();
            let needed = units.values().any(|unit| unit.depends_on.iter().any(|(on, _, _)| *on == last));
            if !needed {
                units.remove(&last);
            }
        }
        1 => {
            let unit = draw_unit(rng, units);
            units.entry(format!("v{}", rng.below(1000))).or_insert(unit);
        }
        2 => {
            if let Some(unit) =
                names.get(rng.below(names.len() as u64) as usize).and_then(|name| units.get_mut(name))
            {
                unit.replicas = if unit.job { 1 } else { 1 + rng.below(3) };
            }
        }
        3 => {
            if let Some(unit) =
                names.get(rng.below(names.len() as u64) as usize).and_then(|name| units.get_mut(name))
            {
                unit.grace = pick(rng, &[1, 5, 10]);
                unit.liveness = !unit.liveness;
            }
        }
        _ => {
            for name in names {
                if rng.chance(0.4)
                    && let Some(unit) = units.get_mut(&name)
                {
                    unit.version += 1;
                }
            }
        }
    }
}

fn text(name: &str, unit: &UnitText) -> String {
    let depends: Vec<String> = unit
        .depends_on
        .iter()
        .map(|(on, condition, optional)| {
            format!("{{name: {on}, condition: {condition}, optional: {optional}}}")
        })
        .collect();
    let mut spec = format!(
        "  command: [run, v{}, {}]\n  dependsOn: [{}]\n",
        unit.version,
        unit.bad.unwrap_or("well"),
        depends.join(", ")
    );
    spec.push_str(&format!(
        "  stop: {{grace: {}s{}}}\n",
        unit.grace,
        if unit.stop_command { ", command: [stop]" } else { "" }
    ));
    let mut hooks = Vec::new();
    if unit.pre_start {
        hooks.push("preStart: [{command: [pre], timeout: 5s}]");
    }
    if unit.post_stop {
        hooks.push("postStop: [{command: [post], timeout: 5s}]");
    }
    spec.push_str(&format!("  hooks: {{{}}}\n", hooks.join(", ")));
    if unit.job {
        spec.push_str("  backoffLimit: 1000\n");
        return format!("apiVersion: unisys.dev/v1\nkind: Job\nmetadata: {{name: {name}}}\nspec:\n{spec}");
    }
    if unit.conf > 0 {
        spec.push_str(&format!("  reload: {{signal: SIGHUP}}\n  reloadOn: [conf-{}]\n", unit.conf));
    }
    if let Some(port) = unit.own_port {
        spec.push_str(&format!("  ports: [{{name: own, port: {port}}}]\n"));
    }
    spec.push_str(&format!("  replicas: {}\n  update: {}\n", unit.replicas, unit.update));
    let readiness = match unit.probe {
        "exec" => "readiness: {exec: {command: [check]}, period: 2s}",
        "notify" => "readiness: {notify: systemd, period: 10s}",
        "file" => "readiness: {file: {path: up}, period: 500ms}",
        _ => "",
    };
    let liveness = if unit.liveness { "liveness: {exec: {command: [alive]}, period: 3s}" } else { "" };
    let probes: Vec<&str> = [readiness, liveness].into_iter().filter(|text| !text.is_empty()).collect();
    spec.push_str(&format!("  probes: {{{}}}\n", probes.join(", ")));
    spec.push_str(&format!("  restart: {{policy: {}, backoff: {{max: 20s}}}}\n", unit.policy));
    spec.push_str(&format!("  watchdog: {}\n", unit.watchdog));
    let breaker = if unit.breaker { "{openFor: 20s, maxOpen: 2m}" } else { "null" };
    spec.push_str(&format!("  circuitBreaker: {breaker}\n"));
    let metadata = format!("{{name: {name}, labels: {{edit: \"{}\"}}}}", unit.label);
    format!("apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {metadata}\nspec:\n{spec}")
}

/// The manifests through the real loader; `torn`: read in the middle of a write. `None`: rejected.
pub fn desired(
    units: &Units,
    revision: Revision,
    torn: Option<f64>,
    cache: &mut ParseCache,
) -> Option<Desired> {
    let mut whole: String = units.iter().map(|(name, unit)| format!("---\n{}", text(name, unit))).collect();
    if let Some(share) = torn {
        whole.truncate((whole.len() as f64 * share) as usize);
    }
    let found = from_text(whole, revision, cache);
    assert!(torn.is_some() || found.is_ok(), "a whole manifest was rejected: {:#?}", found.err());
    found.ok()
}

/// Manifests as a person writes them; the diagnostics of what is rejected.
pub fn from_text(
    text: String,
    revision: Revision,
    cache: &mut ParseCache,
) -> Result<Desired, Vec<Diagnostic>> {
    let file = SourceFile { path: "/sim/all.yaml".into(), content: Ok(text.into_bytes().into()) };
    let input = LoadInput { set: "sim".into(), files: vec![file], overlays: Vec::new() };
    let (objects, mut diagnostics) = load(&input, cache);
    let environment = BTreeMap::new();
    let context = Context {
        objects: &objects,
        files: &NoFiles,
        environment: &environment,
        profile: None,
        machine: true,
        lenient: false,
    };
    let built = build(&context, revision, b"sim", None);
    diagnostics.extend(built.diagnostics);
    match diagnostics.iter().any(Diagnostic::rejects) {
        true => Err(diagnostics),
        false => Ok(built.desired),
    }
}
