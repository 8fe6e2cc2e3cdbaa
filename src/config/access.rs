//! Which passwords and tokens are in force: those that were set, or else generated ones kept in the data directory.

use super::error::{Origin, Warning};
use super::{Loaded, value};
use crate::ops::random;
use crate::ops::secret::{Secret, check_file};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Why a password file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// It cannot be read or made.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is in it cannot be a password.
    #[error("{} holds no password: delete it to have a new one generated", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
    },
}

/// Where a password in force comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PasswordSource {
    /// It was set.
    Set(Origin),
    /// It was generated, at this start or an earlier one, and lies in this file.
    File(PathBuf),
}

/// A password in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Password {
    /// The password itself.
    pub secret: Secret,
    /// Where it comes from.
    pub source: PasswordSource,
}

/// The passwords and tokens in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Opens the sessions; `None` = open to everyone who can reach the port.
    pub server: Option<Password>,
    /// Opens the sessions as well, and makes nobody an administrator; `None` = there is none.
    pub admin: Option<Password>,
    /// Makes an administrator of whoever joins with it, and opens REST. Never a Blender password, because those travel
    /// in clear.
    pub admin_token: Secret,
    /// What the operator should know, once per start.
    pub warnings: Vec<Warning>,
}

impl Access {
    /// Where the generated server password lies in the data directory.
    pub const SERVER_PASSWORD_FILE: &str = "server_password";
    /// Where the generated admin password lies in the data directory.
    pub const ADMIN_PASSWORD_FILE: &str = "admin_password";
    /// Where the admin token lies in the data directory.
    pub const ADMIN_TOKEN_FILE: &str = "admin_token";

    /// Decides what is in force, and generates what is missing. Call it with the data directory locked, so that only
    /// one daemon generates.
    pub fn resolve(loaded: &Loaded) -> Result<Self, AccessError> {
        let settings = &loaded.settings;
        let folder = &settings.data_dir;
        let mut warnings = Vec::new();
        let given = |secret: &Secret, name| Password {
            secret: secret.clone(),
            source: PasswordSource::Set(loaded.entries[name].origin.clone()),
        };
        let server = match &settings.passwords.server {
            Some(secret) if secret.is_empty() => None,
            Some(secret) => Some(given(secret, "server_password")),
            None if settings.network.bind.is_loopback() => kept(folder, Self::SERVER_PASSWORD_FILE)?,
            None => Some(kept_or_new(folder, Self::SERVER_PASSWORD_FILE, new_password)?),
        };
        if server.is_none() && !settings.network.bind.is_loopback() {
            let bind = settings.network.bind;
            warnings.push(Warning(format!(
                "SERVER_PASSWORD is empty: whoever can reach {bind} can join, change and delete"
            )));
        }
        let admin = match &settings.passwords.admin {
            Some(secret) if secret.is_empty() => None,
            Some(secret) => Some(given(secret, "admin_password")),
            None => Some(kept_or_new(folder, Self::ADMIN_PASSWORD_FILE, new_password)?),
        };
        let admin_token = kept_or_new(folder, Self::ADMIN_TOKEN_FILE, new_token)?.secret;
        Ok(Self { server, admin, admin_token, warnings })
    }

    /// What is in force according to settings and files, without generating anything.
    pub fn look(loaded: &Loaded) -> Result<(Option<Password>, Option<Password>), AccessError> {
        let look = |secret: &Option<Secret>, name, file| match secret {
            Some(secret) if secret.is_empty() => Ok(None),
            Some(secret) => Ok(Some(Password {
                secret: secret.clone(),
                source: PasswordSource::Set(loaded.entries[name].origin.clone()),
            })),
            None => kept(&loaded.settings.data_dir, file),
        };
        let passwords = &loaded.settings.passwords;
        Ok((
            look(&passwords.server, "server_password", Self::SERVER_PASSWORD_FILE)?,
            look(&passwords.admin, "admin_password", Self::ADMIN_PASSWORD_FILE)?,
        ))
    }

    /// The admin token of this data directory, if a daemon has made one.
    pub fn admin_token(data_dir: &Path) -> Result<Option<Secret>, AccessError> {
        Ok(kept(data_dir, Self::ADMIN_TOKEN_FILE)?.map(|password| password.secret))
    }
}

/// The password in the file, if there is one.
fn kept(folder: &Path, name: &str) -> Result<Option<Password>, AccessError> {
    let path = folder.join(name);
    let text = match check_file(&path).and_then(|()| fs::read_to_string(&path)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(AccessError::File { path, source }),
    };
    match value::secret(text.trim_end_matches(['\n', '\r'])).filter(|secret| !secret.is_empty()) {
        Some(secret) => Ok(Some(Password { secret, source: PasswordSource::File(path) })),
        None => Err(AccessError::Unusable { path }),
    }
}

fn kept_or_new(folder: &Path, name: &str, make: fn() -> String) -> Result<Password, AccessError> {
    let path = folder.join(name);
    if let Some(password) = kept(folder, name)? {
        protect(&path).map_err(|source| AccessError::File { path, source })?;
        return Ok(password);
    }
    let secret = make();
    write_new(&path, &secret).map_err(|source| AccessError::File { path: path.clone(), source })?;
    Ok(Password { secret: Secret::new(&secret), source: PasswordSource::File(path) })
}

/// Takes back what others may do with the file, for example after a restore from a copy.
fn protect(path: &Path) -> io::Result<()> {
    if path.metadata()?.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

/// Whole or not at all: a power cut must not leave an empty password behind.
pub(super) fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let partial = path.with_extension("new");
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(folder)?.sync_all()
}

