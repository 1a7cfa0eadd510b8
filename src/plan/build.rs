//! Objects → [`Desired`]: resolved environments, policies, what this machine lacks.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::base::{BackoffCurve, Name, Revision};
use crate::manifest::check;
use crate::manifest::diagnostic::{Diagnostic, Severity, tell_defaults_once};
use crate::manifest::load::{Objects, Source};
use crate::manifest::resolve::{Context, EnvVar, Resolved, check_configs, resolve, switched_off};
use crate::manifest::spec::dependency::DependencyCondition;
use crate::manifest::spec::probe::{PortRef, Probe, ProbeAction};
use crate::manifest::spec::service::{
    Freeze, OnFreeze as WrittenOnFreeze, PortNumber, RestartPolicy as WrittenRestart, ServiceSpec, Update,
    UpdateStrategy, Watchdog,
};
use crate::manifest::spec::system::RollbackScope;
use crate::manifest::spec::{HumanDuration, JobSpec};
use crate::manifest::tree::Places;
use crate::unit::watchdog::OnFreeze;
use crate::unit::{
    BreakerPolicy, CanaryPolicy, CanaryShare, Condition, Dependency, Policy, ProbePolicy, ProbeWay,
    RestartPolicy, RestartWhen, StopPolicy, Strategy, UpdatePolicy, WatchdogPolicy,
};

use super::desired::{Desired, ExternalSpec, UnitSpec};
use super::launch::{Launch, file_marks, marks};
use super::machine::{Machine, Sockets, machine_faults, probe_faults, sockets};
use super::notifier::{NotifierPlan, notifiers};

/// What a build gives beside the desired state.
#[derive(Default)]
pub struct Built {
    pub desired: Desired,
    pub diagnostics: Vec<Diagnostic>,
    pub notifiers: Vec<NotifierPlan>,
    /// Files that values came from, for watching.
    pub files: Vec<PathBuf>,
    /// The last variable of each name.
    shared: BTreeMap<String, Arc<EnvVar>>,
    sockets: Sockets,
    /// The last unit's.
    policy: Option<Arc<Policy>>,
}

impl Built {
    /// The same variable of an earlier unit, if it is the same in everything.
    fn share(&mut self, var: EnvVar) -> Arc<EnvVar> {
        match self.shared.get(&var.name).filter(|known| ***known == var) {
            Some(known) => known.clone(),
            None => {
                let var = Arc::new(var);
                self.shared.insert(var.name.clone(), var.clone());
                var
            }
        }
    }

    /// The policy of the unit before, if this one's is the same.
    fn share_policy(&mut self, policy: Policy) -> Arc<Policy> {
        let shared = self.policy.take().filter(|known| **known == policy).unwrap_or_else(|| Arc::new(policy));
        self.policy = Some(shared.clone());
        shared
    }
}

/// Builds the desired state. E1 findings mean that it must not be accepted; E2 findings stop single units only. `key` is
/// the key of value digests; `machine` says what this machine has, and is absent where it does not matter (`validate`).
pub fn build(context: &Context<'_>, revision: Revision, key: &[u8], machine: Option<&dyn Machine>) -> Built {
    let _places = Places::keep();
    let objects = context.objects;
    let mut built = Built::default();
    check::check(objects, &mut built.diagnostics);
    built.sockets = machine.map(|machine| sockets(objects, machine)).unwrap_or_default();
    let mut units = BTreeMap::new();
    for (name, object) in &objects.services {
        let policy = service_policy(&object.spec, objects);
        let spec = unit(
            object.spec.clone(),
            &object.source,
            &object.meta.labels,
            policy,
            context,
            key,
            machine,
            &mut built,
        );
        units.insert(name.clone(), Arc::new(spec));
    }
    for (name, object) in &objects.jobs {
        let process = Arc::new(object.spec.process());
        let policy = job_policy(&object.spec, &process, objects);
        let spec =
            unit(process, &object.source, &object.meta.labels, policy, context, key, machine, &mut built);
        units.insert(name.clone(), Arc::new(spec));
    }
    let system = objects.system.as_ref().map(|system| &system.spec);
    built.desired = Desired {
        revision,
        units,
        left_out: Default::default(),
        externals: externals(objects),
        graph: check::graph(objects),
        max_concurrent_starts: system.and_then(|system| system.max_concurrent_starts),
        max_concurrent_rollouts: system.and_then(|system| system.max_concurrent_rollouts),
        stop_deadline: system.and_then(|system| system.stop_deadline).map(|time| time.0),
        rollback_scope_unit: system.is_some_and(|system| system.rollback_scope == RollbackScope::Unit),
        edited: Vec::new(),
    };
    // What runs already is not kept waiting for a value that it does not use.
    if !context.lenient {
        check_configs(context, &mut built.files, &mut built.diagnostics);
    }
    if let Some(machine) = machine {
        for (name, object) in &objects.externals {
            let launch = &built.desired.externals[name].launch;
            probe_faults(launch, &object.source, machine, &mut built.diagnostics);
        }
    }
    built.notifiers = notifiers(context, machine, &mut built.diagnostics);
    built.files.sort();
    built.files.dedup();
    dedup(&mut built.diagnostics);
    built
}

