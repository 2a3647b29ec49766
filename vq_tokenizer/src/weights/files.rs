//! Weight files opened by their headers. Tensors are taken one at a time: in the format that they have
//! they stay where they are in the mapped file, in another they are read in small parts straight into
//! the memory that they stay in. So a file is never held beside what is made of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use burn::tensor::{AllocationProperty, Bytes, DType, FloatDType, TensorData};
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde_json::Value;

use super::map::map_file;
use super::{StoredDtype, TensorSource};
use crate::error::{Error, Result};

/// No header is longer (the format's own limit).
const LONGEST_HEADER: u64 = 100_000_000;

/// Values converted between number formats at one time.
const VALUES_AT_ONCE: usize = 1 << 18;

/// The tensors of one or several safetensors files.
#[derive(Debug, Default)]
pub struct WeightFiles {
    files: Vec<(PathBuf, bytes::Bytes)>,
    tensors: BTreeMap<String, Place>,
    notes: BTreeMap<String, String>,
}

/// Where a tensor lies, and as what.
#[derive(Clone, Debug)]
struct Place {
    file: usize,
    offset: u64,
    dtype: Dtype,
    shape: Vec<usize>,
    /// The name in the file, for messages.
    name: String,
}

/// A tensor as it is stored: little-endian values in row-major order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTensor {
    /// The number format.
    pub dtype: Dtype,
    /// The shape.
    pub shape: Vec<usize>,
    /// The values.
    pub bytes: Vec<u8>,
}

impl WeightFiles {
    /// Reads the header of the safetensors file at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read; [`Error::File`] when it is truncated or its header
    /// is malformed, naming the tensor at fault.
    pub fn open(path: &Path) -> Result<Self> {
        let mut files = Self::default();
        files.add(path)?;
        Ok(files)
    }

    /// Reads the header of one more file.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`Error::File`] when a tensor is in an earlier file already.
    pub fn add(&mut self, path: &Path) -> Result<()> {
        let (start, header) = read_header(path)?;
        let damaged = |what: String| damaged(path, &what);
        let Value::Object(header) = header else {
            return Err(damaged("its header is no JSON object".to_owned()));
        };
        let mut infos = Vec::with_capacity(header.len());
        for (name, value) in header {
            let broken = |e: serde_json::Error| damaged(format!("tensor {name}: {e}"));
            if name == "__metadata__" {
                self.notes.extend(serde_json::from_value::<BTreeMap<_, _>>(value).map_err(broken)?);
            } else {
                let info: TensorInfo = serde_json::from_value(value).map_err(broken)?;
                infos.push((name, info));
            }
        }
        let size = std::fs::metadata(path).map_err(Error::io(path))?.len();
        check_places(&mut infos, size - start).map_err(damaged)?;
        let file = self.files.len();
        self.files.push((path.to_owned(), map_file(path)?));
        for (name, info) in infos {
            let offset = start + info.data_offsets.0 as u64;
            let (dtype, shape) = (info.dtype, info.shape);
            let place = Place { file, offset, dtype, shape, name: name.clone() };
            if let Some(first) = self.tensors.insert(name.clone(), place) {
                let first = self.files[first.file].0.display();
                return Err(Error::file(path, format!("tensor {name} is also in {first}")));
            }
        }
        Ok(())
    }

    /// The same tensors under the names that `rename` gives; those that it gives none are left out.
    #[must_use]
    pub fn renamed(self, rename: impl Fn(&str) -> Option<String>) -> Self {
        let rename = |(name, place): (String, Place)| rename(&name).map(|name| (name, place));
        Self { tensors: self.tensors.into_iter().filter_map(rename).collect(), ..self }
    }

