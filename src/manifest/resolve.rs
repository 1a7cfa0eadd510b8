//! The environment and argv of a unit: every value with where it comes from.
//!
//! `inheritEnv` < `envFrom` in order < `env`; then `${NAME}` and `$$` in `env` values and in `command`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::base::ports::{port_variable, stand_in};
use crate::base::{ByteSize, parse_duration};

use super::diagnostic::{Diagnostic, Severity, Span, nearest};
use super::load::{Object, Objects, Source};
use super::spec::process::EnvValue;
use super::spec::{ConfigSpec, ConfigType, ConfigTypeName, SecretSource, ServiceSpec};
use super::{FileError, Files, env_file};

/// What a resolution may look at.
pub struct Context<'a> {
    pub objects: &'a Objects,
    pub files: &'a dyn Files,
    /// The environment of unisys itself.
    pub environment: &'a BTreeMap<String, String>,
    /// The profile named on the command line.
    pub profile: Option<&'a str>,
    /// Take values from files and the environment (a start, `validate --machine`); else only from the manifests (`validate`).
    pub machine: bool,
    /// A broken env file is a fault of this machine (E2009), which stops only whoever reads it: for a daemon that takes up
    /// services that run already. Else it rejects what refers to it (E1009).
    pub lenient: bool,
}

/// Where a value comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// `service/api`, `config/app`, `environment`.
    pub object: String,
    /// `env`, `data`, `files`, `profiles.production`, …
    pub layer: String,
    pub place: Place,
}

/// Where a value is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// In no file.
    #[default]
    Nowhere,
    /// In a line of an env file.
    Line(PathBuf, u32),
    /// In a field of a manifest. Its line is looked for when somebody asks: that takes another look at the file.
    Field(String),
}

impl Place {
    /// `source`: of the object that it is a field of.
    fn span(&self, source: &Source) -> Span {
        match self {
            Self::Nowhere => Span::default(),
            Self::Line(file, line) => Span { file: file.clone(), line: *line, column: 1 },
            Self::Field(path) => source.span(path),
        }
    }
}

/// One variable.
#[derive(Clone, PartialEq, Eq)]
pub struct EnvVar {
    pub name: String,
    pub value: String,
    pub secret: bool,
    pub origin: Origin,
    /// Origins of the values that this one hides, nearest first.
    pub shadowed: Vec<Origin>,
}

/// Never shows a secret.
impl std::fmt::Debug for EnvVar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.name, if self.secret { "***" } else { &self.value })
    }
}

/// A unit's environment and argv, ready to start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resolved {
    pub env: Vec<EnvVar>,
    pub argv: Vec<String>,
    /// Files that were looked at, for watching.
    pub files: Vec<PathBuf>,
}

/// A value on its way.
#[derive(Clone)]
struct Value {
    text: String,
    secret: bool,
    origin: Origin,
    /// `${NAME}` is replaced in it: values of `env` only.
    expand: bool,
}

type Layers = BTreeMap<String, Vec<Value>>;

