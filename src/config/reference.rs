//! The reference in its three forms, all from the table of settings: `.env.example`, `default.toml`, Markdown.

use super::keys::Kind;
use super::{Apply, KEYS, Key};

/// Settings that `.env.example` sets; the others are there as comments.
const SET_IN_EXAMPLE: &[&str] = &["save_interval", "max_backups", "log_level"];

const ENV_HEAD: &str = "\
# Settings of Hotset. Copy this file to .env, or run scripts/prepare, which also fills in passwords and your user id.
# After a change: `docker-compose restart`; most settings are even taken over while the daemon runs.
# Lines that begin with # show the defaults. If a setting is here twice, the last one counts.
# docs/configuration.md explains every setting.

# The user and group that own ./data when run with docker-compose (`id -u`, `id -g`).
# UID=1000
# GID=1000
";

const TOML_HEAD: &str = "\
# The defaults of Hotset, one line per setting. Leave this file alone and put your own values into config/hotset.toml:
# it is read after this one. The environment, .env and flags count more than both; docs/configuration.md explains it.
";

const MARKDOWN_HEAD: &str = "\
# Configuration

Nothing has to be configured. What is, is taken from five places; a later one counts more:

1. the defaults below;
2. `config/default.toml`, then `config/hotset.toml` (or the file given by `--config` or `HOTSET_CONFIG`), in the working
   directory: `save_interval = 60`;
3. `.env` in the working directory (or the file given by `--env-file` or `HOTSET_ENV_FILE`): `SAVE_INTERVAL=60`. If a name
   is there twice, the last one counts;
4. the environment: `SAVE_INTERVAL=60`. Under systemd also the credentials `server_password` and `admin_password`, which
   count a little less;
5. flags: `--save-interval 60`.

In `.env` and in the environment each setting also has a name with a prefix, `HOTSET_SAVE_INTERVAL`, which counts more than
the bare one in the same place. Use it where the bare name means something else to another program.

`hotset config show` prints every value and where it comes from; `hotset config check` finds faults without starting
anything. An unknown name is an error in TOML, as a flag and with the prefix; in `.env` a name that is nearly one of ours is
warned about. An empty value counts as not set, except for passwords and lists.

**Secrets** can be kept in files: `SERVER_PASSWORD_FILE=/run/secrets/join` (in TOML: `server_password_file`). They are no
flags, because everyone on the machine can read those.

**Quotes in `.env`**: without quotes a value is taken as it is, up to a `#` behind a space. Single quotes keep everything
as it is; in double quotes `\\n`, `\\\\`, `\\\"`, `\\'` and `\\$` are escapes. Variables are not expanded. Compose does expand
`$` outside of single quotes, so put a password with `$` into single quotes.

**Changes** to these files are noticed and applied without dropping anyone, on `SIGHUP` as well; the log says what changed,
what is in force and what needs a restart (the table's last column).

**Kubernetes** sets `HOTSET_PORT` and others by itself for a service named `hotset`; turn that off with
`enableServiceLinks: false`.

| setting | default | allowed | meaning | restart |
|---|---|---|---|---|
";

/// What `.env.example` has to be.
pub fn env_example() -> String {
    let mut text = ENV_HEAD.to_owned();
    for key in KEYS {
        text.push('\n');
        comment(&mut text, key);
        if let Some(note) = container_note(key) {
            comment_line(&mut text, note);
        }
        if !SET_IN_EXAMPLE.contains(&key.name) {
            text.push_str("# ");
        }
        text = format!("{text}{}={}\n", key.env_name(), key.default.unwrap_or_default());
    }
    text
}

/// What `config/default.toml` has to be.
pub fn default_toml() -> String {
    let mut text = TOML_HEAD.to_owned();
    for key in KEYS {
        text.push('\n');
        comment(&mut text, key);
        text = match key.default {
            Some(value) if bare_in_toml(key) => format!("{text}{} = {value}\n", key.name),
            Some(value) => format!("{text}{} = \"{value}\"\n", key.name),
            None => format!("{text}# {} = \"\"\n", key.name),
        };
    }
    text
}

/// What `docs/configuration.md` has to be.
pub fn markdown() -> String {
    let mut text = MARKDOWN_HEAD.to_owned();
    for key in KEYS {
        let default = match key.default {
            Some("") => "(empty)".into(),
            Some(value) => format!("`{value}`"),
            None => "(not set)".into(),
        };
        let restart = if key.apply == Apply::Restart { "yes" } else { "" };
        let (name, allowed, doc) = (key.env_name(), key.kind.expected(), key.doc);
        text = format!("{text}| `{name}` | {default} | {allowed} | {doc} | {restart} |\n");
    }
    text
}

fn bare_in_toml(key: &Key) -> bool {
    let number = key.default.is_some_and(|value| value.chars().all(|c| c.is_ascii_digit()) && !value.is_empty());
    number || matches!(key.kind, Kind::Switch { .. })
}

fn container_note(key: &Key) -> Option<&'static str> {
    match key.name {
        "port" | "http_port" => {
            Some("With docker-compose it has no effect: change the published ports in docker-compose.yml.")
        }
        "blender_sessions" => Some("With docker-compose, publish their ports in docker-compose.yml, too."),
        "bind" | "data_dir" => Some("With docker-compose it has no effect: the container has its own."),
        _ => None,
    }
}

fn comment(text: &mut String, key: &Key) {
    comment_line(text, &format!("{} Allowed: {}.", key.doc, key.kind.expected()));
}

/// Adds `words` as comment lines of at most 118 characters.
fn comment_line(text: &mut String, words: &str) {
    let mut line = String::from("#");
    for word in words.split(' ') {
        if line.len() + 1 + word.len() > 118 {
            text.push_str(&line);
            text.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{env_file, toml_file};
    use std::path::Path;

    #[test]
    fn the_files_in_the_repository_are_what_the_table_says() {
        let files = [
            (env_example(), include_str!("../../.env.example"), "--form env > .env.example"),
            (default_toml(), include_str!("../../config/default.toml"), "--form toml > config/default.toml"),
            (markdown(), include_str!("../../docs/configuration.md"), "> docs/configuration.md"),
        ];
        for (made, kept, how) in files {
            assert!(made == kept, "run: cargo run -- config reference {how}");
        }
    }

    #[test]
    fn every_line_of_the_example_is_valid_also_with_its_comment_sign_removed() {
        let setting = |line: &str| {
            let line = line.trim_start_matches("# ");
            line.split_once('=').is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
        };
        let text = env_example();
        let lines: Vec<&str> = text.lines().filter(|line| setting(line)).map(|l| l.trim_start_matches("# ")).collect();
        assert_eq!(lines.len(), KEYS.len() + 2, "and UID and GID");
        let mut warnings = Vec::new();
        let read = env_file::parse(&lines.join("\n"), Path::new("x"), &mut warnings).unwrap();
        for key in KEYS {
            let line = read.iter().find(|assignment| assignment.name == key.env_name()).unwrap();
            assert_eq!(line.value, key.default.unwrap_or_default());
        }
        assert_eq!(warnings, []);
    }

    #[test]
    fn the_default_file_sets_every_setting_to_its_default() {
        let values = toml_file::parse(&default_toml(), Path::new("x")).unwrap();
        for key in KEYS {
            assert_eq!(values.get(key.name).map(|(value, _)| value.as_str()), key.default, "{}", key.name);
        }
    }
}
