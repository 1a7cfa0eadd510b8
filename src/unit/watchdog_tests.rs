use super::*;

const START: Instant = Instant(1_000_000_000_000);

fn policy() -> WatchdogPolicy {
    WatchdogPolicy {
        heartbeat: None,
        soft: Some(secs(6)),
        hard: Some(secs(30)),
        on_freeze: OnFreeze::DumpAndRestart,
    }
}

fn beating(within: u64) -> WatchdogPolicy {
    WatchdogPolicy { heartbeat: Some(secs(within)), soft: None, hard: None, ..policy() }
}

fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn at(second: u64) -> Instant {
    START + secs(second)
}

/// What a program does, as each look would show it.
#[derive(Clone, Copy)]
struct Does {
    threads: Threads,
    /// Share of one processor.
    cpu: f64,
    /// Seconds from which on the same connection, or input, waits; and whether anybody answers probes from the start.
    connection: Option<u64>,
    /// Seconds after which another one waits behind it, again and again.
    more: Option<u64>,
    input: Option<u64>,
    answers: bool,
}

const WAITS: Does = Does {
    threads: Threads {
        total: 4,
        running: 0,
        stopped: 0,
        uninterruptible: 0,
        locked: 0,
        parents: 0,
        traced: 0,
    },
    cpu: 0.0,
    connection: None,
    more: None,
    input: None,
    answers: true,
};

fn threads(change: impl Fn(&mut Threads)) -> Threads {
    let mut threads = WAITS.threads;
    change(&mut threads);
    threads
}

/// What becomes of it within two minutes: the first word of every change, with its second.
fn told(policy: WatchdogPolicy, does: Does) -> Vec<(u64, String)> {
    let mut vigil = Vigil::new(policy, START);
    let mut told = Vec::new();
    let mut cpu = Duration::ZERO;
    // A close look follows another within a moment, in which the kernel accounts nothing.
    for (second, now) in
        (1..=120).flat_map(|second| [(second, at(second)), (second, at(second) + Duration::from_millis(1))])
    {
        if now == at(second) {
            cpu += secs(1).mul_f64(does.cpu);
            vigil.probed(does.answers, at(second - 1), now);
        }
        let Some(ask) = vigil.due(now) else { continue };
        let waits = |from: Option<u64>, kind, id| {
            from.filter(|from| *from <= second).map(|_| Work { id, kind, amount: 1 })
        };
        let first = [waits(does.connection, WorkKind::Connection, 1), waits(does.input, WorkKind::Input, 2)];
        let more = does.more.map_or(0, |more| second / more);
        let more = (0..more).map(|index| Work { id: 10 + index, kind: WorkKind::Connection, amount: 1 });
        let work: Vec<Work> = first.into_iter().flatten().chain(more).collect();
        let look = Look {
            // Others run as well.
            cpu: cpu / 4,
            wanted: cpu,
            threads: does.threads,
            work: ask.work.then_some(work),
            ..Look::default()
        };
        match vigil.seen(Some(&look), ask.closely, now) {
            Sight::Nothing => {}
            Sight::Degraded(finding) => told.push((second, finding.reason.to_owned())),
            Sight::Well => told.push((second, "Well".to_owned())),
            Sight::Frozen(finding) => {
                told.push((second, format!("{}!", finding.reason)));
                return told;
            }
        }
    }
    told
}

