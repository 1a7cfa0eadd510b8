//! The environment and argv of a unit: every value with where it comes from.
//!
//! `inheritEnv` < `envFrom` in order < `env`; then `${NAME}` and `$$` in `env` values and in `command`.

mod expansion;
mod types;
mod values;

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::base::ports::port_variable;

pub use types::check_type;

use super::Files;
use super::diagnostic::{Diagnostic, Severity, Span};
use super::load::{Object, Objects, Source};
use super::spec::process::EnvValue;
use super::spec::{ConfigSpec, ServiceSpec};
use expansion::Expansion;
use types::parse_bool;
use values::{Layers, Reader, Sources, Value, broken, push};

/// What a resolution may look at.
pub struct Context<'a> {
    pub objects: &'a Objects,
    pub files: &'a dyn Files,
    /// The environment of unisys itself.
    pub environment: &'a BTreeMap<String, String>,
    /// The profile named on the command line.
    pub profile: Option<&'a str>,
    /// Take values from the environment, and miss files that are not there (a start, `validate --machine`); else what the manifests
    /// say counts, and env files as far as they are there and hang on nothing else (`validate`).
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
            Self::Line(file, line) => Span { file: file.clone(), line: *line, column: 1, ..Span::default() },
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

/// Resolves one unit. Findings about files are E2 (this machine); about references and types, E1.
pub fn resolve(
    spec: &ServiceSpec,
    source: &Source,
    context: &Context<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Resolved {
    let mut layers = Layers::new();
    let mut sources = Sources::new(context, diagnostics);
    for name in &spec.inherit_env {
        if let Some(text) = context.environment.get(name) {
            let origin =
                Origin { object: "environment".into(), layer: "inheritEnv".into(), ..Origin::default() };
            push(&mut layers, name, Value::literal(text, origin));
        }
    }
    for (index, from) in spec.env_from.iter().enumerate() {
        let path = format!("spec.envFrom.{index}");
        if let Some(file) = &from.file {
            let file = source.base_dir.join(file);
            let missing = (!from.optional).then_some("create it, or say `optional: true`");
            let reader = Reader { source, path: &path, layer: "envFrom", missing };
            for (name, value) in sources.env_file(&file, &reader) {
                push(&mut layers, &name, value);
            }
        }
        if let Some(config) = from.config.as_ref().and_then(|name| context.objects.configs.get(name)) {
            for (key, values) in sources.config(config).0 {
                layers.entry(key).or_default().extend(values);
            }
        }
        if let Some(name) = &from.secret
            && let Some(secret) = context.objects.secrets.get(name)
        {
            for key in secret.spec.data.keys() {
                if let Some(value) = sources.secret(secret, key, source, &path) {
                    push(&mut layers, key, value);
                }
            }
        }
    }
    own_env(spec, source, &mut sources, &mut layers);
    let (files, open) = (sources.files, sources.open);
    let own_numbers = own_numbers(spec);
    let expanded = Expansion { layers: &layers, source, open, context, own_numbers };
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

fn own_env(spec: &ServiceSpec, source: &Source, sources: &mut Sources<'_>, layers: &mut Layers) {
    let context = sources.context;
    for (name, value) in &spec.env {
        let path = format!("spec.env.{name}");
        match value {
            EnvValue::Text(text) => {
                let object = source.object.to_string();
                let origin = Origin { object, layer: "env".into(), place: Place::Field(path) };
                push(layers, name, Value { expand: true, ..Value::literal(text, origin) });
            }
            EnvValue::Config(of) => {
                let Some(config) = context.objects.configs.get(&of.config) else { continue };
                let (mut values, open) = sources.config(config);
                match values.remove(&of.key) {
                    Some(values) => layers.entry(name.clone()).or_default().extend(values),
                    None if !open => {
                        let message = format!("the Config `{}` gives no value for `{}`", of.config, of.key);
                        sources.diagnostics.push(
                            Diagnostic::error("E1406", &source.span(&path), path, message)
                                .hint("add the key to `data`, or a default under `types`"),
                        );
                    }
                    // It may come from a file that only the machine has.
                    None => push(layers, name, Value { open: true, ..Value::literal("", Origin::default()) }),
                }
            }
            EnvValue::Secret(of) => {
                let secret = context.objects.secrets.get(&of.secret);
                if let Some(value) =
                    secret.and_then(|of_name| sources.secret(of_name, &of.key, source, &path))
                {
                    push(layers, name, value);
                }
            }
        }
    }
}

/// What a Config gives: each key with its value, and where that comes from.
pub fn config_values(config: &Object<ConfigSpec>, context: &Context<'_>) -> Vec<(String, String, Origin)> {
    let mut found = Vec::new();
    let (layers, _) = Sources::new(context, &mut found).config(config);
    let last = layers.into_iter().filter_map(|(key, mut values)| Some((key, values.pop()?)));
    last.map(|(key, value)| (key, value.text, value.origin)).collect()
}

/// Types of all Configs, whether a unit uses them or not. What is wrong with their files is told of who reads them.
pub fn check_configs(context: &Context<'_>, files: &mut Vec<PathBuf>, diagnostics: &mut Vec<Diagnostic>) {
    let mut found = Vec::new();
    let mut sources = Sources::new(context, &mut found);
    for config in context.objects.configs.values().filter(|config| !config.spec.types.is_empty()) {
        sources.config(config);
    }
    files.append(&mut sources.files);
    found.retain(|found| found.code == "E1503" && !diagnostics.contains(found));
    diagnostics.append(&mut found);
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
    let mut sources = Sources::new(context, &mut found);
    let (values, _) = sources.config(config);
    files.append(&mut sources.files);
    found.retain(|diagnostic| diagnostic.code == broken(context) && diagnostic.severity == Severity::Error);
    if !found.is_empty() {
        // What the switch says is not known: nobody is stopped for it.
        diagnostics.append(&mut found);
        return None;
    }
    let value = values.get(&switch.key).and_then(|values| values.last()).filter(|value| !value.open);
    let text = value.map(|value| value.text.clone()).unwrap_or_default();
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