/// The same finding from two units (a Config or env file that both use) is told once.
fn dedup(diagnostics: &mut Vec<Diagnostic>) {
    let mut kept: Vec<Diagnostic> = Vec::with_capacity(diagnostics.len().min(64));
    let of_file = |diagnostic: &Diagnostic| ["E1009", "E2009"].contains(&diagnostic.code.as_str());
    let place = |diagnostic: &Diagnostic| (diagnostic.file.clone(), diagnostic.line);
    let mut files = std::collections::BTreeSet::new();
    for diagnostic in diagnostics.drain(..) {
        let known = of_file(&diagnostic) && !files.insert(place(&diagnostic));
        if !known && !kept.contains(&diagnostic) {
            kept.push(diagnostic);
        }
    }
    *diagnostics = kept;
    tell_defaults_once(diagnostics);
}

#[allow(clippy::too_many_arguments)] // the whole of what makes a unit, in one place for both kinds
fn unit(
    service: Arc<ServiceSpec>,
    source: &Source,
    labels: &BTreeMap<String, String>,
    policy: Policy,
    context: &Context<'_>,
    key: &[u8],
    machine: Option<&dyn Machine>,
    built: &mut Built,
) -> UnitSpec {
    let mut found = Vec::new();
    let Resolved { env, argv, mut files } = resolve(&service, source, context, &mut found);
    let off = switched_off(&service, context, &mut files, &mut found, source);
    built.files.extend(files);
    let (contents, watched) = file_marks(&service, &source.base_dir, context.files);
    built.files.extend(watched);
    let mut marks = marks(&env, &argv, key);
    marks.extend(contents);
    let launch = Launch {
        awaits_log: awaits_log(&service),
        lost: false,
        marks,
        written: source.written.clone(),
        base_dir: source.base_dir.clone(),
        service,
        argv,
        env: env.into_iter().map(|var| built.share(var)).collect(),
    };
    if let Some(machine) = machine.filter(|_| off.is_none()) {
        machine_faults(&launch, source, machine, &built.sockets, &mut found);
    }
    let fault =
        found.iter().find(|diagnostic| diagnostic.severity == Severity::Error && !diagnostic.rejects());
    let fault = fault.map(|diagnostic| format!("{} [{}]", diagnostic.message, diagnostic.code));
    let unenforced = found.iter().filter(|found| {
        ["E2013", "E2014"].contains(&found.code.as_str()) && found.severity == Severity::Warning
    });
    let unenforced = unenforced.map(|found| format!("{} [{}]", found.message, found.code));
    let unenforced = unenforced.collect::<Vec<_>>().join("; ");
    let unenforced = Some(unenforced).filter(|text| !text.is_empty());
    built.diagnostics.extend(found);
    UnitSpec {
        object: source.object.clone(),
        set: source.set.clone(),
        labels: labels.clone(),
        policy: built.share_policy(policy),
        launch: Arc::new(launch),
        machine: fault,
        unenforced,
        switched_off: off,
    }
}

