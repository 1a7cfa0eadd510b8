//! What people write who know Kubernetes, compose, systemd, pm2 or supervisord, and how the same is written here.

use serde_json::Value;

use crate::base::{ByteSize, Signal, parse_duration};

/// Keys that have another name here and the same value: what comes before and after it, and one that stands for what is none.
const VALUED: [(&str, &str, &str, &str); 14] = [
    ("periodSeconds", "period: ", "10s", ""),
    ("timeoutSeconds", "timeout: ", "1s", ""),
    ("initialDelaySeconds", "initialDelay: ", "5s", ""),
    ("terminationGracePeriodSeconds", "stop: {grace: ", "30s", "}"),
    ("stop_grace_period", "stop: {grace: ", "10s", "}"),
    ("stopwaitsecs", "stop: {grace: ", "10s", "}"),
    ("stop_signal", "stop: {signal: ", "SIGTERM", "}"),
    ("stopsignal", "stop: {signal: ", "SIGTERM", "}"),
    ("minReadySeconds", "update: {minReady: ", "1s", "}"),
    ("progressDeadlineSeconds", "update: {progressDeadline: ", "60s", "}"),
    ("activeDeadlineSeconds", "activeDeadline: ", "60s", ""),
    ("mem_limit", "resources: {memory: {max: ", "512Mi", "}}"),
    ("max_memory_restart", "resources: {memory: {max: ", "512Mi", "}}"),
    ("cpus", "resources: {cpu: {max: ", "0.5", "}}"),
];

/// Keys that have another name here, or none.
const KEYS: [(&str, &str); 45] = [
    ("httpGet", "write `http: {path: …, port: …}`"),
    ("tcpSocket", "write `tcp: {port: …}`"),
    ("livenessProbe", "write `probes: {liveness: …}`"),
    ("readinessProbe", "write `probes: {readiness: …}`"),
    ("startupProbe", "write `probes: {startup: …}`"),
    ("healthcheck", "write `probes: {readiness: …, liveness: …}`"),
    ("depends_on", "write `dependsOn`"),
    ("After", "write `dependsOn: [{name: NAME, condition: Started}]`"),
    ("Requires", "write `dependsOn: [NAME]`"),
    ("Wants", "write `dependsOn: [{name: NAME, optional: true}]`"),
    ("working_dir", "write `workingDir`"),
    ("WorkingDirectory", "write `workingDir`"),
    ("cwd", "write `workingDir`"),
    ("env_file", "write `envFrom: [{file: .env}]`"),
    ("EnvironmentFile", "write `envFrom: [{file: .env}]`"),
    ("configMapRef", "write `{config: NAME}`"),
    ("secretRef", "write `{secret: NAME}`"),
    ("environment", "write `env`"),
    ("Environment", "write `env`"),
    ("args", "put the arguments into `command`"),
    ("entrypoint", "write `command`"),
    ("image", "unisys runs programs of this machine, not images: write `command`"),
    ("build", "unisys runs programs of this machine and builds none: write `command`"),
    ("containers", "one Service is one program: write `command` under `spec`"),
    ("template", "one Service is one program: write its fields under `spec`"),
    ("selector", "units are referred to by name: remove it"),
    (
        "profiles",
        "patches over the manifests (`--overlay PATH`), `profiles` of a Config (`--profile NAME`) or `enabledWhen` do it",
    ),
    (
        "deploy",
        "write `replicas`, `update` and `resources: {memory: {max: 512Mi}, cpu: {max: 0.5}}` under `spec`",
    ),
    ("ulimits", "write `resources: {nofile: 65536}`"),
    ("numprocs", "write `replicas`"),
    ("directory", "write `workingDir`"),
    ("volumes", "a program sees this machine's files: remove it"),
    ("networks", "a program uses this machine's network: remove it"),
    ("restartPolicy", "write `restart: {policy: …}`"),
    ("Restart", "write `restart: {policy: …}`"),
    ("autorestart", "write `restart: {policy: Always}`"),
    ("strategy", "write `update: {strategy: …}`"),
    ("script", "write `command: [node, server.js]`"),
    ("ExecStart", "write `command`"),
    ("ExecStartPre", "write `hooks: {preStart: [{command: […]}]}`"),
    ("ExecStop", "write `stop: {command: […]}`"),
    ("ExecReload", "write `reload: {command: […]}`"),
    ("User", "write `user`"),
    ("exec_mode", "write `replicas: N`, and `listen: true` of a port that they share"),
    ("instances", "write `replicas`"),
];

