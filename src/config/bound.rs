//! Where the running daemon listens: it notes that in the data directory, for the commands that ask it. The settings may
//! have changed since it started.

use super::access::write_new;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

/// The file in the data directory. It stays behind when the daemon is killed.
const FILE: &str = "http_address";

/// Notes where this daemon listens, for the owner of the directory only.
pub fn note(data_dir: &Path, address: SocketAddr) -> io::Result<()> {
    write_new(&data_dir.join(FILE), &address.to_string())
}

/// Takes the note back when the daemon stops.
pub fn forget(data_dir: &Path) -> io::Result<()> {
    fs::remove_file(data_dir.join(FILE))
}

/// Where the daemon of this data directory listens, as far as it has said so.
pub fn read(data_dir: &Path) -> Option<SocketAddr> {
    fs::read_to_string(data_dir.join(FILE)).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn it_is_noted_for_the_owner_only_replaced_and_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()), None);
        for address in ["0.0.0.0:8080", "[::1]:9"] {
            note(folder.path(), address.parse().unwrap()).unwrap();
            assert_eq!(read(folder.path()), Some(address.parse().unwrap()));
        }
        let mode = folder.path().join(FILE).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        forget(folder.path()).unwrap();
        assert_eq!(read(folder.path()), None);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
