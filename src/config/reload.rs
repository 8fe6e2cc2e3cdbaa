//! Reading the settings again: what changed, what is in force at once, what waits for a restart.

use super::error::{ConfigErrors, Origin, Warning};
use super::{Apply, Entry, KEYS, Key, Loaded, Settings, Sources};
use std::fmt;

/// What became of a changed setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It is in force.
    Applied,
    /// It will be in force after a restart.
    NeedsRestart,
    /// It is again what the daemon was started with.
    AsRunning,
}

/// One setting that differs from what was read last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Its name in the environment.
    pub name: String,
    /// What it was, for people.
    pub old: String,
    /// What it is, for people.
    pub new: String,
    /// Where the new value comes from.
    pub origin: Origin,
    /// What became of it.
    pub effect: Effect,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, old, new, origin, effect } = self;
        let effect = match effect {
            Effect::Applied => "applied",
            Effect::NeedsRestart => "needs a restart",
            Effect::AsRunning => "as it is running",
        };
        if old == new { write!(f, "{name} changed") } else { write!(f, "{name}: {old} -> {new}") }?;
        write!(f, " ({origin}), {effect}")
    }
}

/// The outcome of reading again.
#[derive(Debug, Clone)]
pub struct Reload {
    /// What is in force now.
    pub settings: Settings,
    /// What changed since it was read last; empty if nothing did.
    pub differences: Vec<Difference>,
    /// Warnings that were not there when it was read last.
    pub warnings: Vec<Warning>,
}

/// Remembers where settings come from and what they are, to read them again.
#[derive(Debug, Clone)]
pub struct Reloader {
    sources: Sources,
    in_force: Loaded,
    last_read: Loaded,
}

impl Reloader {
    /// Takes over what the daemon was started with.
    pub fn new(sources: Sources, loaded: &Loaded) -> Self {
        Self { sources, in_force: loaded.clone(), last_read: loaded.clone() }
    }

    /// What is in force, for example to decide again which passwords are.
    pub fn in_force(&self) -> &Loaded {
        &self.in_force
    }

    /// Reads all layers again. On an error nothing changes.
    pub fn reload(&mut self) -> Result<Reload, ConfigErrors> {
        let loaded = self.sources.load()?;
        let mut differences = Vec::new();
        for key in KEYS {
            let (old, new) = (&self.last_read.entries[key.name], &loaded.entries[key.name]);
            if !old.same_value(new, key) {
                differences.push(self.difference(key, old, new));
            }
            if key.apply == Apply::Live {
                self.in_force.entries.insert(key.name, new.clone());
            }
        }
        let is_new = |warning: &&Warning| !self.last_read.warnings.contains(warning);
        let warnings = loaded.warnings.iter().filter(is_new).cloned().collect();
        self.in_force.settings = Loaded::settings_of(&self.in_force.entries).0;
        self.last_read = loaded;
        Ok(Reload { settings: self.in_force.settings.clone(), differences, warnings })
    }

    fn difference(&self, key: &Key, old: &Entry, new: &Entry) -> Difference {
        let effect = match key.apply {
            Apply::Live => Effect::Applied,
            Apply::Restart if self.in_force.entries[key.name].same_value(new, key) => Effect::AsRunning,
            Apply::Restart => Effect::NeedsRestart,
        };
        let (old, origin) = (old.shown(key), new.origin.clone());
        Difference { name: key.env_name(), old, new: new.shown(key), origin, effect }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::Duration;

    struct House {
        folder: tempfile::TempDir,
        reloader: Reloader,
    }

    impl House {
        fn with_env(text: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(".env"), text).unwrap();
            let sources = Sources { directory: folder.path().into(), ..Sources::default() };
            let loaded = sources.load().unwrap();
            Self { folder, reloader: Reloader::new(sources, &loaded) }
        }

        fn reload_with(&mut self, text: &str) -> Result<Reload, ConfigErrors> {
            fs::write(self.folder.path().join(".env"), text).unwrap();
            self.reloader.reload()
        }
    }

    fn lines(reload: &Reload, folder: &tempfile::TempDir) -> Vec<String> {
        let folder = format!("{}/", folder.path().display());
        reload.differences.iter().map(|difference| difference.to_string().replace(&folder, "")).collect()
    }

    #[test]
    fn what_can_change_is_applied_and_what_cannot_waits() {
        let mut house = House::with_env("SAVE_INTERVAL=60\nPORT=6000\n");
        let reload = house.reload_with("SAVE_INTERVAL=30\nPORT=7000\n").unwrap();
        assert_eq!(
            lines(&reload, &house.folder),
            ["SAVE_INTERVAL: 60 -> 30 (.env:1), applied", "PORT: 6000 -> 7000 (.env:2), needs a restart"]
        );
        assert_eq!(reload.settings.saving.interval, Duration::from_secs(30));
        assert_eq!(reload.settings.network.port, 6000, "still what is listened on");
        let reload = house.reload_with("SAVE_INTERVAL=30\nPORT=6000\n").unwrap();
        assert_eq!(lines(&reload, &house.folder), ["PORT: 7000 -> 6000 (.env:2), as it is running"]);
    }

    #[test]
    fn another_spelling_of_the_same_value_is_no_change() {
        let mut house = House::with_env("SAVE_INTERVAL=120\n");
        assert!(house.reload_with("# moved\nSAVE_INTERVAL=2m\n").unwrap().differences.is_empty());
    }

    #[test]
    fn wrong_settings_change_nothing() {
        let mut house = House::with_env("SAVE_INTERVAL=60\n");
        assert!(house.reload_with("SAVE_INTERVAL=30\nMAX_BACKUPS=many\n").is_err());
        let reload = house.reload_with("SAVE_INTERVAL=60\n").unwrap();
        assert!(reload.differences.is_empty());
        assert_eq!(reload.settings.saving.interval, Duration::from_mins(1));
    }

    #[test]
    fn a_removed_line_falls_back_to_the_default() {
        let mut house = House::with_env("SAVE_INTERVAL=60\n");
        let reload = house.reload_with("").unwrap();
        assert_eq!(lines(&reload, &house.folder), ["SAVE_INTERVAL: 60 -> 120 (default), applied"]);
    }

    #[test]
    fn a_changed_password_is_told_without_being_told() {
        let mut house = House::with_env("SERVER_PASSWORD=alpha-one\n");
        let reload = house.reload_with("SERVER_PASSWORD=beta-two\n").unwrap();
        assert_eq!(lines(&reload, &house.folder), ["SERVER_PASSWORD changed (.env:1), applied"]);
        let everything = format!("{reload:?} {:?}", house.reloader);
        assert!(!everything.contains("alpha-one") && !everything.contains("beta-two"));
    }

    #[test]
    fn only_new_warnings_are_told_again() {
        let mut house = House::with_env("SAVE_INTERVALL=60\n");
        assert!(house.reload_with("SAVE_INTERVALL=60\nMAX_BACKUPS=4\n").unwrap().warnings.is_empty());
        assert_eq!(house.reload_with("SAVE_INTERVALL=60\nMAXBACKUPS=4\n").unwrap().warnings.len(), 1);
    }
}
