//! What a start or a stop waits for (invariant 7: started only when its hard dependencies hold; stopped in reverse).

use crate::base::{Name, ObjectKind, ObjectRef};
use crate::unit::Condition;

use super::Waiting;
use super::observed::{Facets, Ground, Surroundings};

/// What a start waits for, if anything; `again`: of what ran before on the ground of what held then. A Job that has completed
/// once is enough for that: its next version is waited for by what comes with it.
pub fn start_gate(around: &dyn Surroundings, again: bool) -> Option<Waiting> {
    around.dependencies().into_iter().find_map(|(dependency, facets)| {
        let Some(facets) = facets else {
            let on = unknown(&dependency.name);
            let why = "there is no such unit".to_owned();
            return (!dependency.optional).then_some(Waiting::Dependency {
                on,
                condition: dependency.condition.as_str(),
                why,
            });
        };
        let unwell = is_unwell(&facets);
        let held = again && facets.completed_once;
        if held || holds(&facets, dependency.condition) || (dependency.optional && unwell) {
            return None;
        }
        if let Some(on) = facets.circuit {
            return Some(Waiting::DependencyCircuit { on });
        }
        Some(Waiting::Dependency {
            on: facets.object,
            condition: dependency.condition.as_str(),
            why: facets.hopeless.unwrap_or_default(),
        })
    })
}

/// A start that begins anew waits as well for what the Jobs before it needed: after a boot, or a `down`, they have run already, and
/// what they found is only on its way up.
pub fn ground_gate(around: &dyn Surroundings) -> Option<Waiting> {
    around.grounds().into_iter().find_map(|Ground { edge, facets, job, optional }| {
        let once = edge.condition == Condition::Completed && facets.completed_once;
        if once || holds(&facets, edge.condition) || (optional && is_unwell(&facets)) {
            return None;
        }
        if let Some(on) = facets.circuit {
            return Some(Waiting::DependencyCircuit { on });
        }
        let needed = format!("{job} needed it");
        let why = facets.hopeless.map_or_else(|| needed.clone(), |why| format!("{needed}; {why}"));
        Some(Waiting::Dependency { on: facets.object, condition: edge.condition.as_str(), why })
    })
}

/// A replacement also waits for dependencies that are about to be replaced themselves, but for these.
pub fn replace_gate(around: &dyn Surroundings, again: bool, but: &[Name]) -> Option<Waiting> {
    let replacing = around.dependencies().into_iter().find_map(|(dependency, facets)| {
        facets.filter(|facets| facets.replacing && !but.contains(&facets.object.name)).map(|facets| {
            Waiting::Dependency {
                on: facets.object,
                condition: dependency.condition.as_str(),
                why: "it is replaced first".into(),
            }
        })
    });
    replacing.or_else(|| start_gate(around, again))
}

/// A start waits until who had its port before is gone: it would fail, and its probes would be answered by that one.
pub fn port_gate(around: &dyn Surroundings) -> Option<Waiting> {
    around.port_holder().map(|(on, port)| Waiting::Port { on, port })
}

/// A stop waits until every dependent is gone.
pub fn stop_gate(around: &dyn Surroundings) -> Option<Waiting> {
    around.running_dependent().map(|on| Waiting::Dependent { on })
}

/// Nobody who can do without it waits for it.
fn is_unwell(facets: &Facets) -> bool {
    facets.hopeless.is_some() || facets.unwell || facets.circuit.is_some()
}

fn holds(facets: &Facets, condition: Condition) -> bool {
    match condition {
        Condition::Started => facets.started,
        Condition::Ready => facets.ready,
        Condition::Completed => facets.completed,
    }
}

fn unknown(name: &Name) -> ObjectRef {
    ObjectRef { kind: ObjectKind::Service, name: name.clone() }
}
