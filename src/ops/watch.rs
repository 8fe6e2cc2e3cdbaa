//! Watching the configuration files: one word when some of them may have changed and are quiet again.

use notify::event::EventKind;
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;
use tokio::sync::mpsc;

/// Changes are told when nothing more has happened for this long: editors write in several steps.
const QUIET: Duration = Duration::from_millis(250);

/// Quiet spells that are waited for at most, so that a file written again and again is read all the same.
const ROUNDS_MAX: u32 = 8;

/// Watches files until it is dropped.
#[derive(Debug)]
pub struct FileWatch {
    _watcher: RecommendedWatcher,
}

/// Watches these files, whether they exist yet or not, as long as their folders do. What comes out of the receiver
/// means "read them again"; it says nothing about whether the content differs. Folders that cannot be watched are
/// skipped and named in the last part of the answer.
pub fn watch_files(files: &[PathBuf]) -> notify::Result<(FileWatch, mpsc::Receiver<()>, Vec<String>)> {
    let names: BTreeSet<OsString> = files.iter().filter_map(|file| file.file_name()).map(OsString::from).collect();
    let (happened, happenings) = sync_channel(1);
    let mut watcher = notify::recommended_watcher(move |event| tell(&event, &names, &happened))?;
    let mut skipped = Vec::new();
    for folder in folders(files) {
        if let Err(error) = watcher.watch(&folder, RecursiveMode::NonRecursive) {
            skipped.push(format!("{}: {error}", folder.display()));
        }
    }
    let (sender, receiver) = mpsc::channel(1);
    std::thread::Builder::new()
        .name("config-watch".into())
        .spawn(move || settle(&happenings, &sender))
        .map_err(notify::Error::io)?;
    Ok((FileWatch { _watcher: watcher }, receiver, skipped))
}

fn folders(files: &[PathBuf]) -> BTreeSet<PathBuf> {
    let parents = files.iter().filter_map(|file| file.parent());
    let folders = parents.map(|folder| if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.into() });
    folders.filter(|folder| folder.is_dir()).collect()
}

fn tell(event: &notify::Result<Event>, names: &BTreeSet<OsString>, happened: &SyncSender<()>) {
    let concerns_us = match event {
        Ok(event) if matches!(event.kind, EventKind::Access(_)) => false,
        // Without a name (an overflow) or with an error anything may have changed. Kubernetes swaps a link beside the
        // file, so links beginning with two dots count too.
        Ok(event) => {
            event.paths.is_empty()
                || event
                    .paths
                    .iter()
                    .filter_map(|path| path.file_name())
                    .any(|name| names.contains(name) || name.to_string_lossy().starts_with(".."))
        }
        Err(_) => true,
    };
    if concerns_us {
        // A full channel means that one word is waiting already.
        let _waiting = happened.try_send(());
    }
}

fn settle(happenings: &Receiver<()>, sender: &mpsc::Sender<()>) {
    while happenings.recv().is_ok() {
        for _ in 0..ROUNDS_MAX {
            match happenings.recv_timeout(QUIET) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        if sender.blocking_send(()).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said_something(receiver: &mut mpsc::Receiver<()>, within: Duration) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async { tokio::time::timeout(within, receiver.recv()).await.is_ok() })
    }

    #[test]
    fn a_changed_a_new_and_a_replaced_file_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hotset.toml");
        let (_watch, mut changes, skipped) = watch_files(std::slice::from_ref(&file)).unwrap();
        assert!(skipped.is_empty());
        std::fs::write(&file, "port = 1").unwrap();
        assert!(said_something(&mut changes, Duration::from_secs(10)), "new");
        std::fs::write(&file, "port = 2").unwrap();
        assert!(said_something(&mut changes, Duration::from_secs(10)), "changed");
        let other = folder.path().join("other");
        std::fs::write(&other, "port = 3").unwrap();
        std::fs::rename(&other, &file).unwrap();
        assert!(said_something(&mut changes, Duration::from_secs(10)), "replaced");
    }

    #[test]
    fn a_neighbouring_file_is_nobodys_business() {
        let folder = tempfile::tempdir().unwrap();
        let (_watch, mut changes, _) = watch_files(&[folder.path().join("hotset.toml")]).unwrap();
        std::fs::write(folder.path().join("notes.txt"), "hello").unwrap();
        assert!(!said_something(&mut changes, QUIET * 4));
    }
}