#[test]
fn a_freeze_is_a_state_and_a_demand_that_last() {
    let locked = threads(|threads| threads.locked = 4);
    let parent = threads(|threads| (threads.locked, threads.parents) = (3, 1));
    let stuck = threads(|threads| threads.uninterruptible = 1);
    let stopped = threads(|threads| threads.stopped = 4);
    let traced = threads(|threads| (threads.stopped, threads.traced) = (3, 1));
    let busy = threads(|threads| threads.running = 1);
    let cases: Vec<(&str, Does, &[&str])> = vec![
        ("idle", WAITS, &[]),
        ("idle with locks", Does { threads: locked, ..WAITS }, &[]),
        (
            "deadlock, a connection",
            Does { threads: locked, connection: Some(1), ..WAITS },
            &["Deadlock", "Deadlock!"],
        ),
        ("deadlock, input", Does { threads: locked, input: Some(1), ..WAITS }, &["Deadlock", "Deadlock!"]),
        ("deadlock, probes", Does { threads: locked, answers: false, ..WAITS }, &["Deadlock", "Deadlock!"]),
        (
            "its parent waits for it",
            Does { threads: parent, connection: Some(1), ..WAITS },
            &["Deadlock", "Deadlock!"],
        ),
        (
            "runtimes wake up",
            Does { threads: locked, cpu: 0.002, connection: Some(1), ..WAITS },
            &["Deadlock", "Deadlock!"],
        ),
        ("it gets on", Does { threads: locked, cpu: 0.01, connection: Some(1), ..WAITS }, &[]),
        ("waits elsewhere, a connection", Does { connection: Some(1), ..WAITS }, &["Suspected"]),
        ("waits elsewhere, input", Does { input: Some(1), ..WAITS }, &["Suspected"]),
        ("waits elsewhere, probes", Does { answers: false, ..WAITS }, &["Blocked", "Blocked!"]),
        ("stuck", Does { threads: stuck, ..WAITS }, &["Suspected"]),
        ("stuck, a connection", Does { threads: stuck, connection: Some(1), ..WAITS }, &["Stuck", "Stuck!"]),
        ("stopped", Does { threads: stopped, ..WAITS }, &["Suspected"]),
        ("stopped, probes", Does { threads: stopped, answers: false, ..WAITS }, &["Stopped", "Stopped!"]),
        ("debugged", Does { threads: traced, answers: false, connection: Some(1), ..WAITS }, &[]),
        ("busy", Does { threads: busy, cpu: 1.0, ..WAITS }, &[]),
        ("busy with a queue", Does { threads: busy, cpu: 1.0, connection: Some(1), ..WAITS }, &["Suspected"]),
        ("busy with input", Does { threads: busy, cpu: 1.0, input: Some(1), ..WAITS }, &["Suspected"]),
        (
            "busy, probes",
            Does { threads: busy, cpu: 1.0, answers: false, ..WAITS },
            &["Livelock", "Livelock!"],
        ),
        ("some work, probes late", Does { threads: busy, cpu: 0.2, answers: false, ..WAITS }, &[]),
    ];
    for (what, does, expected) in cases {
        let told = told(policy(), does);
        let words: Vec<&str> = told.iter().map(|(_, word)| word.as_str()).collect();
        assert_eq!(words, expected, "{what}: {told:?}");
        for (second, word) in told {
            let least = if word.ends_with('!') { 30 } else { 6 };
            assert!(second >= least && second <= least + 5, "{what}: {word} after {second} s");
        }
    }
}

#[test]
fn who_is_busy_while_a_queue_only_grows_is_livelocked() {
    let busy = Does { threads: threads(|threads| threads.running = 1), cpu: 1.0, ..WAITS };
    let told = told(policy(), Does { connection: Some(1), more: Some(10), ..busy });
    let words: Vec<&str> = told.iter().map(|(_, word)| word.as_str()).collect();
    assert_eq!(words, ["Suspected", "Livelock", "Livelock!"], "{told:?}");
    // From when the second one waited.
    assert!(told[1].0 >= 16 && told[2].0 >= 40, "{told:?}");
    // One that takes one after the other is at work, however long the others wait.
    let mut vigil = Vigil::new(policy(), START);
    for second in 1..200 {
        let queue =
            (second / 5..second / 5 + 20).map(|id| Work { id, kind: WorkKind::Connection, amount: 1 });
        let look = Look {
            wanted: secs(second),
            cpu: secs(second),
            threads: busy.threads,
            work: Some(queue.collect()),
            ..Look::default()
        };
        let sight = vigil.seen(Some(&look), false, at(second));
        assert_eq!(sight, Sight::Nothing, "{second}");
    }
}

#[test]
fn who_is_at_its_limit_of_connections_and_answers_is_at_work() {
    for beats in [true, false] {
        let mut vigil = Vigil::new(policy(), START);
        let seen: Vec<Sight> = (1..200)
            .map(|second| {
                if beats {
                    vigil.beat(at(second));
                } else {
                    vigil.answered(at(second));
                }
                let queue = 0..2.min(second / 20);
                let work = queue.map(|id| Work { id, kind: WorkKind::Connection, amount: 1 });
                let look = Look {
                    wanted: secs(second),
                    cpu: secs(second),
                    threads: threads(|threads| threads.running = 1),
                    work: Some(work.collect()),
                    ..Look::default()
                };
                vigil.seen(Some(&look), false, at(second))
            })
            .collect();
        assert!(seen.iter().any(|sight| format!("{sight:?}").contains("Suspected")), "{seen:?}");
        assert!(!seen.iter().any(|sight| format!("{sight:?}").contains("Livelock")), "{seen:?}");
    }
}

