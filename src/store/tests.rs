use super::*;
use crate::base::{Generation, Stamp, limits};
use crate::world::Known;

fn open(path: &Path) -> Result<(Store, Restored), StoreError> {
    Store::open(path, Box::new(|_| true))
}

#[test]
fn what_was_saved_is_there_again_and_incarnations_are_never_reused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let (store, first) = open(&path).unwrap();
    let checkpoint = Checkpoint { attempt: 3, ..Checkpoint::default() };
    store.save_units(vec![("api".parse().unwrap(), Box::new(checkpoint.clone()))]);
    store.begin(Epoch(7));
    let set = StoredSet {
        name: "m".into(),
        path: None,
        applied: true,
        overlays: vec![],
        files: vec![StoredFile { path: "/a.yaml".into(), text: "kind: Service".into() }],
        overlay_files: vec![],
        ceded: std::collections::BTreeMap::from([("service/a".parse().unwrap(), "other".into())]),
    };
    store.accept(Revision(4), "test".into(), vec![set.clone()]);
    drop(store);
    let (_store, second) = open(&path).unwrap();
    assert_eq!(second.units, [("api".parse().unwrap(), checkpoint)]);
    assert_eq!((second.epoch, second.revision, second.sets), (Epoch(7), Revision(4), vec![set]));
    assert_eq!(second.key, first.key);
    assert!(second.incarnation > first.incarnation);
}

#[test]
fn who_asks_in_passing_hurries_no_commit_and_is_told_when_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let (store, _) = open(&path).unwrap();
    let checkpoint = Checkpoint { attempt: 3, ..Checkpoint::default() };
    store.save_units(vec![("api".parse().unwrap(), Box::new(checkpoint.clone()))]);
    assert_eq!(store.recorded_in_passing().blocking_recv(), Some(None));
    // As a daemon that is killed now leaves it.
    let left = tempfile::tempdir().unwrap();
    for name in ["state.db", "state.db-wal"] {
        std::fs::copy(dir.path().join(name), left.path().join(name)).unwrap();
    }
    let (_store, restored) = open(&left.path().join("state.db")).unwrap();
    assert_eq!(restored.units, [("api".parse().unwrap(), checkpoint)]);
    assert_eq!(store.recorded_in_passing().blocking_recv(), Some(None), "nothing waits");

    let mut desk = Desk::default();
    let question = |patient| Question::Recorded { answer: tokio::sync::mpsc::channel(1).0, patient };
    desk.questions.push(question(true));
    assert!(desk.is_asked());
    desk.pending.meta.insert(INCARNATION, 1);
    assert!(!desk.is_asked());
    desk.questions.push(question(false));
    assert!(desk.is_asked());
}

/// A database with something of everything.
fn whole(path: &Path) -> Vec<u8> {
    let (store, _) = open(path).unwrap();
    for index in 0..40 {
        store.save_units(vec![(format!("u{index}").parse().unwrap(), Box::default())]);
    }
    store.accept(Revision(1), "test".into(), Vec::new());
    drop(store);
    std::fs::read(path).unwrap()
}

/// It opens whatever its bytes are, says so when it had to be set aside, and can be written to.
fn opens(path: &Path, bytes: &[u8], what: &str) {
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
    }
    std::fs::write(path, bytes).unwrap();
    match open(path) {
        Ok((store, _)) => store.flush(),
        // The byte that is damaged may be the version itself: a newer one is never touched.
        Err(StoreError::Newer { .. }) => {}
        Err(error) => panic!("{what}: {error}"),
    }
}

/// `FAULTS=1000` looks at every byte; else at some of them, page boundaries among them.
fn places(length: usize) -> impl Iterator<Item = usize> {
    let every = std::env::var("FAULTS").is_ok();
    (0..length).filter(move |at| every || at % 509 == 0 || at % 4096 < 2 || *at < 110)
}

#[test]
fn a_database_that_is_cut_off_anywhere_opens() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let bytes = whole(&path);
    for cut in places(bytes.len()) {
        opens(&path, &bytes[..cut], &format!("cut at {cut} of {}", bytes.len()));
    }
}

#[test]
fn a_database_with_any_byte_turned_over_opens() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let bytes = whole(&path);
    for at in places(bytes.len()) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0xff;
        opens(&path, &damaged, &format!("byte {at} of {}", bytes.len()));
    }
}