/// `value`: what was written for it.
pub fn of_key(key: &str, value: &Value) -> Option<String> {
    if let Some((_, before, sample, after)) = VALUED.iter().find(|(word, ..)| *word == key) {
        let value = in_form_of(sample, value).unwrap_or_else(|| (*sample).to_owned());
        return Some(format!("write `{before}{value}{after}`"));
    }
    KEYS.iter().find(|(word, _)| *word == key).map(|(_, hint)| (*hint).to_owned())
}

/// A value of another tool in the form that this one has here: seconds, bytes, a signal or a number.
fn in_form_of(sample: &str, value: &Value) -> Option<String> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if sample.starts_with("SIG") {
        return signal(&text);
    }
    if sample.ends_with("Mi") {
        return bytes(&text);
    }
    let is_number = text.parse::<f64>().is_ok_and(|number| number > 0.0);
    match sample.ends_with('s') {
        true if is_number => Some(format!("{text}s")),
        true => parse_duration(&text).is_ok().then_some(text),
        false => is_number.then_some(text),
    }
}

/// `512m`, `512M` or `512MB` of compose and pm2, by powers of 1024.
fn bytes(text: &str) -> Option<String> {
    if text.parse::<ByteSize>().is_ok() && text.ends_with('i') {
        return Some(text.to_owned());
    }
    let at = text.find(|letter: char| letter.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = (text[..at].trim(), &text[at..]);
    number.parse::<f64>().ok()?;
    let unit = match unit.to_ascii_lowercase().trim_end_matches('b') {
        "" => "B",
        "k" => "Ki",
        "m" => "Mi",
        "g" => "Gi",
        _ => return None,
    };
    Some(format!("{number}{unit}"))
}

/// `TERM` is `SIGTERM`.
fn signal(text: &str) -> Option<String> {
    let word = text.to_ascii_uppercase();
    Signal::names().find(|name| *name == word || name.strip_prefix("SIG") == Some(&word)).map(str::to_owned)
}

/// What is meant by a value that has another form here; `*` is any key or index.
type Meaning = fn(&str, &Value) -> Option<String>;
const VALUES: [(&str, Meaning); 11] = [
    ("spec.stop.signal", |_, value| Some(format!("did you mean `{}`?", signal(value.as_str()?)?))),
    ("spec.reload.signal", |_, value| Some(format!("did you mean `{}`?", signal(value.as_str()?)?))),
    ("spec.resources.*", resource),
    ("spec.resources", |_, _| Some("write `resources: {memory: {max: 512Mi}, cpu: {max: 0.5}}`".into())),
    ("spec.restart", restart),
    ("spec.ports.*", port),
    ("spec.env", variables),
    ("spec.env.*", variable),
    ("spec.envFrom", |_, value| Some(format!("write a list: `envFrom: [{{file: {}}}]`", value.as_str()?))),
    ("spec.envFrom.*", |_, value| Some(format!("write `{{file: {}}}`", value.as_str()?))),
    ("spec.dependsOn", depends_on),
];

pub fn of_value(path: &str, value: &Value) -> Option<String> {
    let last = path.rsplit('.').next().unwrap_or_default();
    if last == "command" {
        return command(value);
    }
    let alike = |pattern: &str| {
        let (steps, wanted) = (path.split('.'), pattern.split('.'));
        path.split('.').count() == pattern.split('.').count()
            && steps.zip(wanted).all(|(step, wanted)| wanted == "*" || step == wanted)
    };
    VALUES.iter().find(|(pattern, _)| alike(pattern)).and_then(|(_, meaning)| meaning(last, value))
}

/// A command line: there is no shell that would take it apart.
fn command(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    if text.contains(['"', '\'', '\\', '$', '|', '&', ';', '<', '>', '*', '`']) {
        return Some(
            "there is no shell: write a list of the program and each argument, `[PROGRAM, ARGUMENT]`".into(),
        );
    }
    let words: Vec<String> = text.split_whitespace().map(|word| format!("\"{word}\"")).collect();
    (!words.is_empty()).then(|| format!("write a list, for there is no shell: `[{}]`", words.join(", ")))
}

fn restart(_: &str, value: &Value) -> Option<String> {
    let word = match value {
        Value::Bool(true) => "always",
        Value::Bool(false) => "no",
        other => other.as_str()?,
    };
    let policy = match word.to_ascii_lowercase().replace(['-', '_'], "").as_str() {
        "always" | "unlessstopped" => "Always",
        "onfailure" | "onabnormal" | "onabort" => "OnFailure",
        "no" | "never" => "Never",
        _ => return Some("write `restart: {policy: Always}`, or OnFailure or Never".into()),
    };
    Some(format!("write `restart: {{policy: {policy}}}`"))
}

/// `3000`, `"3000"`, `"80:3000"`, `"127.0.0.1:80:3000/tcp"`: of a container that has no port of its own, the program's.
fn port(_: &str, value: &Value) -> Option<String> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let number = text.rsplit(':').next()?.split('/').next()?.parse::<u16>().ok()?;
    let mapped = if text.contains(':') { ", the port that the program binds: none is mapped" } else { "" };
    Some(format!("write `{{name: http, port: {number}}}`{mapped}"))
}