fn externals(objects: &Objects) -> BTreeMap<Name, Arc<ExternalSpec>> {
    let external =
        |(name, object): (&Name, &crate::manifest::Object<crate::manifest::spec::ExternalSpec>)| {
            let readiness = object.spec.probes.readiness.clone();
            let mut service = Launch::of_argv(&["true"]).service.as_ref().clone();
            service.probes.readiness = readiness.clone().map(Box::new);
            let launch = Launch {
                service: Arc::new(service),
                written: object.source.written.clone(),
                base_dir: object.source.base_dir.clone(),
                ..Launch::of_argv(&["true"])
            };
            let spec = ExternalSpec {
                object: object.source.object.clone(),
                set: object.source.set.clone(),
                labels: object.meta.labels.clone(),
                readiness: readiness.map(|probe| probe_policy(&probe, None)),
                launch: Arc::new(launch),
            };
            (name.clone(), Arc::new(spec))
        };
    objects.externals.iter().map(external).collect()
}

fn awaits_log(service: &ServiceSpec) -> bool {
    [&service.probes.startup, &service.probes.readiness]
        .into_iter()
        .filter_map(|probe| probe.as_deref()?.action())
        .any(|action| matches!(action, ProbeAction::Log(_)))
}

/// The decisions' view of a Service.
pub fn service_policy(spec: &ServiceSpec, objects: &Objects) -> Policy {
    let probe = |probe: &Option<Box<Probe>>| probe.as_deref().map(|probe| probe_policy(probe, Some(spec)));
    Policy {
        job: false,
        replicas: spec.replicas,
        depends_on: dependencies(spec, objects),
        probes: [probe(&spec.probes.startup), probe(&spec.probes.readiness), probe(&spec.probes.liveness)],
        restart: RestartPolicy {
            when: match spec.restart.policy {
                WrittenRestart::Always => RestartWhen::Always,
                WrittenRestart::OnFailure => RestartWhen::OnFailure,
                WrittenRestart::Never => RestartWhen::Never,
            },
            backoff: BackoffCurve {
                initial: spec.restart.backoff.initial.0,
                factor: spec.restart.backoff.factor,
                max: spec.restart.backoff.max.0,
                jitter: spec.restart.backoff.jitter,
            },
            reset_after: spec.restart.backoff.reset_after.0,
            success_exit_codes: SmallVec::from_slice(&spec.restart.success_exit_codes),
            permanent_exit_codes: SmallVec::from_slice(&spec.restart.permanent_exit_codes),
            give_up_after: None,
        },
        breaker: spec.circuit_breaker.as_ref().map(|breaker| BreakerPolicy {
            failures: breaker.failures,
            window: breaker.window.0,
            open_for: breaker.open_for.0,
            success_after: breaker.success_after.0,
            max_open: breaker.max_open.0,
            hold_dependents: breaker.hold_dependents,
        }),
        stop: StopPolicy {
            signal: spec.stop.signal,
            grace: spec.stop.grace.0,
            command: !spec.stop.command.is_empty(),
        },
        pre_start: spec.hooks.pre_start.iter().map(|hook| hook.timeout.0).collect(),
        post_stop: spec.hooks.post_stop.iter().map(|hook| hook.timeout.0).collect(),
        active_deadline: None,
        update: update_policy(&spec.update),
        watchdog: spec.watchdog.as_ref().map(|watchdog| Box::new(watchdog_policy(watchdog))),
    }
}

fn watchdog_policy(written: &Watchdog) -> WatchdogPolicy {
    let freeze = |limit: fn(&Freeze) -> Option<HumanDuration>| {
        written.freeze.as_ref().and_then(limit).map(|limit| limit.0)
    };
    WatchdogPolicy {
        heartbeat: written.heartbeat.map(|within| within.0),
        soft: freeze(|freeze| freeze.soft),
        hard: freeze(|freeze| freeze.hard),
        on_freeze: match written.on_freeze {
            WrittenOnFreeze::Alert => OnFreeze::Alert,
            WrittenOnFreeze::Restart => OnFreeze::Restart,
            WrittenOnFreeze::DumpAndRestart => OnFreeze::DumpAndRestart,
        },
    }
}

