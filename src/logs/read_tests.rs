use crate::base::Ordinal;

use super::super::derived::Log;
use super::*;

fn record() -> Record {
    Record {
        log_end: 0,
        spool_end: 0,
        at: Stamp(1),
        incarnation: Incarnation(1),
        ordinal: Ordinal(0),
        stream: Stream::Stdout,
    }
}

#[test]
fn an_instance_is_looked_for_among_the_last_pieces_only() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::new(dir.path(), dir.path(), "a");
    for number in 1..=5 {
        let record = Record { incarnation: Incarnation(number), ..record() };
        log.append(format!("{number}\n").as_bytes(), record).unwrap();
    }
    let found = |incarnation, among| {
        let query = Query { incarnation: Some(Incarnation(incarnation)), among, ..Query::default() };
        read(dir.path(), dir.path(), "a", &query).unwrap().0.len()
    };
    assert_eq!((found(1, None), found(1, Some(6)), found(1, Some(2))), (1, 1, 0));
    assert_eq!((found(5, Some(2)), found(5, Some(1))), (1, 0), "a piece ends where the one before it does");
}

#[test]
fn the_instance_before_is_the_latest_that_wrote_and_is_not_there_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::new(dir.path(), dir.path(), "a");
    for number in [3, 4, 3, 5, 4] {
        let record = Record { incarnation: Incarnation(number), ..record() };
        log.append(b"x\n", record).unwrap();
    }
    for (present, previous) in [
        (&[][..], Some(3)),
        (&[5][..], Some(4)),
        (&[4, 5], Some(3)),
        (&[3, 4, 5], None),
        // It has written nothing so far.
        (&[6], Some(4)),
    ] {
        let present: Vec<_> = present.iter().copied().map(Incarnation).collect();
        let found = previous_incarnation(dir.path(), "a", &present);
        assert_eq!(found, previous.map(Incarnation), "{present:?}");
    }
    assert_eq!(previous_incarnation(dir.path(), "b", &[]), None);
}

#[test]
fn who_reads_on_is_given_every_line_in_parts() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::new(dir.path(), dir.path(), "a");
    let long = "x".repeat(PART_BYTES as usize / 3);
    for number in 0..10 {
        log.append(format!("{number} {long}\n").as_bytes(), record()).unwrap();
    }
    let (mut from, mut parts, mut seen) = (0, 0, Vec::new());
    loop {
        let query = Query { from: Some(from), ..Query::default() };
        let (lines, end) = read(dir.path(), dir.path(), "a", &query).unwrap();
        if lines.is_empty() {
            break;
        }
        assert!(end > from, "what was read is not read again");
        (from, parts) = (end, parts + 1);
        seen.extend(lines.iter().map(|line| line.message[..1].parse::<u32>().unwrap()));
    }
    assert_eq!(seen, (0..10).collect::<Vec<_>>());
    assert!(parts > 3, "no part is larger than a slow reader can take");
}

#[test]
fn what_is_written_meanwhile_is_not_of_the_last_lines() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::new(dir.path(), dir.path(), "a");
    let mut write = |numbers: std::ops::Range<u32>| {
        numbers.for_each(|number| log.append(format!("{number}\n").as_bytes(), record()).unwrap());
    };
    write(0..5);
    let tail = Query { tail: Some(3), ..Query::default() };
    let start = start(dir.path(), dir.path(), "a", &tail).unwrap();
    write(5..9);
    let rest = Query { from: Some(start.from), to: Some(start.end), ..Query::default() };
    let (lines, reached) = read(dir.path(), dir.path(), "a", &rest).unwrap();
    let words: Vec<_> = lines.iter().skip(start.skip).map(|line| line.message.as_str()).collect();
    assert_eq!((words, reached), (vec!["2", "3", "4"], start.end));
}

