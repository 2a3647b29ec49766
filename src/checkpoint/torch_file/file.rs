//! Opening and reading PyTorch's files.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use tensor_files::StoredTensor;

use super::archive::{Archive, read_at};
use super::contents::{PickledTensor, contents};
use super::escape::escaped;
use super::legacy::Legacy;
use super::place::Place;
use super::tensor_info::TensorInfo;
use crate::error::{Error, Result};

/// Longest `data.pkl` that is read, in bytes.
const MAX_PICKLE_LEN: usize = 256 << 20;

/// An opened PyTorch file; the tensors stay on disk.
#[derive(Debug)]
pub struct TorchFile {
    path: PathBuf,
    tensors: BTreeMap<String, TensorInfo>,
    places: BTreeMap<String, Place>,
    /// Classes of what is neither a tensor nor a container.
    objects: BTreeMap<String, String>,
}

impl TorchFile {
    /// Opens the file at `path` and reads its table of contents.
    ///
    /// Keys of nested dicts are joined by dots, so `{"state_dict": {"norm.weight": t}}` has the tensor
    /// `state_dict.norm.weight`. Values other than dicts and tensors are ignored, lists of tensors too;
    /// objects of any class are read past, and no code is run for them.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read. [`Error::File`] if it is no PyTorch file, is
    /// truncated, compressed or big-endian, if its pickle holds no dict, and if a tensor exceeds its
    /// storage or has the name of another.
    pub fn open(path: &Path) -> Result<Self> {
        let error = |message: String| Error::file(path, message);
        let mut source = Source::open(path)?;
        let pickle = source.pickle()?;
        let (mut tensors, mut places) = (BTreeMap::new(), BTreeMap::new());
        let contents = contents(&pickle).map_err(error)?;
        for tensor in contents.tensors {
            let storage = source.storage(tensor.storage)?;
            let place = Place::of(&tensor, storage)
                .map_err(|message| error(format!("tensor {}: {message}", escaped(&tensor.name))))?;
            let PickledTensor { name, dtype, shape, .. } = tensor;
            if places.insert(name.clone(), place).is_some() {
                return Err(error(format!("two tensors have the name {}", escaped(&name))));
            }
            tensors.insert(name, TensorInfo { dtype, shape });
        }
        let objects = contents.objects.into_iter().collect();
        Ok(Self { path: path.to_owned(), tensors, places, objects })
    }

    /// The tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// The values of the tensor `name`, in row-major order, as little-endian bytes.
    ///
    /// A contiguous tensor needs one buffer of its size; a strided view also one for its span of the
    /// storage.
    ///
    /// # Errors
    /// [`Error::NoTensor`]; [`Error::Io`] if the file cannot be read or is shorter than when it was opened.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let place = self.place(name)?;
        let bytes = read_at(&self.path, place.start, place.span())?;
        Ok(if place.is_contiguous() { bytes } else { place.gather(&bytes) })
    }

    /// The tensor `name` with its number format and shape.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn stored(&self, name: &str) -> Result<StoredTensor> {
        let bytes = self.read(name)?;
        let TensorInfo { dtype, shape } = self.tensors[name].clone();
        Ok(StoredTensor { dtype, shape, bytes })
    }

    /// The bytes `range` of [`Self::read`] of the contiguous tensor `name`.
    ///
    /// # Errors
    /// As [`Self::read`]; [`Error::File`] if `range` exceeds the tensor or the tensor is a strided view.
    pub fn read_range(&self, name: &str, range: Range<usize>) -> Result<Vec<u8>> {
        let place = self.place(name)?;
        if !place.is_contiguous() {
            let message = format!("tensor {} is a strided view; read it whole", escaped(name));
            return Err(Error::file(&self.path, message));
        }
        if range.start > range.end || range.end > place.run {
            let message =
                format!("tensor {} has {} bytes, not {range:?}", escaped(name), place.run);
            return Err(Error::file(&self.path, message));
        }
        read_at(&self.path, place.start + range.start as u64, range.len())
    }

    /// Classes, by name, of the objects that are neither tensors nor containers. They are not constructed.
    pub fn objects(&self) -> &BTreeMap<String, String> {
        &self.objects
    }

    /// The class of the object that the file holds in place of the tensor `name`, or of a dict around it.
    pub fn object_at(&self, name: &str) -> Option<&str> {
        let ends = name.match_indices('.').map(|(at, _)| at).chain([name.len()]);
        ends.rev().find_map(|end| self.objects.get(&name[..end])).map(String::as_str)
    }

    /// The error that the file has no tensor `name`; it names the object in its place.
    pub fn missing(&self, name: &str) -> Error {
        match self.object_at(name) {
            None => Error::NoTensor { path: self.path.clone(), name: escaped(name) },
            Some(class) => {
                let name = escaped(name);
                let message = format!(
                    "in place of tensor {name} is an object of {class}; only tensors and plain \
                     containers are read, save the state dict alone"
                );
                Error::file(&self.path, message)
            }
        }
    }

    fn place(&self, name: &str) -> Result<&Place> {
        self.places.get(name).ok_or_else(|| self.missing(name))
    }
}

/// Either container while its table of contents is read.
enum Source<'p> {
    Zip(Archive<'p>),
    Legacy(Legacy),
}

impl<'p> Source<'p> {
    fn open(path: &'p Path) -> Result<Self> {
        match Legacy::open(path, MAX_PICKLE_LEN)? {
            Some(legacy) => Ok(Self::Legacy(legacy)),
            None => Archive::open(path).map(Self::Zip),
        }
    }

    /// The pickle of the tensors.
    fn pickle(&mut self) -> Result<Vec<u8>> {
        let archive = match self {
            Self::Legacy(legacy) => return Ok(std::mem::take(&mut legacy.pickle)),
            Self::Zip(archive) => archive,
        };
        if let Some(order) = archive.read("byteorder", 16)?
            && order != b"little"
        {
            let order = escaped(&String::from_utf8_lossy(&order));
            return Err(archive.error(format!("byte order is {order}; allowed: little")));
        }
        Ok(archive.read("data.pkl", MAX_PICKLE_LEN)?.unwrap_or_default())
    }

    /// The bytes of the storage `key` in the file; `None` without it.
    fn storage(&mut self, key: &str) -> Result<Option<Range<u64>>> {
        match self {
            Self::Legacy(legacy) => Ok(legacy.storage(key)),
            Self::Zip(archive) => archive.storage(key),
        }
    }
}
