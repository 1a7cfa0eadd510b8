//! What people write who know Kubernetes, compose, systemd, pm2 or supervisord, and how the same is written here.

use serde_json::Value;

/// Keys that have another name here, or none.
const KEYS: [(&str, &str); 49] = [
    ("periodSeconds", "write `period: 10s`"),
    ("timeoutSeconds", "write `timeout: 1s`"),
    ("initialDelaySeconds", "write `initialDelay: 5s`"),
    ("terminationGracePeriodSeconds", "write `stop: {grace: 30s}`"),
    ("stop_grace_period", "write `stop: {grace: 30s}`"),
    ("stop_signal", "write `stop: {signal: SIGTERM}`"),
    ("minReadySeconds", "write `update: {minReady: 1s}`"),
    ("progressDeadlineSeconds", "write `update: {progressDeadline: 60s}`"),
    ("activeDeadlineSeconds", "write `activeDeadline: 60s`"),
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

pub fn of_key(key: &str) -> Option<&'static str> {
    KEYS.iter().find(|(word, _)| *word == key).map(|(_, hint)| *hint)
}

/// What is meant by a value that has another form here; `*` is any key or index.
type Meaning = fn(&str, &Value) -> Option<String>;
const VALUES: [(&str, Meaning); 7] = [
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

fn variable(name: &str, value: &Value) -> Option<String> {
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
