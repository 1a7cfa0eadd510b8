use crate::base::Stamp;

use super::*;

const START: Instant = Instant(1_000_000_000_000);

fn after(secs: u64) -> Instant {
    START + Duration::from_secs(secs)
}

pub fn record(fingerprint: &str) -> ErrorRecord {
    ErrorRecord {
        id: 1,
        fingerprint: fingerprint.into(),
        category: Category::Crash,
        severity: Severity::Fatal,
        unit: "service/api".into(),
        incarnation: Some(1),
        revision: 1,
        message: "m".into(),
        count: 1,
        first_seen: Stamp(0),
        last_seen: Stamp(0),
        cause: None,
        context: Default::default(),
        follows: false,
    }
}

fn desk(rate: u32) -> Desk {
    Desk::new(Filter::default(), rate, 1)
}

fn sent(next: Next) -> Letter {
    match next {
        Next::Send(letter) => letter,
        Next::Wait(at) => panic!("waits until {at:?}"),
    }
}

#[test]
fn a_filter_lets_pass_what_it_names() {
    let of = |severity: &[Severity], categories: &[Category], services: &[&str]| Filter {
        severity: severity.to_vec(),
        categories: categories.to_vec(),
        services: services.iter().map(|name| (*name).to_owned()).collect(),
    };
    for (filter, passes) in [
        (of(&[], &[], &[]), true),
        (of(&[Severity::Fatal], &[Category::Crash], &["api"]), true),
        (of(&[Severity::Warning], &[], &[]), false),
        (of(&[], &[Category::Oom], &[]), false),
        (of(&[], &[], &["web"]), false),
    ] {
        assert_eq!(filter.passes(&record("x")), passes, "{filter:?}");
    }
    let own = ErrorRecord { unit: "notifier/ops".into(), ..record("x") };
    assert!(!Filter::default().passes(&own));
}

#[test]
fn beyond_the_rate_errors_are_grouped_until_the_minute_is_over() {
    let mut desk = desk(2);
    for fingerprint in ["a", "b", "c", "d", "c"] {
        desk.offer(START, record(fingerprint));
    }
    for _ in 0..2 {
        assert_eq!(sent(desk.next(START)).errors.len(), 1);
        assert_eq!(desk.next(START), Next::Wait(None));
        desk.delivered();
    }
    assert_eq!(desk.next(after(1)), Next::Wait(Some(after(60))));
    let group = sent(desk.next(after(60)));
    let counted: Vec<_> = group.errors.iter().map(|(r, count)| (r.fingerprint.as_str(), *count)).collect();
    assert_eq!(counted, [("c", 2), ("d", 1)]);
    desk.delivered();
    assert_eq!(desk.next(after(60)), Next::Wait(None));
}

#[test]
fn a_failed_letter_is_tried_again_for_an_hour_and_then_is_dead() {
    let mut desk = desk(10);
    desk.offer(START, record("a"));
    let (mut now, mut waits) = (START, Vec::new());
    let dead = loop {
        sent(desk.next(now));
        match desk.failed(now) {
            Failed::Dead(letter) => break letter,
            Failed::Again => {
                let Next::Wait(Some(at)) = desk.next(now) else { panic!("must wait") };
                waits.push(at.since(now).as_secs_f64());
                now = at;
            }
        }
    };
    assert_eq!(dead.errors[0].0.fingerprint, "a");
    let near = |wait: f64, of: f64| (wait / of - 1.0).abs() <= 0.11;
    assert!(
        near(waits[0], 1.0) && near(waits[1], 2.0) && near(waits[8], 256.0) && near(waits[9], 300.0),
        "{waits:?}"
    );
    assert!(now.since(START) <= limits::NOTIFIER_PATIENCE && waits.len() > 15, "{now:?} {waits:?}");
    assert_eq!(desk.next(now), Next::Wait(None));
}

#[test]
fn while_one_is_tried_again_others_are_grouped_and_follow_it() {
    let mut desk = desk(10);
    desk.offer(START, record("a"));
    sent(desk.next(START));
    assert_eq!(desk.failed(START), Failed::Again);
    (0..1000).for_each(|n| desk.offer(after(0), record(&format!("{}", n % 300))));
    assert_eq!(sent(desk.next(after(2))).errors[0].0.fingerprint, "a");
    desk.delivered();
    let group = sent(desk.next(after(2)));
    assert_eq!(group.errors.len(), limits::NOTICES_GROUPED);
    let told: u64 = group.errors.iter().map(|(_, count)| count).sum();
    assert_eq!(told + group.omitted, 1000);
}

#[test]
fn what_waits_at_the_end_is_given_back() {
    let mut desk = desk(1);
    desk.offer(START, record("a"));
    desk.offer(START, record("b"));
    desk.lost(3);
    let left = desk.close(START);
    assert_eq!(left.len(), 2);
    assert_eq!(left[1].omitted, 3);
}

#[test]
fn what_an_earlier_daemon_owes_is_one_letter_and_the_first() {
    let mut desk = desk(10);
    desk.owe(record("a"), 0);
    desk.owe(record("b"), 3);
    desk.owe(record("c"), 1);
    desk.offer(START, record("d"));
    let letter = sent(desk.next(START));
    let told: Vec<_> =
        letter.errors.iter().map(|(record, times)| (record.fingerprint.as_str(), *times)).collect();
    assert_eq!(told, [("b", 3), ("c", 1), ("d", 1)]);
}

#[test]
fn the_hour_of_what_an_earlier_daemon_owes_goes_on() {
    for (tried, last) in [
        (0, false),
        (limits::NOTIFIER_PATIENCE.as_secs() - 10, false),
        (limits::NOTIFIER_PATIENCE.as_secs(), true),
    ] {
        let mut desk = desk(10);
        desk.has_tried(Duration::from_secs(tried));
        desk.owe(record("a"), 1);
        sent(desk.next(START));
        assert_eq!(desk.tried(START), Duration::from_secs(tried));
        assert_eq!(matches!(desk.failed(START), Failed::Dead(_)), last, "{tried}");
    }
}

#[test]
fn what_waits_is_tried_at_once_by_an_edited_notifier_and_has_waited_since_it_did() {
    let mut desk = desk(10);
    desk.offer(START, record("a"));
    sent(desk.next(START));
    assert_eq!(desk.failed(after(5)), Failed::Again);
    sent(desk.next(after(10)));
    assert_eq!(desk.failed(after(10)), Failed::Again);
    assert!(matches!(desk.next(after(10)), Next::Wait(Some(_))));
    let only = Filter { services: vec!["web".into()], ..Filter::default() };
    desk.edited(only.clone(), 10);
    assert_eq!(
        desk.waiting().map(|(record, times)| (&*record.fingerprint, times)).collect::<Vec<_>>(),
        [("a", 1)]
    );
    let letter = sent(desk.next(after(10)));
    assert_eq!(
        (letter.subject().as_str(), letter.tried(after(10))),
        ("service/api", Duration::from_secs(10))
    );
    // The answer to what was sent before says nothing of what it is now.
    desk.edited(only, 10);
    assert_eq!(desk.failed(after(4000)), Failed::Again);
    sent(desk.next(after(4000)));
    assert!(matches!(desk.failed(after(4000)), Failed::Dead(_)), "its hour is over");
    desk.offer(after(4000), record("b"));
    assert_eq!(desk.next(after(4000)), Next::Wait(None), "it is not told of the others any more");
}
