//! PyTorch's files (`.pth`, `.pt`, `.ckpt`): the tensors of a `torch.save`, read and written.
//!
//! The file is a zip archive of one folder: `data.pkl` is a pickle of the nested dicts in which each
//! tensor names a storage, `data/0`, `data/1`, ... are the storages' bytes, uncompressed, and
//! `byteorder` and `version` say how to read them (PyTorch's `torch/serialization.py` and
//! `caffe2/serialize/inline_container.h`). The pickle is read by a restricted unpickler: no code of
//! the file ever runs. A tensor's bytes are read when asked for, straight from their place in the
//! file; as in PyTorch, the archive's checksums are not compared. Files of PyTorch before 1.6, which are no
//! zip archives, are read too.
//!
//! ```
//! use safetensors::Dtype;
//! use calumma::checkpoint::torch_file::{TensorInfo, TorchFile, write};
//!
//! let dir = tempfile::tempdir()?;
//! let path = dir.path().join("model.ckpt");
//! let bias = ("norm.bias".to_owned(), TensorInfo { dtype: Dtype::I16, shape: vec![2] });
//! write(&path, Some("state_dict"), &[bias], |_name| Ok(vec![1, 0, 2, 0]))?;
//!
//! let file = TorchFile::open(&path)?;
//! assert_eq!(file.tensors()["state_dict.norm.bias"].shape, [2]);
//! assert_eq!(file.read("state_dict.norm.bias")?, [1, 0, 2, 0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod archive;
mod contents;
mod legacy;
mod pickle;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::Dtype;

use self::archive::{Archive, read_at};
use self::contents::PickledTensor;
use self::legacy::Legacy;
use self::pickle::shown;
use crate::error::{Error, Result};

pub use write::write;

/// Longest `data.pkl` that is read, in bytes.
const MAX_PICKLE_LEN: usize = 256 << 20;

/// The storage classes of `torch` and the number format of their elements.
const STORAGES: [(&str, Dtype); 10] = [
    ("FloatStorage", Dtype::F32),
    ("BFloat16Storage", Dtype::BF16),
    ("HalfStorage", Dtype::F16),
    ("DoubleStorage", Dtype::F64),
    ("LongStorage", Dtype::I64),
    ("IntStorage", Dtype::I32),
    ("ShortStorage", Dtype::I16),
    ("CharStorage", Dtype::I8),
    ("ByteStorage", Dtype::U8),
    ("BoolStorage", Dtype::BOOL),
];

fn storage_dtype(class: &str) -> Option<Dtype> {
    STORAGES.iter().find(|(name, _)| *name == class).map(|(_, dtype)| *dtype)
}

/// Number format and sizes of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Format of one element.
    pub dtype: Dtype,
    /// Elements per axis; empty for a scalar.
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// Bytes of all elements; `None` where they do not fit the address space.
    pub fn bytes_len(&self) -> Option<usize> {
        if self.shape.contains(&0) {
            return Some(0);
        }
        self.shape.iter().try_fold(element_len(self.dtype), |len, &size| len.checked_mul(size))
    }
}

/// Bytes of one element; every format of [`STORAGES`] has whole bytes.
fn element_len(dtype: Dtype) -> usize {
    dtype.bitsize() / 8
}

/// The table of contents of a PyTorch file; the tensors stay on disk.
#[derive(Debug)]
pub struct TorchFile {
    path: PathBuf,
    tensors: BTreeMap<String, TensorInfo>,
    places: BTreeMap<String, Place>,
}

/// Where a tensor's values lie: equal runs of bytes, repeated along the outer axes.
#[derive(Debug)]
struct Place {
    /// Byte of the file at which the first run begins.
    start: u64,
    /// Bytes of a run; all bytes of a contiguous tensor.
    run: usize,
    /// Count and distance in bytes of the runs, outermost axis first; empty for a contiguous tensor.
    outer: Vec<(usize, usize)>,
}

impl TorchFile {
    /// Reads the table of contents of the file at `path`: of a zip file its directory and `data.pkl`.
    ///
    /// Nested dicts are joined by dots, so `{"state_dict": {"norm.weight": t}}` has the tensor
    /// `state_dict.norm.weight`. Values other than dicts and tensors are passed over, and with them
    /// tensors that lie in lists.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read. [`Error::File`] when it is no PyTorch file, is
    /// truncated, compressed or big-endian, when its pickle asks for anything but tensors and plain
    /// containers, and when a tensor does not lie within its storage or has the name of another.
    pub fn open(path: &Path) -> Result<Self> {
        let error = |message: String| Error::file(path, message);
        let mut source = Source::open(path)?;
        let pickle = source.pickle()?;
        let (mut tensors, mut places) = (BTreeMap::new(), BTreeMap::new());
        for tensor in contents::tensors(&pickle).map_err(error)? {
            let storage = source.storage(tensor.storage)?;
            let place = Place::of(&tensor, storage)
                .map_err(|message| error(format!("tensor {}: {message}", shown(&tensor.name))))?;
            let PickledTensor { name, dtype, shape, .. } = tensor;
            if places.insert(name.clone(), place).is_some() {
                return Err(error(format!("two tensors have the name {}", shown(&name))));
            }
            tensors.insert(name, TensorInfo { dtype, shape });
        }
        Ok(Self { path: path.to_owned(), tensors, places })
    }

