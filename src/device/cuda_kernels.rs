//! Compiled kernels of NVIDIA GPUs, on disk.
//!
//! CubeCL keeps them in a database, by a hash of the kernel's Rust name and its arguments and by the build id that
//! the linker may have left in the executable, apart for each architecture and version of CubeCL. A kernel's code is
//! not in the key, nor is the compiler's version or the driver's. So that no kernel of another build is ever run,
//! and none that the driver cannot load, every combination of executable, driver, compiler and device has a
//! directory of its own here, named by a hash of them all: the executable's is of its whole content.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use cubecl::config::cache::CacheConfig;
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};
use cubecl::records::RecordLevel;
use sha2::{Digest, Sha256};

use super::cuda_versions::{compiler_version, device_names, driver_version};
use super::kernels::KernelStore;

/// Names the directory instead of the user's cache directory; empty, nothing is kept.
const VARIABLE: &str = "CALUMMA_CACHE";
/// A file that is written at every start.
const USED: &str = "used";
/// Directories that no start has used for this long are removed.
const UNUSED: Duration = Duration::from_secs(30 * 24 * 3600);
/// Namespaces of the database that hold kernels begin with this.
const NAMESPACE: &str = "cuda/";

/// Where the kernels of all devices are kept. Decided once, before the first device opens: CubeCL reads its
/// configuration once.
static STORE: OnceLock<Kept> = OnceLock::new();

struct Kept {
    store: KernelStore,
    names: Vec<String>,
}

/// Where the kernels of the device `index` are kept; at least one must be there.
pub fn store(index: usize) -> KernelStore {
    let Kept { store, names } = STORE.get_or_init(prepare);
    let mut store = store.clone();
    if let (KernelStore::Disk { device, .. }, Some(name)) = (&mut store, names.get(index)) {
        device.clone_from(name);
    }
    store
}

/// The number of kernels that are kept.
pub fn count() -> u64 {
    let all = cubecl::environment::namespaces();
    all.iter().filter(|kept| kept.namespace.starts_with(NAMESPACE)).map(|kept| kept.entries).sum()
}

/// Finds the directory and makes CubeCL use it.
fn prepare() -> Kept {
    let names = device_names();
    let store = match root() {
        Some(root) if !names.is_empty() => keep_in(root.join("kernels"), &names),
        _ => KernelStore::Memory,
    };
    Kept { store, names }
}

/// Makes CubeCL keep kernels in a directory in `parent`. A `cubecl.toml` and CubeCL's variables keep their say in
/// everything else.
fn keep_in(parent: PathBuf, names: &[String]) -> KernelStore {
    let unusable = |dir, error: io::Error| KernelStore::Unusable { dir, reason: error.to_string() };
    let dir = match fingerprint(names) {
        Ok(name) => parent.join(name),
        Err(error) => return unusable(parent, error),
    };
    let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
    let is_new = !dir.join(format!("{}.db", config.environment.name)).exists();
    let opened = open(&dir);
    config.compilation.cache = opened.is_ok() || !is_new;
    config.environment.path = CacheConfig::Directory(dir.clone());
    if std::env::var_os("CUBECL_ENVIRONMENT_RECORDS").is_none() {
        config.environment.records.level = RecordLevel::Off;
    }
    match opened {
        // The program that this is a library of has configured CubeCL itself.
        _ if !CubeClRuntimeConfig::try_set(config) => KernelStore::Memory,
        Ok(()) => KernelStore::Disk { dir, device: "NVIDIA GPU".to_owned(), is_new },
        Err(error) => unusable(dir, error),
    }
}

/// The directory of all that calumma keeps for this user; `None` if nothing is to be kept.
fn root() -> Option<PathBuf> {
    let given = |name| std::env::var_os(name).map(PathBuf::from);
    if let Some(path) = given(VARIABLE) {
        return Some(path).filter(|path| !path.as_os_str().is_empty());
    }
    let user = given("XDG_CACHE_HOME").filter(|path| path.is_absolute());
    let local = || given("LOCALAPPDATA").filter(|_| cfg!(windows));
    let user = user.or_else(local).or_else(|| Some(std::env::home_dir()?.join(".cache")));
    user.map(|path| path.join("calumma"))
}

/// Makes `dir`, checks that files can be written there, and removes directories beside it that are no longer used.
fn open(dir: &Path) -> io::Result<()> {
    if dir.to_str().is_none() {
        return Err(io::Error::other("its name is not UTF-8"));
    }
    fs::create_dir_all(dir)?;
    fs::write(dir.join(USED), "")?;
    if let Some(parent) = dir.parent() {
        // Another start may remove the same ones.
        let _ = remove_unused(parent, SystemTime::now());
    }
    Ok(())
}

/// Removes the directories in `parent` that hold [`USED`] and have not been used for long.
fn remove_unused(parent: &Path, now: SystemTime) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let dir = entry?.path();
        let Ok(used) = fs::metadata(dir.join(USED)).and_then(|file| file.modified()) else {
            continue;
        };
        if now.duration_since(used).is_ok_and(|age| age > UNUSED) {
            fs::remove_dir_all(dir)?;
        }
    }
    Ok(())
}

/// A name for everything that determines how a kernel is compiled and whether it can be loaded.
fn fingerprint(names: &[String]) -> io::Result<String> {
    let driver = driver_version().ok_or_else(|| io::Error::other("the driver has no version"))?;
    let compiler = compiler_version().ok_or_else(|| io::Error::other("NVRTC is not found"))?;
    let headers = cubecl::cuda::install::cuda_path();
    let names: BTreeSet<_> = names.iter().collect();
    let mut hasher = Sha256::new();
    io::copy(&mut executable()?, &mut hasher)?;
    hasher.update(format!("{driver} {compiler:?} {headers:?} {names:?}"));
    let mut text = String::new();
    for byte in &hasher.finalize()[..16] {
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

/// The file that this process runs, also if another was put in its place since.
fn executable() -> io::Result<fs::File> {
    #[cfg(target_os = "linux")]
    if let Ok(file) = fs::File::open("/proc/self/exe") {
        return Ok(file);
    }
    fs::File::open(std::env::current_exe()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_made_and_others_are_removed_once_unused() {
        let folder = tempfile::tempdir().unwrap();
        let dir = |name: &str| folder.path().join("kernels").join(name);
        open(&dir("old")).unwrap();
        fs::create_dir(dir("foreign")).unwrap();
        open(&dir("new")).unwrap();
        assert!(dir("old").join(USED).exists() && dir("new").join(USED).exists());
        let file = fs::File::options().write(true).open(dir("old").join(USED)).unwrap();
        file.set_modified(SystemTime::now() - UNUSED - Duration::from_secs(1)).unwrap();
        open(&dir("new")).unwrap();
        assert!(!dir("old").exists() && dir("new").exists() && dir("foreign").exists());
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        assert!(open(&folder.path().join("file/kernels")).is_err());
    }
}