#[test]
fn where_what_is_wanted_begins_is_found_in_a_log_of_any_length() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::new(dir.path(), dir.path(), "a");
    // Pieces of two lines each, as long as an answer in all.
    let long = "x".repeat(1 << 20);
    for number in 0..20i64 {
        let record =
            Record { at: Stamp(number), incarnation: Incarnation(1 + number as u64 / 10), ..record() };
        log.append(format!("{number}a\n{number}b {long}\n").as_bytes(), record).unwrap();
    }
    let begin = |query: Query| {
        let start = start(dir.path(), dir.path(), "a", &query).unwrap();
        let on = Query { from: Some(start.from), tail: None, ..query };
        let (lines, _) = read(dir.path(), dir.path(), "a", &on).unwrap();
        assert!(start.end > ANSWER_BYTES);
        lines.into_iter().nth(start.skip).map(|line| line.message.split(' ').next().unwrap().to_owned())
    };
    let tail = |tail| Query { tail: Some(tail), ..Query::default() };
    assert_eq!(begin(Query::default()).as_deref(), Some("0a"));
    assert_eq!(begin(tail(1)).as_deref(), Some("19b"));
    assert_eq!(begin(tail(39)).as_deref(), Some("0b"));
    assert_eq!(begin(tail(1000)).as_deref(), Some("0a"));
    assert_eq!(begin(Query { since: Some(Stamp(3)), ..Query::default() }).as_deref(), Some("3a"));
    assert_eq!(begin(Query { since: Some(Stamp(3)), ..tail(3) }).as_deref(), Some("18b"));
    assert_eq!(begin(Query { since: Some(Stamp(99)), ..Query::default() }), None);
    assert_eq!(begin(Query { incarnation: Some(Incarnation(1)), ..tail(3) }).as_deref(), Some("8b"));
    assert_eq!(begin(tail(0)), None);
}

#[test]
fn a_log_that_somebody_shortens_removes_or_replaces_goes_on_and_forgets_no_position() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.log");
    /// What is done to it, how, and what of it is left.
    type Case<'a> = (&'a str, &'a dyn Fn(), &'a [&'a str]);
    let cases: [Case<'_>; 5] = [
        ("emptied", &|| File::options().write(true).open(&path).unwrap().set_len(0).unwrap(), &[]),
        ("cut", &|| File::options().write(true).open(&path).unwrap().set_len(5).unwrap(), &["one"]),
        ("removed", &|| std::fs::remove_file(&path).unwrap(), &[]),
        ("moved away", &|| std::fs::rename(&path, dir.path().join("a.log.1")).unwrap(), &[]),
        (
            "replaced",
            &|| {
                std::fs::rename(&path, dir.path().join("a.log.1")).unwrap();
                std::fs::write(&path, "").unwrap();
            },
            &[],
        ),
    ];
    for (what, shorten, left) in cases {
        for reopened in [false, true] {
            let _ = std::fs::remove_file(&path);
            let _ = std::fs::remove_file(dir.path().join("a"));
            let mut log = Log::new(dir.path(), dir.path(), "a");
            let piece = |stream, spool_end| Record { stream, spool_end, ..record() };
            log.append(b"one\n", piece(Stream::Stdout, 4)).unwrap();
            log.append(b"two\n", piece(Stream::Stderr, 40)).unwrap();
            log.append(b"three\n", piece(Stream::Stdout, 10)).unwrap();
            let of = |from| {
                let query = Query { from, ..Query::default() };
                let (lines, end) = read(dir.path(), dir.path(), "a", &query).unwrap();
                (lines.into_iter().map(|line| line.message).collect::<Vec<_>>(), end)
            };
            let end = of(None).1;
            shorten();
            if reopened {
                log = Log::new(dir.path(), dir.path(), "a");
            }
            log.append(b"four\n", piece(Stream::Stdout, 15)).unwrap();
            let text = std::fs::read(&path).unwrap();
            assert!(!text.contains(&0) && text.ends_with(b"four\n"), "{what}: {text:?}");
            let expected: Vec<&str> = left.iter().copied().chain(["four"]).collect();
            // What was cut in the middle of a line stays as it is.
            let shown: Vec<String> =
                of(None).0.into_iter().filter(|line| line != "t" && !line.is_empty()).collect();
            assert_eq!(shown, expected, "{what}");
            assert_eq!(of(Some(end)).0.last().unwrap(), "four", "{what}: a follower misses nothing");
            assert_eq!(log.consumed(Incarnation(1), [true; 2]), [15, 40], "{what}");
            log.append(b"five\n", piece(Stream::Stderr, 45)).unwrap();
            let (lines, _) = of(Some(of(None).1 - 5));
            assert_eq!(lines, ["five"], "{what}");
            assert_eq!(log.consumed(Incarnation(1), [true; 2]), [15, 45], "{what}");
        }
    }
}
