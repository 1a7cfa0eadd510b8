//! Takes secrets out of text, by value (rules.md, Numbers): wherever one of them appears, in whatever it appears.

use std::borrow::Cow;
use std::collections::BTreeSet;

use zeroize::Zeroizing;

use super::limits;

/// What is written in place of a secret.
pub const MASK: &str = "***";

/// The values that must not appear. They are wiped from memory with it, and it never prints them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Redactor {
    values: Vec<Zeroizing<String>>,
    /// Short lines of values with several: masked where they are all of a line.
    lines: Vec<Zeroizing<String>>,
    /// Whatever it is, it may be a secret.
    all: bool,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redactor({} values)", self.values.len())
    }
}

impl Redactor {
    /// Values shorter than [`limits::SECRET_VALUE_BYTES`] would mask half of every text and are left out; of a value with
    /// several lines each line of [`limits::SECRET_LINE_BYTES`] or more is looked for as well. A shorter one (the end of a key)
    /// may be a word, or a part of many: it is masked where it is a line by itself, whoever wrote the lines around it and
    /// however long ago, from [`limits::SECRET_SHORT_LINE_BYTES`] on; a bracket is no secret.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut values, mut short): (BTreeSet<&str>, BTreeSet<&str>) = Default::default();
        for secret in secrets {
            let trimmed = secret.trim();
            values.extend([secret, trimmed].into_iter().filter(|v| v.len() >= limits::SECRET_VALUE_BYTES));
            if trimmed.contains('\n') {
                let (long, rest): (Vec<&str>, Vec<&str>) =
                    trimmed.lines().map(str::trim).partition(|line| line.len() >= limits::SECRET_LINE_BYTES);
                values.extend(long);
                short.extend(rest.into_iter().filter(|line| line.len() >= limits::SECRET_SHORT_LINE_BYTES));
            }
        }
        let owned = |of: BTreeSet<&str>| of.into_iter().map(|text| Zeroizing::new(text.to_owned())).collect();
        Self { values: owned(values), lines: owned(short), all: false }
    }

    /// Masks every line: its writer had secrets that nobody knows any more.
    pub fn of_unknown() -> Self {
        Self { all: true, ..Self::default() }
    }

    pub fn is_of_unknown(&self) -> bool {
        self.all
    }

    /// This one's values and those.
    #[must_use]
    pub fn with<'a>(&'a self, secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let mut both = Self::new(self.values.iter().map(|value| value.as_str()).chain(secrets));
        both.lines.extend(self.lines.iter().cloned());
        Self { all: self.all, ..both }
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.lines.is_empty() && !self.all
    }

    /// The text with every secret masked; overlapping ones as one.
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let found = self.found(text.as_bytes());
        if found.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut out = String::with_capacity(text.len());
        let mut done = 0;
        for (start, end) in found {
            out.push_str(&text[done..start]);
            out.push_str(MASK);
            done = end;
        }
        out.push_str(&text[done..]);
        Cow::Owned(out)
    }

    /// Lines with every secret masked. They stay as many lines: of a secret that goes over several of them, each has its mask.
    pub fn lines<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let found = self.found(bytes);
        if found.is_empty() {
            return Cow::Borrowed(bytes);
        }
        let mut out = Vec::with_capacity(bytes.len());
        let mut done = 0;
        for (start, end) in found {
            out.extend_from_slice(&bytes[done..start]);
            for (number, line) in bytes[start..end].split(|byte| *byte == b'\n').enumerate() {
                if number > 0 {
                    out.push(b'\n');
                }
                if !line.is_empty() {
                    out.extend_from_slice(MASK.as_bytes());
                }
            }
            done = end;
        }
        out.extend_from_slice(&bytes[done..]);
        Cow::Owned(out)
    }

    /// How many of the bytes may be looked at without those that are still to come: a secret that may go on behind their end
    /// is left out, and so is one that begins before it and ends in it.
    pub fn whole(&self, bytes: &[u8]) -> usize {
        let begun = self.values.iter().filter_map(|value| begun(bytes, value.as_bytes())).min();
        let Some(begun) = begun else { return bytes.len() };
        let found = self.found(bytes).into_iter().rev();
        // From the last to the first: one that reaches behind the cut moves it to where it begins.
        found.fold(begun, |cut, (start, end)| if end > cut { cut.min(start) } else { cut })
    }

    /// Where secrets are, in order; overlapping ones as one.
    fn found(&self, bytes: &[u8]) -> Vec<(usize, usize)> {
        if self.all {
            return if bytes.is_empty() { Vec::new() } else { vec![(0, bytes.len())] };
        }
        let mut found: Vec<(usize, usize)> = Vec::new();
        if !self.lines.is_empty() {
            let mut start = 0;
            for line in bytes.split(|byte| *byte == b'\n') {
                let text = line.trim_ascii();
                if self.lines.iter().any(|short| short.as_bytes() == text) {
                    let at = start + (line.len() - line.trim_ascii_start().len());
                    found.push((at, at + text.len()));
                }
                start += line.len() + 1;
            }
        }
        for value in &self.values {
            let finder = memchr::memmem::Finder::new(value.as_bytes());
            let own = found.len();
            let mut from = 0;
            while let Some(at) = finder.find(&bytes[from..]) {
                let (start, end) = (from + at, from + at + value.len());
                match found[own..].last_mut() {
                    Some(before) if before.1 > start => before.1 = end,
                    _ => found.push((start, end)),
                }
                // One byte on: a value may overlap itself.
                from = start + 1;
            }
        }
        if found.len() > 1 {
            found.sort_unstable();
            found.dedup_by(|next, before| {
                let overlaps = next.0 < before.1;
                if overlaps {
                    before.1 = before.1.max(next.1);
                }
                overlaps
            });
        }
        found
    }

    /// Every text within a value, keys included.
    pub fn json(&self, value: &mut serde_json::Value) {
        if self.is_empty() {
            return;
        }
        match value {
            serde_json::Value::String(text) => {
                if let Cow::Owned(masked) = self.text(text) {
                    *text = masked;
                }
            }
            serde_json::Value::Array(items) => items.iter_mut().for_each(|item| self.json(item)),
            serde_json::Value::Object(fields) => {
                let masked = std::mem::take(fields).into_iter().map(|(key, mut item)| {
                    self.json(&mut item);
                    (self.text(&key).into_owned(), item)
                });
                *fields = masked.collect();
            }
            _ => {}
        }
    }
}