    /// The tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// The values of the tensor `name`, in row-major order, as little-endian bytes.
    ///
    /// A contiguous tensor takes one buffer of its size; a strided view is gathered from a second
    /// one, which spans the view's part of the storage.
    ///
    /// # Errors
    /// [`Error::File`] when the file has no tensor `name`, [`Error::Io`] when it cannot be read or is
    /// shorter than when it was opened.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let place = self.place(name)?;
        let span = place.outer.iter().map(|&(count, step)| (count - 1) * step).sum::<usize>();
        let bytes = read_at(&self.path, place.start, span + place.run)?;
        Ok(if place.outer.is_empty() { bytes } else { place.gather(&bytes) })
    }

    /// The bytes `range` of the tensor `name`, as of [`Self::read`]; for contiguous tensors only.
    ///
    /// # Errors
    /// As [`Self::read`]; [`Error::File`] also when `range` leaves the tensor or the tensor is a
    /// strided view.
    pub fn read_range(&self, name: &str, range: Range<usize>) -> Result<Vec<u8>> {
        let place = self.place(name)?;
        if !place.outer.is_empty() {
            let message = format!("tensor {} is a strided view; read it whole", shown(name));
            return Err(Error::file(&self.path, message));
        }
        if range.start > range.end || range.end > place.run {
            let message = format!("tensor {} has {} bytes, not {range:?}", shown(name), place.run);
            return Err(Error::file(&self.path, message));
        }
        read_at(&self.path, place.start + range.start as u64, range.len())
    }

    fn place(&self, name: &str) -> Result<&Place> {
        self.places
            .get(name)
            .ok_or_else(|| Error::file(&self.path, format!("no tensor {}", shown(name))))
    }
}

/// A file while its table of contents is read.
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
            let order = shown(&String::from_utf8_lossy(&order));
            return Err(archive.error(format!("byte order is {order}; allowed: little")));
        }
        Ok(archive.read("data.pkl", MAX_PICKLE_LEN)?.unwrap_or_default())
    }

    /// The bytes of the file that the storage `key` takes; `None` without it.
    fn storage(&mut self, key: &str) -> Result<Option<Range<u64>>> {
        match self {
            Self::Legacy(legacy) => Ok(legacy.storage(key)),
            Self::Zip(archive) => archive.storage(key),
        }
    }
}

impl Place {
    /// Where `tensor` lies in the file, once it is sure that it lies within its storage; `Err` says what is
    /// wrong.
    fn of(
        tensor: &PickledTensor<'_>,
        storage: Option<Range<u64>>,
    ) -> std::result::Result<Self, String> {
        let PickledTensor { dtype, offset, shape, strides, .. } = tensor;
        let Some(range) = storage else {
            return Err(format!("its storage data/{} is missing", shown(tensor.storage)));
        };
        let element = element_len(*dtype);
        let len = TensorInfo { dtype: *dtype, shape: shape.clone() }.bytes_len();
        let stored = range.end - range.start;
        let past = last_index(*offset, shape, strides)
            .and_then(|last| last.checked_add(1)?.checked_mul(element as u64));
        match (len, past) {
            (Some(0), _) => Ok(Self::new(range.start, element, shape, strides)),
            (Some(len), Some(past)) if past <= stored && len as u64 <= stored => {
                Ok(Self::new(range.start + offset * element as u64, element, shape, strides))
            }
            (_, Some(past)) if past <= stored => Err(format!(
                "{shape:?} repeats values of a storage of {stored} bytes; save a clone"
            )),
            _ => Err(format!(
                "{shape:?} of {dtype:?} with strides {strides:?} from {offset} is more than its \
                 storage of {stored} bytes"
            )),
        }
    }

    fn new(start: u64, element: usize, shape: &[usize], strides: &[usize]) -> Self {
        if shape.contains(&0) {
            return Self { start, run: 0, outer: Vec::new() };
        }
        let (mut run, mut outer) = (element, Vec::new());
        // The stride of an axis with a single index says nothing, and may be any number.
        let axes = shape.iter().zip(strides).rev().filter(|(size, _)| **size > 1);
        for (&size, &stride) in axes {
            let step = stride * element;
            if outer.is_empty() && step == run {
                run *= size;
            } else {
                outer.push((size, step));
            }
        }
        outer.reverse();
        Self { start, run, outer }
    }

    fn gather(&self, span: &[u8]) -> Vec<u8> {
        let runs: usize = self.outer.iter().map(|(count, _)| count).product();
        let mut bytes = Vec::with_capacity(runs * self.run);
        let mut index = vec![0; self.outer.len()];
        let mut at = 0;
        for _ in 0..runs {
            bytes.extend_from_slice(&span[at..at + self.run]);
            for (index, &(count, step)) in index.iter_mut().zip(&self.outer).rev() {
                *index += 1;
                at += step;
                if *index < count {
                    break;
                }
                *index = 0;
                at -= count * step;
            }
        }
        bytes
    }
}

/// The element of the storage that the last value of a tensor without empty axes is.
fn last_index(offset: u64, shape: &[usize], strides: &[usize]) -> Option<u64> {
    shape.iter().zip(strides).try_fold(offset, |last, (&size, &stride)| {
        last.checked_add((size as u64).saturating_sub(1).checked_mul(stride as u64)?)
    })
}
