//! Takes secrets out of text, by value (rules.md, Numbers): wherever one of them appears, in whatever it appears.

use std::borrow::Cow;
use std::collections::BTreeSet;

use zeroize::Zeroizing;

use super::limits;

/// What is written in place of a secret.
pub const MASK: &str = "***";

/// The values that must not appear. They are wiped from memory with it, and it never prints them.
#[derive(Clone, Default)]
pub struct Redactor {
    values: Vec<Zeroizing<String>>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redactor({} values)", self.values.len())
    }
}

impl Redactor {
    /// Values shorter than [`limits::SECRET_VALUE_BYTES`] would mask half of every text and are left out; of a value with
    /// several lines each line of [`limits::SECRET_LINE_BYTES`] or more is looked for as well.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let mut values: BTreeSet<&str> = BTreeSet::new();
        for secret in secrets {
            let trimmed = secret.trim();
            values.extend([secret, trimmed].into_iter().filter(|v| v.len() >= limits::SECRET_VALUE_BYTES));
            if trimmed.contains('\n') {
                let lines = trimmed.lines().map(str::trim);
                values.extend(lines.filter(|line| line.len() >= limits::SECRET_LINE_BYTES));
            }
        }
        Self { values: values.into_iter().map(|value| Zeroizing::new(value.to_owned())).collect() }
    }

    /// This one's values and those.
    #[must_use]
    pub fn with<'a>(&'a self, secrets: impl IntoIterator<Item = &'a str>) -> Self {
        Self::new(self.values.iter().map(|value| value.as_str()).chain(secrets))
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The text with every secret masked; overlapping ones as one.
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut found: Vec<(usize, usize)> = Vec::new();
        for value in &self.values {
            let finder = memchr::memmem::Finder::new(value.as_bytes());
            let mut from = 0;
            while let Some(at) = finder.find(&text.as_bytes()[from..]) {
                found.push((from + at, from + at + value.len()));
                // One byte on: a value may overlap itself.
                from += at + 1;
            }
        }
        if found.is_empty() {
            return Cow::Borrowed(text);
        }
        found.sort_unstable();
        let mut out = String::with_capacity(text.len());
        let mut done = 0;
        let mut ranges = found.into_iter().peekable();
        while let Some((start, mut end)) = ranges.next() {
            while let Some((_, further)) = ranges.next_if(|(next, _)| *next < end) {
                end = end.max(further);
            }
            out.push_str(&text[done..start]);
            out.push_str(MASK);
            done = end;
        }
        out.push_str(&text[done..]);
        Cow::Owned(out)
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
        check(&format!("ä{key}ö"), "ä***ö");
        assert_eq!(format!("{redactor:?}"), "Redactor(8 values)");
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
