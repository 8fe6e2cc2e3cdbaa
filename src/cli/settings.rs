//! `hotset config` and `hotset password`: what is set, where it comes from, and the references made from the table.

use super::exit::{Exit, Failure};
use super::output;
use crate::config::{self, Access, KEYS, Loaded, Password, PasswordSource, bound};
use serde_json::{Value, json};

/// The forms of the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ReferenceForm {
    /// `docs/configuration.md`.
    Md,
    /// `.env.example`.
    Env,
    /// `config/default.toml`.
    Toml,
}

/// `hotset config show`.
pub(super) fn show(loaded: &Loaded, as_json: bool) -> Result<(), Failure> {
    if as_json {
        let entry = |key: &config::Key| {
            let entry = &loaded.entries[key.name];
            json!({ "name": key.env_name(), "value": entry.shown(key), "origin": entry.origin.to_string() })
        };
        return output::show(&Value::Array(KEYS.iter().map(entry).collect()), true);
    }
    let row = |key: &config::Key| {
        let entry = &loaded.entries[key.name];
        vec![key.env_name(), entry.shown(key), entry.origin.to_string()]
    };
    let head = ["SETTING", "VALUE", "ORIGIN"].map(String::from).to_vec();
    output::print(&output::table(&std::iter::once(head).chain(KEYS.iter().map(row)).collect::<Vec<_>>()))
}

/// `hotset config check`: faults have ended the program before; what is left is what was read.
pub(super) fn check(loaded: &Loaded, as_json: bool) -> Result<(), Failure> {
    let read: Vec<String> = loaded.read.iter().map(|path| path.display().to_string()).collect();
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    if as_json {
        return output::show(&json!({ "ok": true, "read": read, "warnings": warnings }), true);
    }
    let files = if read.is_empty() { "no files".into() } else { read.join(", ") };
    let warned = match warnings.len() {
        0 => String::new(),
        1 => ", with 1 warning".into(),
        many => format!(", with {many} warnings"),
    };
    output::print(&format!("the settings are good{warned} (read: {files})\n"))
}

/// `hotset config reference`.
pub(super) fn reference(form: ReferenceForm) -> Result<(), Failure> {
    output::print(&match form {
        ReferenceForm::Md => config::markdown(),
        ReferenceForm::Env => config::env_example(),
        ReferenceForm::Toml => config::default_toml(),
    })
}

/// `hotset password show`: the one place where passwords are shown, because somebody asked.
pub(super) fn show_passwords(loaded: &Loaded, as_json: bool) -> Result<(), Failure> {
    config::check_data_dir(&loaded.settings.data_dir)?;
    let (server, admin) = Access::look(loaded)?;
    let (server_note, admin_note) = notes(loaded);
    let folder = &loaded.settings.data_dir;
    let passwords = &loaded.settings.passwords;
    let is_missing = passwords.server.is_none() && server.is_none() || passwords.admin.is_none() && admin.is_none();
    if is_missing && Access::admin_token(folder)?.is_none() {
        let folder = output::absolute(folder);
        let hint = "if the daemon keeps its data elsewhere, give --data-dir";
        return Err(Failure::new(Exit::Data, format!("no daemon has been started in {}: {hint}", folder.display())));
    }
    let source = |password: &Password| match &password.source {
        PasswordSource::Set(origin) => origin.to_string(),
        PasswordSource::File(path) => path.display().to_string(),
    };
    let rows = [("server_password", server, server_note), ("admin_password", admin, admin_note)];
    if as_json {
        let entry = |password: Option<Password>| {
            password.map(|password| json!({ "password": password.secret.reveal(), "source": source(&password) }))
        };
        let entries = rows.map(|(name, password, _)| (name.to_owned(), entry(password).unwrap_or_default()));
        return output::show(&Value::Object(entries.into_iter().collect()), true);
    }
    let row = |(name, password, note): (&str, Option<Password>, &str)| match password {
        Some(password) => vec![name.into(), password.secret.reveal().into(), source(&password)],
        None => vec![name.into(), "(none)".into(), note.into()],
    };
    output::print(&output::table(&rows.map(row)))
}

/// What it means that there is no server password, or no admin password.
fn notes(loaded: &Loaded) -> (&'static str, &'static str) {
    let bind = bound::read(&loaded.settings.data_dir).map_or(loaded.settings.network.bind, |address| address.ip());
    let passwords = &loaded.settings.passwords;
    let server = match (bind.is_loopback(), passwords.server.is_some()) {
        (true, true) => "set but empty: open, to this machine only",
        (true, false) => "open to this machine only, unless one is set where the daemon is started",
        (false, true) => "set but empty: open to everyone who can reach the port",
        (false, false) => "set where the daemon is started, or the daemon has not been started with this BIND yet",
    };
    let admin = if passwords.admin.is_some() {
        "set but empty: there is none"
    } else {
        "set where the daemon is started, or generated at its next start"
    };
    (server, admin)
}