fn update_policy(written: &Update) -> UpdatePolicy {
    let canary = || {
        let canary = written.canary.as_ref();
        CanaryPolicy {
            share: match canary.map(|canary| (canary.replicas, canary.percent)) {
                Some((None, Some(percent))) => CanaryShare::Percent(percent),
                Some((Some(replicas), _)) => CanaryShare::Replicas(replicas),
                _ => CanaryShare::Replicas(1),
            },
            hold: canary.and_then(|canary| canary.hold).map_or(Duration::ZERO, |hold| hold.0),
            auto_promote: canary.is_some_and(|canary| canary.auto_promote),
        }
    };
    UpdatePolicy {
        strategy: match written.strategy {
            UpdateStrategy::Rolling => Strategy::Rolling,
            UpdateStrategy::BlueGreen => Strategy::BlueGreen,
            UpdateStrategy::Canary => Strategy::Canary(canary()),
            UpdateStrategy::Recreate => Strategy::Recreate,
        },
        max_surge: written.max_surge,
        max_unavailable: written.max_unavailable,
        min_ready: written.min_ready.0,
        progress_deadline: written.progress_deadline.0,
        auto_rollback: written.auto_rollback,
    }
}

/// The decisions' view of a Job.
pub fn job_policy(job: &JobSpec, process: &ServiceSpec, objects: &Objects) -> Policy {
    let mut policy = service_policy(process, objects);
    policy.job = true;
    policy.restart.give_up_after = Some(job.backoff_limit);
    policy.active_deadline = job.active_deadline.map(|deadline| deadline.0);
    policy
}

fn dependencies(spec: &ServiceSpec, objects: &Objects) -> Vec<Dependency> {
    let edges = spec.depends_on.iter().map(|edge| Dependency {
        name: edge.name.clone(),
        condition: match edge.condition {
            DependencyCondition::Started => Condition::Started,
            DependencyCondition::Ready => Condition::Ready,
            DependencyCondition::Completed => Condition::Completed,
            DependencyCondition::Unsaid if objects.jobs.contains_key(&edge.name) => Condition::Completed,
            DependencyCondition::Unsaid => Condition::Ready,
        },
        optional: edge.optional,
        restart: edge.restart,
    });
    edges.collect()
}

fn probe_policy(probe: &Probe, service: Option<&ServiceSpec>) -> ProbePolicy {
    let on_port = |port: &PortRef| service.map_or(ProbeWay::Asked, |service| asked_on(port, service));
    let way = match probe.action() {
        Some(ProbeAction::Http(http)) => on_port(&http.port),
        Some(ProbeAction::Tcp(tcp)) => on_port(&tcp.port),
        Some(ProbeAction::Grpc(grpc)) => on_port(&grpc.port),
        Some(ProbeAction::Notify(_) | ProbeAction::Log(_)) => ProbeWay::Told,
        Some(ProbeAction::Exec(_) | ProbeAction::File(_)) | None => ProbeWay::Asked,
    };
    ProbePolicy {
        way,
        initial_delay: probe.initial_delay.0,
        period: probe.period.0,
        timeout: probe.timeout.0,
        success_threshold: probe.success_threshold,
        failure_threshold: probe.failure_threshold,
    }
}

/// The port that is watched while the instance starts. A listener of unisys' own is open from the start and says nothing.
fn asked_on(port: &PortRef, service: &ServiceSpec) -> ProbeWay {
    let name = match port {
        PortRef::Number(number) => return ProbeWay::AskedOnPort(*number),
        PortRef::Name(name) => name,
    };
    match service.ports.iter().find(|port| port.name.as_str() == name) {
        Some(port) if port.listen => ProbeWay::Asked,
        Some(port) => match port.port {
            PortNumber::Number(number) => ProbeWay::AskedOnPort(number),
            PortNumber::Auto(_) => ProbeWay::AskedOnOwnPort(port.name.clone()),
        },
        None => ProbeWay::Asked,
    }
}
