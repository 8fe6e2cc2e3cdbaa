//! Reading the settings again: what changed, what is in force at once, what waits for a restart.

use super::error::{ConfigErrors, Origin, Warning};
use super::{Apply, Entry, KEYS, Key, Loaded, Settings, Sources};
use std::collections::BTreeMap;
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
    /// As in [`Loaded::warnings`].
    pub warnings: Vec<Warning>,
}

/// Remembers where settings come from and what they are, to read them again.
#[derive(Debug, Clone)]
pub struct Reloader {
    sources: Sources,
    in_force: BTreeMap<&'static str, Entry>,
    last_read: BTreeMap<&'static str, Entry>,
}

impl Reloader {
    /// Takes over what the daemon was started with.
    pub fn new(sources: Sources, loaded: &Loaded) -> Self {
        Self { sources, in_force: loaded.entries.clone(), last_read: loaded.entries.clone() }
    }

    /// Reads all layers again. On an error nothing changes.
    pub fn reload(&mut self) -> Result<Reload, ConfigErrors> {
        let loaded = self.sources.load()?;
        let mut differences = Vec::new();
        for key in KEYS {
            let (old, new) = (&self.last_read[key.name], &loaded.entries[key.name]);
            if !old.same_value(new, key) {
                differences.push(self.difference(key, old, new));
            }
            if key.apply == Apply::Live {
                self.in_force.insert(key.name, new.clone());
            }
        }
        self.last_read = loaded.entries;
        let (settings, _none) = Loaded::settings_of(&self.in_force);
        Ok(Reload { settings, differences, warnings: loaded.warnings })
    }

    fn difference(&self, key: &Key, old: &Entry, new: &Entry) -> Difference {
        let effect = match key.apply {
            Apply::Live => Effect::Applied,
            Apply::Restart if self.in_force[key.name].same_value(new, key) => Effect::AsRunning,
            Apply::Restart => Effect::NeedsRestart,
        };
        let (old, origin) = (old.shown(key), new.origin.clone());
        Difference { name: key.env_name(), old, new: new.shown(key), origin, effect }
    }
}