#[test]
fn what_is_said_of_one_that_is_suspected_says_who_waits() {
    let look = |second: u64, running: u32, cpu: u64| Look {
        cpu: secs(second * cpu),
        wanted: secs(second * cpu),
        threads: threads(|threads| threads.running = running),
        at: "poll".into(),
        work: Some(vec![Work { id: 1, kind: WorkKind::Connection, amount: 1 }]),
        ..Look::default()
    };
    let said = |running, cpu| {
        let mut vigil = Vigil::new(policy(), START);
        (1..10).for_each(|second| drop(vigil.seen(Some(&look(second, running, cpu)), false, at(second))));
        vigil.finding().map(|finding| finding.message.clone()).unwrap_or_default()
    };
    let waits = said(0, 0);
    assert_eq!(
        waits,
        "it waits (poll) and gets nowhere, and a connection has not been accepted for 8s; it may wait for something else first"
    );
    let busy = said(1, 1);
    assert_eq!(
        busy,
        "it keeps the processor busy, and a connection has not been accepted for 8s; it may be at work for somebody else"
    );
}

#[test]
fn a_queue_that_moves_is_no_demand_and_more_input_is_the_same_input() {
    let mut vigil = Vigil::new(policy(), START);
    let look = |id, amount| Look {
        threads: threads(|threads| threads.locked = 4),
        work: Some(vec![Work { id, kind: WorkKind::Input, amount }]),
        ..Look::default()
    };
    for second in 1..60 {
        assert_eq!(
            vigil.seen(Some(&look(second, 1)), false, at(second)),
            Sight::Nothing,
            "others wait each time"
        );
    }
    for second in 60..90 {
        let less = 1000 - second as u32;
        assert_eq!(
            vigil.seen(Some(&look(7, less)), false, at(second)),
            Sight::Nothing,
            "some of it was read"
        );
    }
    let sights: Vec<Sight> =
        (90..100).map(|second| vigil.seen(Some(&look(7, 1000 + second as u32)), false, at(second))).collect();
    assert!(
        sights.iter().any(|sight| matches!(sight, Sight::Degraded(finding) if finding.reason == "Deadlock"))
    );
}

#[test]
fn one_that_is_well_again_is_said_to_be_and_an_alert_is_all_that_was_asked_for() {
    let alert = WatchdogPolicy { on_freeze: OnFreeze::Alert, ..policy() };
    let locked = threads(|threads| threads.locked = 4);
    let told = told(alert, Does { threads: locked, connection: Some(1), ..WAITS });
    assert_eq!(told.iter().map(|(_, word)| word.as_str()).collect::<Vec<_>>(), ["Deadlock"]);

    let mut vigil = Vigil::new(policy(), START);
    let look =
        |cpu| Look { cpu: secs(cpu), threads: threads(|threads| threads.stopped = 4), ..Look::default() };
    for second in 0..10 {
        vigil.seen(Some(&look(0)), false, at(second));
    }
    assert_eq!(vigil.finding().map(|finding| finding.reason), Some("Suspected"));
    let runs = Look { threads: WAITS.threads, ..look(1) };
    assert_eq!(vigil.seen(Some(&runs), false, at(11)), Sight::Well);
}

#[test]
fn a_missed_heartbeat_is_followed_by_a_close_look_and_then_by_the_end() {
    let close = Some(Ask { work: true, closely: true });
    let mut vigil = Vigil::new(beating(10), START);
    assert_eq!(vigil.deadline(), Some(at(10)));
    assert_eq!(vigil.due(at(9)), None);
    vigil.beat(at(9));
    assert_eq!(vigil.deadline(), Some(at(19)));
    vigil.extend(at(60));
    assert_eq!((vigil.due(at(59)), vigil.due(at(60))), (None, close));
    assert_eq!(vigil.due(at(61)), None, "one look is enough");
    vigil.beat(at(61));
    assert_eq!(vigil.seen(Some(&Look::default()), true, at(62)), Sight::Nothing, "it came before the look");
    assert_eq!(vigil.deadline(), Some(at(71)));
    assert_eq!(vigil.due(at(71)), close);
    let debugged = Look { threads: threads(|threads| threads.traced = 1), ..Look::default() };
    assert_eq!(vigil.seen(Some(&debugged), true, at(71)), Sight::Nothing, "who debugs it knows");
    vigil.beat(at(61));
    vigil.expect(secs(2), at(65));
    assert_eq!(vigil.due(at(67)), close);
    let look = Look { threads: threads(|threads| threads.running = 1), ..Look::default() };
    let Sight::Frozen(finding) = vigil.seen(Some(&look), true, at(68)) else { panic!("{vigil:?}") };
    assert_eq!(finding.reason, "Livelock");
    assert_eq!(finding.message, "sent no WATCHDOG=1 within 2s: it keeps the processor busy");
}

