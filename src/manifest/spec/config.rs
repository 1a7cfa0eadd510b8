//! `kind: Config` and `kind: Secret`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Values by key: `files` in order, then `data`, then the profile's, then the environment's for `fromEnvironment`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ConfigSpec {
    /// `.env` files, relative to the manifest; later wins. A file that does not exist is nothing.
    pub files: Vec<String>,
    pub data: BTreeMap<String, String>,
    /// Values that hold in one profile only (`unisys up --profile production`).
    pub profiles: BTreeMap<String, BTreeMap<String, String>>,
    /// A key (in `files`, `data` or the environment) that names the profile when the command line does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile_from: Option<String>,
    /// Names taken from the environment of unisys; they win over everything.
    pub from_environment: Vec<String>,
    /// What each key has to be; checked before anything starts.
    pub types: BTreeMap<String, ConfigType>,
}

/// `{type: port, required: true}`, `{enum: [paper, live]}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ConfigType {
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<ConfigTypeName>,
    /// Allowed values.
    #[serde(rename = "enum", skip_serializing_if = "Option::is_none")]
    pub allowed: Option<Vec<String>>,
    pub required: bool,
    /// The value of a key that nothing else gives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ConfigTypeName {
    String,
    Bool,
    Int,
    Float,
    Port,
    Duration,
    Size,
    Url,
}

/// Values that are never shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SecretSpec {
    pub data: BTreeMap<String, SecretSource>,
    /// How services that name the Secret in `envFrom` get it.
    pub deliver: Deliver,
}

/// Where a secret value comes from: the text itself, or exactly one of `file`, `exec` and `env`.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum SecretSource {
    /// The value itself. Fit for tests: a manifest is not a safe.
    Text(String),
    File(SecretFile),
    Exec(SecretExec),
    Env(SecretEnv),
}

/// Never shows a value.
impl std::fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text(***)"),
            Self::File(file) => write!(f, "File({})", file.file),
            Self::Exec(_) => f.write_str("Exec"),
            Self::Env(env) => write!(f, "Env({})", env.env),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretFile {
    /// Relative to the manifest; one trailing newline is removed.
    pub file: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretExec {
    /// Program and arguments; its standard output, less one trailing newline, is the value.
    pub exec: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretEnv {
    /// A variable in the environment of unisys.
    pub env: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Deliver {
    /// A private directory of files, named by CREDENTIALS_DIRECTORY. Not carried out yet (E1900).
    Files,
    /// Environment variables.
    #[default]
    Env,
}