#[test]
fn what_a_former_daemon_had_not_done_is_shown_as_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let change = |id| Change {
        id,
        at: Stamp(0),
        cause: crate::world::Cause::new("Order", "unisys stop a by ada"),
        revision: Revision(1),
        actions: Vec::new(),
        outcome: crate::world::Outcome::Active,
    };
    let outcomes = |store: &Store| -> Vec<String> {
        store.changes(10).into_iter().map(|change| change.outcome).collect()
    };
    let (store, _) = open(&path).unwrap();
    store.save_change(&change(1));
    assert_eq!(outcomes(&store), ["Active"]);
    drop(store);
    let (store, _) = open(&path).unwrap();
    store.save_change(&change(2));
    assert_eq!(outcomes(&store), ["Active", "Interrupted"]);
}

#[test]
fn what_a_noisy_unit_does_pushes_out_neither_what_others_did_nor_what_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let change = |id, kind: &str, unit: &str| Change {
        id,
        at: Stamp(0),
        cause: crate::world::Cause::new(kind, "d"),
        revision: Revision(1),
        actions: vec![crate::world::chronicle::ChangeAction {
            verb: crate::plan::Verb::Start,
            unit: format!("service/{unit}").parse().unwrap(),
            reason: String::new(),
        }],
        outcome: crate::world::Outcome::Complete,
    };
    let most = limits::CHANGES_KEPT as u64;
    let (store, _) = open(&path).unwrap();
    store.save_change(&change(1, "Apply", "noisy"));
    store.save_change(&change(2, "Exit", "quiet"));
    for id in 3..most + 500 {
        store.save_change(&change(id, "Exit", "noisy"));
        if id % 300 == 0 {
            store.flush();
        }
    }
    let oldest = |store: &Store, count: usize| -> Vec<u64> {
        let found = store.changes(usize::MAX);
        assert_eq!(found.len() as u64, most);
        found.iter().rev().take(count).map(|change| change.id).collect()
    };
    assert_eq!(oldest(&store, 3), [1, 2, 502]);
    drop(store);
    let (store, restored) = open(&path).unwrap();
    assert_eq!(restored.last_change, most + 499);
    store.save_change(&change(most + 500, "Exit", "noisy"));
    assert_eq!(oldest(&store, 3), [1, 2, 503]);
    drop(store);
    // As long as nothing can be written.
    let mut pending = Pending::default();
    (1..3 * most).for_each(|id| {
        let unit = if id == 1 { "quiet" } else { "noisy" };
        pending.change(Box::new((&change(id, "Exit", unit)).into()));
    });
    assert_eq!(pending.changes.rows().len() as u64, most);
    assert_eq!(pending.changes.rows().keys().next(), Some(&1));
}

#[test]
fn a_revision_that_a_standing_override_needs_outlives_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(&dir.path().join("state.db")).unwrap();
    let name: Name = "api".parse().unwrap();
    let known = |revision: u64| {
        Some(Known { generation: Generation(1), revision: Revision(revision), digest: "good".into() })
    };
    let rolled_back = Checkpoint { digest: "bad".into(), good: known(1), ..Checkpoint::default() };
    store.save_units(vec![(name.clone(), Box::new(rolled_back))]);
    let last = 2 * limits::REVISIONS_KEPT as u64;
    for revision in 1..=last {
        store.accept(Revision(revision), "test".into(), Vec::new());
    }
    let kept = |revision| store.revision(Revision(revision)).is_some();
    assert!(kept(1) && !kept(2) && kept(last));
    let mended = Checkpoint { digest: "good".into(), good: known(last + 1), ..Checkpoint::default() };
    store.save_units(vec![(name, Box::new(mended))]);
    store.accept(Revision(last + 1), "test".into(), Vec::new());
    assert!(!kept(1));
}

#[test]
fn a_revision_that_a_unit_can_be_undone_to_outlives_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(&dir.path().join("state.db")).unwrap();
    let name: Name = "api".parse().unwrap();
    store.save_units(vec![(name.clone(), Box::default())]);
    let rollout = |revision: u64, outcome: &str| {
        let record = RolloutRecord {
            revision,
            at: Stamp(revision as i64),
            cause: "test".into(),
            files: Vec::new(),
            duration_ms: None,
            outcome: outcome.into(),
            message: None,
            lines: Vec::new(),
            from_generation: None,
            to_generation: 1,
        };
        store.save_rollout(name.clone(), Box::new(record));
    };
    let good = limits::UNDO_KEPT as u64 + 1;
    for revision in 1..=good {
        store.accept(Revision(revision), "test".into(), Vec::new());
        rollout(revision, "Complete");
    }
    let bad = good + 1;
    store.accept(Revision(bad), "test".into(), Vec::new());
    rollout(bad, "RolledBack");
    let last = bad + limits::REVISIONS_KEPT as u64;
    for revision in bad + 1..=last {
        store.accept(Revision(revision), "test".into(), Vec::new());
    }
    let kept: Vec<u64> = store.kept_revisions().into_iter().map(|revision| revision.0).collect();
    let expected: Vec<u64> = (2..=last).filter(|revision| *revision != bad).collect();
    assert_eq!(kept, expected, "so many that were good, and the latest");
    store.drop_unit(name);
    store.accept(Revision(last + 1), "test".into(), Vec::new());
    assert_eq!(store.kept_revisions().first(), Some(&Revision(bad + 2)), "nobody can go back");
}