#[test]
fn a_program_that_triggers_its_watchdog_is_not_saved_by_another_heartbeat() {
    for policy in [beating(10), policy()] {
        let mut vigil = Vigil::new(policy, START);
        vigil.trigger(at(1));
        assert_eq!(vigil.due(at(1)), Some(Ask { work: true, closely: true }));
        vigil.beat(at(1));
        let sight = vigil.seen(None, true, at(2));
        assert!(
            matches!(&sight, Sight::Frozen(finding) if finding.message == "said WATCHDOG=trigger"),
            "{sight:?}"
        );
    }
    let mut vigil = Vigil::new(WatchdogPolicy { on_freeze: OnFreeze::Alert, ..beating(10) }, START);
    vigil.trigger(at(1));
    vigil.due(at(1));
    assert!(matches!(vigil.seen(None, true, at(2)), Sight::Degraded(_)));
    assert_eq!(vigil.beat(at(3)), Sight::Well);
}

#[test]
fn slow_answers_and_a_broken_rhythm_are_told() {
    let mut vigil = Vigil::new(policy(), START);
    let mut now = START;
    let mut ask = |vigil: &mut Vigil, millis, count| {
        for _ in 0..count {
            now += secs(1);
            vigil.probed(true, now, now + Duration::from_millis(millis));
        }
    };
    let look = |second| Look { cpu: secs(second), quiet: None, ..Look::default() };
    ask(&mut vigil, 20, 60);
    assert_eq!(vigil.seen(Some(&look(1)), false, at(100)), Sight::Nothing);
    ask(&mut vigil, 300, 5);
    let sight = vigil.seen(Some(&look(2)), false, at(101));
    assert!(
        matches!(&sight, Sight::Degraded(finding) if finding.reason == "SlowProbes" && finding.message.contains("300ms")),
        "{sight:?}"
    );
    ask(&mut vigil, 20, 5);
    assert_eq!(vigil.seen(Some(&look(3)), false, at(102)), Sight::Well);

    // Every 10 s, then no more; and one that writes when it has something to do.
    for (gaps, expected) in [(&[10u64][..], true), (&[10, 30, 3][..], false), (&[1][..], false)] {
        let mut vigil = Vigil::new(policy(), START);
        let (mut wrote, mut next) = (0, 0);
        let mut told = Vec::new();
        for second in 1..400 {
            if second < 300 && second - wrote >= gaps[next % gaps.len()] {
                (wrote, next) = (second, next + 1);
            }
            // A look takes a while, and never the same.
            let quiet = Some(secs(second - wrote).saturating_sub(Duration::from_millis(second * 7 % 11)));
            let sight = vigil.seen(Some(&Look { quiet, ..look(second) }), false, at(second));
            if let Sight::Degraded(finding) = sight {
                told.push(finding);
            }
        }
        assert_eq!(told.iter().any(|finding| finding.reason == "Suspected"), expected, "{gaps:?}: {told:?}");
    }
}

#[test]
fn who_writes_more_often_than_it_is_looked_at_is_missed_when_it_falls_silent() {
    // What it writes in a second, until it writes nothing from second 300 on.
    let steady = |_| 100;
    let by_chance = |second: u64| [second * second * 31 % 97, 0][usize::from(second * second * 31 % 97 > 30)];
    let ebbing = |second: u64| 10_000 - second * 33;
    let seldom = |second: u64| (second % 2) * 80;
    let begins = |second: u64| if second < 25 { 100 } else { 0 };
    type Writes<'a> = &'a dyn Fn(u64) -> u64;
    let cases: [(&str, Writes, bool); 5] = [
        ("steady", &steady, true),
        ("every other look", &seldom, true),
        ("when there is something to do", &by_chance, false),
        ("less and less", &ebbing, false),
        ("while it began", &begins, false),
    ];
    for (what, writes, expected) in cases {
        let mut vigil = Vigil::new(policy(), START);
        let (mut wrote, mut written) = (0, 0);
        let mut told = Vec::new();
        for second in 1..400 {
            let bytes = if second < 300 { writes(second) } else { 0 };
            written += bytes;
            wrote = if bytes > 0 { second } else { wrote };
            let quiet = Some(secs(second - wrote));
            let look = Look { cpu: secs(second), quiet, written: Some(written), ..Look::default() };
            if let Sight::Degraded(finding) = vigil.seen(Some(&look), false, at(second)) {
                told.push((second, finding.message));
            }
        }
        assert_eq!(told.len(), usize::from(expected), "{what}: {told:?}");
        assert!(told.iter().all(|(second, _)| (304..310).contains(second)), "{what}: {told:?}");
        assert!(
            told.iter().all(|(_, words)| words.contains("before, it wrote all the time, about")),
            "{what}: {told:?}"
        );
    }
}
