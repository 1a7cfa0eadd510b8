//! `${NAME}` and `$$` in values of `env` and in `command`.

use std::path::PathBuf;

use crate::base::ports::stand_in;

use super::super::diagnostic::{Diagnostic, nearest};
use super::super::load::Source;
use super::super::spec::ServiceSpec;
use super::values::Layers;
use super::{Context, EnvVar, Resolved};

/// `${NAME}` and `$$`.
pub struct Expansion<'a> {
    pub layers: &'a Layers,
    pub source: &'a Source,
    /// Names may come from files that were not looked at: an undefined one is no finding.
    pub open: bool,
    pub context: &'a Context<'a>,
    /// PORT and PORT_<NAME> of `auto` ports: each instance gets its own numbers when it starts.
    pub own_numbers: Vec<String>,
}

impl Expansion<'_> {
    pub fn finish(
        &self,
        spec: &ServiceSpec,
        mut files: Vec<PathBuf>,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Resolved {
        let mut env = Vec::with_capacity(self.layers.len());
        for (name, values) in self.layers {
            let Some(top) = values.last() else { continue };
            let path = format!("spec.env.{name}");
            let (value, secret) = match top.expand {
                true => self.expand(&top.text, &path, &mut vec![name.clone()], diagnostics),
                false => (top.text.clone(), top.secret),
            };
            let shadowed = values.iter().rev().skip(1).map(|value| value.origin.clone()).collect();
            env.push(EnvVar { name: name.clone(), value, secret, origin: top.origin.clone(), shadowed });
        }
        let mut argv = Vec::with_capacity(spec.command.len());
        for (index, argument) in spec.command.iter().enumerate() {
            let path = format!("spec.command.{index}");
            let (text, secret) = self.expand(argument, &path, &mut Vec::new(), diagnostics);
            if secret {
                let message = "a secret would be visible to every user in the process list";
                diagnostics.push(
                    Diagnostic::error("E1506", &self.source.span(&path), path, message)
                        .hint("pass it as an environment variable"),
                );
            }
            argv.push(text);
        }
        files.sort();
        files.dedup();
        Resolved { env, argv, files }
    }

    /// Replaces `${NAME}` and `$$`; a dollar before anything else is literal.
    fn expand(
        &self,
        text: &str,
        path: &str,
        within: &mut Vec<String>,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> (String, bool) {
        let mut out = String::new();
        let mut secret = false;
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                out.push('$');
                rest = after;
            } else if let Some((name, after)) = rest.strip_prefix('{').and_then(|inner| inner.split_once('}'))
            {
                let (value, is_secret) = self.value(name, path, within, diagnostics);
                out.push_str(&value);
                secret |= is_secret;
                rest = after;
            } else {
                out.push('$');
            }
        }
        out.push_str(rest);
        (out, secret)
    }

    fn value(
        &self,
        name: &str,
        path: &str,
        within: &mut Vec<String>,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> (String, bool) {
        if within.iter().any(|outer| outer == name) {
            // `PATH: /opt/bin:${PATH}` means the value that this one hides.
            let hidden = self.layers.get(name).and_then(|values| values.iter().rev().nth(1));
            if let Some(hidden) = hidden.filter(|_| within.last().is_some_and(|last| last == name)) {
                return (hidden.text.clone(), hidden.secret);
            }
            let message = format!("`${{{name}}}` is defined by itself: {} → {name}", within.join(" → "));
            diagnostics.push(
                Diagnostic::error("E1505", &self.source.span(path), path, message).hint("break the circle"),
            );
            return (String::new(), false);
        }
        match self.layers.get(name).and_then(|values| values.last()) {
            Some(value) if value.expand => {
                within.push(name.to_owned());
                let expanded = self.expand(&value.text, path, within, diagnostics);
                within.pop();
                expanded
            }
            Some(value) => (value.text.clone(), value.secret),
            None if self.own_numbers.iter().any(|known| known == name) => (stand_in(name), false),
            None if !is_name(name) => {
                let message = match name.is_empty() {
                    true => "`${}` names no variable".to_owned(),
                    false => format!(
                        "`${{{name}}}` is not understood: between the braces stands a name and nothing else"
                    ),
                };
                let hint = match name.contains('-') {
                    true => {
                        "write `${NAME}`; a default is given in a Config or in an env file. `$$` is a dollar"
                    }
                    false => "write `${NAME}`, or `$$` for a dollar",
                };
                diagnostics
                    .push(Diagnostic::error("E1504", &self.source.span(path), path, message).hint(hint));
                (String::new(), false)
            }
            None if self.open || (!self.context.machine && self.inherited(name)) => (String::new(), false),
            None => {
                let names = self.layers.keys().map(String::as_str);
                let hint = nearest(name, names)
                    .map_or("define it under `env`, or write `$$` for a dollar".into(), |near| {
                        format!("did you mean `${{{near}}}`?")
                    });
                let message =
                    format!("`${{{name}}}` is not defined in the environment of {}", self.source.object);
                diagnostics
                    .push(Diagnostic::error("E1504", &self.source.span(path), path, message).hint(hint));
                (String::new(), false)
            }
        }
    }

    /// PATH, HOME, LANG and TZ come from a machine that `validate` may not be running on.
    fn inherited(&self, name: &str) -> bool {
        super::super::spec::service::inherited_names().iter().any(|known| known == name)
    }
}

/// What an env file takes for the name of a variable.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}