/// Resolves one unit. Findings about files are E2 (this machine); about references and types, E1.
pub fn resolve(
    spec: &ServiceSpec,
    source: &Source,
    context: &Context<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Resolved {
    let mut layers = Layers::new();
    let mut files = Vec::new();
    for name in &spec.inherit_env {
        if let Some(text) = context.environment.get(name) {
            let origin =
                Origin { object: "environment".into(), layer: "inheritEnv".into(), ..Origin::default() };
            push(&mut layers, name, Value { text: text.clone(), secret: false, origin, expand: false });
        }
    }
    let mut open = false;
    for (index, from) in spec.env_from.iter().enumerate() {
        let path = format!("spec.envFrom.{index}");
        if let Some(file) = &from.file {
            open = true;
            let file = source.base_dir.join(file);
            files.push(file.clone());
            let missing = (!from.optional).then_some("create it, or say `optional: true`");
            let reader = Reader { source, path: &path, layer: "envFrom", missing };
            for (name, value) in reader.values(&file, context, diagnostics) {
                push(&mut layers, &name, value);
            }
        }
        if let Some(config) = from.config.as_ref().and_then(|name| context.objects.configs.get(name)) {
            open |= !config.spec.files.is_empty();
            for (key, values) in config_values(config, context, &mut files, diagnostics) {
                layers.entry(key).or_default().extend(values);
            }
        }
        if let Some(name) = &from.secret
            && let Some(secret) = context.objects.secrets.get(name)
        {
            for key in secret.spec.data.keys() {
                secret_value(secret, key, &path, source, context, &mut files, key, &mut layers, diagnostics);
            }
        }
    }
    own_env(spec, source, context, &mut files, &mut layers, diagnostics);
    let own_numbers = own_numbers(spec);
    let expanded =
        Expansion { layers: &layers, source, open: open && !context.machine, context, own_numbers };
    expanded.finish(spec, files, diagnostics)
}

fn own_numbers(spec: &ServiceSpec) -> Vec<String> {
    let named = spec.ports.iter().filter(|port| port.is_auto()).map(|port| port_variable(port.name.as_str()));
    let mut names: Vec<String> = named.collect();
    if !names.is_empty() {
        names.push("PORT".into());
    }
    names
}

fn push(layers: &mut Layers, name: &str, value: Value) {
    layers.entry(name.to_owned()).or_default().push(value);
}

fn own_env(
    spec: &ServiceSpec,
    source: &Source,
    context: &Context<'_>,
    files: &mut Vec<PathBuf>,
    layers: &mut Layers,
    diagnostics: &mut Vec<Diagnostic>,
) {
    for (name, value) in &spec.env {
        let path = format!("spec.env.{name}");
        match value {
            EnvValue::Text(text) => {
                let object = source.object.to_string();
                let origin = Origin { object, layer: "env".into(), place: Place::Field(path) };
                push(layers, name, Value { text: text.clone(), secret: false, origin, expand: true });
            }
            EnvValue::Config(of) => {
                let Some(config) = context.objects.configs.get(&of.config) else { continue };
                let values = config_values(config, context, files, diagnostics).remove(&of.key);
                match values {
                    Some(values) => layers.entry(name.clone()).or_default().extend(values),
                    None if context.machine || config.spec.files.is_empty() => {
                        let message = format!("the Config `{}` gives no value for `{}`", of.config, of.key);
                        diagnostics.push(
                            Diagnostic::error("E1406", &source.span(&path), path, message)
                                .hint("add the key to `data`, or a default under `types`"),
                        );
                    }
                    // It may come from a file that only the machine has.
                    None => push(
                        layers,
                        name,
                        Value {
                            text: String::new(),
                            secret: false,
                            origin: Origin::default(),
                            expand: false,
                        },
                    ),
                }
            }
            EnvValue::Secret(of) => {
                if let Some(secret) = context.objects.secrets.get(&of.secret) {
                    secret_value(secret, &of.key, &path, source, context, files, name, layers, diagnostics);
                }
            }
        }
    }
}

/// Who reads an env file, and where that is written.
struct Reader<'a> {
    source: &'a Source,
    /// The field: `spec.envFrom.0`.
    path: &'a str,
    layer: &'static str,
    /// What to do when it is missing; none: it may be.
    missing: Option<&'static str>,
}

impl Reader<'_> {
    /// The values of an env file. What is wrong with it is found wherever the file is; that it is missing, only on the machine.
    fn values(
        &self,
        file: &Path,
        context: &Context<'_>,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Vec<(String, Value)> {
        let bytes = match context.files.read(file) {
            Ok(bytes) => bytes,
            Err(FileError::Missing) => {
                if let Some(hint) = self.missing.filter(|_| context.machine) {
                    let message = format!("cannot read the env file {}: it does not exist", file.display());
                    let span = self.source.span(self.path);
                    diagnostics.push(Diagnostic::error("E2004", &span, self.path, message).hint(hint));
                }
                return Vec::new();
            }
            Err(FileError::Unreadable(why)) => {
                let who = &self.source.object;
                let message = format!("cannot read the env file {} of {who}: {why}", file.display());
                let span = self.source.span(self.path);
                let diagnostic = Diagnostic::error(broken(context), &span, self.path, message);
                diagnostics.push(diagnostic.hint("check its type, owner and mode"));
                return Vec::new();
            }
        };
        let outer = |name: &str| context.environment.get(name).cloned();
        let (assignments, problems) = env_file::parse(&bytes, &outer);
        for problem in problems {
            let span = Span { file: file.to_owned(), line: problem.line, column: 1 };
            let message = format!(
                "{}, in an env file that {} reads ({})",
                problem.message,
                self.source.object,
                Diagnostic::error("", &self.source.span(self.path), "", "").place()
            );
            let diagnostic = Diagnostic::error(broken(context), &span, self.path, message)
                .hint("a line is NAME=value, with values as docker compose writes them");
            diagnostics.push(if problem.warning { diagnostic.warning() } else { diagnostic });
        }
        if !context.machine {
            return Vec::new();
        }
        let value = |assignment: env_file::Assignment| {
            let origin = Origin {
                object: self.source.object.to_string(),
                layer: self.layer.into(),
                place: Place::Line(file.to_owned(), assignment.line),
            };
            (assignment.name, Value { text: assignment.value, secret: false, origin, expand: false })
        };
        assignments.into_iter().map(value).collect()
    }
}