/// A list of `A=b` or of `{name: A, value: b}`.
fn variables(_: &str, value: &Value) -> Option<String> {
    let name = |item: &Value| match item {
        Value::String(text) => Some(text.split('=').next()?.to_owned()),
        other => Some(other.get("name")?.as_str()?.to_owned()),
    };
    let names: Vec<String> =
        value.as_array()?.iter().filter_map(name).map(|name| format!("{name}: …")).collect();
    let names = if names.is_empty() { "NAME: value".into() } else { names.join(", ") };
    Some(format!("write a map: `env: {{{names}}}`"))
}

/// A limit as it stands: what is limited is a map.
fn resource(name: &str, value: &Value) -> Option<String> {
    let sample = match name {
        "memory" => "512Mi",
        "cpu" => "0.5",
        "pids" => "100",
        "nofile" => {
            return value.is_object().then(|| "write one number for both limits: `nofile: 65536`".into());
        }
        _ => return None,
    };
    let value = in_form_of(sample, value).unwrap_or_else(|| sample.into());
    Some(format!("write `{name}: {{max: {value}}}`"))
}

fn variable(name: &str, value: &Value) -> Option<String> {
    if value.is_null() {
        return Some(format!("write `{name}: \"\"` if it is to be empty; else leave it out"));
    }
    if value.get("value").is_some() {
        return Some(format!("write the value itself: `{name}: \"…\"`"));
    }
    let from = value.get("valueFrom")?;
    let key_of = |kind: &str, of: &Value| {
        let word = |key: &str, absent: &str| of[key].as_str().unwrap_or(absent).to_owned();
        format!("write `{name}: {{{kind}: {}, key: {}}}`", word("name", "NAME"), word("key", "KEY"))
    };
    Some(match (from.get("secretKeyRef"), from.get("configMapKeyRef")) {
        (Some(of), _) => key_of("secret", of),
        (None, Some(of)) => key_of("config", of),
        (None, None) => {
            format!("write `{name}: {{config: NAME, key: KEY}}`, or `{{secret: NAME, key: KEY}}`")
        }
    })
}

/// A name alone, or compose's map of conditions.
fn depends_on(_: &str, value: &Value) -> Option<String> {
    let item = |(name, of): (&String, &Value)| match of["condition"].as_str() {
        Some("service_started") => format!("{{name: {name}, condition: Started}}"),
        Some("service_completed_successfully") => format!("{{name: {name}, condition: Completed}}"),
        _ => name.clone(),
    };
    let items = match value {
        Value::String(name) => name.clone(),
        other => other.as_object()?.iter().map(item).collect::<Vec<_>>().join(", "),
    };
    Some(format!("write a list: `dependsOn: [{items}]`"))
}

#[cfg(test)]
mod tests {
    use crate::manifest::load::{LoadInput, ParseCache, SourceFile, load};

