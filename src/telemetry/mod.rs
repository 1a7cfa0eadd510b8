//! What unisys says of itself and of its units, for Prometheus.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::engine::Engine;
use crate::world::conditions::ready_count;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Notified {
    notifier: String,
    outcome: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failed {
    category: String,
    severity: String,
    unit: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Unit {
    unit: String,
}

/// The figures of this moment, in OpenMetrics text. Made when asked: nothing is counted for nobody.
pub fn exposition(engine: &Engine) -> String {
    let mut registry = Registry::with_prefix("unisys");
    let wanted = Family::<Unit, Gauge>::default();
    let ready = Family::<Unit, Gauge>::default();
    let restarts = Family::<Unit, Gauge>::default();
    let revision: Gauge = Gauge::default();
    let epoch: Gauge = Gauge::default();
    let world = &engine.world;
    for (name, unit) in world.units() {
        let label = Unit { unit: name.to_string() };
        // What has ended well, a Job above all, is to run no more: nothing lacks.
        let replicas = if unit.has_completed() { 0 } else { world.wanted_replicas(name) };
        wanted.get_or_create(&label).set(i64::from(replicas));
        ready.get_or_create(&label).set(i64::from(ready_count(unit)));
        let count: u32 = unit.slots.values().map(|slot| slot.restart.restarts).sum();
        restarts.get_or_create(&label).set(i64::from(count));
    }
    revision.set(world.revision().0 as i64);
    epoch.set(engine.epoch.0 as i64);
    registry.register("unit_replicas", "Instances wanted; none of what has completed", wanted);
    registry.register("unit_ready_replicas", "Instances that are Ready", ready);
    registry.register("unit_restarts", "Automatic restarts of the present ordinals", restarts);
    registry.register("revision", "The accepted revision", revision);
    registry.register("epoch", "Lives of the daemon", epoch);
    failures(engine, &mut registry);
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => text,
        Err(error) => format!("# {error}\n"),
    }
}

/// Failures and crash dumps, as counters of this daemon's life.
fn failures(engine: &Engine, registry: &mut Registry) {
    let errors = Family::<Failed, Counter>::default();
    for ((category, severity, unit), count) in engine.faults.book.counters() {
        let (category, severity) = (category.to_string(), severity.to_string());
        errors.get_or_create(&Failed { category, severity, unit: unit.clone() }).inc_by(*count);
    }
    let (dumps, failed) = (Counter::<u64>::default(), Counter::<u64>::default());
    dumps.inc_by(engine.faults.dumps.0);
    failed.inc_by(engine.faults.dumps.1);
    let told = Family::<Notified, Counter>::default();
    for (name, counts) in engine.faults.notifiers.counts() {
        for (outcome, count) in [("sent", &counts.sent), ("failed", &counts.failed), ("dead", &counts.dead)] {
            let labels = Notified { notifier: name.to_string(), outcome: outcome.into() };
            told.get_or_create(&labels).inc_by(count.load(std::sync::atomic::Ordering::Relaxed));
        }
    }
    registry.register("notifications", "Messages of notifiers by outcome", told);
    registry.register("errors", "Failures", errors);
    registry.register("crash_dumps", "Crash dumps written", dumps);
    registry.register("crash_dumps_failed", "Crash dumps that could not be written", failed);
}