fn broken(context: &Context<'_>) -> &'static str {
    if context.lenient { "E2009" } else { "E1009" }
}

/// All values of a Config by key, lowest layer first, defaults of `types` included. Types are checked.
fn config_values(
    config: &Object<ConfigSpec>,
    context: &Context<'_>,
    files: &mut Vec<PathBuf>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Layers {
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
            push(&mut layers, key, Value { text: default.clone(), secret: false, origin, expand: false });
        }
    }
    for (index, file) in spec.files.iter().enumerate() {
        let file = config.source.base_dir.join(file);
        files.push(file.clone());
        let path = format!("spec.files.{index}");
        let reader = Reader { source: &config.source, path: &path, layer: "files", missing: None };
        for (key, value) in reader.values(&file, context, diagnostics) {
            push(&mut layers, &key, value);
        }
    }
    for (key, text) in &spec.data {
        let origin = origin("data", format!("spec.data.{key}"));
        push(&mut layers, key, Value { text: text.clone(), secret: false, origin, expand: false });
    }
    if let Some(profile) = profile(spec, context, &layers) {
        for (key, text) in spec.profiles.get(&profile).into_iter().flatten() {
            let origin = origin(&format!("profiles.{profile}"), format!("spec.profiles.{profile}.{key}"));
            push(&mut layers, key, Value { text: text.clone(), secret: false, origin, expand: false });
        }
    }
    for name in &spec.from_environment {
        if let Some(text) = context.environment.get(name).filter(|_| context.machine) {
            let origin =
                Origin { object: "environment".into(), layer: "fromEnvironment".into(), ..Origin::default() };
            push(&mut layers, name, Value { text: text.clone(), secret: false, origin, expand: false });
        }
    }
    check_types(config, &layers, context, diagnostics);
    layers
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

fn check_types(
    config: &Object<ConfigSpec>,
    layers: &Layers,
    context: &Context<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) {
    for (key, wanted) in &config.spec.types {
        let path = format!("spec.types.{key}");
        let value = layers.get(key).and_then(|values| values.last());
        let finding = match value {
            None if wanted.required && (context.machine || config.spec.files.is_empty()) => {
                Some((format!("`{key}` is required and nothing gives it a value"), config.source.span(&path)))
            }
            None => None,
            Some(value) => check_type(wanted, &value.text)
                .err()
                .map(|why| (format!("`{key}` is wrong: {why}"), value.origin.place.span(&config.source))),
        };
        if let Some((message, span)) = finding {
            let diagnostic = Diagnostic::error("E1503", &span, path, message)
                .hint("correct the value; nothing was started with it");
            if !diagnostics.contains(&diagnostic) {
                diagnostics.push(diagnostic);
            }
        }
    }
}

/// Why a value is not of a type.
pub fn check_type(wanted: &ConfigType, value: &str) -> Result<(), String> {
    if let Some(allowed) = &wanted.allowed
        && !allowed.iter().any(|word| word == value)
    {
        let near = nearest(value, allowed.iter().map(String::as_str))
            .map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        return Err(format!("`{value}` is not one of {}{near}", allowed.join(", ")));
    }
    let fail = |what: &str| Err(format!("`{value}` is not {what}"));
    match wanted.kind {
        None | Some(ConfigTypeName::String) => Ok(()),
        Some(ConfigTypeName::Bool) if parse_bool(value).is_none() => fail("true or false"),
        Some(ConfigTypeName::Int) if value.parse::<i64>().is_err() => fail("a whole number"),
        Some(ConfigTypeName::Float) if value.parse::<f64>().is_err() => fail("a number"),
        Some(ConfigTypeName::Port) if !value.parse::<u16>().is_ok_and(|port| port > 0) => {
            fail("a port, 1 to 65535")
        }
        Some(ConfigTypeName::Duration) => parse_duration(value).map(drop).map_err(|error| error.to_string()),
        Some(ConfigTypeName::Size) => value.parse::<ByteSize>().map(drop).map_err(|error| error.to_string()),
        Some(ConfigTypeName::Url)
            if !value
                .split_once("://")
                .is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty()) =>
        {
            fail("a URL")
        }
        Some(_) => Ok(()),
    }
}

