//! Generated files are committed and current. `UPDATE_GENERATED=1 cargo test` writes them.

use std::path::Path;

use crate::support::root;

fn compare(path: &Path, expected: &str) {
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, expected).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        found == expected,
        "{} is not current; run UPDATE_GENERATED=1 cargo test --test it generated",
        path.display()
    );
}

#[test]
fn schemas_are_current() {
    for (name, text) in unisys::manifest::schema::files() {
        compare(&root().join("schemas").join(name), &text);
    }
    compare(&root().join("schemas/openapi.json"), &format!("{:#}\n", unisys::api::openapi::document()));
}

#[test]
fn both_yaml_readers_read_every_manifest_alike() {
    for file in unisys::os::snapshot::snapshot(&root().join("manifests")).unwrap().files {
        let text = String::from_utf8(file.content.unwrap().to_vec()).unwrap();
        let saphyr = unisys::manifest::tree::parse_to_values(&text).unwrap();
        let serde: Vec<serde_json::Value> = serde_yaml::Deserializer::from_str(&text)
            .map(|document| serde::Deserialize::deserialize(document).unwrap())
            .collect();
        assert_eq!(saphyr, serde, "{}", file.path.display());
    }
}
