//! Reader for directories of images without metadata; the names of their directories are labels.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::dataset::{Dataset, Fields, Sample, Unused, in_range};
use super::endings::{Kind, kind_of};
use super::folder::{Folder, ending};
use super::image_key::Place;
use super::unused::Tally;
use super::{files, image_file};
use crate::error::{Error, Result};
use crate::files::path_text;

/// Data set of the images below a directory. Columns are `file_name`, the path below the directory, and
/// `label`, the name of the directory that holds the image. As in `datasets`, there are labels if there is
/// more than one and all images are equally deep below the directory.
pub(super) struct ClassFolders {
    dir: PathBuf,
    name: String,
    paths: Vec<PathBuf>,
    has_labels: bool,
    unused: Vec<Unused>,
}

impl ClassFolders {
    /// The images of `folder`.
    ///
    /// # Errors
    /// If there are none, or images of several splits (`train`, `test`).
    pub(super) fn of(folder: Folder) -> Result<Self> {
        let is_image = |path: &&PathBuf| kind_of(&ending(path)) != Kind::Other;
        let paths: Vec<PathBuf> = folder.files().filter(is_image).cloned().collect();
        if paths.is_empty() {
            let message = "a directory is a data set only if it holds images (PNG, JPEG or WebP), with \
                           or without metadata.jsonl, metadata.csv or metadata.parquet";
            return Err(Error::file(folder.dir(), message));
        }
        folder.refuse_splits(paths.iter())?;
        let labels: BTreeSet<_> =
            paths.iter().filter_map(|path| path.parent()?.file_name()).collect();
        let depths: BTreeSet<_> = paths.iter().map(|path| path.components().count()).collect();
        let has_labels = labels.len() > 1 && depths.len() == 1;
        let mut tally = Tally::default();
        for path in folder.files().filter(|path| kind_of(&ending(path)) == Kind::Other) {
            tally.add(|| path.display().to_string(), folder.reason(path));
        }
        folder.add_unreadable(&mut tally);
        let (dir, name) = (folder.dir().to_owned(), folder.dir().display().to_string());
        Ok(Self { dir, name, paths, has_labels, unused: tally.into_vec() })
    }
}

impl Dataset for ClassFolders {
    fn len(&self) -> usize {
        self.paths.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let fields = self.fields(index)?;
        let path = &self.paths[index];
        let source = path.display().to_string();
        let bytes = files::read(path).map_err(Error::io(path))?;
        Ok(Sample { fields, images: vec![image_file::decode(&bytes, &source)?], source })
    }

    fn image_places(&self, index: usize) -> Result<Option<Vec<Place>>> {
        in_range(self, index)?;
        Ok(Some(vec![Place::file(&self.paths[index])]))
    }

    fn place(&self, index: usize) -> String {
        self.paths[index].display().to_string()
    }

    fn unused(&self) -> Vec<Unused> {
        self.unused.clone()
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn fields(&self, index: usize) -> Result<Fields> {
        in_range(self, index)?;
        let path = &self.paths[index];
        let below = path.strip_prefix(&self.dir).unwrap_or(path);
        let mut fields = Fields::from_iter([("file_name".to_owned(), path_text(below).into())]);
        if self.has_labels {
            let label = path.parent().and_then(Path::file_name).unwrap_or_default();
            fields.insert("label".to_owned(), path_text(Path::new(label)).into());
        }
        Ok(fields)
    }
}
