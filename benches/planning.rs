//! What one crash costs to plan, among 100 to 30,000 units: the same, if only dirty units are planned. Prints
//! microseconds from the fact of the crash to the decided restart, the median of 301 crashes of one unit. `CRASHES` and `UNITS`
//! in the environment choose other numbers, to profile one of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use unisys::base::{Epoch, Exit, Incarnation, InstanceId, Name, Now, Part, Revision};
use unisys::manifest::load::ParseCache;
use unisys::manifest::resolve::Context;
use unisys::manifest::{FileError, Files, LoadInput, SourceFile, load};
use unisys::plan::Desired;
use unisys::plan::build::build;
use unisys::world::{Beginning, Cause, Effect, Event, InstanceFact, World};

struct NoFiles;

impl Files for NoFiles {
    fn read(&self, _: &Path) -> Result<Arc<[u8]>, FileError> {
        Err(FileError::Missing)
    }

    fn digest(&self, _: &Path) -> Result<u64, FileError> {
        Err(FileError::Missing)
    }
}

fn main() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<usize>().ok());
    let crashes = number("CRASHES").unwrap_or(301);
    for units in number("UNITS").map_or_else(|| vec![100, 1_000, 10_000, 30_000], |units| vec![units]) {
        println!("{units:>6} units {:>8.1} µs a crash", crash(units, crashes));
    }
}

/// Each unit depends on the one a tenth of the way back, so that there is a graph to look at.
fn desired(units: usize) -> Desired {
    let files = (0..units).map(|n| {
        let after = if n < units / 10 { String::new() } else { format!("u{}", n - units / 10) };
        let text = format!(
            "{{apiVersion: unisys.dev/v1, kind: Service, metadata: {{name: u{n}}}, spec: {{command: [x], dependsOn: [{after}], \
             restart: {{backoff: {{initial: 0s}}}}, circuitBreaker: null}}}}"
        );
        SourceFile { path: format!("/bench/u{n}.yaml").into(), content: Ok(text.into_bytes().into()) }
    });
    let input = LoadInput { set: "bench".into(), files: files.collect(), overlays: Vec::new() };
    let (objects, found) = load(&input, &mut ParseCache::default());
    let environment = BTreeMap::new();
    let context = Context {
        objects: &objects,
        files: &NoFiles,
        environment: &environment,
        profile: None,
        machine: true,
        lenient: false,
    };
    let built = build(&context, Revision(1), b"bench", None);
    assert!(!found.iter().chain(&built.diagnostics).any(|found| found.rejects()), "the manifests are well");
    built.desired
}

struct Bench {
    world: World,
    now: Now,
    /// The instance that was started last.
    latest: Option<InstanceId>,
}

fn crash(units: usize, crashes: usize) -> f64 {
    let beginning = Beginning { epoch: Epoch(1), seed: 1, incarnation: Incarnation(1) };
    let mut bench = Bench { world: World::new(beginning), now: Now::default(), latest: None };
    let cause = Cause::new("Up", "");
    bench.tell(Event::Desired { desired: Arc::new(desired(units)), cause });
    bench.tell(Event::Begin);
    bench.obey();
    // The first crash makes the last one started be this unit's.
    let name: Name = format!("u{}", units / 2).parse().expect("a name");
    let slot = bench.world.units()[&name].slots.iter().next().expect("it runs");
    let incarnation = slot.1.instance.as_ref().expect("it runs").incarnation;
    let mut id = InstanceId { unit: name.clone(), ordinal: slot.0.ordinal, incarnation };
    let mut times: Vec<f64> = (0..crashes)
        .map(|_| {
            bench.now.mono.0 += 60_000_000_000;
            let begun = Instant::now();
            let fact = InstanceFact::Exited { part: Part::Main, exit: Exit::Code(1), remains: false };
            bench.tell(Event::Instance { id: id.clone(), fact });
            bench.obey();
            let took = begun.elapsed().as_secs_f64() * 1e6;
            let next = bench.latest.clone().expect("it was started again");
            assert!(next.unit == name && next.incarnation != id.incarnation, "it was started again");
            id = next;
            took
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[crashes / 2]
}

impl Bench {
    fn tell(&mut self, event: Event) {
        self.world.handle(self.now, event);
    }

    /// Settles and plays the keeper until there is nothing left to do at this moment.
    fn obey(&mut self) {
        loop {
            self.world.settle(self.now);
            let mut idle = true;
            while let Some(effect) = self.world.poll_effect() {
                let (id, fact) = match effect {
                    Effect::Spawn { id, part, .. } => {
                        self.latest = Some(id.clone());
                        (
                            id,
                            InstanceFact::Spawned {
                                part,
                                pid: 1,
                                at: self.now.mono,
                                ports: Default::default(),
                                left_out: Vec::new(),
                            },
                        )
                    }
                    Effect::Kill { id } => (id, InstanceFact::Gone { survivors: 0 }),
                    _ => continue,
                };
                idle = false;
                self.tell(Event::Instance { id, fact });
            }
            if self.world.poll_deadline().is_some_and(|at| at <= self.now.mono) {
                idle = false;
                self.tell(Event::Tick);
            }
            if idle {
                return;
            }
        }
    }
}
