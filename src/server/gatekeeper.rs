//! The gatekeeper: knows the secrets in force, and decides who comes in and as what.

use crate::config::Access;
use crate::console::Admins;
use crate::doors::{Authority, Credentials, Denied};
use crate::ops::attempts::Attempts;
use crate::ops::clock;
use crate::ops::metrics::Metrics;
use crate::ops::random;
use crate::ops::secret::SecretCheck;
use crate::session::Role;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError, RwLock};

/// The secrets in force, as checks.
struct Secrets {
    server: Option<SecretCheck>,
    admin: Option<SecretCheck>,
    token: SecretCheck,
}

/// Decides who comes in, for all doors and for REST.
pub(super) struct Gatekeeper {
    secrets: RwLock<Secrets>,
    attempts: Mutex<Attempts>,
    metrics: Metrics,
}

impl Gatekeeper {
    pub(super) fn new(access: &Access, metrics: Metrics) -> Self {
        let attempts = Mutex::new(Attempts::new(clock::instant()));
        Self { secrets: RwLock::new(secrets(access)), attempts, metrics }
    }

    /// Takes changed secrets over. Who is in stays in. Says whether that opened the sessions to those without any.
    pub(super) fn change(&self, access: &Access) -> bool {
        let mut current = self.secrets.write().unwrap_or_else(PoisonError::into_inner);
        let was_open = current.server.is_none();
        *current = secrets(access);
        !was_open && current.server.is_none()
    }

    fn judge(&self, credentials: Credentials<'_>) -> Option<Role> {
        let secrets = self.secrets.read().unwrap_or_else(PoisonError::into_inner);
        match credentials {
            Credentials::None => secrets.server.is_none().then_some(Role::Member),
            Credentials::Token(token) => secrets.token.accepts(token.as_bytes()).then_some(Role::Admin),
            Credentials::Password(password) => {
                // Both are compared in any case, so that the time taken says nothing.
                let is_server = secrets.server.as_ref().is_none_or(|check| check.accepts(password.as_bytes()));
                let is_admin = secrets.admin.as_ref().is_some_and(|check| check.accepts(password.as_bytes()));
                // The admin password travels in clear through Blender, so it opens nothing more than a session here.
                (is_server || is_admin).then_some(Role::Member)
            }
        }
    }

    fn guarded(&self, peer: IpAddr, credentials: Credentials<'_>) -> Result<Role, Denied> {
        let now = clock::instant();
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        attempts.allow(peer, now).map_err(Denied::TooManyAttempts)?;
        let Some(role) = self.judge(credentials) else {
            attempts.failed(peer, now);
            self.metrics.auth_failures.inc();
            tracing::warn!("Denied: wrong password or token from {peer}");
            return Err(Denied::Wrong);
        };
        if !matches!(credentials, Credentials::None) {
            attempts.succeeded(peer, now);
        }
        Ok(role)
    }
}

fn secrets(access: &Access) -> Secrets {
    let mut key = [0; 32];
    key[..16].copy_from_slice(&random::u128().to_le_bytes());
    key[16..].copy_from_slice(&random::u128().to_le_bytes());
    Secrets {
        server: access.server.as_ref().map(|password| SecretCheck::new(&password.secret, key)),
        admin: access.admin.as_ref().map(|password| SecretCheck::new(&password.secret, key)),
        token: SecretCheck::new(&access.admin_token, key),
    }
}

impl Authority for Gatekeeper {
    fn admit(&self, peer: IpAddr, credentials: Credentials<'_>) -> Result<Role, Denied> {
        self.guarded(peer, credentials)
    }

    fn is_open(&self) -> bool {
        self.secrets.read().unwrap_or_else(PoisonError::into_inner).server.is_none()
    }
}

impl Admins for Gatekeeper {
    fn is_admin(&self, peer: Option<IpAddr>, token: &str) -> bool {
        let Some(peer) = peer else { return false };
        matches!(self.guarded(peer, Credentials::Token(token)), Ok(Role::Admin))
    }
}
