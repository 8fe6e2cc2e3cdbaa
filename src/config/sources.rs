//! Where settings come from, and which of several values wins: flag > environment > `.env` > TOML > default.

use super::error::{ConfigError, ConfigErrors, Origin, Warning};
use super::nearest::nearest;
use super::{KEYS, Key, Settings, env_file, find_key, toml_file};
use crate::ops::secret::Secret;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Stands before every setting's name in the environment, for those whose bare name is taken there.
const PREFIX: &str = "HOTSET_";

/// Names with the prefix that are no settings: they say where to look for them.
const RESERVED: &[&str] = &["HOTSET_CONFIG", "HOTSET_ENV_FILE"];

/// What Compose and shells keep in the same `.env`.
const FOREIGN: &[&str] = &["UID", "GID", "TZ", "PATH", "HOME", "USER"];

/// Largest file of settings or secret that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Everything that settings are read from. Held, so that they can be read again.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The folder with `.env` and `config/`; empty = the working directory.
    pub directory: PathBuf,
    /// A TOML file in place of `config/hotset.toml`; must exist.
    pub config: Option<PathBuf>,
    /// A file in place of `.env`; must exist.
    pub env_file: Option<PathBuf>,
    /// Values of flags, by the setting's name.
    pub flags: BTreeMap<&'static str, String>,
    /// The process environment.
    pub environment: BTreeMap<OsString, OsString>,
}

/// One setting as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    raw: Option<Secret>,
    /// Where it comes from.
    pub origin: Origin,
}

impl Entry {
    /// The value for people; secrets are never part of it.
    pub fn shown(&self, key: &Key) -> String {
        match &self.raw {
            None => "(not set)".into(),
            Some(raw) if raw.is_empty() => "(empty)".into(),
            Some(_) if key.is_secret() => "(hidden)".into(),
            Some(raw) => raw.reveal().into(),
        }
    }

    pub(super) fn same_value(&self, other: &Self, key: &Key) -> bool {
        let applied = |entry: &Self| {
            let mut settings = Settings::blank();
            entry.raw.as_ref().map(|raw| key.kind.apply(&mut settings, raw.reveal()));
            (entry.raw.is_some(), settings)
        };
        applied(self) == applied(other)
    }
}

/// Settings that were read and found good.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values in their final types.
    pub settings: Settings,
    /// Each setting as it was found, by name.
    pub entries: BTreeMap<&'static str, Entry>,
    /// What is allowed and probably not meant.
    pub warnings: Vec<Warning>,
    /// The files that were read.
    pub read: Vec<PathBuf>,
    /// The files whose change should be noticed, whether they exist or not.
    pub watched: Vec<PathBuf>,
}

impl Loaded {
    pub(super) fn settings_of(entries: &BTreeMap<&'static str, Entry>) -> (Settings, Vec<ConfigError>) {
        let mut settings = Settings::blank();
        let mut errors = Vec::new();
        for key in KEYS {
            let Some((entry, raw)) = entries.get(key.name).and_then(|entry| Some((entry, entry.raw.as_ref()?))) else {
                continue;
            };
            if let Err(expected) = key.kind.apply(&mut settings, raw.reveal()) {
                let value = if key.is_secret() { "not usable".into() } else { format!("{:?}", raw.reveal()) };
                errors.push(ConfigError::Invalid {
                    name: key.env_name(),
                    origin: entry.origin.clone(),
                    value,
                    expected,
                });
            }
        }
        (settings, errors)
    }
}

impl Sources {
    /// Reads all layers. Every fault that can be found is in the error, not only the first.
    pub fn load(&self) -> Result<Loaded, ConfigErrors> {
        let mut reading = Reading::new(&self.directory);
        for key in KEYS {
            reading.put(key, key.default.map(str::to_owned), Origin::Default);
        }
        let own = self.config.clone().unwrap_or_else(|| self.directory.join("config/hotset.toml"));
        reading.toml(&self.directory.join("config/default.toml"), false);
        reading.toml(&own, self.config.is_some());
        let env_file = self.env_file.clone().unwrap_or_else(|| self.directory.join(".env"));
        reading.env_file(&env_file, self.env_file.is_some());
        if let Some(folder) = self.environment.get(&OsString::from("CREDENTIALS_DIRECTORY")) {
            reading.credentials(Path::new(folder));
        }
        reading.environment(&self.environment);
        for (name, value) in &self.flags {
            if let Some((key, flag)) = find_key(name).and_then(|key| Some((key, key.flag()?))) {
                reading.put(key, Some(value.clone()), Origin::Flag(format!("--{flag}")));
            }
        }
        reading.finish()
    }
}

