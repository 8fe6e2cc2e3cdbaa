//! Composition: wires the rooms together, starts them, drains them.

use crate::config::{Access, AccessError, DataDirError, Loaded, Reloader, Sources, prepare_data_dir};
use crate::ops::signals::{self, Signal};
use crate::ops::{logging, supervisor, watch};
use std::io;

/// Why the daemon could not start or had to end.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A password file cannot be used.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// Something of the operating system failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> ServeError {
    move |source| ServeError::System { what, source }
}

/// Runs the daemon until a signal ends it.
pub fn run(sources: Sources, loaded: &Loaded) -> Result<(), ServeError> {
    let settings = &loaded.settings;
    let log = logging::start(settings.logging.level, settings.logging.format)
        .map_err(|error| system("logging")(io::Error::other(error)))?;
    let signals = signals::listen().map_err(system("signals"))?;
    tracing::info!("Hotset {} (data directory: {})", env!("CARGO_PKG_VERSION"), settings.data_dir.display());
    prepare_data_dir(&settings.data_dir)?;
    let access = Access::resolve(loaded)?;
    for warning in loaded.warnings.iter().chain(&access.warnings) {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(system("runtime"))?;
    let reloader = Reloader::new(sources, loaded);
    runtime.block_on(watch_over(reloader, loaded, &log, signals));
    Ok(())
}

/// Follows signals and changed files until it is time to stop.
async fn watch_over(
    mut reloader: Reloader,
    loaded: &Loaded,
    log: &logging::LogControl,
    mut signals: tokio::sync::mpsc::Receiver<Signal>,
) {
    let (_watch, mut changes) = match watch::watch_files(&loaded.watched) {
        Ok((watch, changes, _)) => (Some(watch), changes),
        Err(error) => {
            tracing::warn!("Changed settings are noticed on SIGHUP only: {error}");
            (None, tokio::sync::mpsc::channel(1).1)
        }
    };
    supervisor::ready("serving");
    loop {
        tokio::select! {
            signal = signals.recv() => match signal {
                Some(Signal::Reload) => reload(&mut reloader, log, true),
                Some(Signal::Save | Signal::Dump) => {}
                Some(Signal::Stop) | None => break,
            },
            Some(()) = changes.recv() => reload(&mut reloader, log, false),
        }
    }
    supervisor::stopping("stopping");
}

fn reload(reloader: &mut Reloader, log: &logging::LogControl, asked: bool) {
    supervisor::reloading();
    match reloader.reload() {
        Ok(reload) => {
            log.set_level(reload.settings.logging.level);
            for warning in &reload.warnings {
                tracing::warn!("{warning}");
            }
            if asked && reload.differences.is_empty() {
                tracing::info!("Settings read again: nothing changed");
            }
            for difference in &reload.differences {
                tracing::info!("Setting changed: {difference}");
            }
        }
        Err(errors) => tracing::error!("Settings not changed, they are wrong: {errors}"),
    }
    supervisor::ready("serving");
}
