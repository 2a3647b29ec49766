//! Reader for image folders as `datasets` reads them: a directory of images with metadata.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rayon::prelude::*;

use super::conversation::place_marks;
use super::dataset::{Dataset, Fields, Sample, Unused, in_range};
use super::endings::{Kind, kind_of};
use super::folder::{Folder, ending};
use super::image_key::Place;
use super::metadata::{Metadata, NAMES};
use super::unused::Tally;
use crate::error::{Error, Result};

/// Data set of a directory with `metadata.jsonl`, `metadata.csv` or `metadata.parquet`, also below it.
///
/// Each row names an image by `file_name` or `*_file_name`, or several by the list `file_names` or
/// `*_file_names`, relative to the directory of the metadata, and holds the other columns.
pub struct ImageFolder {
    dir: PathBuf,
    name: String,
    parts: Vec<Metadata>,
    /// Index of the first sample of each part.
    starts: Vec<usize>,
    /// Metadata that is not read, and why.
    passed_over: Vec<(PathBuf, String)>,
    /// What belongs to no sample, once it has been asked for.
    unused: OnceLock<Vec<Unused>>,
}

impl ImageFolder {
    /// Opens the metadata in the directory `dir` and below it.
    ///
    /// # Errors
    /// If there is none or one is malformed; if there is metadata of several splits (`train`, `test`).
    pub fn open(dir: &Path) -> Result<Self> {
        Self::of(Folder::list(dir)?)
    }

    /// Whether there is metadata in `folder`.
    pub(super) fn is_in(folder: &Folder) -> bool {
        folder.files().any(|path| format_of(path).is_some())
    }

    /// As [`open`](Self::open), for a directory that has been listed.
    pub(super) fn of(folder: Folder) -> Result<Self> {
        let mut found: Vec<(&PathBuf, usize)> =
            folder.files().filter_map(|path| Some((path, format_of(path)?))).collect();
        found.sort_by_key(|(path, format)| (path.parent(), *format));
        let Some(&(first, format)) = found.first() else {
            return Err(Error::file(folder.dir(), NO_METADATA));
        };
        let at_root = first.parent() == Some(folder.dir());
        if !at_root {
            folder.refuse_splits(found.iter().map(|(path, _)| *path))?;
        }
        let (mut parts, mut passed_over) = (Vec::new(), Vec::new());
        for (path, other) in found {
            if other != format {
                let reason = format!("metadata is read from {} here", NAMES[format]);
                passed_over.push((path.clone(), reason));
            } else if let Some(split) = folder.split_of(path).filter(|_| at_root) {
                let reason =
                    format!("metadata of the split {split}; name its directory to read it");
                passed_over.push((path.clone(), reason));
            } else {
                parts.push(Metadata::open(path)?);
            }
        }
        let starts = parts.iter().scan(0, |next, part| {
            let start = *next;
            *next += part.len();
            Some(start)
        });
        let (starts, name) = (starts.collect(), folder.dir().display().to_string());
        let (dir, unused) = (folder.dir().to_owned(), OnceLock::new());
        Ok(Self { dir, name, parts, starts, passed_over, unused })
    }

    /// Whether the directory `dir` itself holds metadata.
    pub fn has_metadata(dir: &Path) -> bool {
        NAMES.iter().any(|name| dir.join(name).is_file())
    }

    /// The metadata that holds sample `index`, and the row.
    fn locate(&self, index: usize) -> Result<(&Metadata, usize)> {
        in_range(self, index)?;
        let part = self.starts.partition_point(|&start| start <= index) - 1;
        Ok((&self.parts[part], index - self.starts[part]))
    }

    /// The images that readable rows name.
    fn named(&self) -> HashSet<PathBuf> {
        let rows = self.parts.par_iter();
        let rows =
            rows.flat_map(|part| (0..part.len()).into_par_iter().map(move |row| (part, row)));
        let images = rows.filter_map(|(part, row)| part.images(row, &part.fields(row).ok()?).ok());
        images.flatten().collect()
    }

    /// Lists the directory and finds what no row names.
    fn find_unused(&self) -> Vec<Unused> {
        let mut tally = Tally::default();
        for (path, reason) in &self.passed_over {
            tally.add(|| path.display().to_string(), reason.clone());
        }
        // Millions of files need not stay in memory for this.
        let folder = match Folder::list(&self.dir) {
            Ok(folder) => folder,
            Err(error) => {
                tally.add(|| self.name.clone(), error.to_string());
                return tally.into_vec();
            }
        };
        let named = self.named();
        let is_known = |path: &&PathBuf| named.contains(*path) || format_of(path).is_some();
        for path in folder.files().filter(|path| !is_known(path)) {
            let reason = match kind_of(&ending(path)) {
                Kind::Other => folder.reason(path),
                _ => "images that no row of the metadata names".to_owned(),
            };
            tally.add(|| path.display().to_string(), reason);
        }
        folder.add_unreadable(&mut tally);
        tally.into_vec()
    }
}

/// The fields of `row`, in which segments stand for its images, and the paths of these.
fn parse(part: &Metadata, row: usize) -> Result<(Fields, Vec<PathBuf>)> {
    let mut fields = part.fields(row)?;
    let paths = part.images(row, &fields)?;
    place_marks(&mut fields, paths.len())
        .map_err(|message| Error::invalid(format!("{}: {message}", part.source(row))))?;
    Ok((fields, paths))
}

/// The place of the file's format in [`NAMES`], if it is metadata.
fn format_of(path: &Path) -> Option<usize> {
    let name = path.file_name()?;
    NAMES.iter().position(|known| name == *known)
}

const NO_METADATA: &str = "a directory is a data set only if it holds metadata.jsonl, metadata.csv or \
                           metadata.parquet with a file_name in each row";

impl Dataset for ImageFolder {
    fn len(&self) -> usize {
        self.parts.iter().map(Metadata::len).sum()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let (part, row) = self.locate(index)?;
        let (fields, paths) = parse(part, row)?;
        let images = paths.iter().map(|path| part.image(row, path)).collect::<Result<_>>()?;
        Ok(Sample { fields, images, source: part.source(row) })
    }

    fn image_places(&self, index: usize) -> Result<Option<Vec<Place>>> {
        let (part, row) = self.locate(index)?;
        let images = part.images(row, &part.fields(row)?)?;
        Ok(Some(images.into_iter().map(Place::file).collect()))
    }

    fn unused(&self) -> Vec<Unused> {
        self.unused.get_or_init(|| self.find_unused()).clone()
    }

    fn place(&self, index: usize) -> String {
        match self.locate(index) {
            Ok((part, row)) => part.source(row),
            Err(_) => format!("{}: sample {index}", self.name),
        }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn fields(&self, index: usize) -> Result<Fields> {
        let (part, row) = self.locate(index)?;
        parse(part, row).map(|(fields, _)| fields)
    }
}
