//! Everything that is declared, by kind and name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use crate::base::{Name, ObjectKind, ObjectRef};

use super::diagnostic::{Diagnostic, Span};
use super::layers::{self, Defaults, Text};
use super::spec::{
    ConfigSpec, ExternalSpec, JobSpec, Metadata, NotifierSpec, SecretSpec, ServiceSpec, SystemSpec,
};
use super::split::written_in;

/// One object as declared.
#[derive(Debug)]
pub struct Object<T> {
    pub meta: Metadata,
    pub spec: Arc<T>,
    pub source: Arc<Source>,
}

/// Not derived: what it holds need not be.
impl<T> Clone for Object<T> {
    fn clone(&self) -> Self {
        Self { meta: self.meta.clone(), spec: self.spec.clone(), source: self.source.clone() }
    }
}

/// Where an object comes from and how it was written.
#[derive(Debug)]
pub struct Source {
    pub object: ObjectRef,
    pub set: Arc<str>,
    pub file: PathBuf,
    /// Relative paths count from here.
    pub base_dir: PathBuf,
    /// Canonical JSON of the spec as written, overlays and `System.defaults` merged, built-in defaults not.
    pub written: Arc<str>,
    /// The file again, for the places of findings.
    pub(super) text: Text,
    /// Overlays that were laid over it, in order.
    pub(super) overlays: Vec<Text>,
    /// What lies under its spec.
    pub(super) defaults: Option<Arc<Defaults>>,
}

impl Source {
    /// The place of a field, in the file that sets it.
    pub fn span(&self, path: &str) -> Span {
        let spec = || serde_json::from_str(&self.written).unwrap_or(Value::Null);
        let merged = || serde_json::json!({"spec": spec()});
        layers::span(&self.text, &self.overlays, self.defaults.as_deref(), merged, path)
    }
}

/// Everything that is declared, by kind and name.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    pub services: BTreeMap<Name, Object<ServiceSpec>>,
    pub jobs: BTreeMap<Name, Object<JobSpec>>,
    pub configs: BTreeMap<Name, Object<ConfigSpec>>,
    pub secrets: BTreeMap<Name, Object<SecretSpec>>,
    pub externals: BTreeMap<Name, Object<ExternalSpec>>,
    pub notifiers: BTreeMap<Name, Object<NotifierSpec>>,
    pub system: Option<Object<SystemSpec>>,
    /// Declared, and not well: nothing else can be said of them.
    pub(super) broken: BTreeSet<Name>,
    /// What else is declared is not known: a file could not be read.
    pub(super) unread: bool,
}

impl Objects {
    /// Those whose source is as wanted.
    pub fn only(&self, wanted: impl Fn(&Source) -> bool) -> Self {
        fn of<T>(
            all: &BTreeMap<Name, Object<T>>,
            wanted: &impl Fn(&Source) -> bool,
        ) -> BTreeMap<Name, Object<T>> {
            let found = all.iter().filter(|(_, object)| wanted(&object.source));
            found.map(|(name, object)| (name.clone(), object.clone())).collect()
        }
        Self {
            services: of(&self.services, &wanted),
            jobs: of(&self.jobs, &wanted),
            configs: of(&self.configs, &wanted),
            secrets: of(&self.secrets, &wanted),
            externals: of(&self.externals, &wanted),
            notifiers: of(&self.notifiers, &wanted),
            system: self.system.clone().filter(|object| wanted(&object.source)),
            broken: self.broken.clone(),
            unread: self.unread,
        }
    }

    /// What stands under `metadata` of an object, if it is declared.
    pub fn meta(&self, object: &ObjectRef) -> Option<&Metadata> {
        let name = &object.name;
        match object.kind {
            ObjectKind::Service => self.services.get(name).map(|object| &object.meta),
            ObjectKind::Job => self.jobs.get(name).map(|object| &object.meta),
            ObjectKind::Config => self.configs.get(name).map(|object| &object.meta),
            ObjectKind::Secret => self.secrets.get(name).map(|object| &object.meta),
            ObjectKind::External => self.externals.get(name).map(|object| &object.meta),
            ObjectKind::Notifier => self.notifiers.get(name).map(|object| &object.meta),
            ObjectKind::System => self.system.as_ref().map(|object| &object.meta),
        }
    }

