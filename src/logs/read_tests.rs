use super::super::derived::Log;
use super::*;

#[test]
fn an_instance_is_looked_for_among_the_last_pieces_only() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::new(dir.path(), dir.path(), "a");
    for number in 1..=5 {
        let record = Record { incarnation: Incarnation(number), ..Record::OF_ONE };
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
        let record = Record { incarnation: Incarnation(number), ..Record::OF_ONE };
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
        let found = previous_incarnation(dir.path(), "a", &present, None);
        assert_eq!(found, previous.map(Incarnation), "{present:?}");
    }
    assert_eq!(previous_incarnation(dir.path(), "b", &[], None), None);
}

#[test]
fn who_reads_on_is_given_every_line_in_parts() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::new(dir.path(), dir.path(), "a");
    let long = "x".repeat(PART_BYTES as usize / 3);
    for number in 0..10 {
        log.append(format!("{number} {long}\n").as_bytes(), Record::OF_ONE).unwrap();
    }
    let (mut from, mut parts, mut seen) = (Position::default(), 0, Vec::new());
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
        numbers.for_each(|number| log.append(format!("{number}\n").as_bytes(), Record::OF_ONE).unwrap());
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
            Record { at: Stamp(number), incarnation: Incarnation(1 + number as u64 / 10), ..Record::OF_ONE };
        log.append(format!("{number}a\n{number}b {long}\n").as_bytes(), record).unwrap();
    }
    let begin = |query: Query| {
        let start = start(dir.path(), dir.path(), "a", &query).unwrap();
        let on = Query { from: Some(start.from), tail: None, ..query };
        let (lines, _) = read(dir.path(), dir.path(), "a", &on).unwrap();
        assert!(start.end.at > ANSWER_BYTES);
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
            let piece = |stream, spool_end| Record { stream, spool_end, ..Record::OF_ONE };
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
            let end = of(None).1;
            let (lines, _) = of(Some(Position { at: end.at - 5, ..end }));
            assert_eq!(lines, ["five"], "{what}");
            assert_eq!(log.consumed(Incarnation(1), [true; 2]), [15, 45], "{what}");
        }
    }
}

fn lines_from(dir: &Path, from: Position) -> (Vec<String>, Position) {
    let (lines, reached) =
        read(dir, dir, "a", &Query { from: Some(from), ..Query::default() }).expect("it can be read");
    (lines.into_iter().map(|line| line.message).collect(), reached)
}

fn cut(path: &Path, length: u64) {
    File::options().write(true).open(path).unwrap().set_len(length).unwrap();
}

#[test]
fn who_was_behind_when_a_log_was_emptied_begins_where_it_begins_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::new(dir.path(), dir.path(), "a");
    log.append(b"1\n2\n3\n", Record::OF_ONE).unwrap();
    let (_, reached) = lines_from(dir.path(), Position::default());
    cut(&dir.path().join("a.log"), 0);
    // Beyond where it was, and not at the same places.
    let (long, short) = (b"four five six\n", b"7\n");
    log.append(long, Record::OF_ONE).unwrap();
    log.append(short, Record::OF_ONE).unwrap();
    let (lines, end) = lines_from(dir.path(), reached);
    assert_eq!(lines, ["four five six", "7"]);
    assert_eq!(lines_from(dir.path(), end), (vec![], end));
}

#[test]
fn a_log_that_was_removed_with_its_index_is_another_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut from = Position::default();
    for second in [5, 6, 3] {
        let mut log = Log::new(dir.path(), dir.path(), "a");
        log.append(b"line\n", Record { at: Stamp(second * 1_000), ..Record::OF_ONE }).unwrap();
        let (lines, reached) = lines_from(dir.path(), from);
        assert_eq!((lines, lines_from(dir.path(), reached).0), (vec!["line".to_owned()], vec![]));
        from = reached;
        for file in ["a.log", "a"] {
            std::fs::remove_file(dir.path().join(file)).unwrap();
        }
    }
}

