//! Writing PyTorch's zip files.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::escape::escaped;
use super::tensor_info::{STORAGES, TensorInfo, element_len};
use crate::error::{Error, Result};
use crate::files::scratch;

/// The one folder of the archive; PyTorch accepts any name.
const ROOT: &str = "archive";
/// PyTorch's alignment of storages, so that they can be mapped into memory.
const ALIGNMENT: u16 = 64;

/// Writes the dict `{name: tensor}` to `path` as `torch.save` does, below the key `under` if given.
///
/// `bytes` returns the values of a tensor by its name, row-major and little-endian; it is called in the
/// order of `tensors`, and one tensor is in memory at a time. Dots in names have no meaning. The file is
/// written atomically and replaces an existing one.
///
/// # Errors
/// [`Error::File`] if two tensors have the same name, a number format is none of PyTorch's, or `bytes`
/// returns another length than format and shape need; those of `bytes`; [`Error::Io`].
pub fn write(
    path: &Path,
    under: Option<&str>,
    tensors: &[(String, TensorInfo)],
    mut bytes: impl FnMut(&str) -> Result<Vec<u8>>,
) -> Result<()> {
    let pickle = pickle(under, tensors).map_err(|message| Error::file(path, message))?;
    let scratch = scratch(path);
    let file = File::create(&scratch).map_err(Error::io(path))?;
    write_archive(file, path, &pickle, tensors, &mut bytes)
        .and_then(|()| std::fs::rename(&scratch, path).map_err(Error::io(path)))
        .inspect_err(|_| {
            // The first error is the one to report.
            let _ = std::fs::remove_file(&scratch);
        })
}

fn write_archive(
    file: File,
    path: &Path,
    pickle: &[u8],
    tensors: &[(String, TensorInfo)],
    bytes: &mut dyn FnMut(&str) -> Result<Vec<u8>>,
) -> Result<()> {
    let mut zip = ZipWriter::new(BufWriter::new(file));
    let mut entry = |name: &str, content: &[u8]| {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .with_alignment(ALIGNMENT)
            .large_file(content.len() >= u32::MAX as usize);
        zip.start_file(format!("{ROOT}/{name}"), options)?;
        zip.write_all(content).map_err(ZipError::from)
    };
    let failed = |error: ZipError| Error::io(path)(error.into());
    entry("data.pkl", pickle).map_err(failed)?;
    entry("byteorder", b"little").map_err(failed)?;
    for (index, (name, info)) in tensors.iter().enumerate() {
        let content = bytes(name)?;
        if Some(content.len()) != info.bytes_len() {
            let message = format!(
                "tensor {}: {} bytes given for {:?} of {:?}",
                escaped(name),
                content.len(),
                info.shape,
                info.dtype
            );
            return Err(Error::file(path, message));
        }
        entry(&format!("data/{index}"), &content).map_err(failed)?;
    }
    entry("version", b"3\n").map_err(failed)?;
    let file = zip.finish().map_err(failed)?.into_inner();
    file.map_err(std::io::IntoInnerError::into_error)
        .and_then(|file| file.sync_all())
        .map_err(Error::io(path))
}

/// The `data.pkl` of the dict, in protocol 2 like PyTorch's.
fn pickle(
    under: Option<&str>,
    tensors: &[(String, TensorInfo)],
) -> std::result::Result<Vec<u8>, String> {
    let mut out = b"\x80\x02}(".to_vec();
    if let Some(key) = under {
        text(&mut out, key).ok_or("the key is too long")?;
        out.extend(b"}(");
    }
    let mut names = HashSet::new();
    for (index, (name, info)) in tensors.iter().enumerate() {
        if !names.insert(name) {
            return Err(format!("two tensors have the name {}", escaped(name)));
        }
        text(&mut out, name)
            .and_then(|()| tensor(&mut out, index, info))
            .ok_or_else(|| format!("PyTorch has no tensor {} like {info:?}", escaped(name)))?;
    }
    if under.is_some() {
        out.push(b'u');
    }
    out.extend(b"u.");
    Ok(out)
}

/// The call of `_rebuild_tensor_v2` for the contiguous tensor in the storage `data/<index>`.
fn tensor(out: &mut Vec<u8>, index: usize, info: &TensorInfo) -> Option<()> {
    let (class, _) = STORAGES.iter().find(|(_, dtype)| *dtype == info.dtype)?;
    out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    text(out, "storage")?;
    out.extend(format!("ctorch\n{class}\n").bytes());
    text(out, &index.to_string())?;
    text(out, "cpu")?;
    int(out, info.bytes_len()? / element_len(info.dtype))?;
    out.extend(b"tQ");
    int(out, 0)?;
    out.push(b'(');
    for &size in &info.shape {
        int(out, size)?;
    }
    out.extend(b"t(");
    for axis in 1..=info.shape.len() {
        // As in PyTorch, an axis of size 0 counts as 1 here.
        let mut inner = info.shape[axis..].iter().map(|&size| size.max(1));
        int(out, inner.try_fold(1, usize::checked_mul)?)?;
    }
    // No gradient, and an empty dict of backward hooks.
    out.extend(b"t\x89ccollections\nOrderedDict\n)RtR");
    Some(())
}

