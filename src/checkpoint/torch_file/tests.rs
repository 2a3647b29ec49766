//! Whole files: PyTorch's own (`make_torch_fixtures.py`), and forged ones.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::Dtype;

use super::tensor_info::STORAGES;
use super::{TensorInfo, TorchFile};
use crate::Error;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/torch").join(name)
}

fn f32s(file: &TorchFile, name: &str) -> Vec<f32> {
    let bytes = file.read(name).unwrap();
    bytes.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect()
}

fn info(dtype: Dtype, shape: &[usize]) -> TensorInfo {
    TensorInfo { dtype, shape: shape.to_vec() }
}

fn shapes(file: &TorchFile) -> Vec<(&str, &[usize])> {
    file.tensors().iter().map(|(name, info)| (name.as_str(), info.shape.as_slice())).collect()
}

/// The message of the error of opening, without the path.
fn refusal(path: &Path) -> String {
    let message = TorchFile::open(path).unwrap_err().to_string();
    message.strip_prefix(&format!("{}: ", path.display())).unwrap().to_owned()
}

/// A zip file of stored entries.
fn zip(entries: &[(&str, &[u8])]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content) in entries {
        zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(content).unwrap();
    }
    file.write_all(zip.finish().unwrap().get_ref()).unwrap();
    file
}

/// A file with the f32 tensor `t` in a storage of six numbers, 0 to 5.
fn one_tensor(offset: u64, shape: &[u64], strides: &[u64]) -> tempfile::NamedTempFile {
    let int = |number: &u64| [&[0x8a, 8][..], &number.to_le_bytes()].concat();
    let tuple = |numbers: &[u64]| {
        [&b"("[..], &numbers.iter().flat_map(int).collect::<Vec<_>>(), b"t"].concat()
    };
    let pickle = [
        b"\x80\x02}U\x01tctorch._utils\n_rebuild_tensor_v2\n(",
        &b"(U\x07storagectorch\nFloatStorage\nU\x017U\x03cpuK\x06tQ"[..],
        &int(&offset),
        &tuple(shape),
        &tuple(strides),
        b"\x89ccollections\nOrderedDict\n)RtRs.",
    ]
    .concat();
    let storage: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
    zip(&[("x/data.pkl", &pickle), ("x/byteorder", b"little"), ("x/data/7", &storage)])
}

#[test]
fn every_number_format_is_read() {
    let file = TorchFile::open(&fixture("dtypes.pth")).unwrap();
    let each = |bytes: fn(u8) -> Vec<u8>| (0..6).flat_map(bytes).collect::<Vec<u8>>();
    for (name, dtype, bytes) in [
        ("f32", Dtype::F32, each(|i| f32::from(i).to_le_bytes().to_vec())),
        ("f64", Dtype::F64, each(|i| f64::from(i).to_le_bytes().to_vec())),
        ("i64", Dtype::I64, each(|i| i64::from(i).to_le_bytes().to_vec())),
        ("i32", Dtype::I32, each(|i| i32::from(i).to_le_bytes().to_vec())),
        ("i16", Dtype::I16, each(|i| i16::from(i).to_le_bytes().to_vec())),
        ("i8", Dtype::I8, each(|i| vec![i])),
        ("u8", Dtype::U8, each(|i| vec![i])),
        ("bool", Dtype::BOOL, each(|i| vec![u8::from(i > 0)])),
        ("bf16", Dtype::BF16, each(|i| f32::from(i).to_le_bytes()[2..].to_vec())),
        // 0 to 5 in half precision, from IEEE 754: exponent bias 15, ten bits of fraction.
        (
            "f16",
            Dtype::F16,
            [0x0000u16, 0x3c00, 0x4000, 0x4200, 0x4400, 0x4500]
                .iter()
                .flat_map(|bits| bits.to_le_bytes())
                .collect(),
        ),
    ] {
        assert_eq!(file.tensors()[name], info(dtype, &[2, 3]), "{name}");
        assert_eq!(file.read(name).unwrap(), bytes, "{name}");
    }
    assert_eq!(file.tensors().len(), STORAGES.len());
}