    /// Every name, in order, with its number format and shape.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, Dtype, &[usize])> {
        self.tensors.iter().map(|(name, at)| (name.as_str(), at.dtype, at.shape.as_slice()))
    }

    /// As [`tensors`](Self::tensors), to write them with.
    pub fn infos(&self) -> Vec<super::TensorInfo> {
        let info =
            |(name, dtype, shape): (&str, _, &[usize])| (name.to_owned(), dtype, shape.to_vec());
        self.tensors().map(info).collect()
    }

    /// Whether there is a tensor called `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The notes in the headers.
    pub fn notes(&self) -> &BTreeMap<String, String> {
        &self.notes
    }

    /// Bytes of all tensors together, as they are stored.
    pub fn num_bytes(&self) -> u64 {
        self.tensors.values().map(|place| place.num_bytes() as u64).sum()
    }

    /// Number format and shape of the tensor called `name`.
    ///
    /// # Errors
    /// [`Error::File`] when there is none.
    pub fn info(&self, name: &str) -> Result<(Dtype, &[usize])> {
        self.place(name).map(|place| (place.dtype, place.shape.as_slice()))
    }

    fn place(&self, name: &str) -> Result<&Place> {
        self.tensors.get(name).ok_or_else(|| {
            let path = self.files.first().map_or(Path::new("no file"), |(path, _)| path);
            Error::file(path, format!("there is no tensor {name}"))
        })
    }

    /// The tensor called `name` as it is stored.
    ///
    /// # Errors
    /// [`Error::File`] when there is none, [`Error::Io`] when it cannot be read.
    pub fn stored(&self, name: &str) -> Result<StoredTensor> {
        let place = self.place(name)?;
        let mut bytes = vec![0; place.num_bytes()];
        self.reader(place)?.read_exact(&mut bytes).map_err(Error::io(&self.files[place.file].0))?;
        Ok(StoredTensor { dtype: place.dtype, shape: place.shape.clone(), bytes })
    }

    fn reader(&self, place: &Place) -> Result<File> {
        let path = &self.files[place.file].0;
        let mut file = File::open(path).map_err(Error::io(path))?;
        file.seek(SeekFrom::Start(place.offset)).map_err(Error::io(path))?;
        Ok(file)
    }

    fn read_as(&self, place: &Place, dtype: FloatDType) -> Result<TensorData> {
        let path = &self.files[place.file].0;
        let count = place.shape.iter().product();
        let as_it_is = match (place.dtype, dtype) {
            (Dtype::F32, FloatDType::F32) => self.mapped::<f32>(place, dtype),
            (Dtype::BF16, FloatDType::BF16) => self.mapped::<bf16>(place, dtype),
            (Dtype::F16, FloatDType::F16) => self.mapped::<f16>(place, dtype),
            _ => None,
        };
        if let Some(data) = as_it_is {
            return Ok(data);
        }
        let file = self.reader(place)?;
        let read = match place.dtype {
            Dtype::F32 => converted::<f32>(file, count, &place.shape, dtype),
            Dtype::BF16 => converted::<bf16>(file, count, &place.shape, dtype),
            Dtype::F16 => converted::<f16>(file, count, &place.shape, dtype),
            other => {
                let message =
                    format!("tensor {} is {other:?}; allowed: F32, BF16, F16", place.name);
                return Err(Error::file(path, message));
            }
        };
        read.map_err(Error::io(path))
    }

    /// The tensor where it lies in its file; `None` where it cannot be used there.
    fn mapped<T: Stored>(&self, place: &Place, dtype: FloatDType) -> Option<TensorData> {
        let start = usize::try_from(place.offset).ok()?;
        let (_, file) = &self.files[place.file];
        let end = start.checked_add(place.num_bytes()).filter(|end| *end <= file.len())?;
        let bytes = file.slice(start..end);
        let usable = cfg!(target_endian = "little")
            && !bytes.is_empty()
            && bytes.as_ptr().cast::<T>().is_aligned();
        usable.then(|| {
            let bytes = Bytes::from_shared(bytes, AllocationProperty::File);
            TensorData::from_bytes(bytes, place.shape.clone(), DType::from(dtype))
        })
    }
}

impl TensorSource for WeightFiles {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn tensor(&mut self, name: &str, dtype: FloatDType) -> Result<Option<TensorData>> {
        self.tensors.get(name).map(|place| self.read_as(place, dtype)).transpose()
    }
}

