//! Logs that somebody shortens, and whose index or directory is removed.

use super::super::read::{self, Query};
use super::*;

#[test]
fn a_log_whose_index_is_removed_loses_nothing_and_is_read_back() {
    for while_it_is_open in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (logs, index) = (dir.path(), dir.path().join("index"));
        std::fs::create_dir(&index).unwrap();
        let mut log = Log::new(logs, &index, "a");
        let long = format!("{}\n", "x".repeat(limits::LOG_LINE_BYTES - 1));
        for line in ["one\n", &long, "two\n"] {
            log.append(line.as_bytes(), Record::OF_ONE).unwrap();
        }
        if !while_it_is_open {
            log.close();
            // A daemon was killed as it wrote.
            File::options().append(true).open(logs.join("a.log")).unwrap().write_all(b"th").unwrap();
        }
        std::fs::remove_file(index.join("a")).unwrap();
        log.append(b"four\n", Record::OF_ONE).unwrap();
        let torn = if while_it_is_open { "" } else { "th\n" };
        let expected = format!("one\n{long}two\n{torn}four\n");
        assert_eq!(std::fs::read_to_string(logs.join("a.log")).unwrap(), expected);
        let (lines, _) = read::read(logs, &index, "a", &Query::default()).unwrap();
        let read: Vec<&str> = lines.iter().map(|line| line.message.as_str()).collect();
        assert_eq!(read, expected.lines().collect::<Vec<_>>());
        let last = Query { incarnation: Some(Incarnation(1)), ..Query::default() };
        assert_eq!(read::read(logs, &index, "a", &last).unwrap().0.len(), 1);
    }
}

#[test]
fn a_directory_of_logs_that_is_removed_comes_back_and_one_that_was_moved_with_all_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("state");
    let (logs, index) = (root.join("logs/services"), root.join("logs/index"));
    [&logs, &index].into_iter().for_each(|dir| std::fs::create_dir_all(dir).unwrap());
    let mut log = Log::new(&logs, &index, "a");
    log.append(b"one\n", Record::OF_ONE).unwrap();
    std::fs::remove_dir_all(root.join("logs")).unwrap();
    log.append(b"two\n", Record::OF_ONE).unwrap();
    assert_eq!(std::fs::read_to_string(logs.join("a.log")).unwrap(), "two\n");
    std::fs::rename(&root, dir.path().join("elsewhere")).unwrap();
    log.append(b"three\n", Record::OF_ONE).unwrap_err();
    assert!(!root.exists());
}

#[test]
fn what_is_written_to_a_log_just_as_somebody_shortens_it_stands_in_it_once_without_a_hole() {
    let record = Record::OF_ONE;
    for (length, left) in [(0, ""), (4, "one\n"), (6, "one\ntw\n"), (13, "one\ntwo\nthree\n")] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut log = Log::new(dir.path(), dir.path(), "a");
        for line in ["one\n", "two\n", "three\n"] {
            log.append(line.as_bytes(), record).unwrap();
        }
        log.ready().unwrap();
        File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
        assert!(!log.write(b"four\n", record).unwrap());
        log.append(b"four\n", record).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{left}four\n"));
        // By somebody who writes, too.
        log.ready().unwrap();
        std::io::Write::write_all(&mut File::options().append(true).open(&path).unwrap(), b"!").unwrap();
        log.append(b"five\n", record).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{left}four\nfive\n"));
    }
}
