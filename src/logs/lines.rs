//! Bytes of a spool as lines for the log: whole ones, with the secrets of whoever wrote them masked.
//!
//! A line is masked once all of it is there, so it does not matter in which pieces it came, nor which daemon derives it. Only one
//! that is longer than the limit is cut, and never within a secret.

use std::borrow::Cow;

use crate::base::{Redactor, limits};

/// What the log is given, and how many bytes of the spool that was.
#[derive(Debug, PartialEq, Eq)]
pub struct Lines<'a> {
    /// Each ended by a newline.
    pub text: Cow<'a, [u8]>,
    pub taken: usize,
}

impl<'a> Lines<'a> {
    /// The whole lines at the beginning of some bytes. `all`: nothing follows, so an unfinished last line is one too. A line longer
    /// than the limit is cut there. `secrets`: those of the program that wrote them, if it has any.
    pub fn of(bytes: &'a [u8], all: bool, secrets: Option<&Redactor>) -> Self {
        let taken = taken(bytes, all, secrets);
        let bytes = &bytes[..taken];
        let mut text = secrets.map_or(Cow::Borrowed(bytes), |secrets| secrets.lines(bytes));
        if taken > 0 && bytes.last() != Some(&b'\n') {
            text.to_mut().push(b'\n');
        }
        Self { text, taken }
    }
}

fn taken(bytes: &[u8], all: bool, secrets: Option<&Redactor>) -> usize {
    if all {
        return bytes.len();
    }
    match memchr::memrchr(b'\n', bytes) {
        Some(last) => last + 1,
        // What ends one of that length is still to come.
        None if bytes.len() <= limits::LOG_LINE_BYTES => 0,
        None => {
            let bytes = &bytes[..limits::LOG_LINE_BYTES];
            match secrets.map_or(bytes.len(), |secrets| secrets.whole(bytes)) {
                // No secret is that long (execve(2) takes 128 KiB): whatever it is, it is not waited for.
                0 => bytes.len(),
                whole => whole,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], all: bool, text: &[u8], taken: usize) {
        let secrets = Redactor::new(["hunter22", "first line\nsecond"]);
        let found = Lines::of(bytes, all, Some(&secrets));
        assert_eq!((&*found.text, found.taken), (text, taken), "{:?}", String::from_utf8_lossy(bytes));
    }

    #[test]
    fn only_whole_lines_are_taken_until_the_end_or_the_limit() {
        check(b"", false, b"", 0);
        check(b"", true, b"", 0);
        check(b"par", false, b"", 0);
        check(b"par", true, b"par\n", 3);
        check(b"a\nb\npar", false, b"a\nb\n", 4);
        check(b"a\nb\npar", true, b"a\nb\npar\n", 7);
        check(b"a\nb\n", true, b"a\nb\n", 4);
        check(b"\xff\xfe\n", false, b"\xff\xfe\n", 3);
        let long = vec![b'x'; limits::LOG_LINE_BYTES + 1];
        assert_eq!(Lines::of(&long[1..], false, None).taken, 0, "its end may come next");
        let found = Lines::of(&long, false, None);
        assert_eq!((found.text.len(), found.taken), (limits::LOG_LINE_BYTES + 1, limits::LOG_LINE_BYTES));
        let ended = [&long[1..], b"\n"].concat();
        let found = Lines::of(&ended, false, None);
        assert_eq!((&*found.text, found.taken), (&ended[..], ended.len()));
    }

    #[test]
    fn secrets_are_masked_in_whole_lines_and_in_an_unfinished_last_one() {
        check(b"it is hunter22!\nand hunter2", false, b"it is ***!\n", 16);
        check(b"it is hunter22", true, b"it is ***\n", 14);
        check(b"first line\nsecond\n", false, b"***\n***\n", 18);
        check(b"x first line\n", false, b"x ***\n", 13);
    }

    #[test]
    fn a_line_that_is_too_long_is_not_cut_within_a_secret() {
        let secrets = Redactor::new(["hunter22"]);
        for shift in 0..=10 {
            let before = limits::LOG_LINE_BYTES - shift;
            let written = [&vec![b'x'; before][..], b"hunter22", b" end\n"].concat();
            let (mut at, mut log) = (0, Vec::new());
            while at < written.len() {
                let read = &written[at..written.len().min(at + limits::LOG_LOOK_BYTES)];
                let found = Lines::of(read, false, Some(&secrets));
                assert!(found.taken > 0, "{shift}: it goes on");
                log.extend_from_slice(&found.text);
                at += found.taken;
            }
            let log = String::from_utf8(log).unwrap().replace(['x', '\n'], "");
            assert_eq!(log, "*** end", "{shift}");
        }
    }

    #[test]
    fn the_same_lines_come_out_however_the_bytes_came() {
        let secrets = Redactor::new(["hunter22", "first line of it\nsecond line"]);
        let written = b"a hunter22 b\nfirst line of it\nsecond line\nhunter22hunter22\nend hunter22";
        let whole = Lines::of(written, true, Some(&secrets));
        for cut in 0..written.len() {
            let first = Lines::of(&written[..cut], false, Some(&secrets));
            let rest = Lines::of(&written[first.taken..], true, Some(&secrets));
            assert_eq!([first.text, rest.text].concat(), *whole.text, "cut at {cut}");
        }
    }
}