#[test]
fn views_are_gathered_in_row_major_order() {
    let file = TorchFile::open(&fixture("views.pth")).unwrap();
    let all = |numbers: &mut dyn Iterator<Item = i16>| numbers.map(f32::from).collect::<Vec<_>>();
    assert_eq!(f32s(&file, "base"), all(&mut (0..24)));
    assert_eq!(file.tensors()["transposed"].shape, [6, 4]);
    assert_eq!(
        f32s(&file, "transposed"),
        all(&mut (0..6).flat_map(|column| (0..4).map(move |row| 6 * row + column)))
    );
    assert_eq!(f32s(&file, "rows"), all(&mut (6..18)));
    assert_eq!(f32s(&file, "steps"), [7., 9., 11., 19., 21., 23.]);
    assert_eq!(f32s(&file, "column"), [5., 11., 17., 23.]);
    assert_eq!(f32s(&file, "one_row"), [12., 13., 14., 15., 16., 17.]);
    assert_eq!(f32s(&file, "scalar"), [22.]);
    assert!(file.tensors()["scalar"].shape.is_empty());
    assert!(file.read("empty").unwrap().is_empty());
    assert_eq!(file.tensors()["empty"].shape, [0, 3]);
    let bytes = |numbers: &mut dyn Iterator<Item = i16>| {
        numbers.flat_map(i16::to_le_bytes).collect::<Vec<_>>()
    };
    assert_eq!(file.tensors()["permuted"].shape, [4, 2, 3]);
    assert_eq!(
        file.read("permuted").unwrap(),
        bytes(&mut (0..4).flat_map(|c| (0..6).map(move |row| 4 * row + c)))
    );
    assert_eq!(file.read("inner").unwrap(), bytes(&mut (4..12).chain(16..24)));
}

#[test]
fn nested_dicts_are_joined_by_dots_in_every_protocol() {
    for name in ["nested.ckpt", "protocol5.ckpt"] {
        let file = TorchFile::open(&fixture(name)).unwrap();
        let expected: [(&str, &[usize]); 7] = [
            ("optimizer.state.0.exp_avg", &[2]),
            ("state_dict.norm.bias", &[2]),
            ("state_dict.norm.weight", &[2]),
            ("state_dict.proj.bias", &[2]),
            ("state_dict.proj.weight", &[2, 3]),
            ("tied.a", &[4]),
            ("tied.b", &[4]),
        ];
        assert_eq!(shapes(&file), expected);
        assert_eq!(f32s(&file, "state_dict.proj.weight"), [0., 1., 2., 3., 4., 5.]);
        assert_eq!(f32s(&file, "tied.a"), [0., 1., 2., 3.]);
        assert_eq!(f32s(&file, "tied.b"), [0., 1., 2., 3.]);
    }
}

/// The original release's files, byte by byte: a checksum over all values in the order of the names,
/// and a few first bytes, both found with Python's `zipfile` and `struct`.
#[test]
fn files_of_the_original_release_have_the_values_that_python_finds() {
    let meta = |name: &str| {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/meta").join(name)
    };
    const SHARD: &str = "swin-gqa-mp2-bf16/models/tiny/consolidated";
    for (name, count, checksum) in [
        (format!("{SHARD}.00.pth"), 30, 0x3d07_28e8_8dc3_cee7),
        (format!("{SHARD}.01.pth"), 30, 0xd99b_014e_7c82_f725),
    ] {
        let file = TorchFile::open(&meta(&name)).unwrap();
        assert_eq!(file.tensors().len(), count, "{name}");
        let bytes = file.tensors().keys().flat_map(|name| file.read(name).unwrap());
        let found = bytes.fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        assert_eq!(found, checksum, "{name}");
    }
    let file = TorchFile::open(&meta(&format!("{SHARD}.01.pth"))).unwrap();
    assert_eq!(file.tensors()["tok_embeddings.weight"], info(Dtype::BF16, &[480, 48]));
    assert_eq!(file.tensors()["rope.freqs"], info(Dtype::F32, &[6]));
}

