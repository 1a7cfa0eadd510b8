//! A Notifier with its values resolved.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::Name;
use crate::manifest::diagnostic::Diagnostic;
use crate::manifest::resolve::{Context, resolve};
use crate::manifest::spec::process::EnvValue;
use crate::manifest::spec::{NotifierSpec, ServiceSpec};

use super::machine::{Machine, notifier_faults};

/// What a task needs to deliver messages.
#[derive(Clone, PartialEq)]
pub struct NotifierPlan {
    pub name: Name,
    pub spec: Arc<NotifierSpec>,
    /// Relative paths count from here.
    pub base_dir: PathBuf,
    /// `url` and the headers of a webhook; may be secret.
    pub url: String,
    pub headers: Vec<(String, String)>,
    /// Values among these that must not be shown.
    pub secrets: Vec<String>,
}

/// Never shows a secret.
impl std::fmt::Debug for NotifierPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NotifierPlan({})", self.name)
    }
}

/// All that are in force: those that `System.notifications` names, or all of them.
pub fn notifiers(
    context: &Context<'_>,
    machine: Option<&dyn Machine>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<NotifierPlan> {
    let objects = context.objects;
    let system = objects.system.as_ref().and_then(|system| system.spec.notifications.as_ref());
    let named = |name: &Name| system.is_none_or(|chosen| chosen.notifiers.contains(name));
    let mut plans = Vec::new();
    for (name, object) in objects.notifiers.iter().filter(|(name, _)| named(name)) {
        if let Some(machine) = machine {
            notifier_faults(&object.spec, &object.source, context, machine, diagnostics);
        }
        let mut plan = NotifierPlan {
            name: name.clone(),
            spec: object.spec.clone(),
            base_dir: object.source.base_dir.clone(),
            url: String::new(),
            headers: Vec::new(),
            secrets: Vec::new(),
        };
        if let Some(webhook) = &object.spec.webhook {
            // The same rules as for an environment: texts, `{config, key}`, `{secret, key}`.
            let mut env: BTreeMap<String, EnvValue> = webhook.headers.clone();
            env.insert(URL.into(), webhook.url.clone());
            let mut values: ServiceSpec = serde_json::from_value(serde_json::json!({"command": []}))
                .expect("a command is a whole spec");
            (values.env, values.inherit_env) = (env, Vec::new());
            for var in resolve(&values, &object.source, context, diagnostics).env {
                if var.secret {
                    plan.secrets.push(var.value.clone());
                }
                match var.name.as_str() {
                    URL => plan.url = var.value,
                    _ => plan.headers.push((var.name, var.value)),
                }
            }
        }
        plans.push(plan);
    }
    plans
}

/// No header has a blank in its name.
const URL: &str = "the url";