impl Place {
    fn num_bytes(&self) -> usize {
        // `check_places` has seen to it that this fits.
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

impl StoredTensor {
    /// The values in `dtype`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when they are no floats of 16 or 32 bits.
    pub fn to_data(&self, dtype: FloatDType) -> Result<TensorData> {
        let count = self.shape.iter().product();
        let bytes = self.bytes.as_slice();
        let data = match self.dtype {
            Dtype::F32 => converted::<f32>(bytes, count, &self.shape, dtype),
            Dtype::BF16 => converted::<bf16>(bytes, count, &self.shape, dtype),
            Dtype::F16 => converted::<f16>(bytes, count, &self.shape, dtype),
            other => return Err(Error::invalid(format!("{other:?}; allowed: F32, BF16, F16"))),
        };
        data.map_err(|e| Error::invalid(e.to_string()))
    }
}

impl StoredTensor {
    /// The same values in the number format `dtype`.
    ///
    /// # Errors
    /// As [`to_data`](Self::to_data).
    pub fn convert(&self, dtype: StoredDtype) -> Result<Self> {
        let bytes = self.to_data(dtype.in_memory())?.bytes().to_vec();
        let mut converted = Self { dtype: dtype.safetensors(), shape: self.shape.clone(), bytes };
        if cfg!(target_endian = "big") {
            let size = converted.dtype.bitsize() / 8;
            converted.bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
        }
        Ok(converted)
    }
}

/// Where the data begins, and the header.
fn read_header(path: &Path) -> Result<(u64, Value)> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let size = file.metadata().map_err(Error::io(path))?.len();
    let mut prefix = [0; 8];
    file.read_exact(&mut prefix)
        .map_err(|_| damaged(path, &format!("it has only {size} bytes")))?;
    let len = u64::from_le_bytes(prefix);
    if len > LONGEST_HEADER.min(size - 8) {
        return Err(damaged(path, &format!("a header of {len} bytes in a file of {size}")));
    }
    let mut header = Vec::new();
    file.take(len).read_to_end(&mut header).map_err(Error::io(path))?;
    let header = serde_json::from_slice(&header).map_err(|e| damaged(path, &e.to_string()))?;
    Ok((8 + len, header))
}

fn damaged(path: &Path, what: &str) -> Error {
    Error::file(path, format!("not a readable safetensors file: {what}"))
}

/// Sorts the tensors by their places and checks that these fill the `size` bytes after the header
/// without gaps, each with as many bytes as its shape needs.
fn check_places(infos: &mut [(String, TensorInfo)], size: u64) -> std::result::Result<(), String> {
    infos.sort_by(|a, b| (a.1.data_offsets, &a.0).cmp(&(b.1.data_offsets, &b.0)));
    let mut end = 0;
    for (name, info) in infos {
        let (from, to) = info.data_offsets;
        let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |n, side| n.checked_mul(*side));
        let (dtype, shape) = (info.dtype, &info.shape);
        if from != end || to < from {
            return Err(format!("tensor {name} lies at {from} to {to}, not from {end} on"));
        }
        if bits.is_none_or(|bits| bits % 8 != 0 || bits / 8 != to - from) {
            let len = to - from;
            return Err(format!("tensor {name}, {dtype:?} {shape:?}, has {len} bytes"));
        }
        if to as u64 > size {
            return Err(format!("tensor {name} ends at {to} of {size} bytes; it is cut off"));
        }
        end = to;
    }
    if end as u64 != size {
        return Err(format!("{size} bytes of data; its header says {end}"));
    }
    Ok(())
}

/// A float that weight files hold.
trait Stored: bytemuck::Pod + burn::tensor::Element + Copy {
    fn widen(self) -> f32;
}

impl Stored for f32 {
    fn widen(self) -> f32 {
        self
    }
}

impl Stored for bf16 {
    fn widen(self) -> f32 {
        bf16::to_f32(self)
    }
}

impl Stored for f16 {
    fn widen(self) -> f32 {
        f16::to_f32(self)
    }
}

fn converted<T: Stored>(
    from: impl Read,
    count: usize,
    shape: &[usize],
    dtype: FloatDType,
) -> std::io::Result<TensorData> {
    let shape = shape.to_vec();
    Ok(match dtype {
        FloatDType::BF16 => {
            TensorData::new(mapped::<T, _>(from, count, |v| bf16::from_f32(v.widen()))?, shape)
        }
        FloatDType::F16 => {
            TensorData::new(mapped::<T, _>(from, count, |v| f16::from_f32(v.widen()))?, shape)
        }
        FloatDType::F32 => TensorData::new(mapped::<T, _>(from, count, T::widen)?, shape),
        _ => TensorData::new(mapped::<T, _>(from, count, T::widen)?, shape)
            .convert_dtype(DType::from(dtype)),
    })
}