    #[test]
    fn who_writes_as_for_another_tool_is_told_how_it_is_written_here() {
        for (line, hint) in [
            ("command: node server.js", "`[\"node\", \"server.js\"]`"),
            ("command: 'node a.js | tee log'", "there is no shell: write a list"),
            ("stop: {command: ./end now}", "`[\"./end\", \"now\"]`"),
            ("restart: always", "`restart: {policy: Always}`"),
            ("restart: unless-stopped", "`restart: {policy: Always}`"),
            ("restart: on-failure", "`restart: {policy: OnFailure}`"),
            ("restart: 'no'", "`restart: {policy: Never}`"),
            ("restart: maybe", "or OnFailure or Never"),
            ("ports: ['8080:3000']", "`{name: http, port: 3000}`, the port that the program binds"),
            ("ports: [3000]", "write `{name: http, port: 3000}`"),
            ("env: [A=b, C=d]", "`env: {A: …, C: …}`"),
            ("env: [{name: A, value: b}]", "`env: {A: …}`"),
            ("env: {A: {value: b}}", "`A: \"…\"`"),
            (
                "env: {A: {valueFrom: {secretKeyRef: {name: db, key: token}}}}",
                "`A: {secret: db, key: token}`",
            ),
            ("env: {A: {valueFrom: {configMapKeyRef: {name: app, key: k}}}}", "`A: {config: app, key: k}`"),
            ("envFrom: .env", "`envFrom: [{file: .env}]`"),
            ("envFrom: [.env]", "write `{file: .env}`"),
            ("envFrom: [{configMapRef: {name: app}}]", "`{config: NAME}`"),
            ("dependsOn: db", "`dependsOn: [db]`"),
            (
                "dependsOn: {db: {condition: service_healthy}, m: {condition: service_completed_successfully}}",
                "`dependsOn: [db, {name: m, condition: Completed}]`",
            ),
            ("depends_on: [db]", "write `dependsOn`"),
            ("image: nginx", "not images: write `command`"),
            ("environment: {A: b}", "write `env`"),
            ("working_dir: .", "write `workingDir`"),
            ("healthcheck: {test: x}", "write `probes: {"),
            ("ExecStart: node server.js", "write `command`"),
            ("exec_mode: cluster", "write `replicas: N`"),
            ("profiles: [dev]", "`--profile NAME`"),
            ("stop_grace_period: 10s", "write `stop: {grace: 10s}`"),
            ("stop_grace_period: 1m30s", "write `stop: {grace: 1m30s}`"),
            ("stop_grace_period: [x]", "write `stop: {grace: 10s}`"),
            ("terminationGracePeriodSeconds: 45", "write `stop: {grace: 45s}`"),
            ("stop_signal: INT", "write `stop: {signal: SIGINT}`"),
            ("mem_limit: 256m", "write `resources: {memory: {max: 256Mi}}`"),
            ("max_memory_restart: 1G", "write `resources: {memory: {max: 1Gi}}`"),
            ("cpus: 1.5", "write `resources: {cpu: {max: 1.5}}`"),
            ("deploy: {replicas: 2}", "write `replicas`, `update` and `resources: {"),
            ("ulimits: {nofile: 1024}", "write `resources: {nofile: 65536}`"),
            ("numprocs: 2", "write `replicas`"),
            ("directory: /srv", "write `workingDir`"),
            ("resources: {memory: 512M}", "write `memory: {max: 512Mi}`"),
            ("resources: {memory: 100}", "write `memory: {max: 100B}`"),
            ("resources: {cpu: 0.5}", "write `cpu: {max: 0.5}`"),
            ("resources: {nofile: {soft: 1, hard: 2}}", "one number for both limits"),
            ("resources: small", "write `resources: {memory: {max: 512Mi}, cpu: {max: 0.5}}`"),
            ("env: {C: null}", "write `C: \"\"` if it is to be empty"),
            ("stop: {signal: TERM}", "did you mean `SIGTERM`?"),
            ("reload: {signal: hup}", "did you mean `SIGHUP`?"),
        ] {
            let command = if line.starts_with("command") { "" } else { "command: [x]\n  " };
            let text = format!(
                "apiVersion: unisys.dev/v1\nkind: Service\nmetadata: {{name: a}}\nspec:\n  {command}{line}\n"
            );
            let file = SourceFile { path: "a.yaml".into(), content: Ok(text.into_bytes().into()) };
            let input = LoadInput { set: "s".into(), files: vec![file], overlays: Vec::new() };
            let (_, found) = load(&input, &mut ParseCache::default());
            let hints: Vec<&str> = found.iter().map(|found| found.hint.as_str()).collect();
            assert!(hints.iter().any(|found| found.contains(hint)), "{line}: {found:?}");
            assert!(!found.iter().any(|found| found.message.contains("is missing")), "{line}: {found:?}");
            assert!(!hints.iter().any(|hint| hint.ends_with(": ")), "{line}: {found:?}");
        }
    }
}
