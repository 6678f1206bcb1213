//! What packages install beside the program.

use std::path::Path;

use crate::common::cli::{Image, SMALL, fails, ok};

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_descriptor_for_qemu_has_what_its_schema_asks_for() {
    let descriptor: serde_json::Value = serde_json::from_str(&file("packaging/50-vhost-user-zbd.json")).unwrap();
    let capabilities: serde_json::Value = serde_json::from_str(&ok(&["--print-capabilities"])).unwrap();
    let fields = descriptor.as_object().unwrap();
    assert_eq!(descriptor["type"], capabilities["type"]);
    assert_eq!(descriptor["binary"], "/usr/bin/vhost-user-zbd");
    assert!(descriptor["description"].as_str().is_some_and(|text| !text.is_empty()));
    assert!(descriptor["tags"].as_array().unwrap().iter().all(serde_json::Value::is_string));
    assert_eq!(fields.len(), 4, "a field that QEMU's schema does not know: {fields:?}");
}

#[test]
fn the_sample_conf_is_taken_as_it_is_when_its_settings_are_made_active() {
    let settings: Vec<String> = file("systemd/sample.conf")
        .lines()
        .filter_map(|line| line.strip_prefix('#').filter(|rest| rest.contains('=') && !rest.starts_with(' ')))
        .map(str::to_owned)
        .collect();
    let value = |name: &str| {
        let found = settings.iter().find_map(|setting| setting.strip_prefix(name)?.strip_prefix('='));
        found.unwrap_or_else(|| panic!("no {name} in {settings:?}"))
    };
    assert!(value("IMAGE").ends_with("/NAME.qcow2"));
    assert_eq!(value("RUST_LOG"), "info");
    let image = Image::create(&SMALL);
    let name = image.name();
    // Everything is right but the descriptor, which is looked at last.
    let mut args = vec!["serve", &name, "--fd", "77"];
    args.extend(value("OPTIONS").split_whitespace());
    fails(&args, &["--fd 77"]);
}

#[test]
fn every_file_of_the_package_that_is_not_built_is_there() {
    let manifest = file("Cargo.toml");
    let sources: Vec<&str> = manifest
        .lines()
        .filter_map(|line| line.trim().strip_prefix("[\"")?.split_once("\", \"").map(|(source, _)| source))
        .filter(|source| !source.starts_with("target/") && !source.contains('*'))
        .collect();
    assert!(sources.len() >= 6, "{sources:?}");
    sources.into_iter().for_each(|source| drop(file(source)));
}

#[test]
fn the_unit_starts_the_program_where_the_package_puts_it_with_what_its_conf_says() {
    let unit = file("systemd/vhost-user-zbd@.service");
    let start = "ExecStart=/usr/bin/vhost-user-zbd serve ${IMAGE} --control-path ${RUNTIME_DIRECTORY}/control $OPTIONS";
    assert!(unit.lines().any(|line| line == start), "{unit}");
    assert!(unit.contains("EnvironmentFile=-/etc/vhost-user-zbd/%i.conf"));
}