/// Where the longest beginning of a value stands that the bytes end with, if not all of it is there.
fn begun(bytes: &[u8], value: &[u8]) -> Option<usize> {
    let longest = value.len().saturating_sub(1).min(bytes.len());
    (1..=longest).rev().find(|length| bytes.ends_with(&value[..*length])).map(|length| bytes.len() - length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_by_value_wherever_they_are() {
        let key = "-----BEGIN KEY-----\nMIIEvgIBADANBg\nshort\n-----END KEY-----\n";
        let redactor = Redactor::new(["hunter22", "abcdef", "defghi", "tiny", key]);
        let check = |text: &str, expected: &str| assert_eq!(redactor.text(text), expected);
        check("nothing here", "nothing here");
        check("password=hunter22;", "password=***;");
        check("hunter22hunter22", "******");
        check("tiny values stay", "tiny values stay");
        check("abcdefghi", "***");
        check("line MIIEvgIBADANBg of a key, short", "line *** of a key, short");
        check("short", "***");
        check("a\n  short\r\nshorter\n", "a\n  ***\r\nshorter\n");
        check(&format!("ä{key}ö"), "ä***ö");
        assert_eq!(format!("{redactor:?}"), "Redactor(8 values)");
    }

    #[test]
    fn lines_stay_as_many_and_need_not_be_text() {
        let redactor = Redactor::new(["hunter22", "one\ntwo\n\nthree", "abcdef", "defghi"]);
        let check =
            |bytes: &[u8], expected: &[u8]| assert_eq!(&*redactor.lines(bytes), expected, "{bytes:?}");
        check(b"\xff hunter22 \xfe\n", b"\xff *** \xfe\n");
        check(b"a\none\ntwo\n\nthree!\n", b"a\n***\n***\n\n***!\n");
        check(b"hunter22\nhunter2\nabcdefghi\n", b"***\nhunter2\n***\n");
        assert!(matches!(redactor.lines(b"nothing\n"), Cow::Borrowed(_)));
        assert_eq!(&*Redactor::new(["aaaaaa"]).lines(b"aaaaaaaaab"), b"***b");
    }

    #[test]
    fn of_unknown_secrets_nothing_is_shown() {
        let redactor = Redactor::of_unknown();
        assert!(!redactor.is_empty() && redactor.is_of_unknown());
        assert_eq!(&*redactor.lines(b"one\n\ntwo"), b"***\n\n***");
        assert_eq!(redactor.text("one"), "***");
        assert_eq!(redactor.with(["more-of-it"]).text("one"), "***");
    }

    #[test]
    fn a_short_line_of_a_value_stays_known_with_others() {
        let redactor = Redactor::new(["hunter22\nabcd=\n}"]).with(["another"]);
        assert_eq!(redactor.text("abcd=\nabcd= another\n}\n"), "***\nabcd= ***\n}\n");
    }

    #[test]
    fn nothing_is_cut_within_a_secret() {
        let redactor = Redactor::new(["hunter22", "abcdef", "defghi"]);
        let check = |bytes: &[u8], whole| assert_eq!(redactor.whole(bytes), whole, "{bytes:?}");
        check(b"nothing", 7);
        check(b"x hunter", 2);
        check(b"x hunter22", 10);
        check(b"x hunter22h", 10);
        check(b"x abcdef", 2);
        check(b"x abcde", 2);
        check(b"hunter22 abcdefd", 15);
        check(b"a", 0);
        assert_eq!(Redactor::default().whole(b"a"), 1);
    }

    #[test]
    fn json_is_masked_in_keys_and_values() {
        let redactor = Redactor::new(["hunter22"]);
        let mut value = serde_json::json!({"a hunter22": ["x", {"y": "hunter22"}], "n": 1});
        redactor.json(&mut value);
        assert_eq!(value, serde_json::json!({"a ***": ["x", {"y": "***"}], "n": 1}));
    }

    #[test]
    fn nothing_is_kept_of_no_secrets() {
        assert!(Redactor::default().is_empty());
        assert!(matches!(Redactor::default().text("x"), Cow::Borrowed("x")));
        assert!(!Redactor::default().with(["longer"]).is_empty());
    }
}
