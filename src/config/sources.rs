//! Where settings come from, and which of several values wins: flag > environment > `.env` > TOML > default.

use super::error::{ConfigError, ConfigErrors, Origin, Warning};
use super::nearest::nearest;
use super::{KEYS, Key, Settings, env_file, find_key, toml_file};
use crate::ops::secret::{Secret, check_file};
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

    /// Whether a daemon could listen on all its ports. Commands do not ask: `--http-port` may name a daemon whose `PORT`
    /// they do not know.
    pub fn check_ports(&self) -> Result<(), ConfigErrors> {
        let errors = self.shared_ports();
        if errors.is_empty() { Ok(()) } else { Err(ConfigErrors(errors)) }
    }
}

impl Sources {
    /// Reads all layers. Every fault that can be found is in the error, not only the first.
    pub fn load(&self) -> Result<Loaded, ConfigErrors> {
        self.read().finish()
    }

    /// What can be used of all layers; whatever is wrong counts as not set. For finding a daemon that runs already.
    pub fn load_what_is_good(&self) -> Loaded {
        self.read().finish_without_faults()
    }

    fn read(&self) -> Reading<'_> {
        let mut reading = Reading::new(&self.directory);
        for key in KEYS {
            reading.put(key, key.default, Origin::Default);
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
                reading.put(key, Some(value), Origin::Flag(format!("--{flag}")));
            }
        }
        reading
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

    fn put(&mut self, key: &'static Key, value: Option<&str>, origin: Origin) {
        self.entries.insert(key.name, Entry { raw: value.map(Secret::new), origin });
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

    fn finish_without_faults(mut self) -> Loaded {
        for key in KEYS {
            let raw = self.entries.get(key.name).and_then(|entry| entry.raw.as_ref());
            if raw.is_some_and(|raw| key.kind.apply(&mut Settings::blank(), raw.reveal()).is_err()) {
                self.put(key, key.default, Origin::Default);
            }
        }
        let (settings, _) = Loaded::settings_of(&self.entries);
        let Self { entries, warnings, read, watched, .. } = self;
        Loaded { settings, entries, warnings, read, watched }
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
                let wanted = name.to_ascii_lowercase();
                let nearest = nearest(&wanted, KEYS.iter().map(|key| key.name), 3).map(str::to_owned);
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
                Ok(value) => self.put(key, Some(&value), Origin::Credential(path)),
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
            (Some((value, origin)), None) => self.put(key, Some(value), origin.clone()),
            (None, Some((path, origin))) => {
                let path = self.directory.join(path);
                match read_secret(&path) {
                    Ok(value) => self.put(key, Some(&value), origin.clone()),
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
    check_file(path)?;
    let text = read_small(path)?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::Duration;

    /// A folder of configuration, and what else settings may come from.
    struct House {
        folder: tempfile::TempDir,
        sources: Sources,
    }

    impl House {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("config")).unwrap();
            let sources = Sources { directory: folder.path().into(), ..Sources::default() };
            Self { folder, sources }
        }

        fn file(self, name: &str, text: &str) -> Self {
            fs::write(self.folder.path().join(name), text).unwrap();
            self
        }

        fn env(mut self, name: &str, value: &str) -> Self {
            self.sources.environment.insert(name.into(), value.into());
            self
        }

        fn flag(mut self, name: &'static str, value: &str) -> Self {
            self.sources.flags.insert(name, value.into());
            self
        }

        fn load(&self) -> Loaded {
            self.sources.load().unwrap()
        }

        /// The errors, with the folder's own path left out.
        fn errors(&self) -> Vec<String> {
            let folder = format!("{}/", self.folder.path().display());
            self.sources.load().unwrap_err().0.iter().map(|error| error.to_string().replace(&folder, "")).collect()
        }

        fn warnings(&self) -> Vec<String> {
            let folder = format!("{}/", self.folder.path().display());
            self.load().warnings.iter().map(|warning| warning.0.replace(&folder, "")).collect()
        }
    }

    /// The layers from weakest to strongest, each adding its own value.
    const LAYERS: &[fn(House, &str) -> House] = &[
        |house, value| house.file("config/default.toml", &format!("max_backups = {value}")),
        |house, value| house.file("config/hotset.toml", &format!("max_backups = {value}")),
        |house, value| house.file(".env", &format!("MAX_BACKUPS={value}")),
        |house, value| house.env("MAX_BACKUPS", value),
        |house, value| house.env("HOTSET_MAX_BACKUPS", value),
        |house, value| house.flag("max_backups", value),
    ];

    #[test]
    fn of_any_two_layers_the_stronger_one_wins() {
        assert_eq!(House::new().load().settings.saving.max_backups, 10);
        for (weak, weaker) in LAYERS.iter().enumerate() {
            assert_eq!(weaker(House::new(), "3").load().settings.saving.max_backups, 3);
            for stronger in &LAYERS[weak + 1..] {
                let house = stronger(weaker(House::new(), "3"), "4");
                assert_eq!(house.load().settings.saving.max_backups, 4);
            }
        }
    }

    #[test]
    fn each_value_knows_where_it_comes_from() {
        let house = House::new()
            .file("config/hotset.toml", "# mine\nhistory = \"2h\"\n")
            .file(".env", "\nSAVE_INTERVAL=7\nSAVE_INTERVAL=8\n")
            .env("HOTSET_MAX_CHAT", "9")
            .flag("port", "1");
        let loaded = house.load();
        let origin = |name: &str| {
            let folder = format!("{}/", house.folder.path().display());
            loaded.entries[name].origin.to_string().replace(&folder, "")
        };
        assert_eq!(origin("history"), "config/hotset.toml:2");
        assert_eq!(origin("save_interval"), ".env:3");
        assert_eq!(origin("max_chat"), "environment HOTSET_MAX_CHAT");
        assert_eq!(origin("port"), "flag --port");
        assert_eq!(origin("timeout"), "default");
        assert_eq!(loaded.settings.saving.interval, Duration::from_secs(8), "the last duplicate wins");
    }

    #[test]
    fn every_setting_can_be_set_in_every_layer() {
        for key in KEYS {
            let value = other_value(key);
            let toml = if value.parse::<u64>().is_ok() { value.clone() } else { format!("{value:?}") };
            let name = key.env_name();
            let mut houses = vec![
                House::new().file("config/hotset.toml", &format!("{} = {toml}", key.name)),
                House::new().file(".env", &format!("{name}={value}")),
                House::new().file(".env", &format!("HOTSET_{name}={value}")),
                House::new().env(&name, &value),
                House::new().env(&format!("HOTSET_{name}"), &value),
            ];
            if !key.is_secret() {
                houses.push(House::new().flag(key.name, &value));
            }
            let default = House::new().load();
            for house in houses {
                let loaded = house.load();
                let mut expected = default.settings.clone();
                key.kind.apply(&mut expected, &value).unwrap();
                assert_eq!(loaded.settings, expected, "{name}");
                assert_ne!(loaded.settings, default.settings, "{name} sets nothing");
                assert_ne!(loaded.entries[key.name].origin, Origin::Default, "{name}");
            }
        }
    }

    /// A good value that is not the default.
    fn other_value(key: &Key) -> String {
        [
            "77",
            "70MiB",
            "80KiB",
            "true",
            "::1",
            "/elsewhere",
            "http://a",
            "DEBUG",
            "json",
            "700",
            "100ms",
            "none",
            "film=5570",
        ]
        .into_iter()
        .find(|text| {
            let mut settings = Settings::default();
            key.kind.apply(&mut settings, text).is_ok() && settings != Settings::default()
        })
        .unwrap_or_else(|| panic!("a value for {}", key.name))
        .into()
    }

    #[test]
    fn unknown_names_are_errors_with_the_nearest_name() {
        let house = House::new()
            .file("config/hotset.toml", "prot = 1\ncolour = 2\n")
            .file(".env", "HOTSET_SAVE_INTERVALL=1\n")
            .env("HOTSET_MAX_BACKUP", "1");
        assert_eq!(
            house.errors(),
            [
                "config/hotset.toml:2: there is no setting colour",
                "config/hotset.toml:1: there is no setting prot (did you mean port?)",
                ".env:1: there is no setting HOTSET_SAVE_INTERVALL (did you mean HOTSET_SAVE_INTERVAL?)",
                "environment HOTSET_MAX_BACKUP: there is no setting HOTSET_MAX_BACKUP (did you mean HOTSET_MAX_BACKUPS?)",
            ]
        );
    }

    #[test]
    fn a_name_in_capitals_is_told_how_it_is_written_in_toml() {
        let errors = House::new().file("config/hotset.toml", "SAVE_INTERVAL = 30\n").errors();
        assert_eq!(errors, ["config/hotset.toml:1: there is no setting SAVE_INTERVAL (did you mean save_interval?)"]);
    }

    #[test]
    fn what_is_good_is_read_beside_what_is_wrong() {
        let house = House::new().file("config/hotset.toml", "port = \n").file(".env", "DATA_DIR=here\nTIMEOUT=never\n");
        let loaded = house.env("HOTSET_NONSENSE", "1").sources.load_what_is_good();
        assert_eq!(loaded.settings.data_dir, PathBuf::from("here"));
        assert_eq!(loaded.settings.network, Settings::default().network);
    }

    #[test]
    fn bare_names_in_env_files_are_warned_about_only_when_nearly_ours() {
        let text = "SAVE_INTERVALL=1\nmax_backups=3\nUID=1000\nGID=1\nCOMPOSE_PROJECT_NAME=x\nSPORT=1\nMODE=2\n";
        assert_eq!(
            House::new().file(".env", text).warnings(),
            [
                ".env:1: SAVE_INTERVALL is no setting (did you mean SAVE_INTERVAL?)",
                ".env:6: SPORT is no setting (did you mean PORT?)",
                ".env:2: max_backups is no setting (did you mean MAX_BACKUPS?)",
            ]
        );
        assert!(House::new().env("SAVE_INTERVALL", "1").load().warnings.is_empty());
    }

    #[test]
    fn wrong_values_name_setting_place_and_what_is_allowed() {
        let house = House::new().file("config/hotset.toml", "port = 70000\n").file(".env", "SAVE_INTERVAL=0\n");
        let errors = house.env("DOORS", "front").env("MAX_NODES", "-1").errors();
        assert_eq!(
            errors[..2],
            [
                ".env:1: SAVE_INTERVAL is \"0\", expected a time from 1s to 1d, in seconds or like 2m, 1h30m, 500ms",
                "config/hotset.toml:1: PORT is \"70000\", expected a port from 0 to 65533",
            ]
        );
        assert_eq!(errors.len(), 4);
    }

    #[test]
    fn an_empty_value_counts_as_not_set_but_for_secrets_and_lists() {
        let house = House::new().env("MAX_BACKUPS", "").env("SERVER_PASSWORD", "").env("ALLOWED_ORIGINS", "");
        let settings = house.load().settings;
        assert_eq!(settings.saving.max_backups, 10);
        assert_eq!(settings.passwords.server, Some(Secret::new("")));
        assert_eq!(settings.passwords.admin, None);
    }

    #[test]
    fn secrets_come_from_files_and_credentials() {
        let house = House::new().file("join", "from-a-file\r\n").env("SERVER_PASSWORD_FILE", "join");
        assert_eq!(house.load().settings.passwords.server, Some(Secret::new("from-a-file")));
        let house = House::new().file("join", "p w").file("config/hotset.toml", "server_password_file = \"join\"");
        assert_eq!(house.load().settings.passwords.server, Some(Secret::new("p w")));
        let house = House::new().file("admin_password", "credential\n").file(".env", "ADMIN_PASSWORD=weaker");
        let folder = house.folder.path().display().to_string();
        let house = house.env("CREDENTIALS_DIRECTORY", &folder);
        assert_eq!(house.load().settings.passwords.admin, Some(Secret::new("credential")));
        let house = house.env("ADMIN_PASSWORD", "stronger");
        assert_eq!(house.load().settings.passwords.admin, Some(Secret::new("stronger")));
    }

    #[test]
    fn a_secret_given_twice_or_from_a_missing_file_is_an_error() {
        let house = House::new().env("SERVER_PASSWORD", "x").env("SERVER_PASSWORD_FILE", "join");
        assert!(house.errors()[0].contains("environment SERVER_PASSWORD and by environment SERVER_PASSWORD_FILE"));
        let missing = House::new().env("SERVER_PASSWORD_FILE", "join").errors();
        assert!(missing[0].starts_with("join: No such file"), "{missing:?}");
    }

    #[test]
    fn named_files_must_exist_and_usual_ones_need_not() {
        let mut house = House::new();
        house.sources.config = Some(house.folder.path().join("absent.toml"));
        house.sources.env_file = Some(house.folder.path().join("absent.env"));
        assert_eq!(house.errors().len(), 2);
        let house = House::new();
        fs::create_dir(house.folder.path().join(".env")).unwrap();
        assert_eq!(house.warnings(), [".env is a folder and not read"]);
    }

    #[test]
    fn secrets_are_in_no_error_no_debug_and_no_table() {
        let bad = House::new().env("SERVER_PASSWORD", "canary\u{7}").sources.load().unwrap_err();
        assert!(!format!("{bad} {bad:?}").contains("canary"));
        let loaded = House::new().env("SERVER_PASSWORD", "canary").load();
        let shown: Vec<String> = KEYS.iter().map(|key| loaded.entries[key.name].shown(key)).collect();
        assert!(!format!("{loaded:?} {shown:?}").contains("canary"));
        assert!(shown.contains(&"(hidden)".to_owned()));
    }

    #[test]
    fn a_password_that_everyone_may_read_is_warned_about() {
        let house = House::new().file(".env", "SERVER_PASSWORD=x\n");
        let path = house.folder.path().join(".env");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(house.warnings(), [".env holds a password and everyone may read it: chmod 600 .env"]);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(house.warnings().is_empty());
    }

    #[test]
    fn files_that_are_no_text_or_far_too_large_are_errors() {
        let house = House::new();
        fs::write(house.folder.path().join(".env"), b"A=\xff\n").unwrap();
        assert!(house.errors()[0].starts_with(".env: "));
        let house = House::new().file(".env", &"#".repeat(2 << 20));
        assert!(house.errors()[0].contains("over 1048576 bytes"));
    }
}
