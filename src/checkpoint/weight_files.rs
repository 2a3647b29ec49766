//! The weight files of a checkpoint: one safetensors file, or shards with their index.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tensor_files::{TensorInfo, WeightFiles, write_file};

use super::emu3::common_name;
use crate::error::{Error, Result};
use crate::files::read_json;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Maximum bytes of tensors in one file: Hugging Face's default.
pub const SHARD_SIZE: u64 = 5_000_000_000;

/// Opens the weight files of `dir`: `model.safetensors`, or the shards that the index lists.
///
/// Also returns the path that names all of them in messages. Emu3's tensors get the names that other models' have.
///
/// # Errors
/// Those of the files; [`Error::File`] if the index is malformed or a shard is missing or lacks a tensor.
pub fn weight_files(dir: &Path) -> Result<(PathBuf, WeightFiles)> {
    let (single, index) = (dir.join(SINGLE), dir.join(INDEX));
    let is_torch = |name: &str| dir.join(name).is_file();
    if !single.exists()
        && !index.exists()
        && (is_torch("pytorch_model.bin") || is_torch("pytorch_model.bin.index.json"))
    {
        let message = "has weights in PyTorch's format; convert them with `calumma import`";
        return Err(Error::file(dir, message));
    }
    if single.exists() || !index.exists() {
        let files = WeightFiles::open(&single)?;
        return Ok((single, files.renamed(|name| Some(common_name(name)))));
    }
    let mut files = WeightFiles::default();
    for (shard, names) in shards(&index)? {
        let path = dir.join(&shard);
        if !path.is_file() {
            let message = format!("tensor {} is in {shard}, which does not exist", names[0]);
            return Err(Error::file(&index, message));
        }
        files.add(&path)?;
        if let Some(name) = names.iter().find(|name| !files.contains(name)) {
            let message =
                format!("there is no tensor {name}, which {} places here", index.display());
            return Err(Error::file(&path, message));
        }
    }
    Ok((index, files.renamed(|name| Some(common_name(name)))))
}

/// The names of the shards in `index`, with the tensors of each.
///
/// # Errors
/// If the index is malformed, or names a shard that is no plain file name.
pub(super) fn shards(index: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let json: Value = read_json(index)?;
    let map = json.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| Error::file(index, "weight_map is missing or no object"))?;
    let mut shards = BTreeMap::<String, Vec<String>>::new();
    for (name, shard) in map {
        // A path could lead anywhere.
        let plain = shard.as_str().filter(|shard| !shard.contains(['/', '\\']) && *shard != "..");
        let shard = plain.ok_or_else(|| {
            Error::file(index, format!("tensor {name} is in {shard}; allowed: a plain file name"))
        })?;
        shards.entry(shard.to_owned()).or_default().push(name.clone());
    }
    if shards.is_empty() {
        return Err(Error::file(index, "weight_map is empty"));
    }
    Ok(shards)
}

/// Writes `tensors` into the existing directory `dir`: one file, or shards with an index.
///
/// A shard holds at most `shard_size` bytes, or one larger tensor. `bytes` returns the values of a tensor
/// by its name; it is called in the order of `tensors`, and one tensor is in memory at a time.
///
/// # Errors
/// As [`write_file`]; those of `bytes`.
pub fn write_weights(
    dir: &Path,
    tensors: &[TensorInfo],
    shard_size: u64,
    mut bytes: impl FnMut(&str) -> Result<Vec<u8>>,
) -> Result<()> {
    let shards = cut(tensors, shard_size);
    if let [all] = shards[..] {
        return write_file(&dir.join(SINGLE), all, bytes);
    }
    let number = shards.len();
    let mut map = BTreeMap::new();
    for (shard, index) in shards.into_iter().zip(1..) {
        let name = format!("model-{index:05}-of-{number:05}.safetensors");
        write_file(&dir.join(&name), shard, &mut bytes)?;
        map.extend(shard.iter().map(|(tensor, ..)| (tensor, name.clone())));
    }
    let total: u64 = tensors.iter().map(num_bytes).sum();
    let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
    let path = dir.join(INDEX);
    std::fs::write(&path, format!("{index:#}\n")).map_err(Error::io(&path))
}