/// The values read in small parts, so that they exist twice only part by part.
fn mapped<T: Stored, U>(
    mut from: impl Read,
    count: usize,
    convert: impl Fn(T) -> U,
) -> std::io::Result<Vec<U>> {
    let mut part = vec![T::zeroed(); VALUES_AT_ONCE.min(count)];
    let mut values = Vec::with_capacity(count);
    while values.len() < count {
        let part = &mut part[..VALUES_AT_ONCE.min(count - values.len())];
        from.read_exact(bytemuck::cast_slice_mut(part))?;
        part.iter_mut().for_each(from_little_endian);
        values.extend(part.iter().map(|value| convert(*value)));
    }
    Ok(values)
}

/// Files are little-endian; nothing to do on nearly every machine.
fn from_little_endian<T: Stored>(value: &mut T) {
    if cfg!(target_endian = "big") {
        bytemuck::bytes_of_mut(value).reverse();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::{collect, load, to_bytes};
    use super::*;
    use crate::VqConfig;
    use burn::tensor::Device;

    fn config() -> VqConfig {
        serde_json::from_str(
            r#"{"ch": 32, "ch_mult": [1], "num_res_blocks": 1, "resolution": 4, "z_channels": 2,
                "embed_dim": 2, "n_embed": 3, "attn_type": "none"}"#,
        )
        .unwrap()
    }

    #[test]
    fn every_cut_and_every_changed_header_byte_is_an_error_or_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("small.safetensors");
        let model = config().init(&Device::flex());
        let tensors = collect(&model);
        let bytes = to_bytes(&tensors, StoredDtype::F16, None).unwrap();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let outcome = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            WeightFiles::open(&path).and_then(|files| load(model.clone(), files, &path))
        };
        let whole = collect(&outcome(&bytes).unwrap());
        let cuts = (0..header).chain([header, bytes.len() - 1]);
        for len in cuts {
            let message = outcome(&bytes[..len]).unwrap_err().to_string();
            assert!(message.contains("small.safetensors"), "{len}: {message}");
        }
        for (at, mask) in (0..header).flat_map(|at| [1, 2, 32, 128].map(|mask| (at, mask))) {
            let mut changed = bytes.clone();
            changed[at] ^= mask;
            match outcome(&changed) {
                Err(error) => assert!(error.to_string().contains("small.safetensors"), "{error}"),
                // White space, or the order of keys.
                Ok(model) => assert!(
                    collect(&model).into_iter().eq(whole.clone()),
                    "byte {at} changed by {mask} changes weights unnoticed"
                ),
            }
        }
    }

    #[test]
    fn formats_are_converted_on_the_way_and_kept_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        let bytes: Vec<u8> = [1.0_f32, -2.5, 3e-9].iter().flat_map(|v| v.to_le_bytes()).collect();
        let tensors =
            [("a".to_owned(), Dtype::F32, vec![3]), ("i".to_owned(), Dtype::I64, vec![1])];
        let content = |name: &str| Ok(if name == "a" { bytes.clone() } else { vec![0; 8] });
        super::super::write_file(&path, &tensors, content).unwrap();
        let mut files = WeightFiles::open(&path).unwrap();
        assert_eq!(files.stored("a").unwrap().bytes, bytes);
        let half = files.tensor("a", FloatDType::BF16).unwrap().unwrap();
        assert_eq!(half.dtype(), DType::BF16);
        assert_eq!(half.iter::<f32>().take(2).collect::<Vec<_>>(), [1.0, -2.5]);
        let message = files.tensor("i", FloatDType::F32).unwrap_err().to_string();
        assert!(message.contains("tensor i is I64"), "{message}");
        let short = super::super::write_file(&path, &tensors, |_| Ok(vec![0; 5]));
        assert!(short.unwrap_err().to_string().contains("tensor a has 5 bytes of 12"));
    }
}
