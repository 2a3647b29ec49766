//! Safetensors files opened by their headers.

use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use burn::tensor::{FloatDType, TensorData};
use safetensors::Dtype;

use crate::convert::read_as;
use crate::error::{Error, Result};
use crate::header::Header;
use crate::named::NamedTensors;
use crate::source::TensorSource;
use crate::stored::StoredTensor;
use crate::write::TensorInfo;

/// Every float tensor of a safetensors file, widened to f32, in memory.
///
/// # Errors
/// As [`WeightFiles::open`]; [`Error::NotFloat`].
pub fn read(path: &Path) -> Result<NamedTensors> {
    let mut files = WeightFiles::open(path)?;
    let mut tensors = NamedTensors::new();
    for name in files.names() {
        let data = files.tensor(&name, FloatDType::F32)?;
        tensors.extend(data.map(|data| (name, data)));
    }
    Ok(tensors)
}

/// The tensors of one or several safetensors files.
#[derive(Debug, Default)]
pub struct WeightFiles {
    /// Open, so that a file that takes another's place later is not mistaken for it.
    files: Vec<(PathBuf, RefCell<File>)>,
    tensors: BTreeMap<String, Place>,
    metadata: BTreeMap<String, String>,
}

/// A tensor's format, shape and position.
#[derive(Clone, Debug)]
struct Place {
    /// Index of its file.
    file: usize,
    /// Byte of the file at which it begins.
    offset: u64,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Its name in the file, for messages.
    name: String,
}

impl WeightFiles {
    /// Reads the header of the safetensors file at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read; [`Error::Damaged`] if it is truncated or its header
    /// is malformed, naming the tensor at fault.
    pub fn open(path: &Path) -> Result<Self> {
        let mut files = Self::default();
        files.add(path)?;
        Ok(files)
    }

    /// Reads the header of one more file.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`Error::Duplicate`] if an earlier file holds one of its tensors.
    pub fn add(&mut self, path: &Path) -> Result<()> {
        let Header { start, tensors, metadata } = Header::read(path)?;
        self.metadata.extend(metadata);
        let file = self.files.len();
        let opened = File::open(path).map_err(Error::io(path))?;
        self.files.push((path.to_owned(), RefCell::new(opened)));
        for (name, info) in tensors {
            let offset = start + info.data_offsets.0 as u64;
            let (dtype, shape) = (info.dtype, info.shape);
            let place = Place { file, offset, dtype, shape, name: name.clone() };
            if let Some(first) = self.tensors.insert(name.clone(), place) {
                let first = self.files[first.file].0.clone();
                return Err(Error::Duplicate { path: path.to_owned(), name, first });
            }
        }
        Ok(())
    }

    /// The same tensors under the names that `rename` gives; a tensor without one is dropped.
    #[must_use]
    pub fn renamed(self, rename: impl Fn(&str) -> Option<String>) -> Self {
        let rename = |(name, place): (String, Place)| rename(&name).map(|name| (name, place));
        Self { tensors: self.tensors.into_iter().filter_map(rename).collect(), ..self }
    }

    /// Name, number format and shape of every tensor, ordered by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, Dtype, &[usize])> {
        self.tensors.iter().map(|(name, at)| (name.as_str(), at.dtype, at.shape.as_slice()))
    }

    /// As [`tensors`](Self::tensors), owned, for [`write_file`](crate::write_file).
    pub fn infos(&self) -> Vec<TensorInfo> {
        let info =
            |(name, dtype, shape): (&str, _, &[usize])| (name.to_owned(), dtype, shape.to_vec());
        self.tensors().map(info).collect()
    }

    /// Whether there is a tensor called `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The metadata of all headers together.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Bytes of all tensors together, as they are stored.
    pub fn num_bytes(&self) -> u64 {
        self.tensors.values().map(|place| place.num_bytes() as u64).sum()
    }

    /// Number format and shape of the tensor called `name`.
    ///
    /// # Errors
    /// [`Error::NoTensor`].
    pub fn info(&self, name: &str) -> Result<(Dtype, &[usize])> {
        self.place(name).map(|place| (place.dtype, place.shape.as_slice()))
    }

    fn place(&self, name: &str) -> Result<&Place> {
        self.tensors.get(name).ok_or_else(|| {
            let path = self.files.first().map_or(Path::new("no file"), |(path, _)| path);
            Error::NoTensor { path: path.to_owned(), name: name.to_owned() }
        })
    }

    /// The tensor called `name` as it is stored.
    ///
    /// # Errors
    /// [`Error::NoTensor`]; [`Error::Io`] if it cannot be read.
    pub fn stored(&self, name: &str) -> Result<StoredTensor> {
        let place = self.place(name)?;
        let mut bytes = vec![0; place.num_bytes()];
        self.reader(place)?.read_exact(&mut bytes).map_err(Error::io(&self.files[place.file].0))?;
        Ok(StoredTensor { dtype: place.dtype, shape: place.shape.clone(), bytes })
    }

    /// The file of `place`, at its first byte.
    fn reader(&self, place: &Place) -> Result<RefMut<'_, File>> {
        let (path, file) = &self.files[place.file];
        let mut file = file.borrow_mut();
        file.seek(SeekFrom::Start(place.offset)).map_err(Error::io(path))?;
        Ok(file)
    }

    /// The tensor at `place` in `dtype`.
    fn data(&self, place: &Place, dtype: FloatDType) -> Result<TensorData> {
        let path = &self.files[place.file].0;
        let read = read_as(&mut *self.reader(place)?, place.dtype, &place.shape, dtype);
        let read = read.ok_or_else(|| Error::NotFloat {
            path: path.clone(),
            name: place.name.clone(),
            dtype: place.dtype,
        })?;
        read.map_err(Error::io(path))
    }
}