/// Four groups of five letters and digits that are hard to mistake for each other: 100 random bits, fit to be typed.
fn new_password() -> String {
    const LETTERS: &[u8; 32] = b"abcdefghjkmnpqrstvwxyz0123456789";
    let bits = random::u128();
    let letter = |n: u32| char::from(LETTERS[usize::try_from((bits >> (5 * n)) & 31).expect("five bits")]);
    let groups: Vec<String> = (0..4).map(|group| (0..5).map(|n| letter(group * 5 + n)).collect()).collect();
    groups.join("-")
}

/// 256 random bits, recognisable as ours when it turns up where it should not.
fn new_token() -> String {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&random::u128().to_le_bytes());
    bytes[16..].copy_from_slice(&random::u128().to_le_bytes());
    format!("ht_admin_{}", URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    struct House {
        folder: tempfile::TempDir,
        sources: Sources,
    }

    impl House {
        fn new(set: &[(&str, &str)]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let mut sources = Sources { directory: folder.path().into(), ..Sources::default() };
            sources.environment = set.iter().map(|(name, value)| (name.into(), value.into())).collect();
            sources.environment.insert("DATA_DIR".into(), folder.path().into());
            Self { folder, sources }
        }

        fn access(&self) -> Access {
            Access::resolve(&self.sources.load().unwrap()).unwrap()
        }

        fn file(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }
    }

    const OUTSIDE: (&str, &str) = ("BIND", "0.0.0.0");

    #[test]
    fn reachable_from_outside_and_without_a_password_one_is_generated_and_kept() {
        let house = House::new(&[OUTSIDE]);
        let first = house.access();
        let password = first.server.clone().unwrap();
        assert_eq!(password.source, PasswordSource::File(house.file("server_password")));
        assert_eq!(password.secret.reveal().len(), 23);
        for name in ["server_password", "admin_password", "admin_token"] {
            assert_eq!(house.file(name).metadata().unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        }
        assert_eq!(house.access(), first, "the next start finds the same ones");
        assert_ne!(House::new(&[OUTSIDE]).access().server.unwrap().secret, password.secret);
    }

    #[test]
    fn on_this_machine_only_nobody_needs_a_password() {
        let access = House::new(&[]).access();
        assert_eq!(access.server, None);
        assert!(access.admin.is_some());
        assert_eq!(access.warnings, []);
    }

    #[test]
    fn a_server_password_that_is_set_but_empty_means_open_and_is_warned_about() {
        let house = House::new(&[OUTSIDE, ("SERVER_PASSWORD", ""), ("ADMIN_PASSWORD", "")]);
        let access = house.access();
        assert_eq!((access.server, access.admin), (None, None));
        let [warning] = &access.warnings[..] else { panic!("{:?}", access.warnings) };
        assert!(warning.0.starts_with("SERVER_PASSWORD is empty"), "{warning}");
        assert!(!house.file("server_password").exists() && !house.file("admin_password").exists());
    }

    #[test]
    fn a_password_that_is_set_is_used_and_never_written() {
        let house = House::new(&[OUTSIDE, ("SERVER_PASSWORD", "sesame"), ("ADMIN_PASSWORD", "open")]);
        let access = house.access();
        assert_eq!(access.server.unwrap().secret.reveal(), "sesame");
        assert_eq!(access.admin.unwrap().source, PasswordSource::Set(Origin::Environment("ADMIN_PASSWORD".into())));
        assert_eq!(fs::read_dir(house.folder.path()).unwrap().count(), 1, "the admin token only");
    }

    #[test]
    fn the_admin_token_is_long_random_and_recognisable() {
        let token = House::new(&[]).access().admin_token;
        assert_eq!(token.reveal().len(), "ht_admin_".len() + 43);
        assert!(token.reveal().starts_with("ht_admin_"));
        assert_ne!(token, House::new(&[]).access().admin_token);
    }

    #[test]
    fn an_empty_password_file_is_an_error_and_not_an_open_door() {
        let house = House::new(&[OUTSIDE]);
        fs::write(house.file("server_password"), "\n").unwrap();
        let error = Access::resolve(&house.sources.load().unwrap()).unwrap_err();
        assert!(matches!(error, AccessError::Unusable { .. }), "{error}");
    }

    #[test]
    fn a_kept_secret_that_others_may_read_is_closed_again() {
        let house = House::new(&[]);
        house.access();
        let path = house.file("admin_token");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        house.access();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_pipe_in_place_of_a_secret_is_an_error_and_not_waited_for() {
        let house = House::new(&[]);
        let pipe = house.file("admin_token");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
        let error = Access::resolve(&house.sources.load().unwrap()).unwrap_err().to_string();
        assert!(error.ends_with("admin_token: it is not a regular file"), "{error}");
        let mut sources = Sources { directory: house.folder.path().into(), ..Sources::default() };
        sources.environment.insert("SERVER_PASSWORD_FILE".into(), pipe.into());
        let errors = sources.load().map(drop).unwrap_err().to_string();
        assert!(errors.contains("it is not a regular file"), "{errors}");
    }

    #[test]
    fn looking_generates_nothing() {
        let house = House::new(&[OUTSIDE]);
        assert_eq!(Access::look(&house.sources.load().unwrap()).unwrap(), (None, None));
        assert_eq!(fs::read_dir(house.folder.path()).unwrap().count(), 0);
    }
}
