//! Files that users ask for: made before privileges go, and never where the user could not make them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{Gid, Uid, getegid, geteuid, getgroups, setegid, seteuid, setgroups};

use super::SplitError;
use super::credentials::Account;

/// For its owner alone: it names processes, hosts and models.
const MODE: u32 = 0o600;

/// Why a file could not be made.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// It is there already, or a link in its place.
    #[error("{} is there already, and hbpf writes over nothing; name another file, or remove it", .0.display())]
    Exists(PathBuf),
    /// The user may not, or there is no such directory.
    #[error("cannot make {}: {error}", path.display())]
    Refused {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Rights could not be changed for it.
    #[error("cannot act as the user who called sudo: {0}")]
    Rights(#[from] Errno),
    /// It would be done with the rights of all threads.
    #[error(transparent)]
    Threads(#[from] SplitError),
}

/// Makes a new file that only its owner may read. Under sudo it is the calling user's, and made with that user's rights:
/// root must not write where the user may not.
///
/// To be called before [`super::split`] and before any thread starts.
pub fn create_output(path: &Path) -> Result<File, OutputError> {
    super::require_one_thread()?;
    match Account::of_sudo().filter(|_| geteuid().is_root()) {
        Some(account) => as_user(account, || create(path))?,
        None => create(path),
    }
}

/// The same with this process's own rights.
pub(super) fn create(path: &Path) -> Result<File, OutputError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(MODE).custom_flags(libc::O_NOFOLLOW | libc::O_NOCTTY);
    options.open(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => OutputError::Exists(path.to_owned()),
        _ => OutputError::Refused { path: path.to_owned(), error },
    })
}

/// Does this with a user's rights, and takes root's again.
fn as_user<T>(account: Account, act: impl FnOnce() -> T) -> Result<T, Errno> {
    let (user, group, groups) = (geteuid(), getegid(), getgroups()?);
    let gid = Gid::from_raw(account.gid);
    setgroups(&[gid])?;
    setegid(gid)?;
    seteuid(Uid::from_raw(account.uid))?;
    let done = act();
    seteuid(user)?;
    setegid(group)?;
    setgroups(&groups)?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn a_new_file_is_its_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        let file = create(&path).unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o7777, MODE);
        assert!(matches!(create(&path), Err(OutputError::Exists(_))));
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let (link, target) = (directory.path().join("link"), directory.path().join("target"));
        symlink(&target, &link).unwrap();
        assert!(matches!(create(&link), Err(OutputError::Exists(_))));
        assert!(!target.exists());
        let error = create(&directory.path().join("none/out")).unwrap_err().to_string();
        assert!(error.starts_with("cannot make ") && error.contains("No such file"), "{error}");
    }
}