#[test]
fn what_is_left_of_a_log_is_not_shown_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::new(dir.path(), dir.path(), "a");
    for line in ["one\n", "two\n", "three\n"] {
        log.append(line.as_bytes(), Record::OF_ONE).unwrap();
    }
    let (_, reached) = lines_from(dir.path(), Position::default());
    let behind = Position { at: 4, ..reached };
    cut(&dir.path().join("a.log"), 6);
    let shown: Vec<String> = read(dir.path(), dir.path(), "a", &Query::default())
        .unwrap()
        .0
        .into_iter()
        .map(|l| l.message)
        .collect();
    assert_eq!(shown, ["one", "tw"], "before anything is written to it again, too");
    assert_eq!(lines_from(dir.path(), behind), (vec![], behind), "it waits");
    let (lines, amid) = lines_from(dir.path(), Position::default());
    assert_eq!(lines, ["one"], "what is there of it already");
    log.append(b"four\n", Record::OF_ONE).unwrap();
    assert_eq!(lines_from(dir.path(), reached).0, ["four"]);
    assert_eq!(lines_from(dir.path(), behind).0, ["tw", "four"]);
    assert_eq!(lines_from(dir.path(), amid).0, ["tw", "four"]);
}

#[test]
fn a_log_that_is_replaced_while_it_is_read_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.log");
    let mut log = Log::new(dir.path(), dir.path(), "a");
    log.append(b"1\n2\n", Record::OF_ONE).unwrap();
    let (_, reached) = lines_from(dir.path(), Position::default());
    log.append(b"3\n4\n", Record::OF_ONE).unwrap();
    // Between the opening of both files and the look at them.
    let mut changes: Vec<&[u8]> = vec![b"6\n", b"5\n"];
    let found = look(dir.path(), dir.path(), "a", |pair| {
        if let Some(line) = changes.pop() {
            std::fs::remove_file(&path).unwrap();
            log.append(line, Record::OF_ONE).unwrap();
        }
        read_on(pair, "a", &Query::default(), reached)
    });
    let lines: Vec<String> = found.unwrap().unwrap().0.into_iter().map(|line| line.message).collect();
    assert_eq!(lines, ["6"], "of one that is gone nothing is told, nor in place of what came after it");
}

#[test]
fn followers_of_a_log_that_others_shorten_and_replace_see_each_line_once() {
    for seed in 0..100 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut rng = crate::base::Rng::new(seed);
        let mut log = Log::new(dir.path(), dir.path(), "a");
        let mut written = 0;
        let mut followers = [(); 3].map(|()| (Position::default(), Vec::<String>::new()));
        for step in 0..60 {
            if !path.exists() {
                File::create(&path).unwrap();
            }
            match rng.below(12) {
                0 => cut(&path, 0),
                1 => cut(&path, rng.below(1 + path.metadata().map_or(0, |meta| meta.len()))),
                2 => drop(std::fs::remove_file(&path)),
                3 => drop(std::fs::rename(&path, path.with_extension("log.1"))),
                4 => log.close(),
                5 => log = Log::new(dir.path(), dir.path(), "a"),
                6..9 => {
                    let lines = (0..=rng.below(3)).map(|_| {
                        written += 1;
                        format!("{written}{};\n", "-".repeat(rng.below(4) as usize))
                    });
                    let lines: String = lines.collect();
                    log.append(lines.as_bytes(), Record::OF_ONE).unwrap();
                }
                number => {
                    let (position, seen) = &mut followers[number as usize - 9];
                    let (lines, reached) = lines_from(dir.path(), *position);
                    *position = reached;
                    seen.extend(lines.into_iter().filter(|line| line.ends_with(';')));
                    let distinct: std::collections::BTreeSet<&String> = seen.iter().collect();
                    assert_eq!(distinct.len(), seen.len(), "seed {seed}, step {step}: one twice: {seen:?}");
                    let text = std::fs::read_to_string(&path).unwrap_or_default();
                    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
                        if !line.ends_with(';') {
                            continue;
                        }
                        assert!(distinct.contains(&line.to_owned()), "seed {seed}, step {step}: {line}");
                    }
                }
            }
        }
    }
}
