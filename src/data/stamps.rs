//! The keys of a data set's images without reading the images that have not changed.
//!
//! As in git's index, a stamp (path, size, times and file number) stands for the content of a file. A stamp is
//! remembered only if the file was not written shortly before the data set was opened: within the resolution
//! of its times, a file could change again and keep its stamp.

use std::collections::HashMap;
use std::fs::Metadata;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::dataset::Dataset;
use super::image_key::Place;
use super::journal::Journal;
use crate::error::Result;
use crate::files::hex;
use crate::json::sorted;

/// Name of the file of stamps in its directory.
const FILE: &str = "stamps.jsonl";

/// The coarsest resolution of file times in use (that of FAT).
const RESOLUTION: Duration = Duration::from_secs(2);

/// Keys of images by the stamps of their files, remembered on disk.
#[derive(Debug)]
pub(crate) struct Stamps {
    path: PathBuf,
    since: SystemTime,
    memo: Mutex<Memo>,
}

#[derive(Debug, Default)]
struct Memo {
    keys: HashMap<String, String>,
    /// Lines that are not on disk yet.
    fresh: Vec<u8>,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    stamp: String,
    key: String,
}

impl Stamps {
    /// The stamps in the directory `dir`, which need not exist. `since` is a time before the data sets
    /// were opened.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if the file exists but cannot be read.
    pub(crate) fn open(dir: &Path, since: SystemTime) -> Result<Self> {
        let path = dir.join(FILE);
        let mut memo = Memo::default();
        if path.exists() {
            Journal::open(&path)?.lines(|_, line| {
                if let Ok(Line { stamp, key }) = serde_json::from_slice(line) {
                    memo.keys.insert(stamp, key);
                }
            })?;
        }
        Ok(Self { path, since, memo: Mutex::new(memo) })
    }

    /// The keys of the images of sample `index`, as [`Dataset::image_keys`].
    ///
    /// # Errors
    /// As [`Dataset::image_keys`].
    pub(crate) fn keys(&self, dataset: &dyn Dataset, index: usize) -> Result<Vec<String>> {
        let Some(places) = dataset.image_places(index)? else {
            return dataset.image_keys(index);
        };
        let stamps = || places.iter().map(|place| self.stamp(place)).collect::<Vec<_>>();
        let before = stamps();
        if let Some(keys) = self.known(&before) {
            return Ok(keys);
        }
        let keys = dataset.image_keys(index)?;
        if keys.len() == before.len() && before == stamps() {
            let mut memo = self.memo();
            for (stamp, key) in before.into_iter().zip(&keys) {
                if let Some(stamp) = stamp {
                    memo.add(stamp, key.clone());
                }
            }
        }
        Ok(keys)
    }

    /// The keys of `stamps`, if all are known.
    fn known(&self, stamps: &[Option<String>]) -> Option<Vec<String>> {
        let memo = self.memo();
        stamps.iter().map(|stamp| memo.keys.get(stamp.as_ref()?).cloned()).collect()
    }

    /// The stamp of the image at `place`; `None` if its file is missing or was written too late.
    fn stamp(&self, place: &Place) -> Option<String> {
        let metadata = std::fs::metadata(&place.file).ok()?;
        let written = metadata.modified().ok()?;
        let (changed, number) = status(&metadata).unwrap_or((written, 0));
        if written.max(changed) + RESOLUTION > self.since {
            return None;
        }
        let nanoseconds =
            |at: SystemTime| at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        let mut hasher = Sha256::new();
        hasher.update(place.file.as_os_str().as_encoded_bytes());
        hasher.update([0]);
        hasher.update(place.part.as_deref().unwrap_or_default());
        hasher.update([0]);
        hasher.update(metadata.len().to_le_bytes());
        hasher.update(nanoseconds(written).to_le_bytes());
        hasher.update(nanoseconds(changed).to_le_bytes());
        hasher.update(number.to_le_bytes());
        Some(hex(&hasher.finalize()[..16]))
    }

    /// A digest of the fields of the samples in `range` and, `with_images`, of their images' keys. Samples
    /// that cannot be read are part of it.
    pub(crate) fn digest(
        &self,
        dataset: &dyn Dataset,
        range: Range<usize>,
        with_images: bool,
    ) -> String {
        let of_one = |index| {
            let keys = if with_images { self.keys(dataset, index) } else { Ok(Vec::new()) };
            let text = match (keys, dataset.fields(index)) {
                (Ok(keys), Ok(fields)) => {
                    let fields = sorted(Value::Object(fields));
                    serde_json::to_string(&(keys, fields)).expect("fields are JSON")
                }
                _ => "bad".to_owned(),
            };
            Sha256::digest(text)
        };
        let digests: Vec<_> = range.into_par_iter().map(of_one).collect();
        let all = digests.iter().fold(Sha256::new(), |all, one| all.chain_update(one));
        hex(&all.finalize()[..16])
    }