/// Names and values of one layer that looks like an environment.
type Variables = BTreeMap<String, (String, Origin)>;

/// The layers so far.
struct Reading<'s> {
    directory: &'s Path,
    entries: BTreeMap<&'static str, Entry>,
    warnings: Vec<Warning>,
    errors: Vec<ConfigError>,
    read: Vec<PathBuf>,
    watched: Vec<PathBuf>,
}

impl<'s> Reading<'s> {
    fn new(directory: &'s Path) -> Self {
        let (warnings, errors, read, watched) = Default::default();
        Self { directory, entries: BTreeMap::new(), warnings, errors, read, watched }
    }

    fn put(&mut self, key: &'static Key, value: Option<String>, origin: Origin) {
        self.entries.insert(key.name, Entry { raw: value.as_deref().map(Secret::new), origin });
    }

    fn finish(mut self) -> Result<Loaded, ConfigErrors> {
        let (settings, errors) = Loaded::settings_of(&self.entries);
        self.errors.extend(errors);
        if !self.errors.is_empty() {
            return Err(ConfigErrors(self.errors));
        }
        let Self { entries, warnings, read, watched, .. } = self;
        Ok(Loaded { settings, entries, warnings, read, watched })
    }

    /// The file's text, or `None` if it is not there and need not be, or cannot be read (noted as an error).
    fn text(&mut self, path: &Path, required: bool) -> Option<String> {
        self.watched.push(path.into());
        match read_small(path) {
            Ok(text) => {
                self.read.push(path.into());
                Some(text)
            }
            Err(error) if !required && absent(&error) => None,
            Err(error) if !required && error.kind() == io::ErrorKind::IsADirectory => {
                self.warnings.push(Warning(format!("{} is a folder and not read", path.display())));
                None
            }
            Err(source) => {
                self.errors.push(ConfigError::Unreadable { path: path.into(), source });
                None
            }
        }
    }

    fn toml(&mut self, path: &Path, required: bool) {
        let Some(text) = self.text(path, required) else { return };
        let values = match toml_file::parse(&text, path) {
            Ok(values) => values,
            Err(error) => return self.errors.push(error),
        };
        let origin = |line| Origin::Toml { path: path.into(), line };
        for (name, (_, line)) in &values {
            if !known(name) {
                let nearest = nearest(name, KEYS.iter().map(|key| key.name), 3).map(str::to_owned);
                self.errors.push(ConfigError::Unknown { name: name.clone(), origin: origin(*line), nearest });
            }
        }
        let variables =
            values.into_iter().map(|(name, (value, line))| (name.to_ascii_uppercase(), (value, origin(line))));
        self.variables(&variables.collect());
    }

    fn env_file(&mut self, path: &Path, required: bool) {
        let Some(text) = self.text(path, required) else { return };
        let assignments = match env_file::parse(&text, path, &mut self.warnings) {
            Ok(assignments) => assignments,
            Err(error) => return self.errors.push(error),
        };
        let mut variables = Variables::new();
        for assignment in assignments {
            let origin = Origin::EnvFile { path: path.into(), line: assignment.line };
            variables.insert(assignment.name, (assignment.value, origin));
        }
        for (name, (_, origin)) in &variables {
            self.check_prefixed(name, origin);
            if let Some(meant) = near_miss(name) {
                self.warnings.push(Warning(format!("{origin}: {name} is no setting (did you mean {meant}?)")));
            }
        }
        self.variables(&variables);
        self.warn_if_secrets_are_readable(path, &variables);
    }

