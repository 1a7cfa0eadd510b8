//! The dependency graph of units: cycles with their whole path, start lanes, the reverse order for stopping.

use std::collections::{BTreeMap, BTreeSet};

use petgraph::Direction;
use petgraph::algo::tarjan_scc;
use petgraph::graphmap::DiGraphMap;

use crate::base::Name;

/// Who needs whom. Nodes are units and externals; an edge goes from a dependency to its dependent.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    names: Vec<Name>,
    index: BTreeMap<Name, u32>,
    edges: DiGraphMap<u32, ()>,
}

/// A circle of dependencies: each name depends on the next, the last on the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cycle(pub Vec<Name>);

impl Cycle {
    /// `a → b → c → a`.
    pub fn path(&self) -> String {
        let mut words: Vec<&str> = self.0.iter().map(Name::as_str).collect();
        words.extend(self.0.first().map(Name::as_str));
        words.join(" → ")
    }
}

impl Graph {
    /// Builds the graph from each unit's dependencies. A dependency that is not among the units is left out: it is
    /// another diagnostic's concern.
    pub fn new<'a, D>(units: impl IntoIterator<Item = (&'a Name, D)>) -> Self
    where
        D: IntoIterator<Item = &'a Name>,
    {
        let units: Vec<(&Name, Vec<&Name>)> =
            units.into_iter().map(|(name, needs)| (name, needs.into_iter().collect())).collect();
        let mut graph = Self::default();
        let known: BTreeSet<&Name> = units.iter().map(|(name, _)| *name).collect();
        for name in known {
            let id = graph.names.len() as u32;
            graph.names.push(name.clone());
            graph.index.insert(name.clone(), id);
            graph.edges.add_node(id);
        }
        for (name, needs) in units {
            for need in needs {
                if let (Some(from), Some(to)) = (graph.index.get(need), graph.index.get(name)) {
                    graph.edges.add_edge(*from, *to, ());
                }
            }
        }
        graph
    }

    fn id(&self, name: &Name) -> Option<u32> {
        self.index.get(name).copied()
    }

    fn neighbours(&self, name: &Name, direction: Direction) -> Vec<&Name> {
        let Some(id) = self.id(name) else { return Vec::new() };
        let mut ids: Vec<u32> = self.edges.neighbors_directed(id, direction).collect();
        ids.sort_unstable();
        ids.into_iter().map(|id| &self.names[id as usize]).collect()
    }

    /// Those that `name` needs, in order of name.
    pub fn dependencies(&self, name: &Name) -> Vec<&Name> {
        self.neighbours(name, Direction::Incoming)
    }

    /// Those that need `name`, in order of name.
    pub fn dependents(&self, name: &Name) -> Vec<&Name> {
        self.neighbours(name, Direction::Outgoing)
    }

    /// Everything that needs `name`, however far.
    pub fn impact(&self, name: &Name) -> BTreeSet<&Name> {
        self.reach(name, Direction::Outgoing)
    }

    /// `name` and everything that it needs, however far.
    pub fn closure<'a>(&'a self, names: impl IntoIterator<Item = &'a Name>) -> BTreeSet<&'a Name> {
        names
            .into_iter()
            .flat_map(|name| self.reach(name, Direction::Incoming).into_iter().chain([name]))
            .collect()
    }

    fn reach(&self, name: &Name, direction: Direction) -> BTreeSet<&Name> {
        let mut found = BTreeSet::new();
        let mut open: Vec<u32> = self.id(name).into_iter().collect();
        while let Some(id) = open.pop() {
            for next in self.edges.neighbors_directed(id, direction) {
                if found.insert(next) {
                    open.push(next);
                }
            }
        }
        found.into_iter().map(|id| &self.names[id as usize]).collect()
    }

    /// Every circle of dependencies, each once, shortest path through it, starting at its first name.
    pub fn cycles(&self) -> Vec<Cycle> {
        let mut cycles: Vec<Cycle> = tarjan_scc(&self.edges)
            .into_iter()
            .filter(|members| members.len() > 1 || self.edges.contains_edge(members[0], members[0]))
            .filter_map(|members| self.shortest_cycle(&members.into_iter().collect()))
            .collect();
        cycles.sort_by(|a, b| a.0.cmp(&b.0));
        cycles
    }

    /// The shortest circle through the first member of a strongly connected component, breadth first.
    fn shortest_cycle(&self, members: &BTreeSet<u32>) -> Option<Cycle> {
        let start = *members.first()?;
        let mut came_from: BTreeMap<u32, u32> = BTreeMap::new();
        let mut queue = std::collections::VecDeque::from([start]);
        while let Some(at) = queue.pop_front() {
            let mut needs: Vec<u32> = self
                .edges
                .neighbors_directed(at, Direction::Incoming)
                .filter(|id| members.contains(id))
                .collect();
            needs.sort_unstable();
            for need in needs {
                if need == start {
                    let mut path = vec![at];
                    while let Some(previous) = came_from.get(path.last()?) {
                        path.push(*previous);
                    }
                    path.reverse();
                    return Some(Cycle(path.into_iter().map(|id| self.names[id as usize].clone()).collect()));
                }
                if need != start && !came_from.contains_key(&need) {
                    came_from.insert(need, at);
                    queue.push_back(need);
                }
            }
        }
        None
    }

    /// Start lanes: lane n holds what can start when all of the lanes before are there. Members of a cycle are in none.
    pub fn lanes(&self) -> Vec<Vec<&Name>> {
        let mut missing: Vec<usize> = (0..self.names.len())
            .map(|id| self.edges.neighbors_directed(id as u32, Direction::Incoming).count())
            .collect();
        let mut lane: Vec<u32> =
            (0..self.names.len() as u32).filter(|id| missing[*id as usize] == 0).collect();
        let mut lanes = Vec::new();
        while !lane.is_empty() {
            let mut next = Vec::new();
            for id in &lane {
                for dependent in self.edges.neighbors_directed(*id, Direction::Outgoing) {
                    missing[dependent as usize] -= 1;
                    if missing[dependent as usize] == 0 {
                        next.push(dependent);
                    }
                }
            }
            lane.sort_unstable();
            lanes.push(lane.iter().map(|id| &self.names[*id as usize]).collect());
            next.sort_unstable();
            lane = next;
        }
        lanes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    /// `"web: api db; api: db; db:"`
    fn graph(text: &str) -> Graph {
        let units: Vec<(Name, Vec<Name>)> = text
            .split(';')
            .map(|unit| {
                let (unit, needs) = unit.split_once(':').unwrap();
                (name(unit.trim()), needs.split_whitespace().map(name).collect())
            })
            .collect();
        Graph::new(units.iter().map(|(unit, needs)| (unit, needs.iter())))
    }

    fn words(names: &[&Name]) -> String {
        names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn lanes_start_in_parallel_what_needs_nothing_of_each_other() {
        let graph = graph("web: api cache; api: db; db:; cache:; bot: api");
        let lanes: Vec<String> = graph.lanes().iter().map(|lane| words(lane)).collect();
        assert_eq!(lanes, ["cache db", "api", "bot web"]);
    }

    #[test]
    fn a_cycle_is_named_with_its_whole_path() {
        for (text, paths) in [
            ("a: b; b: c; c: a", vec!["a → b → c → a"]),
            ("a: a", vec!["a → a"]),
            ("a: b; b: a; c: d; d: c; e: a", vec!["a → b → a", "c → d → c"]),
            ("a: b; b:", vec![]),
            ("a: b c; b: c; c: a", vec!["a → c → a"]),
        ] {
            let found: Vec<String> = graph(text).cycles().iter().map(Cycle::path).collect();
            assert_eq!(found, paths, "{text}");
        }
    }

    #[test]
    fn impact_and_closure_reach_as_far_as_the_edges_do() {
        let graph = graph("web: api; api: db; db:; bot: api; other:");
        assert_eq!(words(&graph.impact(&name("db")).into_iter().collect::<Vec<_>>()), "api bot web");
        let web = name("web");
        assert_eq!(words(&graph.closure([&web]).into_iter().collect::<Vec<_>>()), "api db web");
    }
}