    /// Writes what is new to disk.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    pub(crate) fn save(&self) -> Result<()> {
        let fresh = std::mem::take(&mut self.memo().fresh);
        match fresh.is_empty() {
            true => Ok(()),
            false => Journal::open(&self.path)?.append(&fresh).map(drop),
        }
    }

    fn memo(&self) -> MutexGuard<'_, Memo> {
        self.memo.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memo {
    fn add(&mut self, stamp: String, key: String) {
        let line = Line { stamp, key };
        serde_json::to_writer(&mut self.fresh, &line).expect("strings are JSON");
        self.fresh.push(b'\n');
        self.keys.insert(line.stamp, line.key);
    }
}

/// The time of the last change of content, name or permissions, which no program can set back, and the
/// file's number.
#[cfg(unix)]
fn status(metadata: &Metadata) -> Option<(SystemTime, u64)> {
    use std::os::unix::fs::MetadataExt;
    let seconds = u64::try_from(metadata.ctime()).ok()?;
    let nanoseconds = u32::try_from(metadata.ctime_nsec()).ok()?;
    Some((UNIX_EPOCH + Duration::new(seconds, nanoseconds), metadata.ino()))
}

#[cfg(not(unix))]
fn status(_metadata: &Metadata) -> Option<(SystemTime, u64)> {
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::dataset::{Fields, Sample, Unused};
    use super::super::image_key::file_key;
    use super::*;
    use crate::error::Error;

    /// A data set of one image file that counts how often the file is read.
    struct Counting {
        file: PathBuf,
        read: AtomicUsize,
    }

    impl Dataset for Counting {
        fn len(&self) -> usize {
            1
        }

        fn get(&self, _index: usize) -> Result<Sample> {
            Err(Error::invalid("never decoded"))
        }

        fn name(&self) -> &str {
            "counting"
        }

        fn unused(&self) -> Vec<Unused> {
            Vec::new()
        }

        fn fields(&self, _index: usize) -> Result<Fields> {
            Ok(Fields::new())
        }

        fn image_places(&self, _index: usize) -> Result<Option<Vec<Place>>> {
            Ok(Some(vec![Place::file(&self.file)]))
        }

        fn image_keys(&self, _index: usize) -> Result<Vec<String>> {
            self.read.fetch_add(1, Ordering::SeqCst);
            Ok(vec![file_key(&self.file).map_err(Error::io(&self.file))?])
        }
    }

    #[test]
    fn an_old_file_is_read_once_and_a_young_one_every_time() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.png");
        std::fs::write(&file, "old").unwrap();
        let set = Counting { file: file.clone(), read: AtomicUsize::new(0) };
        let reads = |since: SystemTime| {
            let before = set.read.load(Ordering::SeqCst);
            let stamps = Stamps::open(dir.path(), since).unwrap();
            let key = stamps.keys(&set, 0).unwrap();
            assert_eq!(stamps.keys(&set, 0).unwrap(), key);
            stamps.save().unwrap();
            (set.read.load(Ordering::SeqCst) - before, key)
        };
        let later = SystemTime::now() + Duration::from_secs(60);
        let (young, key) = reads(SystemTime::now());
        assert_eq!(young, 2, "the file may change within the resolution of its times");
        assert!(!dir.path().join(FILE).exists());
        assert_eq!(reads(later), (1, key.clone()));
        assert_eq!(reads(later), (0, key.clone()), "the stamp is on disk");

        // A change that keeps size and modification time.
        let written = std::fs::metadata(&file).unwrap().modified().unwrap();
        std::fs::write(&file, "new").unwrap();
        std::fs::File::options().write(true).open(&file).unwrap().set_modified(written).unwrap();
        let changed = reads(later).1;
        assert_eq!(changed != key, cfg!(unix));
        std::fs::write(dir.path().join(FILE), "{\"stamp\":\"torn").unwrap();
        assert_eq!(reads(later), (1, vec![file_key(&file).unwrap()]));
        std::fs::remove_file(&file).unwrap();
        assert!(Stamps::open(dir.path(), later).unwrap().keys(&set, 0).is_err());
    }
}
