//! Locks of directories that one process at a time writes to.
//!
//! The lock is one of the operating system on the file `lock` (`flock`, on Windows `LockFileEx`), which ends
//! with the process however that ends; the file stays and means nothing by itself. Network file systems lock
//! across hosts if their servers do (NFS 4, NFS 3 with `lockd`, Lustre mounted with `flock`). Where the file
//! system cannot lock, nothing is refused, and [`is_held`](DirectoryLock::is_held) is false.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use indicatif::HumanDuration;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Name of the file that is locked.
const FILE: &str = "lock";

/// The right to write to a directory, until it is dropped.
#[derive(Debug)]
pub struct DirectoryLock {
    /// The locked files; dropping them releases the locks.
    files: Vec<Option<File>>,
}

/// The process that holds a lock, as the file tells those that are refused.
#[derive(Serialize, Deserialize)]
struct Holder {
    /// Process id.
    pid: u32,
    /// Name of its machine, where known.
    host: Option<String>,
    /// Seconds since 1970 at which it took the lock.
    since: u64,
}

impl DirectoryLock {
    /// Locks the directory `dir` against all other processes; creates it if need be.
    ///
    /// # Errors
    /// [`Error::InUse`] if another process holds a lock on it; [`Error::Io`].
    pub fn alone(dir: &Path) -> Result<Self> {
        create(dir)?;
        Ok(Self { files: vec![lock(dir, FILE, File::try_lock)?] })
    }

    /// Locks part `part.0` of `part.1` of the work in the directory `dir`: against processes that do the same
    /// part, and those that work alone.
    ///
    /// # Errors
    /// As [`alone`](Self::alone).
    pub fn part(dir: &Path, part: (usize, usize)) -> Result<Self> {
        if part.1 == 1 {
            return Self::alone(dir);
        }
        create(dir)?;
        let whole = lock(dir, FILE, File::try_lock_shared)?;
        let name = format!("{FILE}-{}-of-{}", part.0, part.1);
        Ok(Self { files: vec![whole, lock(dir, &name, File::try_lock)?] })
    }

    /// Whether other processes are kept out; false if the file system cannot lock.
    pub fn is_held(&self) -> bool {
        self.files.iter().all(Option::is_some)
    }
}

fn create(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(Error::io(dir))
}

/// Locks the file `name` in `dir` by `try_lock`; `None` if the file system cannot lock.
fn lock(
    dir: &Path,
    name: &str,
    try_lock: impl FnOnce(&File) -> std::result::Result<(), TryLockError>,
) -> Result<Option<File>> {
    let path = dir.join(name);
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = open.map_err(Error::io(&path))?;
    match try_lock(&file) {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Error::InUse { path: dir.to_owned(), holder: holder(&mut file) });
        }
        Err(TryLockError::Error(_)) => return Ok(None),
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let own = Holder { pid: std::process::id(), host: host(), since };
    let text = serde_json::to_string(&own).expect("numbers and strings are JSON") + "\n";
    // Who holds the lock is told for convenience; a full disk is no reason to stop here.
    let _ = file.set_len(0).and_then(|()| file.write_all(text.as_bytes()));
    Ok(Some(file))
}

/// The holder of the lock on `file` in words. Windows does not let others read a locked file.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.read_to_string(&mut text).ok();
    let Some(Holder { pid, host, since }) = read.and_then(|_| serde_json::from_str(&text).ok())
    else {
        return "another process".to_owned();
    };
    let place = host.map(|host| format!(" on {host}")).unwrap_or_default();
    let started = UNIX_EPOCH + Duration::from_secs(since);
    let ago = SystemTime::now().duration_since(started).unwrap_or_default();
    format!("process {pid}{place}, which started {} ago", HumanDuration(ago))
}

/// The name of this machine.
fn host() -> Option<String> {
    #[cfg(unix)]
    {
        let name = rustix::system::uname();
        Some(name.nodename().to_string_lossy().into_owned())
    }
    #[cfg(not(unix))]
    {
        None
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn only_one_holds_a_directory_and_is_named_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("new/run");
        let first = DirectoryLock::alone(&dir).unwrap();
        assert!(first.is_held());
        for refused in [DirectoryLock::alone(&dir), DirectoryLock::part(&dir, (0, 2))] {
            let error = refused.unwrap_err();
            assert!(matches!(error, Error::InUse { .. }) && error.exit_code() == 3);
            let text = error.to_string();
            assert!(text.contains("new/run") || cfg!(windows), "{text}");
            let pid = format!("process {}", std::process::id());
            assert!(text.contains(&pid) || cfg!(windows), "{text}");
        }
        drop(first);
        drop(DirectoryLock::alone(&dir).unwrap());
        // What a killed process leaves in the file keeps nobody out.
        std::fs::write(dir.join(FILE), "{\"pid\":1,").unwrap();
        DirectoryLock::alone(&dir).unwrap();
    }

    #[test]
    fn parts_share_a_directory_but_not_with_their_own_kind() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let parts = [(0, 3), (1, 3), (2, 3)].map(|part| DirectoryLock::part(dir, part).unwrap());
        assert!(DirectoryLock::part(dir, (1, 3)).is_err());
        assert!(DirectoryLock::alone(dir).is_err());
        assert!(DirectoryLock::part(dir, (0, 1)).is_err());
        drop(parts);
        DirectoryLock::part(dir, (0, 1)).unwrap();
    }
}
