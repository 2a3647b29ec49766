//! Module weights in and out of safetensors files, named as the module's fields are.
//!
//! Every module of this workspace names its fields after the published checkpoints, so a path such as
//! `encoder.down.0.block.1.conv1.weight` is both the Rust path and the tensor name: no rename table.
//! [`load()`] collects every missing, unexpected and mis-shaped tensor and reports all of them at once.
//!
//! [`WeightFiles`] opens files of any size by their headers. A tensor is read, and converted piece by piece if it
//! is stored in another number format, into its final memory, so a weight is never in memory twice. It is not used
//! in the mapped file: memory of the allocator has large pages, with which a decoding step reads weights a third
//! faster.
//!
//! Why not `burn-store` 0.22.1: measured on 64 matrices of 4096x4096 in bfloat16 (2.1 GB) on two
//! cores, it loads them with a peak of 4.2 GB, twice their size, because its safetensors store
//! copies every tensor out of its mapping. It also parses the header again for each tensor, loads only
//! the file's number format, opens one file, reads no metadata, refuses a file that holds any float8,
//! and does not return bytes as they are stored.
//!
//! ```
//! use burn::module::{Module, Param};
//! use burn::tensor::{Device, Tensor};
//! use tensor_files::{StoredDtype, WeightFiles, load, on_device, write};
//!
//! #[derive(Module, Debug)]
//! struct Scale {
//!     weight: Param<Tensor<1>>,
//! }
//!
//! let scale = |value: f32| Scale { weight: Param::from_data([value], &Device::flex()) };
//! let dir = tempfile::tempdir()?;
//! let path = dir.path().join("model.safetensors");
//! write(&path, &on_device(&scale(2.0)), StoredDtype::Bf16)?;
//!
//! let loaded = load(scale(0.0), WeightFiles::open(&path)?, &path)?;
//! assert_eq!(loaded.weight.val().into_scalar::<f32>(), 2.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(missing_docs)]

mod convert;
mod dtype;
mod error;
mod files;
mod header;
mod lfs;
mod load;
mod map;
mod named;
mod path;
mod source;
mod stored;
mod write;

pub use dtype::StoredDtype;
pub use error::{Cause, Error, Mismatch, Result, ShapeMismatch};
pub use files::{WeightFiles, read};
pub use lfs::{LFS_POINTER, is_lfs_pointer};
pub use load::{load, load_as, load_some};
pub use map::{MappedFile, map_file};
pub use named::{DeviceTensor, DeviceTensors, NamedTensors, collect, on_device, shapes};
pub use path::ParamPath;
pub use source::TensorSource;
pub use stored::StoredTensor;
pub use write::{TensorInfo, write, write_file};
