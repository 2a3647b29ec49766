//! Reader for plain directories of images without metadata.

use std::path::{Path, PathBuf};

use super::dataset::{Dataset, Fields, Sample, Unused, in_range};
use super::endings::{IMAGES, Kind, kind_of};
use super::folder::ending;
use super::image_key::Place;
use super::unused::Tally;
use super::{files, image_file};
use crate::error::{Error, Result};
use crate::files::path_text;

/// Data set of the images in a directory (not below it), sorted by file name. Its only column is
/// `file_name`.
pub struct ImageDirectory {
    name: String,
    paths: Vec<PathBuf>,
    unused: Vec<Unused>,
}

impl ImageDirectory {
    /// Lists the images in the directory `dir`.
    ///
    /// # Errors
    /// If it cannot be read or holds no PNG, JPEG or WebP file.
    pub fn open(dir: &Path) -> Result<Self> {
        let (mut paths, mut tally) = (Vec::new(), Tally::default());
        for entry in std::fs::read_dir(dir).map_err(Error::io(dir))? {
            let path = entry.map_err(Error::io(dir))?.path();
            match kind_of(&ending(&path)) {
                Kind::Image => paths.push(path),
                _ if path.is_dir() => {}
                kind => tally.add(|| path.display().to_string(), reason(kind)),
            }
        }
        if paths.is_empty() {
            let allowed = IMAGES.join(", ");
            return Err(Error::file(dir, format!("the directory holds no image ({allowed})")));
        }
        paths.sort();
        Ok(Self { name: dir.display().to_string(), paths, unused: tally.into_vec() })
    }
}

/// Why a file of this kind is not used.
fn reason(kind: Kind) -> &'static str {
    match kind {
        Kind::OtherImage => "images in other formats than PNG, JPEG and WebP",
        _ => "files that are no images",
    }
}

impl Dataset for ImageDirectory {
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

    fn unused(&self) -> Vec<Unused> {
        self.unused.clone()
    }

    fn place(&self, index: usize) -> String {
        self.paths[index].display().to_string()
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn fields(&self, index: usize) -> Result<Fields> {
        in_range(self, index)?;
        let name = self.paths[index].file_name().map(|name| path_text(Path::new(name)));
        Ok(Fields::from_iter([("file_name".to_owned(), name.into())]))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn images_are_sorted_by_name_and_other_files_ignored() {
        let dir = tempfile::tempdir().unwrap();
        assert!(ImageDirectory::open(dir.path()).err().unwrap().to_string().contains("no image"));
        for (name, side) in [("b.png", 2), ("a.png", 3)] {
            image::RgbImage::new(side, side).save(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("README.md"), "text").unwrap();
        std::fs::write(dir.path().join("c.JPG"), "no image").unwrap();
        let folder = ImageDirectory::open(dir.path()).unwrap();
        assert_eq!(folder.len(), 3);
        let first = folder.get(0).unwrap();
        assert_eq!((first.images[0].width(), &first.fields["file_name"]), (3, &"a.png".into()));
        assert!(folder.get(2).unwrap_err().to_string().contains("c.JPG"));
        assert!(folder.get(3).is_err());
        let unused = folder.unused();
        assert_eq!((unused.len(), unused[0].count), (1, 1));
        assert!(unused[0].what.ends_with("README.md"), "{unused:?}");
    }
}
