//! Label selectors, as kubectl writes them: `tier=backend,track!=canary`, `tier in (a, b)`, `tier notin (a)`, `tier`, `!tier`.

use std::collections::BTreeMap;

/// Requirements, all of which hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Exists,
    Missing,
    In(Vec<String>),
    /// What has no such label is none of them.
    NotIn(Vec<String>),
}

impl Selector {
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|Requirement { key, test }| match (test, labels.get(key)) {
            (Test::Exists, found) => found.is_some(),
            (Test::Missing, found) => found.is_none(),
            (Test::In(values), found) => found.is_some_and(|found| values.contains(found)),
            (Test::NotIn(values), found) => found.is_none_or(|found| !values.contains(found)),
        })
    }
}

/// # Errors
/// What is wrong, in words.
impl std::str::FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = parts(text)?;
        parts.into_iter().map(requirement).collect::<Result<_, _>>().map(Self)
    }
}

/// Split at commas that are not in parentheses.
fn parts(text: &str) -> Result<Vec<&str>, String> {
    let (mut parts, mut from, mut inside) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            '(' if !inside => inside = true,
            ')' if inside => inside = false,
            '(' | ')' => return Err(format!("`{text}` has a `{c}` too many")),
            ',' if !inside => {
                parts.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    if inside {
        return Err(format!("`{text}` has no `)`"));
    }
    parts.push(&text[from..]);
    Ok(parts)
}

fn requirement(part: &str) -> Result<Requirement, String> {
    let part = part.trim();
    let of = |key: &str, test: Test| -> Result<Requirement, String> {
        let key = key.trim();
        match is_key(key) {
            true => Ok(Requirement { key: key.to_owned(), test }),
            false => Err(format!("`{key}` in `{part}` is no label")),
        }
    };
    let value = |text: &str| -> Result<Vec<String>, String> {
        let text = text.trim();
        match text.contains(['=', '!', ' ']) {
            true => Err(format!("`{text}` in `{part}` is no value of a label")),
            false => Ok(vec![text.to_owned()]),
        }
    };
    if let Some(key) = part.strip_prefix('!') {
        return of(key, Test::Missing);
    }
    if let Some((key, text)) = part.split_once("!=") {
        return of(key, Test::NotIn(value(text)?));
    }
    if let Some((key, text)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return of(key, Test::In(value(text)?));
    }
    let Some((key, rest)) = part.split_once(char::is_whitespace) else { return of(part, Test::Exists) };
    let rest = rest.trim();
    let list = |word: &str| {
        let list = rest.strip_prefix(word)?.trim_start().strip_prefix('(')?.strip_suffix(')')?;
        Some(list.split(',').map(|value| value.trim().to_owned()).collect::<Vec<_>>())
    };
    match (list("in"), list("notin")) {
        (Some(values), _) => of(key, Test::In(values)),
        (_, Some(values)) => of(key, Test::NotIn(values)),
        (None, None) => Err(format!("`{part}` is no requirement")),
    }
}

fn is_key(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    !text.is_empty() && text.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_selects_as_kubectls_does() {
        let labels = |text: &str| -> BTreeMap<String, String> {
            let pairs = text.split(' ').filter_map(|pair| pair.split_once('='));
            pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
        };
        for (selector, has, matches) in [
            ("tier=backend", "tier=backend", true),
            ("tier==backend", "tier=backend", true),
            ("tier=backend", "tier=web", false),
            ("tier=backend", "", false),
            ("tier!=backend", "tier=web", true),
            ("tier!=backend", "tier=backend", false),
            ("tier!=backend", "", true),
            ("tier", "tier=x", true),
            ("tier", "", false),
            ("!tier", "", true),
            ("!tier", "tier=x", false),
            ("tier in (a, b)", "tier=b", true),
            ("tier in (a, b)", "tier=c", false),
            ("tier notin (a,b)", "tier=c", true),
            ("tier notin (a,b)", "", true),
            ("tier notin (a,b)", "tier=a", false),
            ("tier=a, track!=canary", "tier=a track=stable", true),
            ("tier=a,track!=canary", "tier=a track=canary", false),
            ("tier in (a,b),!old", "tier=a", true),
            ("tier=", "tier=", true),
            ("example.org/tier=a", "example.org/tier=a", true),
        ] {
            assert_eq!(
                selector.parse::<Selector>().unwrap().matches(&labels(has)),
                matches,
                "{selector} of {has}"
            );
        }
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        for text in
            ["", ",", "a=b,", "=b", "a=b=c", "a!b", "a in b", "a in (b", "a in (b))", "a or b", "a b", "!"]
        {
            assert!(text.parse::<Selector>().is_err(), "{text}");
        }
    }
}
