//! The data directory: made on first use, for its owner only, with errors that name path and user.

use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// It is not there and cannot be made.
    #[error("cannot create the data directory {}: {source} (running as {})", path.display(), who())]
    Create {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is there, and nothing can be written into it.
    #[error("the data directory {} is not writable: {source} (running as {}; the directory belongs to {owner})",
            path.display(), who())]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// User and group that own it.
        owner: String,
        /// Why.
        source: io::Error,
    },
    /// It is there, and this user may not look into it.
    #[error("the data directory {} is not readable: {source} (running as {}; the directory belongs to {owner})",
            path.display(), who())]
    NotReadable {
        /// The directory.
        path: PathBuf,
        /// User and group that own it.
        owner: String,
        /// Why.
        source: io::Error,
    },
    /// Something else lies in its place.
    #[error("the data directory {} is not a directory", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
}

/// Makes the data directory (mode 0700) if it is missing, and checks that this user may write into it. An existing
/// directory is not changed.
pub fn prepare(path: &Path) -> Result<(), DataDirError> {
    match std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(DataDirError::NotADirectory { path: path.into() });
        }
        Err(source) => return Err(DataDirError::Create { path: path.into(), source }),
    }
    check_writable(path)
}

/// Checks that this user may write into the data directory.
pub fn check_writable(path: &Path) -> Result<(), DataDirError> {
    if path.exists() && !path.is_dir() {
        return Err(DataDirError::NotADirectory { path: path.into() });
    }
    // Asked for the effective user, as files will be made by it.
    let writable = rustix::fs::accessat(
        rustix::fs::CWD,
        path,
        rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK,
        rustix::fs::AtFlags::EACCESS,
    );
    writable.map_err(|error| DataDirError::NotWritable { path: path.into(), owner: owner(path), source: error.into() })
}

/// Checks that this user may look into the data directory. One that is not there is no error here.
pub fn check_readable(path: &Path) -> Result<(), DataDirError> {
    let readable = rustix::fs::accessat(
        rustix::fs::CWD,
        path,
        rustix::fs::Access::READ_OK | rustix::fs::Access::EXEC_OK,
        rustix::fs::AtFlags::EACCESS,
    );
    match readable.map_err(io::Error::from) {
        Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            Err(DataDirError::NotReadable { path: path.into(), owner: owner(path), source })
        }
        _ => Ok(()),
    }
}

fn who() -> String {
    format!("uid {}, gid {}", rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

fn owner(path: &Path) -> String {
    use std::os::unix::fs::MetadataExt as _;
    path.metadata().map_or_else(|_| "nobody knows whom".into(), |m| format!("uid {}, gid {}", m.uid(), m.gid()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn it_is_made_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        prepare(&path).unwrap();
        prepare(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn errors_name_the_path_and_the_user() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(prepare(&file), Err(DataDirError::NotADirectory { .. })));
        let error = prepare(&file.join("below")).unwrap_err().to_string();
        assert!(error.contains("file/below") && error.contains("running as uid "), "{error}");
    }
}