/// `tensors` cut into shards of at most `shard_size` bytes.
fn cut(tensors: &[TensorInfo], shard_size: u64) -> Vec<&[TensorInfo]> {
    let mut shards = Vec::new();
    let (mut start, mut filled) = (0, 0);
    for (at, tensor) in tensors.iter().enumerate() {
        let len = num_bytes(tensor);
        if at > start && filled + len > shard_size {
            shards.push(&tensors[start..at]);
            (start, filled) = (at, 0);
        }
        filled += len;
    }
    shards.push(&tensors[start..]);
    shards
}

fn num_bytes((_, dtype, shape): &TensorInfo) -> u64 {
    (shape.iter().product::<usize>() * dtype.bitsize() / 8) as u64
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use safetensors::Dtype;

    #[test]
    fn shards_hold_every_tensor_once_within_their_limit() {
        let tensors: Vec<TensorInfo> =
            [3, 4, 9, 1, 1].map(|len| (format!("t{len}"), Dtype::U8, vec![len])).to_vec();
        let tensors: Vec<TensorInfo> = tensors
            .into_iter()
            .enumerate()
            .map(|(at, (name, dtype, shape))| (format!("{at}.{name}"), dtype, shape))
            .collect();
        let bytes = |name: &str| {
            let len = name.rsplit('t').next().unwrap().parse().unwrap();
            Ok(vec![name.as_bytes()[0]; len])
        };
        for (size, files) in [(0, 5), (7, 3), (8, 3), (18, 1)] {
            let dir = tempfile::tempdir().unwrap();
            write_weights(dir.path(), &tensors, size, bytes).unwrap();
            let written = std::fs::read_dir(dir.path()).unwrap().count();
            assert_eq!(written, if files == 1 { 1 } else { files + 1 }, "{size}");
            let (_, read) = weight_files(dir.path()).unwrap();
            assert_eq!(read.num_bytes(), 18);
            for (name, ..) in &tensors {
                assert_eq!(read.stored(name).unwrap().bytes, bytes(name).unwrap());
            }
        }
    }

    #[test]
    fn every_cut_and_every_changed_byte_of_an_index_is_an_error_or_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let tensors: Vec<TensorInfo> =
            ["a.weight", "b.weight"].map(|name| (name.to_owned(), Dtype::U8, vec![3])).to_vec();
        write_weights(dir.path(), &tensors, 3, |name| Ok(vec![name.as_bytes()[0]; 3])).unwrap();
        let index = dir.path().join(INDEX);
        let whole = std::fs::read(&index).unwrap();
        let outcome = |bytes: &[u8]| {
            std::fs::write(&index, bytes).unwrap();
            match weight_files(dir.path()) {
                Ok((_, files)) => {
                    for (name, ..) in &tensors {
                        assert_eq!(files.stored(name).unwrap().bytes, [name.as_bytes()[0]; 3]);
                    }
                    assert_eq!(files.infos().len(), tensors.len());
                }
                Err(error) => assert!(error.to_string().contains("safetensors"), "{error}"),
            }
        };
        (0..whole.len()).for_each(|len| outcome(&whole[..len]));
        for (at, mask) in (0..whole.len()).flat_map(|at| [1, 2, 32, 128].map(|mask| (at, mask))) {
            let mut changed = whole.clone();
            changed[at] ^= mask;
            outcome(&changed);
        }
    }

    #[test]
    fn an_index_of_paths_or_missing_shards_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let index = dir.path().join(INDEX);
        for (text, expected) in [
            ("{", "EOF"),
            ("{}", "weight_map is missing"),
            (r#"{"weight_map": {}}"#, "weight_map is empty"),
            (r#"{"weight_map": {"a": "../b.safetensors"}}"#, "tensor a is in"),
            (r#"{"weight_map": {"a": 3}}"#, "tensor a is in 3"),
            (
                r#"{"weight_map": {"a": "b.safetensors"}}"#,
                "tensor a is in b.safetensors, which does not exist",
            ),
        ] {
            std::fs::write(&index, text).unwrap();
            let message = weight_files(dir.path()).unwrap_err().to_string();
            assert!(message.contains(expected), "{text}: {message}");
        }
        let tensor = ("c".to_owned(), Dtype::U8, vec![1]);
        write_file(&dir.path().join("b.safetensors"), &[tensor], |_| Ok::<_, Error>(vec![0]))
            .unwrap();
        let message = weight_files(dir.path()).unwrap_err().to_string();
        assert!(message.contains("there is no tensor a"), "{message}");
    }
}
