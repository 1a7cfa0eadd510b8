//! A whole plan, as `plan` prints it: actions in dependency order with what each comes after.

use serde::Serialize;

use crate::base::{Name, ObjectRef};
use crate::graph::Graph;

use super::{UnitPlan, Verb};

/// What would be done, or is still to be done.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Plan {
    pub actions: Vec<PlanAction>,
    pub waiting: Vec<PlanWaiting>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlanAction {
    pub id: u32,
    pub verb: Verb,
    pub unit: ObjectRef,
    pub reason: String,
    /// Ids of the actions that come first.
    pub after: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlanWaiting {
    pub unit: ObjectRef,
    pub on: String,
}

impl Plan {
    /// Puts the plans of single units together: starts in the order of the graph, stops in reverse. One action a unit and verb.
    pub fn assemble(units: Vec<(ObjectRef, UnitPlan)>, graph: &Graph) -> Self {
        let mut plan = Self::default();
        let lane_of: std::collections::BTreeMap<&Name, usize> = graph
            .lanes()
            .into_iter()
            .enumerate()
            .flat_map(|(lane, names)| names.into_iter().map(move |name| (name, lane)))
            .collect();
        let mut rows: Vec<(bool, i64, ObjectRef, UnitPlan)> = units
            .into_iter()
            .map(|(unit, plan)| {
                let lane = lane_of.get(&unit.name).map_or(i64::MAX, |lane| *lane as i64);
                let stops =
                    plan.actions.iter().any(|action| matches!(action.verb, Verb::Stop | Verb::Delete));
                (!stops, if stops { -lane } else { lane }, unit, plan)
            })
            .collect();
        rows.sort_by(|a, b| (a.0, a.1, &a.2).cmp(&(b.0, b.1, &b.2)));
        for (starts, _, unit, unit_plan) in rows {
            plan.add(unit, unit_plan, graph, starts);
        }
        plan
    }

    fn add(&mut self, unit: ObjectRef, unit_plan: UnitPlan, graph: &Graph, starts: bool) {
        let mut seen: Vec<Verb> = Vec::new();
        for action in unit_plan.actions {
            if let Some(waiting) = &action.waiting {
                let row = PlanWaiting { unit: unit.clone(), on: waiting.to_string() };
                if !self.waiting.contains(&row) {
                    self.waiting.push(row);
                }
            }
            if seen.contains(&action.verb) {
                continue;
            }
            seen.push(action.verb);
            let neighbours =
                if starts { graph.dependencies(&unit.name) } else { graph.dependents(&unit.name) };
            let after =
                self.actions.iter().filter(|a| neighbours.contains(&&a.unit.name)).map(|a| a.id).collect();
            let id = self.actions.len() as u32 + 1;
            self.actions.push(PlanAction {
                id,
                verb: action.verb,
                unit: unit.clone(),
                reason: action.reason,
                after,
            });
        }
    }

    pub fn is_empty(&self) -> bool {
        self.actions.is_empty() && self.waiting.is_empty()
    }
}