#[test]
fn a_range_is_the_part_of_the_whole() {
    let file = TorchFile::open(&fixture("views.pth")).unwrap();
    let whole = file.read("rows").unwrap();
    assert_eq!(file.read_range("rows", 4..20).unwrap(), whole[4..20]);
    assert_eq!(file.read_range("rows", 0..48).unwrap(), whole);
    assert!(file.read_range("rows", 48..48).unwrap().is_empty());
    #[allow(clippy::reversed_empty_ranges, reason = "the test's subject")]
    for range in [0..49, 49..49, 9..8] {
        let message = file.read_range("rows", range).unwrap_err().to_string();
        assert!(message.contains("tensor rows has 48 bytes, not "), "{message}");
    }
    let message = file.read_range("column", 0..4).unwrap_err().to_string();
    assert!(message.ends_with("tensor column is a strided view; read it whole"), "{message}");
    let message = file.read("rowz").unwrap_err().to_string();
    assert!(message.ends_with("views.pth: there is no tensor rowz"), "{message}");
}

#[test]
fn views_beyond_their_storage_are_refused() {
    let open = |offset, shape: &[u64], strides: &[u64]| {
        TorchFile::open(one_tensor(offset, shape, strides).path())
    };
    let file = one_tensor(1, &[2, 2], &[1, 3]);
    assert_eq!(f32s(&TorchFile::open(file.path()).unwrap(), "t"), [1., 4., 2., 5.]);
    // The stride of an axis of size 1, and all strides of an empty tensor, are meaningless.
    let file = one_tensor(3, &[1, 3], &[u64::MAX >> 1, 1]);
    assert_eq!(f32s(&TorchFile::open(file.path()).unwrap(), "t"), [3., 4., 5.]);
    assert!(open(1 << 62, &[1 << 62, 0, 1 << 62], &[1 << 62, 1, 9]).is_ok());
    const HUGE: u64 = (1 << 63) - 1;
    for (offset, shape, strides) in [
        (1, &[6][..], &[1][..]),
        (0, &[7], &[1]),
        (6, &[], &[]),
        (0, &[2, 2], &[3, 3]),
        (0, &[2], &[HUGE]),
        (HUGE, &[1], &[1]),
        (HUGE, &[2], &[HUGE]),
        (0, &[HUGE], &[1]),
        (0, &[HUGE, HUGE], &[1, 1]),
        (0, &[HUGE, HUGE, HUGE], &[HUGE, HUGE, HUGE]),
    ] {
        let message = open(offset, shape, strides).unwrap_err().to_string();
        assert!(message.contains("is more than its storage of 24 bytes"), "{message}");
    }
    for shape in [&[7][..], &[HUGE], &[HUGE, HUGE, 2]] {
        let message = open(0, shape, &vec![0; shape.len()]).unwrap_err().to_string();
        assert!(
            message.contains("repeats values of a storage of 24 bytes; save a clone"),
            "{message}"
        );
    }
}

#[test]
fn a_name_used_twice_and_a_missing_storage_are_refused() {
    let tensor = "ctorch._utils\n_rebuild_tensor_v2\n((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpu\
                  K\x00tQK\x00))\u{89}NtR";
    // The mark of an opcode above 127 is one byte in the file.
    let tensor: Vec<u8> = tensor.chars().map(|char| char as u8).collect();
    let pickle = [b"\x80\x02}(U\x03a.b", &tensor[..], b"U\x01a}U\x01b", &tensor, b"su."].concat();
    let file = zip(&[("x/data.pkl", &pickle), ("x/data/0", &[0; 4])]);
    assert_eq!(refusal(file.path()), "two tensors have the name a.b");
    let file = zip(&[("x/data.pkl", &pickle)]);
    assert_eq!(refusal(file.path()), "tensor a.b: its storage data/0 is missing");
}

#[test]
fn files_of_old_pytorch_hold_the_same_as_new_ones() {
    let old = TorchFile::open(&fixture("legacy.pt")).unwrap();
    let mut count = 0;
    for (prefix, name) in
        [("views", "views.pth"), ("dtypes", "dtypes.pth"), ("nested", "nested.ckpt")]
    {
        let new = TorchFile::open(&fixture(name)).unwrap();
        for (name, info) in new.tensors() {
            let of_old = format!("{prefix}.{name}");
            assert_eq!(&old.tensors()[&of_old], info, "{of_old}");
            assert_eq!(old.read(&of_old).unwrap(), new.read(name).unwrap(), "{of_old}");
            count += 1;
        }
    }
    assert_eq!(old.tensors().len(), count);
}