/// Writes a string; `None` if it is longer than the format allows.
fn text(out: &mut Vec<u8>, text: &str) -> Option<()> {
    out.push(b'X');
    out.extend(u32::try_from(text.len()).ok()?.to_le_bytes());
    out.extend(text.bytes());
    Some(())
}

/// Writes an integer; `None` beyond PyTorch's 64 bits.
fn int(out: &mut Vec<u8>, number: usize) -> Option<()> {
    if let Ok(number) = u16::try_from(number) {
        out.push(b'M');
        out.extend(number.to_le_bytes());
    } else if let Ok(number) = i32::try_from(number) {
        out.push(b'J');
        out.extend(number.to_le_bytes());
    } else {
        out.extend([0x8a, 8]);
        out.extend(i64::try_from(number).ok()?.to_le_bytes());
    }
    Some(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::checkpoint::torch_file::TorchFile;
    use safetensors::Dtype;

    fn info(dtype: Dtype, shape: &[usize]) -> TensorInfo {
        TensorInfo { dtype, shape: shape.to_vec() }
    }

    /// One tensor of every number format, and special shapes.
    fn tensors() -> Vec<(String, TensorInfo)> {
        let shapes: [&[usize]; 4] = [&[], &[0, 3], &[300, 70], &[1, 1, 1, 1, 1]];
        let dtypes = STORAGES
            .iter()
            .map(|(class, dtype)| (format!("layers.0.{class}"), info(*dtype, &[2, 3, 5])));
        let shapes = shapes.map(|shape| (format!("shape {shape:?} é"), info(Dtype::F32, shape)));
        dtypes.chain(shapes).collect()
    }

    /// Bytes that differ between tensors.
    fn values(name: &str, tensors: &[(String, TensorInfo)]) -> Vec<u8> {
        let at = tensors.iter().position(|(other, _)| other == name).unwrap();
        (0..tensors[at].1.bytes_len().unwrap()).map(|i| (i * 7 + at * 31) as u8).collect()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let (path, tensors) = (dir.path().join("model.pth"), tensors());
        for under in [None, Some("state_dict")] {
            let mut asked = Vec::new();
            let give = |name: &str| {
                asked.push(name.to_owned());
                Ok(values(name, &tensors))
            };
            write(&path, under, &tensors, give).unwrap();
            assert!(asked.iter().eq(tensors.iter().map(|(name, _)| name)));
            let file = TorchFile::open(&path).unwrap();
            assert_eq!(file.tensors().len(), tensors.len());
            for (name, info) in &tensors {
                let key = under.map_or_else(|| name.clone(), |under| format!("{under}.{name}"));
                assert_eq!(file.tensors()[&key], *info);
                assert_eq!(file.read(&key).unwrap(), values(name, &tensors), "{key}");
            }
        }
        write(&path, None, &[], |_| unreachable!("there is no tensor")).unwrap();
        assert!(TorchFile::open(&path).unwrap().tensors().is_empty());
    }

    #[test]
    fn entries_are_stored_aligned_and_the_same_in_every_run() {
        let dir = tempfile::tempdir().unwrap();
        let (path, tensors) = (dir.path().join("model.pth"), tensors());
        let mut files = Vec::new();
        for _ in 0..2 {
            write(&path, None, &tensors, |name| Ok(values(name, &tensors))).unwrap();
            files.push(std::fs::read(&path).unwrap());
        }
        assert_eq!(files[0], files[1]);
        let mut zip = zip::ZipArchive::new(File::open(&path).unwrap()).unwrap();
        let names: Vec<_> = zip.file_names().map(|name| name.unwrap().into_owned()).collect();
        assert_eq!(names[..3], ["archive/data.pkl", "archive/byteorder", "archive/data/0"]);
        assert_eq!(names[names.len() - 1], "archive/version");
        for index in 0..zip.len() {
            let entry = zip.by_index(index).unwrap();
            assert_eq!(entry.compression(), CompressionMethod::Stored);
            assert_eq!(entry.data_start().unwrap() % u64::from(ALIGNMENT), 0);
        }
    }

    #[test]
    fn a_failed_write_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.pth");
        std::fs::write(&path, "what was there").unwrap();
        let named = |name: &str, info| (name.to_owned(), info);
        let pair = info(Dtype::F32, &[2]);
        for (tensors, message) in [
            (
                vec![named("a", pair.clone()), named("a", pair.clone())],
                "two tensors have the name a",
            ),
            (vec![named("a", info(Dtype::F4, &[2]))], "PyTorch has no tensor a like"),
            (
                vec![named("a", info(Dtype::U8, &[1 << 40, 1 << 40]))],
                "PyTorch has no tensor a like",
            ),
            (
                vec![named("b", pair.clone()), named("a", info(Dtype::F32, &[3]))],
                "tensor a: 8 bytes given for [3] of F32",
            ),
        ] {
            let error = write(&path, None, &tensors, |_| Ok(vec![0; 8])).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{}: {message}", path.display())), "{error}");
        }
        let broken = |_: &str| Err(Error::file(Path::new("source"), "broken"));
        let error = write(&path, None, &[named("a", pair)], broken).unwrap_err().to_string();
        assert_eq!(error, "source: broken");
        assert_eq!(std::fs::read(&path).unwrap(), b"what was there");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
