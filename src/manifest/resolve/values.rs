//! What Configs, Secrets and env files give.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::diagnostic::{Diagnostic, Span};
use super::super::load::{Object, Source};
use super::super::spec::{ConfigSpec, SecretSource, SecretSpec};
use super::super::{FileError, env_file};
use super::types::check_type;
use super::{Context, Origin, Place};

/// A value on its way.
#[derive(Clone)]
pub struct Value {
    pub text: String,
    pub secret: bool,
    pub origin: Origin,
    /// `${NAME}` is replaced in it: values of `env` only.
    pub expand: bool,
    /// It hangs on what only the machine has, which was not asked: nothing can be said of it.
    pub open: bool,
}

impl Value {
    pub fn literal(text: &str, origin: Origin) -> Self {
        Self { text: text.to_owned(), secret: false, origin, expand: false, open: false }
    }
}

/// Values by name, lowest layer first.
pub type Layers = BTreeMap<String, Vec<Value>>;

pub fn push(layers: &mut Layers, name: &str, value: Value) {
    layers.entry(name.to_owned()).or_default().push(value);
}

/// Who reads an env file, and where that is written.
pub struct Reader<'a> {
    pub source: &'a Source,
    /// The field: `spec.envFrom.0`.
    pub path: &'a str,
    pub layer: &'static str,
    /// What to do when it is missing; none: it may be.
    pub missing: Option<&'static str>,
}

/// Looks values up, and keeps what it came upon.
pub struct Sources<'a> {
    pub context: &'a Context<'a>,
    /// Files that were looked at.
    pub files: Vec<PathBuf>,
    pub diagnostics: &'a mut Vec<Diagnostic>,
    /// A file that could not be read may give further names, where the machine is not asked.
    pub open: bool,
}

impl<'a> Sources<'a> {
    pub fn new(context: &'a Context<'a>, diagnostics: &'a mut Vec<Diagnostic>) -> Self {
        Self { context, files: Vec::new(), diagnostics, open: false }
    }

    /// The values of an env file. What is wrong with it is found wherever the file is, as is what is wrong with its values; that it
    /// is missing, only on the machine.
    pub fn env_file(&mut self, file: &Path, by: &Reader<'_>) -> Vec<(String, Value)> {
        let context = self.context;
        self.files.push(file.to_owned());
        let bytes = match context.files.read(file) {
            Ok(bytes) => bytes,
            Err(FileError::Missing) => {
                self.open |= !context.machine;
                if let Some(hint) = by.missing.filter(|_| context.machine) {
                    let message = format!("cannot read the env file {}: it does not exist", file.display());
                    let span = by.source.span(by.path);
                    self.diagnostics.push(Diagnostic::error("E2004", &span, by.path, message).hint(hint));
                }
                return Vec::new();
            }
            Err(FileError::Unreadable(why)) => {
                self.open |= !context.machine;
                let who = &by.source.object;
                let message = format!("cannot read the env file {} of {who}: {why}", file.display());
                let span = by.source.span(by.path);
                let diagnostic = Diagnostic::error(broken(context), &span, by.path, message);
                self.diagnostics.push(diagnostic.hint("check its type, owner and mode"));
                return Vec::new();
            }
        };
        // Another machine has other variables.
        let elsewhere = || (!context.machine).then(String::new);
        let outer = |name: &str| context.environment.get(name).cloned().or_else(elsewhere);
        let (assignments, problems) = env_file::parse(&bytes, &outer);
        for problem in problems {
            let span = Span { file: file.to_owned(), line: problem.line, column: 1, ..Span::default() };
            let message = format!(
                "{}, in an env file that {} reads ({})",
                problem.message,
                by.source.object,
                Diagnostic::error("", &by.source.span(by.path), "", "").place()
            );
            let diagnostic = Diagnostic::error(broken(context), &span, by.path, message)
                .hint("a line is NAME=value, with values as docker compose writes them");
            self.open |= !context.machine && !problem.warning;
            self.diagnostics.push(if problem.warning { diagnostic.warning() } else { diagnostic });
        }
        let value = |assignment: env_file::Assignment| {
            let origin = Origin {
                object: by.source.object.to_string(),
                layer: by.layer.into(),
                place: Place::Line(file.to_owned(), assignment.line),
            };
            let open = assignment.outside && !context.machine;
            (assignment.name, Value { open, ..Value::literal(&assignment.value, origin) })
        };
        assignments.into_iter().map(value).collect()
    }