/// What counts as a switch's position.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" | "" => Some(false),
        _ => None,
    }
}

/// Why a unit's switch keeps it off, if it does.
pub fn switched_off(
    spec: &ServiceSpec,
    context: &Context<'_>,
    files: &mut Vec<PathBuf>,
    diagnostics: &mut Vec<Diagnostic>,
    source: &Source,
) -> Option<String> {
    let switch = spec.enabled_when.as_ref()?;
    let config = context.objects.configs.get(&switch.config)?;
    let mut found = Vec::new();
    let values = config_values(config, context, files, &mut found);
    found.retain(|diagnostic| diagnostic.code == broken(context) && diagnostic.severity == Severity::Error);
    if !found.is_empty() {
        // What the switch says is not known: nobody is stopped for it.
        diagnostics.append(&mut found);
        return None;
    }
    let text = values.get(&switch.key).and_then(|values| values.last()).map(|value| value.text.clone());
    let text = text.unwrap_or_default();
    match parse_bool(&text) {
        Some(true) => None,
        Some(false) => Some(format!("{} is {}", switch.key, if text.is_empty() { "not set" } else { &text })),
        None => {
            let path = "spec.enabledWhen";
            let message = format!("`{}` is `{text}`, which is neither true nor false", switch.key);
            diagnostics.push(
                Diagnostic::error("E1503", &source.span(path), path, message).hint("write true or false"),
            );
            Some(format!("{} is neither true nor false", switch.key))
        }
    }
}

#[allow(clippy::too_many_arguments)] // one place puts a secret into an environment
fn secret_value(
    secret: &Object<super::spec::SecretSpec>,
    key: &str,
    path: &str,
    source: &Source,
    context: &Context<'_>,
    files: &mut Vec<PathBuf>,
    name: &str,
    layers: &mut Layers,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let text = match secret.spec.data.get(key) {
        None => return,
        Some(SecretSource::Text(text)) => Ok(text.clone()),
        Some(SecretSource::File(of)) => {
            let file = secret.source.base_dir.join(&of.file);
            files.push(file.clone());
            match context.machine {
                false => Ok(String::new()),
                true => context
                    .files
                    .read(&file)
                    .map(|bytes| String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']).to_owned())
                    .map_err(|error| format!("cannot read {}: {error}", file.display())),
            }
        }
        Some(SecretSource::Env(_)) if !context.machine => Ok(String::new()),
        Some(SecretSource::Env(of)) => context
            .environment
            .get(&of.env)
            .cloned()
            .ok_or_else(|| format!("the environment has no `{}`", of.env)),
        // E1900 until it is carried out.
        Some(SecretSource::Exec(_)) => return,
    };
    match text {
        Ok(text) => {
            let origin = Origin {
                object: secret.source.object.to_string(),
                layer: format!("data.{key}"),
                ..Origin::default()
            };
            push(layers, name, Value { text, secret: true, origin, expand: false });
        }
        Err(why) => {
            let message = format!("the Secret `{}` has no value for `{key}`: {why}", secret.meta.name);
            diagnostics.push(
                Diagnostic::error("E2007", &source.span(path), path, message)
                    .hint("provide it, then `unisys apply` again"),
            );
        }
    }
}

/// `${NAME}` and `$$`.
struct Expansion<'a> {
    layers: &'a Layers,
    source: &'a Source,
    /// Names may come from files that were not looked at: an undefined one is no finding.
    open: bool,
    context: &'a Context<'a>,
    /// PORT and PORT_<NAME> of `auto` ports: each instance gets its own numbers when it starts.
    own_numbers: Vec<String>,
}

impl Expansion<'_> {
    fn finish(
        &self,
        spec: &ServiceSpec,
        mut files: Vec<PathBuf>,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Resolved {
        let mut env = Vec::new();
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
        let mut argv = Vec::new();
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
        super::spec::service::inherited_names().iter().any(|known| known == name)
    }
}