#[test]
fn what_neither_keeper_nor_manifests_know_outlives_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let name = |name: &str| -> Name { name.parse().unwrap() };
    let (store, first) = open(&path).unwrap();
    let set = StoredSet {
        name: "m".into(),
        path: Some("/m".into()),
        applied: true,
        overlays: vec![],
        files: vec![],
        overlay_files: vec![],
        ceded: Default::default(),
    };
    store.accept(Revision(4), "test".into(), vec![set.clone()]);
    let ordered = |attempt| {
        let signature = crate::world::Signature { by: "ada".into(), at: Stamp(1) };
        let overrides = crate::world::Overrides { disabled: Some(signature), ..Default::default() };
        Box::new(Checkpoint { generation: Generation(3), attempt, overrides, ..Checkpoint::default() })
    };
    let ran = Box::new(Checkpoint { done: Some(crate::base::Exit::Code(0)), ..Checkpoint::default() });
    store.save_units(vec![
        (name("bot"), ordered(0)),
        (name("job"), ran),
        (name("api"), Box::default()),
        (name("gone"), ordered(0)),
    ]);
    drop(store);
    let (store, _) = open(&path).unwrap();
    store.drop_unit(name("gone"));
    store.save_units(vec![(name("bot"), ordered(7))]);
    drop(store);
    for lose in ["empty", "remove", "damage", "directory", "fifo"] {
        match lose {
            "directory" | "fifo" => {
                std::fs::remove_file(&path).unwrap();
                match lose {
                    "fifo" => {
                        let kind = rustix::fs::FileType::Fifo;
                        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, 0o600.into(), 0).unwrap();
                    }
                    _ => std::fs::create_dir(&path).unwrap(),
                }
            }
            "empty" => std::fs::write(&path, "").unwrap(),
            "remove" => std::fs::remove_file(&path).unwrap(),
            _ => std::fs::write(&path, [b'x'; 9000]).unwrap(),
        }
        let (store, mut restored) = open(&path).unwrap();
        assert_eq!((&restored.key, restored.revision), (&first.key, Revision(0)), "{lose}");
        store.recover(&mut restored, true);
        assert_eq!(restored.sets, std::slice::from_ref(&set), "{lose}");
        let units: Vec<&str> = restored.units.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(units, ["bot", "job"], "{lose}");
        let bot = &restored.units[0].1;
        assert!(bot.overrides.disabled.is_some() && bot.attempt == 0 && bot.generation == Generation(3));
        let warning = restored.warning.unwrap();
        assert!(warning.contains("known from a copy"), "{lose}: {warning}");
        store.accept(Revision(1), "test".into(), restored.sets);
    }
}

#[test]
fn what_cannot_be_read_of_a_unit_or_of_the_sets_is_told_and_known_from_the_copy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let name = |text: &str| -> Name { text.parse().unwrap() };
    let set = StoredSet {
        name: "given".into(),
        path: None,
        applied: true,
        overlays: vec![],
        files: vec![],
        overlay_files: vec![],
        ceded: Default::default(),
    };
    let signature = crate::world::Signature { by: "ada".into(), at: Stamp(1) };
    let overrides = crate::world::Overrides { disabled: Some(signature), ..Default::default() };
    let disabled = Checkpoint { overrides, ..Checkpoint::default() };
    let (store, _) = open(&path).unwrap();
    store.accept(Revision(4), "test".into(), vec![set.clone()]);
    store.save_units(vec![(name("a"), Box::new(disabled.clone())), (name("b"), Box::default())]);
    drop(store);
    let damage = |statement: &str| {
        let connection = Connection::open(&path).unwrap();
        connection.execute(statement, []).unwrap();
    };
    damage("UPDATE unit SET checkpoint = CAST(x'7b226765ff00' AS TEXT) WHERE name = 'a'");
    let (store, mut restored) = open(&path).unwrap();
    store.recover(&mut restored, true);
    let warning = restored.warning.unwrap();
    assert!(warning.starts_with("state.db is damaged where it tells of a;"), "{warning}");
    assert_eq!(restored.sets, std::slice::from_ref(&set));
    assert_eq!(restored.units, [(name("b"), Checkpoint::default()), (name("a"), disabled.clone())]);
    store.save_units(restored.units.into_iter().map(|(name, unit)| (name, Box::new(unit))).collect());
    drop(store);
    damage("UPDATE revision SET sets = '[{\"na'");
    let (store, mut restored) = open(&path).unwrap();
    store.recover(&mut restored, true);
    let warning = restored.warning.unwrap();
    assert!(warning.contains("set aside") && warning.contains("known from a copy"), "{warning}");
    assert_eq!((restored.sets, restored.units), (vec![set], vec![(name("a"), disabled)]));
}

