//! What unisys does not run: when it is told of it, and whose answers count.

use std::time::Duration;

use unisys::world::Event;

use super::stage::{Stage, external, name, service};

#[test]
fn an_answer_of_a_former_address_is_none_of_the_new_one() {
    let mut stage = Stage::new();
    stage.accept(&[external("db", 1), service("api", ", dependsOn: [db]")]);
    stage.pass(Duration::from_secs(1));
    stage.accept(&[external("db", 2), service("api", ", dependsOn: [db]")]);
    stage.pass(Duration::from_millis(10));
    stage.tell(Event::External { name: name("db"), seq: 1, ok: true, message: "old".into() });
    stage.pass(Duration::from_millis(10));
    assert_eq!(stage.count("api"), 0, "the answer of the former address counts for the new one");
}

#[test]
fn an_external_that_was_never_ready_is_told_once_and_so_is_that_it_is() {
    let mut stage = Stage::new();
    stage.accept(&[external("db", 1).replace("failureThreshold: 1", "failureThreshold: 3")]);
    let told = |stage: &Stage| {
        let records = stage.world.chronicle().iter().filter(|record| record.object == "external/db");
        records.map(|record| (record.warning, record.message.clone())).collect::<Vec<_>>()
    };
    let circuit = |stage: &Stage| stage.world.externals()[&name("db")].circuit().0;
    for _ in 0..2 {
        stage.external("db", false, "refused");
    }
    assert_eq!((told(&stage).len(), circuit(&stage)), (0, "Closed"));
    for _ in 0..5 {
        stage.external("db", false, "refused");
    }
    let down = (true, "its readiness probe has failed 3 times in a row: refused".to_owned());
    assert_eq!((told(&stage), circuit(&stage)), (vec![down.clone()], "Open"));
    stage.external("db", true, "connected");
    let up = (false, "its readiness probe succeeds".to_owned());
    assert_eq!((told(&stage), circuit(&stage)), (vec![down, up], "Closed"));
    (0..3).for_each(|_| stage.external("db", false, "refused"));
    assert_eq!((told(&stage).len(), circuit(&stage)), (3, "Open"));
}