    fn warn_if_secrets_are_readable(&mut self, path: &Path, variables: &Variables) {
        let secret = |key: &&Key| key.is_secret();
        let holds_one = KEYS
            .iter()
            .filter(secret)
            .flat_map(names)
            .any(|name| variables.get(&name).is_some_and(|(value, _)| !value.is_empty()));
        let readable = path.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0);
        if holds_one && readable {
            let path = path.display();
            self.warnings.push(Warning(format!("{path} holds a password and everyone may read it: chmod 600 {path}")));
        }
    }

    fn credentials(&mut self, folder: &Path) {
        for key in KEYS.iter().filter(|key| key.is_secret()) {
            let path = folder.join(key.name);
            match read_secret(&path) {
                Ok(value) => self.put(key, Some(value), Origin::Credential(path)),
                Err(error) if absent(&error) => {}
                Err(source) => self.errors.push(ConfigError::Unreadable { path, source }),
            }
        }
    }

    fn environment(&mut self, environment: &BTreeMap<OsString, OsString>) {
        let mut variables = Variables::new();
        for (name, value) in environment {
            let Some(name) = name.to_str() else { continue };
            let origin = Origin::Environment(name.into());
            self.check_prefixed(name, &origin);
            if !known(&bare(name).to_ascii_lowercase()) {
                continue;
            }
            match value.to_str() {
                Some(value) => {
                    variables.insert(name.into(), (value.into(), origin));
                }
                None => self.errors.push(ConfigError::Invalid {
                    name: name.into(),
                    origin,
                    value: "not UTF-8".into(),
                    expected: "text".into(),
                }),
            }
        }
        self.variables(&variables);
    }

    fn check_prefixed(&mut self, name: &str, origin: &Origin) {
        if name.starts_with(PREFIX) && !RESERVED.contains(&name) && !known(&bare(name).to_ascii_lowercase()) {
            let wanted = bare(name).to_ascii_lowercase();
            let nearest = nearest(&wanted, KEYS.iter().map(|key| key.name), 3);
            let nearest = nearest.map(|name| format!("{PREFIX}{}", name.to_ascii_uppercase()));
            self.errors.push(ConfigError::Unknown { name: name.into(), origin: origin.clone(), nearest });
        }
    }

    /// Takes what this layer says about each setting: the prefixed name before the bare one.
    fn variables(&mut self, variables: &Variables) {
        for key in KEYS {
            for name in [format!("{PREFIX}{}", key.env_name()), key.env_name()] {
                if self.variable(key, &name, variables) {
                    break;
                }
            }
        }
    }

    /// Whether the layer sets `key` under this `name`, directly or by a file.
    fn variable(&mut self, key: &'static Key, name: &str, variables: &Variables) -> bool {
        let set = |(value, _): &&(String, Origin)| key.may_be_empty() || !value.is_empty();
        let direct = variables.get(name).filter(set);
        let file = variables.get(&format!("{name}_FILE")).filter(|(path, _)| key.is_secret() && !path.is_empty());
        match (direct, file) {
            (Some((_, one)), Some((_, other))) => {
                let (one, other) = (one.clone(), other.clone());
                self.errors.push(ConfigError::Ambiguous { name: key.env_name(), one, other });
            }
            (Some((value, origin)), None) => self.put(key, Some(value.clone()), origin.clone()),
            (None, Some((path, origin))) => {
                let path = self.directory.join(path);
                match read_secret(&path) {
                    Ok(value) => self.put(key, Some(value), origin.clone()),
                    Err(source) => self.errors.push(ConfigError::Unreadable { path, source }),
                }
            }
            (None, None) => return false,
        }
        true
    }
}

fn bare(name: &str) -> &str {
    name.strip_prefix(PREFIX).unwrap_or(name)
}

/// Whether `name` (lower case, without prefix) is a setting or a secret's file.
fn known(name: &str) -> bool {
    let secret = || name.strip_suffix("_file").and_then(find_key).is_some_and(Key::is_secret);
    find_key(name).is_some() || secret()
}

/// Every name under which the environment may set it.
fn names(key: &Key) -> [String; 2] {
    [key.env_name(), format!("{PREFIX}{}", key.env_name())]
}

/// The setting that an unknown bare name in `.env` was probably meant to be. Short names differ too little to tell.
fn near_miss(name: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    if FOREIGN.contains(&name) || name.starts_with(PREFIX) || (known(&lower) && *name == name.to_ascii_uppercase()) {
        return None;
    }
    let slips = if name.len() < 6 { 1 } else { 2 };
    nearest(&lower, KEYS.iter().map(|key| key.name), slips).map(str::to_ascii_uppercase)
}

fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn read_small(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("over {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// A secret's file: its first line end, if it is the last thing in the file, is not part of the secret.
fn read_secret(path: &Path) -> io::Result<String> {
    let text = read_small(path)?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}
