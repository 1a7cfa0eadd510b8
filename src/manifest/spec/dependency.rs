//! `dependsOn`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::Name;

/// An edge of the dependency graph. A bare name is short for `{name: …, condition: Ready}`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Dependency {
    pub name: Name,
    pub condition: DependencyCondition,
    pub optional: bool,
    pub restart: bool,
}

/// An edge as written in full.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenDependency {
    /// A Service, Job or External.
    name: Name,
    /// What it has to be; absent: Ready, for a Job Completed.
    #[serde(default)]
    condition: Option<DependencyCondition>,
    /// Its absence or failure holds nothing up, nor does a Service that was not Ready within its progressDeadline.
    #[serde(default)]
    optional: bool,
    /// Replaced when that one was replaced by a rollout or an explicit restart, never after a crash.
    #[serde(default)]
    restart: bool,
}

impl<'de> Deserialize<'de> for Dependency {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Name(Name),
            Full(WrittenDependency),
        }
        Ok(match Written::deserialize(deserializer)? {
            Written::Name(name) => {
                Self { name, condition: DependencyCondition::Unsaid, optional: false, restart: false }
            }
            Written::Full(full) => Self {
                name: full.name,
                condition: full.condition.unwrap_or_default(),
                optional: full.optional,
                restart: full.restart,
            },
        })
    }
}

impl JsonSchema for Dependency {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Dependency".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let name = generator.subschema_for::<Name>();
        let full = generator.subschema_for::<WrittenDependency>();
        schemars::json_schema!({
            "description": "A name, short for {name: …, condition: Ready}, or the edge in full.",
            "anyOf": [name, full]
        })
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DependencyCondition {
    /// Its program has been executed.
    Started,
    /// Its Ready condition is true.
    Ready,
    /// A Job that ended well.
    Completed,
    /// Not written: Ready for a Service or External, Completed for a Job.
    #[default]
    #[serde(skip_deserializing)]
    #[schemars(skip)]
    Unsaid,
}