    /// All values of a Config by key, lowest layer first, defaults of `types` included, and whether there may be others ([`Self::open`]).
    /// Types are checked.
    pub fn config(&mut self, config: &Object<ConfigSpec>) -> (Layers, bool) {
        let others_open = std::mem::take(&mut self.open);
        let context = self.context;
        let spec = &config.spec;
        let mut layers = Layers::new();
        let origin = |layer: &str, path: String| Origin {
            object: config.source.object.to_string(),
            layer: layer.into(),
            place: Place::Field(path),
        };
        for (key, wanted) in &spec.types {
            if let Some(default) = &wanted.default {
                let origin = origin("types", format!("spec.types.{key}.default"));
                push(&mut layers, key, Value::literal(default, origin));
            }
        }
        for (index, file) in spec.files.iter().enumerate() {
            let file = config.source.base_dir.join(file);
            let path = format!("spec.files.{index}");
            let reader = Reader { source: &config.source, path: &path, layer: "files", missing: None };
            for (key, value) in self.env_file(&file, &reader) {
                push(&mut layers, &key, value);
            }
        }
        for (key, text) in &spec.data {
            let origin = origin("data", format!("spec.data.{key}"));
            push(&mut layers, key, Value::literal(text, origin));
        }
        if let Some(profile) = profile(spec, context, &layers) {
            for (key, text) in spec.profiles.get(&profile).into_iter().flatten() {
                let origin = origin(&format!("profiles.{profile}"), format!("spec.profiles.{profile}.{key}"));
                push(&mut layers, key, Value::literal(text, origin));
            }
        }
        for name in &spec.from_environment {
            let origin = || Origin {
                object: "environment".into(),
                layer: "fromEnvironment".into(),
                ..Origin::default()
            };
            match context.environment.get(name).filter(|_| context.machine) {
                Some(text) => push(&mut layers, name, Value::literal(text, origin())),
                // What else gives it a value holds where the environment does not.
                None if !context.machine && !layers.contains_key(name) => {
                    push(&mut layers, name, Value { open: true, ..Value::literal("", origin()) });
                }
                None => {}
            }
        }
        self.check_types(config, &layers);
        let open = self.open;
        self.open |= others_open;
        (layers, open)
    }

    fn check_types(&mut self, config: &Object<ConfigSpec>, layers: &Layers) {
        for (key, wanted) in &config.spec.types {
            let path = format!("spec.types.{key}");
            let value = layers.get(key).and_then(|values| values.last());
            let finding = match value {
                None if wanted.required && !self.open => Some((
                    format!("`{key}` is required and nothing gives it a value"),
                    config.source.span(&path),
                )),
                None => None,
                Some(value) if value.open => None,
                Some(value) => check_type(wanted, &value.text)
                    .err()
                    .map(|why| (format!("`{key}` is wrong: {why}"), value.origin.place.span(&config.source))),
            };
            if let Some((message, span)) = finding {
                let diagnostic = Diagnostic::error("E1503", &span, path, message)
                    .hint("correct the value; nothing was started with it");
                if !self.diagnostics.contains(&diagnostic) {
                    self.diagnostics.push(diagnostic);
                }
            }
        }
    }

    /// The value of a Secret's key. `path`: where `source` asks for it.
    pub fn secret(
        &mut self,
        secret: &Object<SecretSpec>,
        key: &str,
        source: &Source,
        path: &str,
    ) -> Option<Value> {
        let context = self.context;
        let text = match secret.spec.data.get(key)? {
            SecretSource::Text(text) => Ok(text.clone()),
            SecretSource::File(of) => {
                let file = secret.source.base_dir.join(&of.file);
                self.files.push(file.clone());
                match context.machine {
                    false => Ok(String::new()),
                    true => context
                        .files
                        .read(&file)
                        .map(|bytes| {
                            String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']).to_owned()
                        })
                        .map_err(|error| format!("cannot read {}: {error}", file.display())),
                }
            }
            SecretSource::Env(_) if !context.machine => Ok(String::new()),
            SecretSource::Env(of) => context
                .environment
                .get(&of.env)
                .cloned()
                .ok_or_else(|| format!("the environment has no `{}`", of.env)),
            // E1900 until it is carried out.
            SecretSource::Exec(_) => return None,
        };
        match text {
            Ok(text) => {
                let origin = Origin {
                    object: secret.source.object.to_string(),
                    layer: format!("data.{key}"),
                    ..Origin::default()
                };
                Some(Value { text, secret: true, origin, expand: false, open: false })
            }
            Err(why) => {
                let message = format!("the Secret `{}` has no value for `{key}`: {why}", secret.meta.name);
                self.diagnostics.push(
                    Diagnostic::error("E2007", &source.span(path), path, message)
                        .hint("provide it, then `unisys apply` again"),
                );
                None
            }
        }
    }
}

fn profile(spec: &ConfigSpec, context: &Context<'_>, layers: &Layers) -> Option<String> {
    let system = context.objects.system.as_ref().and_then(|system| system.spec.profile.clone());
    let from = || {
        let key = spec.profile_from.as_ref()?;
        let environment = context.environment.get(key).filter(|_| context.machine).cloned();
        environment.or_else(|| layers.get(key)?.last().map(|value| value.text.clone()))
    };
    context.profile.map(str::to_owned).or(system).or_else(from)
}

/// What a broken env file is: see [`Context::lenient`].
pub fn broken(context: &Context<'_>) -> &'static str {
    if context.lenient { "E2009" } else { "E1009" }
}
