//! PyTorch's files (`.pth`, `.pt`, `.ckpt`): the tensors of a `torch.save`, read and written.
//!
//! A file is a zip archive of one folder: `data.pkl` is a pickle of nested dicts in which each tensor
//! names a storage, `data/0`, `data/1`, ... are the storages' uncompressed bytes, and `byteorder` and
//! `version` describe them (PyTorch's `torch/serialization.py` and `caffe2/serialize/inline_container.h`).
//! Files from before PyTorch 1.6, which are no zip archives, are read too.
//!
//! A restricted unpickler reads the pickle: no code of the file ever runs. Callbacks, settings and other objects
//! of a training run are read past; only their classes are known. A tensor's bytes are read on
//! demand; as in PyTorch, the archive's checksums are not verified.
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
mod escape;
mod file;
mod legacy;
#[cfg(test)]
mod lightning_tests;
mod literals;
mod objects;
mod pickle;
mod place;
mod tensor_info;
#[cfg(test)]
mod tests;
mod value;
mod write;

pub use file::TorchFile;
pub use tensor_info::TensorInfo;
pub use write::write;