    /// Something of this name may be declared where it is not well: that it is missing cannot be said.
    pub fn may_declare(&self, name: &Name) -> bool {
        self.unread || self.broken.contains(name)
    }

    /// The source of an object, if it is declared.
    pub fn source(&self, object: &ObjectRef) -> Option<&Arc<Source>> {
        self.sources().into_iter().find(|source| source.object == *object)
    }

    pub fn has(&self, object: &ObjectRef) -> bool {
        let name = &object.name;
        match object.kind {
            ObjectKind::Service => self.services.contains_key(name),
            ObjectKind::Job => self.jobs.contains_key(name),
            ObjectKind::Config => self.configs.contains_key(name),
            ObjectKind::Secret => self.secrets.contains_key(name),
            ObjectKind::External => self.externals.contains_key(name),
            ObjectKind::Notifier => self.notifiers.contains_key(name),
            ObjectKind::System => self.system.is_some(),
        }
    }

    /// Everything of several sets together. An object that two sets own is an error (`E1304`).
    pub fn join(sets: impl IntoIterator<Item = Self>, diagnostics: &mut Vec<Diagnostic>) -> Self {
        let mut all = Self::default();
        for set in sets {
            join_kind(&mut all.services, set.services, diagnostics);
            join_kind(&mut all.jobs, set.jobs, diagnostics);
            join_kind(&mut all.configs, set.configs, diagnostics);
            join_kind(&mut all.secrets, set.secrets, diagnostics);
            join_kind(&mut all.externals, set.externals, diagnostics);
            join_kind(&mut all.notifiers, set.notifiers, diagnostics);
            all.broken.extend(set.broken);
            all.unread |= set.unread;
            match (&all.system, set.system) {
                (Some(first), Some(second)) => diagnostics.push(owned_twice(&first.source, &second.source)),
                (None, second) => all.system = second,
                (Some(_), None) => {}
            }
        }
        all
    }

    /// Nothing was written differently, whether a unit uses it or not: specs, labels and annotations.
    pub fn same_as(&self, other: &Self) -> bool {
        let (own, others) = (self.sources(), other.sources());
        let marked_alike = |object: &ObjectRef| {
            let meta = self.meta(object).zip(other.meta(object));
            meta.is_some_and(|(a, b)| a.labels == b.labels && a.annotations == b.annotations)
        };
        let alike = |(a, b): (&&Arc<Source>, &&Arc<Source>)| {
            let same = a.object == b.object && a.set == b.set && a.written == b.written;
            Arc::ptr_eq(a, b) || (same && marked_alike(&a.object))
        };
        own.len() == others.len() && own.iter().zip(&others).all(alike)
    }

    /// Sources of all objects, in order of kind and name.
    pub fn sources(&self) -> Vec<&Arc<Source>> {
        let mut sources: Vec<&Arc<Source>> = Vec::new();
        sources.extend(self.services.values().map(|object| &object.source));
        sources.extend(self.jobs.values().map(|object| &object.source));
        sources.extend(self.configs.values().map(|object| &object.source));
        sources.extend(self.secrets.values().map(|object| &object.source));
        sources.extend(self.system.iter().map(|object| &object.source));
        sources.extend(self.externals.values().map(|object| &object.source));
        sources.extend(self.notifiers.values().map(|object| &object.source));
        sources
    }

    pub fn is_empty(&self) -> bool {
        self.sources().is_empty()
    }
}

fn join_kind<T>(
    all: &mut BTreeMap<Name, Object<T>>,
    set: BTreeMap<Name, Object<T>>,
    diagnostics: &mut Vec<Diagnostic>,
) {
    for (name, object) in set {
        match all.get(&name) {
            Some(first) => diagnostics.push(owned_twice(&first.source, &object.source)),
            None => drop(all.insert(name, object)),
        }
    }
}

/// E1304: `second` is declared, and belongs to the set of `first`.
pub fn owned_twice(first: &Source, second: &Source) -> Diagnostic {
    let message = format!(
        "{} belongs to the set `{}` ({})",
        second.object,
        first.set,
        written_in(&first.file).display()
    );
    let hint = format!(
        "remove it from one of the two sets, or take it over with `unisys apply -f PATH --force-conflicts`; what these files would \
         change in the other set: `unisys plan -f PATH --set {}`, and `diff`",
        first.set
    );
    Diagnostic::error("E1304", &second.span("metadata.name"), "metadata.name", message).hint(hint)
}
