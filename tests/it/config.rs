//! `unisys config`: which value a unit has, where it comes from, what it hides.

use serde_json::json;

use crate::support::{System, sleeper};

#[test]
fn each_value_of_an_environment_is_shown_with_where_it_comes_from_and_what_it_hides() {
    let config = "apiVersion: unisys.dev/v1\nkind: Config\nmetadata: {name: app}\nspec:\n  files: [../.env]\n  data: {LEVEL: INFO, URL: http://x}\n  profiles: {eu: {LEVEL: WARN}}\n---\napiVersion: unisys.dev/v1\nkind: Secret\nmetadata: {name: db}\nspec: {data: {token: very-secret}}\n";
    let rest = "  envFrom: [{config: app}]\n  env:\n    URL: http://${HOST}\n    TOKEN: {secret: db, key: token}\n    LINE: \"t=${TOKEN}\"\n";
    let mut system =
        System::new(&[("a.yaml", &sleeper("a", rest)), ("b.yaml", &sleeper("b", "")), ("c.yaml", config)]);
    system.write(".env", "HOST=h1\nLEVEL=DEBUG\n");
    system.start(&["--profile", "eu"]);
    let shown = system.ok(&["config", "a"]);
    let row = |name: &str| {
        let line = shown.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(row("HOST"), "HOST h1 config/app files .env:1");
    assert_eq!(row("LEVEL"), "LEVEL WARN config/app profiles.eu manifests/c.yaml:7");
    assert_eq!(row("URL"), "URL http://h1 service/a env manifests/a.yaml:8");
    assert_eq!(row("TOKEN"), "TOKEN *** secret/db data.token");
    assert_eq!(row("LINE"), "LINE *** service/a env manifests/a.yaml:10");
    assert!(row("PATH").ends_with("environment inheritEnv"));
    let explained = system.ok(&["config", "service", "a", "--explain", "LEVEL"]);
    assert_eq!(
        explained,
        "LEVEL=WARN\n  from   config/app profiles.eu  manifests/c.yaml:7\n  hides  config/app data  manifests/c.yaml:6\n  hides  config/app files  .env:2\n"
    );
    let value = system.json(&["config", "a", "--explain", "TOKEN"]);
    assert_eq!((&value["service"], &value["env"][0]["masked"]), (&json!("a"), &json!(true)));
    assert_eq!(
        value["env"][0]["origin"],
        json!({"object": "secret/db", "layer": "data.token", "file": null, "line": null})
    );
    let all = system.json(&["config"]);
    let names: Vec<&str> =
        all.as_array().unwrap().iter().map(|unit| unit["service"].as_str().unwrap()).collect();
    assert_eq!(names, ["a", "b"]);
    assert!(!all.to_string().contains("very-secret") && !shown.contains("very-secret"));
    assert_eq!(system.ok(&["config", "--explain", "HOST"]).lines().next(), Some("a"));
    let (code, words) = system.fails(&["config", "a", "--explain", "HOTS"]);
    assert!(code == 4 && words.contains("a has no variable `HOTS`") && words.contains("HOST"), "{words}");
    let (code, words) = system.fails(&["config", "app"]);
    assert!(code == 4 && words.contains("unisys describe config/app"), "{words}");
    // What is saved counts.
    system.write(".env", "HOST=h2\nLEVEL=DEBUG\n");
    assert!(system.ok(&["config", "a", "--explain", "HOST"]).starts_with("HOST=h2\n"));
}