#[test]
fn who_removes_the_database_while_nothing_runs_begins_anew_and_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let (store, _) = open(&path).unwrap();
    store.accept(Revision(4), "test".into(), Vec::new());
    store.save_units(vec![(
        "a".parse().unwrap(),
        Box::new(Checkpoint { done: Some(crate::base::Exit::Code(0)), ..Checkpoint::default() }),
    )]);
    drop(store);
    std::fs::remove_file(&path).unwrap();
    let (store, mut restored) = open(&path).unwrap();
    store.recover(&mut restored, false);
    assert_eq!(restored.units.len(), 0);
    let told = restored.warning.unwrap();
    assert!(
        told.contains("the system begins anew") && told.ends_with("; a runs again, though it has run"),
        "{told}"
    );
    drop(store);
    let (store, mut restored) = open(&path).unwrap();
    store.recover(&mut restored, false);
    assert_eq!(restored.warning, None, "once");
}

#[test]
fn a_damaged_database_is_set_aside_and_a_newer_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    std::fs::write(&path, b"this is no database, whatever it says, and long enough to be looked at").unwrap();
    let (store, restored) = open(&path).unwrap();
    assert!(restored.warning.unwrap().contains("set aside"));
    drop(store);
    let connection = Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    assert!(matches!(open(&path), Err(StoreError::Newer { found: 99, .. })));
}
#[test]
fn a_database_of_every_earlier_format_opens_and_says_what_it_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch(include_str!("../../tests/it/fixtures/state/v1.sql")).unwrap();
    drop(connection);
    let (store, restored) = open(&path).unwrap();
    assert_eq!(restored.warning, None);
    assert_eq!(
        (restored.epoch, restored.revision, restored.last_change, restored.incarnation),
        (Epoch(7), Revision(4), 12, Incarnation(20_001))
    );
    let (name, checkpoint) = &restored.units[0];
    assert_eq!((name.as_str(), checkpoint.generation, checkpoint.attempt), ("api", Generation(3), 1));
    assert_eq!(restored.sets[0].files[0].text, "kind: Service");
    assert_eq!((restored.key.len(), store.changes(10).len()), (32, 1));
}

#[test]
fn what_cannot_be_written_is_kept_once_of_each_and_what_is_newer_stands() {
    let name = |index: usize| -> Name { format!("u{index}").parse().unwrap() };
    let checkpoint = |attempt| Some(Box::new(Checkpoint { attempt, ..Checkpoint::default() }));
    let change = |id| {
        Box::new(StoredChange {
            id,
            at: Stamp(0),
            cause: StoredCause { kind: String::new(), detail: String::new() },
            revision: 1,
            actions: Vec::new(),
            outcome: "Active".into(),
        })
    };
    let (mut old, mut new) = (Pending::default(), Pending::default());
    old.units.extend([(name(1), checkpoint(1)), (name(2), checkpoint(1))]);
    new.units.extend([(name(2), checkpoint(2)), (name(3), None)]);
    for id in 0..limits::CHANGES_KEPT as u64 {
        old.change(change(id));
        new.change(change(id + 10));
        old.error(id, Some(String::new()));
    }
    new.put_back(old);
    assert_eq!(new.units[&name(2)], checkpoint(2));
    assert_eq!((new.units[&name(1)].is_some(), new.units[&name(3)].is_some()), (true, false));
    assert_eq!(
        (new.changes.rows().len(), *new.changes.rows().keys().next().unwrap()),
        (limits::CHANGES_KEPT, 10)
    );
    assert_eq!(new.errors.len(), limits::CHANGES_KEPT);
}
