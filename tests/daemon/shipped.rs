//! The files that are shipped with the program do what they say.

use crate::program::Place;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");

/// A copy of what `scripts/prepare` needs.
fn checkout() -> Place {
    let place = Place::new();
    for name in ["scripts/prepare", ".env.example"] {
        place.write(name, &std::fs::read_to_string(Path::new(REPOSITORY).join(name)).unwrap());
    }
    place
}

fn prepare(place: &Place) -> String {
    let output = Command::new("sh").arg(place.path().join("scripts/prepare")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn env_of(place: &Place) -> String {
    std::fs::read_to_string(place.path().join(".env")).unwrap()
}

#[test]
fn prepare_makes_an_env_file_with_passwords_of_its_own() {
    let (one, other) = (checkout(), checkout());
    let said = prepare(&one);
    prepare(&other);
    assert_ne!(env_of(&one), env_of(&other));
    let mode = one.path().join(".env").metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let shown: serde_json::Value = serde_json::from_str(&one.run(&["password", "show", "--json"]).out).unwrap();
    for name in ["server_password", "admin_password"] {
        let password = shown[name]["password"].as_str().unwrap();
        assert_eq!(password.len(), 23, "{password}");
        assert!(!said.contains(password), "passwords are not printed");
    }
    assert_eq!(env_of(&one).lines().filter(|line| line.starts_with("UID=") || line.starts_with("GID=")).count(), 2);
    assert_eq!(one.run(&["config", "check"]).err, "", "no warnings");
}

#[test]
fn prepare_never_changes_what_is_there() {
    let place = checkout();
    prepare(&place);
    let first = env_of(&place);
    assert!(prepare(&place).contains("nothing changed"));
    assert_eq!(env_of(&place), first);

    let place = checkout();
    place.write(".env", "MAX_BACKUPS=3\nSERVER_PASSWORD=\nexport HOTSET_ADMIN_PASSWORD_FILE=/x\nUID=7");
    prepare(&place);
    let env = env_of(&place);
    assert!(
        env.starts_with("MAX_BACKUPS=3\nSERVER_PASSWORD=\nexport HOTSET_ADMIN_PASSWORD_FILE=/x\nUID=7\nGID="),
        "{env}"
    );
    assert_eq!(env.lines().count(), 5, "{env}");
}

#[test]
fn the_echo_of_the_old_documentation_works() {
    let place = checkout();
    prepare(&place);
    place.write(".env", &(env_of(&place) + "MAX_BACKUPS=5\nSAVE_INTERVAL=300\n"));
    let shown = place.run(&["config", "show"]).out;
    let value = |name: &str| shown.lines().find(|line| line.starts_with(name)).unwrap().split_whitespace().nth(1);
    assert_eq!((value("MAX_BACKUPS"), value("SAVE_INTERVAL")), (Some("5"), Some("300")));
}

#[test]
fn the_unit_does_not_restart_what_a_restart_does_not_cure() {
    let unit = std::fs::read_to_string(Path::new(REPOSITORY).join("packaging/hotset.service")).unwrap();
    for line in ["Type=notify", "RestartPreventExitStatus=64 65 75 77 78", "ExecReload=/bin/kill -HUP $MAINPID"] {
        assert!(unit.lines().any(|there| there == line), "{line}");
    }
}