impl TensorSource for WeightFiles {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn tensor(&mut self, name: &str, dtype: FloatDType) -> Result<Option<TensorData>> {
        self.tensors.get(name).map(|place| self.data(place, dtype)).transpose()
    }
}

impl Place {
    fn num_bytes(&self) -> usize {
        // The header's check has seen that this does not overflow.
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use burn::tensor::DType;

    use crate::write::write_file;

    #[test]
    fn formats_are_converted_on_request_and_kept_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        let bytes: Vec<u8> = [1.0_f32, -2.5, 3e-9].iter().flat_map(|v| v.to_le_bytes()).collect();
        let tensors =
            [("a".to_owned(), Dtype::F32, vec![3]), ("i".to_owned(), Dtype::I64, vec![1])];
        let content =
            |name: &str| Ok::<_, Error>(if name == "a" { bytes.clone() } else { vec![0; 8] });
        write_file(&path, &tensors, content).unwrap();
        let mut files = WeightFiles::open(&path).unwrap();
        assert_eq!(files.stored("a").unwrap().bytes, bytes);
        assert_eq!(files.metadata()["format"], "pt");
        let half = files.tensor("a", FloatDType::BF16).unwrap().unwrap();
        assert_eq!(half.dtype(), DType::BF16);
        assert_eq!(half.iter::<f32>().take(2).collect::<Vec<_>>(), [1.0, -2.5]);
        for refused in [files.tensor("i", FloatDType::F32).map(drop), read(&path).map(drop)] {
            let message = refused.unwrap_err().to_string();
            assert!(message.contains("tensor i is I64"), "{message}");
        }
        let message = files.stored("b").unwrap_err().to_string();
        assert!(message.ends_with("w.safetensors: there is no tensor b"), "{message}");
    }

    #[test]
    fn doubles_are_rounded_to_the_format_of_the_module() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        let values = [0.1_f64, -1e300, 2.5];
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let tensors = [("a".to_owned(), Dtype::F64, vec![3])];
        write_file(&path, &tensors, |_| Ok::<_, Error>(bytes.clone())).unwrap();
        let data = read(&path).unwrap().remove("a").unwrap();
        assert_eq!(data.iter::<f32>().collect::<Vec<_>>(), [0.1, f32::NEG_INFINITY, 2.5]);
    }

    #[test]
    fn a_pointer_of_git_lfs_is_called_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        let text = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
        std::fs::write(&path, text).unwrap();
        let message = WeightFiles::open(&path).unwrap_err().to_string();
        assert!(message.contains("git lfs pull"), "{message}");
    }

    #[test]
    fn a_file_that_takes_the_place_of_an_open_one_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let [path, new] = ["w.safetensors", "new"].map(|name| dir.path().join(name));
        let tensors = [("a".to_owned(), Dtype::F32, vec![2])];
        let write = |value: f32| {
            let bytes = [value; 2].map(f32::to_le_bytes).concat();
            write_file(&new, &tensors, |_| Ok::<_, Error>(bytes.clone())).unwrap();
            std::fs::rename(&new, &path).unwrap();
        };
        write(1.0);
        let mut files = WeightFiles::open(&path).unwrap();
        write(2.0);
        for dtype in [FloatDType::F32, FloatDType::BF16] {
            let data = files.tensor("a", dtype).unwrap().unwrap();
            assert_eq!(data.iter::<f32>().collect::<Vec<_>>(), [1.0; 2]);
        }
        assert_eq!(files.stored("a").unwrap().bytes, [1.0; 2].map(f32::to_le_bytes).concat());
    }

    #[test]
    fn a_tensor_in_two_files_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
        let tensors = [("x".to_owned(), Dtype::U8, vec![1])];
        for path in [&a, &b] {
            write_file(path, &tensors, |_| Ok::<_, Error>(vec![0])).unwrap();
        }
        let mut files = WeightFiles::open(&a).unwrap();
        let message = files.add(&b).unwrap_err().to_string();
        assert!(message.contains("tensor x is also in") && message.ends_with("/a"), "{message}");
    }
}
