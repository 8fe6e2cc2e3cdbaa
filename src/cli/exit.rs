//! How a command ends: the exit codes of sysexits, and what to print with them.

use crate::config::{AccessError, ConfigErrors, DataDirError};
use crate::server::ServeError;
use crate::storage::recovery::OpenError;
use std::fmt;
use std::io;
use std::process::ExitCode;

/// Every way to end. `docs/operations.md` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It is done.
    Done = 0,
    /// `hotset doctor` has found something that does not work.
    Unwell = 1,
    /// The command line is wrong.
    Usage = 64,
    /// Stored data are damaged, or not what they should be.
    Data = 65,
    /// The daemon cannot be reached, or is not healthy.
    Unavailable = 69,
    /// Something is wrong that should not be possible.
    Internal = 70,
    /// A file or directory cannot be created.
    CannotCreate = 73,
    /// Reading or writing failed.
    InputOutput = 74,
    /// Another process is using the data directory: try again later.
    Temporary = 75,
    /// Not allowed: by the file system, or by the daemon.
    Permission = 77,
    /// The settings are wrong.
    Config = 78,
}

impl Exit {
    /// All of them, for the documentation's test.
    pub const ALL: &[Self] = &[
        Self::Done,
        Self::Unwell,
        Self::Usage,
        Self::Data,
        Self::Unavailable,
        Self::Internal,
        Self::CannotCreate,
        Self::InputOutput,
        Self::Temporary,
        Self::Permission,
        Self::Config,
    ];

    /// The number.
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// A command that did not do what was asked.
#[derive(Debug)]
pub struct Failure {
    /// How the program ends.
    pub exit: Exit,
    /// What to tell; may have several lines.
    pub message: String,
}

impl Failure {
    /// A failure with this message.
    pub fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, message: message.to_string() }
    }
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Self {
        Self::new(if errors.only_flags() { Exit::Usage } else { Exit::Config }, errors)
    }
}

impl From<DataDirError> for Failure {
    fn from(error: DataDirError) -> Self {
        let exit = match &error {
            DataDirError::Create { source, .. } => exit_of(source, Exit::CannotCreate),
            DataDirError::NotADirectory { .. } => Exit::CannotCreate,
            DataDirError::NotWritable { .. } | DataDirError::NotReadable { .. } => Exit::Permission,
        };
        Self::new(exit, error)
    }
}

impl From<AccessError> for Failure {
    fn from(error: AccessError) -> Self {
        let exit = match &error {
            AccessError::File { source, .. } => exit_of(source, Exit::CannotCreate),
            AccessError::Unusable { .. } => Exit::Data,
        };
        Self::new(exit, error)
    }
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        match error {
            ServeError::DataDir(error) => error.into(),
            ServeError::Access(error) => error.into(),
            ServeError::Open(error) => error.into(),
            ServeError::Import { .. } => Self::new(Exit::Data, &error),
            ServeError::Listen { .. } => Self::new(Exit::Unavailable, &error),
            ServeError::System { ref source, .. } => Self::new(exit_of(source, Exit::InputOutput), &error),
        }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        let exit = match &error {
            OpenError::Locked { .. } => Exit::Temporary,
            OpenError::Unusable { .. } => Exit::Permission,
            OpenError::Unsupported { .. } => Exit::Config,
            OpenError::Disk { error, .. } => exit_of(error, Exit::InputOutput),
            OpenError::Io(source) => exit_of(source, Exit::InputOutput),
            OpenError::Journal(_) => Exit::InputOutput,
        };
        Self::new(exit, error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(exit_of(&error, Exit::InputOutput), error)
    }
}

fn exit_of(error: &io::Error, otherwise: Exit) -> Exit {
    if error.kind() == io::ErrorKind::PermissionDenied { Exit::Permission } else { otherwise }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_file_system_does_not_allow_ends_with_77() {
        let (path, owner) = (std::path::PathBuf::from("data"), "uid 1, gid 1".to_owned());
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        for error in [
            DataDirError::Create { path: path.clone(), source: denied() },
            DataDirError::NotWritable { path: path.clone(), owner: owner.clone(), source: denied() },
            DataDirError::NotReadable { path, owner, source: denied() },
        ] {
            let failure = Failure::from(error);
            assert_eq!(failure.exit, Exit::Permission, "{failure:?}");
            assert!(failure.message.contains("data") && failure.message.contains("running as uid"), "{failure:?}");
        }
    }

    #[test]
    fn every_exit_code_is_documented() {
        let page = include_str!("../../docs/operations.md");
        for exit in Exit::ALL {
            assert!(page.contains(&format!("| {} |", exit.code())), "{exit:?} is missing in docs/operations.md");
        }
    }
}