#[test]
fn other_files_are_named_with_the_remedy() {
    for (name, message) in [
        ("repeated.pt", "tensor ones: [1000] repeats values of a storage of 4 bytes; save a clone"),
        ("bare.pt", "the pickle holds a tensor, not a dict of tensors"),
        ("negated.pt", "a tensor has metadata; save its resolve_conj().resolve_neg()"),
    ] {
        let found = refusal(&fixture(name));
        assert!(found.starts_with(message), "{found}");
    }
    let module = TorchFile::open(&fixture("module.pt")).unwrap();
    assert!(module.tensors().is_empty());
    assert_eq!(module.objects()["layer"], "torch.nn.modules.linear.Linear");
    let safetensors =
        safetensors::serialize::<&str, &safetensors::tensor::TensorView<'_>, _>([], None);
    for (content, message) in [
        (&b""[..], "an empty file, no PyTorch zip file; save it with torch.save of PyTorch 1.6 or"),
        (b"\x80\x04}.", "a bare pickle, no PyTorch zip file; save"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "a pointer of Git LFS, not the file; run `git lfs pull`",
        ),
        (&safetensors.unwrap(), "a safetensors file, no PyTorch zip file; its name must end so"),
        (b"<!DOCTYPE html>", "a file of another kind, no PyTorch zip file; save"),
        (b"PK\x03\x04", "no readable zip file, truncated perhaps: "),
    ] {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        let found = refusal(file.path());
        assert!(found.starts_with(message), "{found}");
    }
    let missing = TorchFile::open(Path::new("no/such/file.pth")).unwrap_err();
    assert!(matches!(missing, Error::Io { .. }));
}

#[test]
fn archives_of_another_layout_are_refused() {
    let pickle = b"\x80\x02}.";
    for (entries, message) in [
        (&[("a.npy", &b""[..])][..], "0 entries */data.pkl; a PyTorch file has one"),
        (&[("a/b/data.pkl", pickle), ("data.pkl", pickle)], "0 entries */data.pkl"),
        (&[("a/data.pkl", pickle), ("b/data.pkl", pickle)], "2 entries */data.pkl"),
        (&[("a/data.pkl", pickle), ("a/byteorder", b"big")], "byte order is big; allowed: little"),
        (&[("a/data.pkl", pickle), ("a/byteorder", &[b'x'; 17])], "byteorder has 17 bytes"),
    ] {
        let found = refusal(zip(entries).path());
        assert!(found.starts_with(message), "{found}");
    }
    assert!(TorchFile::open(zip(&[("a/data.pkl", pickle)]).path()).unwrap().tensors().is_empty());
    // Method 8 in the central directory: deflated.
    let file = zip(&[("a/data.pkl", pickle)]);
    let mut bytes = std::fs::read(file.path()).unwrap();
    let entry = bytes.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    bytes[entry + 10] = 8;
    std::fs::write(file.path(), bytes).unwrap();
    let message = "zip entry a/data.pkl: compressed or encrypted; save it anew with torch.save";
    assert_eq!(refusal(file.path()), message);
}

/// Opens the file and reads every tensor, none of which is larger than the file.
fn exercise(path: &Path) {
    let Ok(file) = TorchFile::open(path) else { return };
    let len = std::fs::metadata(path).unwrap().len();
    for (name, info) in file.tensors() {
        let bytes = file.read(name).unwrap();
        assert_eq!(Some(bytes.len()), info.bytes_len());
        assert!(bytes.len() as u64 <= len);
    }
}

#[test]
fn a_file_cut_or_changed_at_any_byte_never_panics() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broken.pth");
    let zip = one_tensor(1, &[2, 2], &[1, 3]);
    // Every byte of the small file, one in a few of the large one.
    for (source, step) in [(zip.path(), 1), (&fixture("legacy.pt"), 7)] {
        let good = std::fs::read(source).unwrap();
        for end in (0..good.len()).step_by(step) {
            std::fs::write(&path, &good[..end]).unwrap();
            assert!(TorchFile::open(&path).is_err(), "{end}");
        }
        for at in (0..good.len()).step_by(step) {
            for flip in [0x01, 0x08, 0x80, 0xff] {
                let mut bytes = good.clone();
                bytes[at] ^= flip;
                std::fs::write(&path, bytes).unwrap();
                exercise(&path);
            }
        }
    }
}
