//! WebDataset archives and lists of files, also damaged ones.

use std::fs;

use calumma::data;
use image::{ImageFormat, Rgb, RgbImage};
use serde_json::json;

use super::{RED, encoded, open, open_error, png, samples, tar};

#[test]
fn webdataset_members_with_the_same_key_form_one_sample() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tar");
    let json = br#"{"name": "cat", "keywords": ["pet", "animal"]}"#;
    let jpeg = encoded(RgbImage::from_pixel(8, 4, Rgb([9; 3])), ImageFormat::Jpeg);
    tar(
        &path,
        &[
            ("x/a.b.png", &png(4, 4, RED)),
            ("x/a.png", &png(4, 2, RED)),
            ("x/a.txt", b"a cat\n"),
            ("x/a.json", json),
            ("x/a.cls", b"7"),
            ("y.jpg", &jpeg),
            ("y.json", b"[1]"),
            ("README", b"no sample"),
        ],
    );
    let dataset = open(&path);
    let found = samples(dataset.as_ref());
    assert_eq!(found.len(), 2);
    // The image with the plain ending is the sample's first.
    let sizes = [found[0].images[0].dimensions(), found[0].images[1].dimensions()];
    assert_eq!(sizes, [(4, 2), (4, 4)]);
    let fields = json!({
        "__key__": "x/a", "__images__": ["png", "b.png"], "txt": "a cat", "cls": 7, "name": "cat", "keywords": ["pet", "animal"]
    });
    assert_eq!(serde_json::Value::from(found[0].fields.clone()), fields);
    assert!(found[0].source.ends_with("a.tar: x/a"), "{}", found[0].source);
    assert_eq!(found[1].images[0].dimensions(), (8, 4));
    assert_eq!(found[1].fields["json"], json!([1]));
    let unused = dataset.unused();
    assert_eq!((unused.len(), unused[0].count), (1, 1), "{unused:?}");
    assert!(unused[0].what.ends_with("a.tar: README"), "{unused:?}");
}

#[test]
fn members_that_are_not_read_are_counted_by_their_reason() {
    let dir = tempfile::tempdir().unwrap();
    let image = png(2, 2, RED);
    let path = dir.path().join("a.tar");
    let mut builder = tar::Builder::new(fs::File::create(&path).unwrap());
    let mut add = |name: &str, kind: tar::EntryType, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        if kind.is_symlink() || kind.is_hard_link() {
            builder.append_link(&mut header, name, "a.png").unwrap();
        } else {
            builder.append_data(&mut header, name, bytes).unwrap();
        }
    };
    let file = tar::EntryType::file();
    let long = format!("{}/c.txt", "long".repeat(40));
    for (name, kind, bytes) in [
        ("dir/", tar::EntryType::dir(), &b""[..]),
        ("a.png", file, &image),
        ("a.npy", file, b"x"),
        ("a.depth.tiff", file, b"x"),
        ("b.seg.NPY", file, b"x"),
        ("c.gif", file, b"x"),
        ("c.txt", file, b"x"),
        ("d.png", tar::EntryType::symlink(), b""),
        ("e.png", tar::EntryType::hard_link(), b""),
        ("__MACOSX/._a.png", file, b"x"),
        (".DS_Store", file, b"x"),
        ("__info__", file, b"x"),
        ("LICENSE", file, b"x"),
        (&long, file, b"long"),
    ] {
        add(name, kind, bytes);
    }
    builder.finish().unwrap();
    let dataset = open(&path);
    let unused = dataset.unused();
    let counts: Vec<_> =
        unused.iter().map(|u| (u.what.rsplit(": ").next().unwrap(), u.count)).collect();
    let expected = [
        ("a.npy", 2),
        ("a.depth.tiff", 1),
        ("d.png", 2),
        ("__MACOSX/._a.png", 2),
        ("__info__", 1),
        ("LICENSE", 1),
    ];
    assert!(expected.iter().all(|e| counts.contains(e)) && counts.len() == 6, "{unused:?}");
    // A sample with no image but one that is not read is bad; `b` had nothing else.
    assert_eq!(dataset.len(), 3);
    let message = dataset.get(1).unwrap_err().to_string();
    assert!(message.contains("c.gif: an image in a format that is not read"), "{message}");
    assert_eq!(dataset.fields(2).unwrap()["txt"], json!("long"));
}

#[cfg(unix)]
#[test]
fn links_to_nowhere_among_the_files_of_a_glob_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    tar(&dir.path().join("t-0.tar"), &[("a.txt", b"x")]);
    std::os::unix::fs::symlink("gone.tar", dir.path().join("t-1.tar")).unwrap();
    let dataset = data::open(&format!("{}/t-*.tar", dir.path().display())).unwrap();
    let unused = dataset.unused();
    assert_eq!((dataset.len(), unused.len()), (1, 1));
    assert!(unused[0].what.ends_with("t-1.tar"), "{unused:?}");
    // Named by itself, it is missing.
    assert!(open_error(&format!("{}/t-{{0..1}}.tar", dir.path().display())).contains("t-1.tar"));
}

#[test]
fn sparse_members_are_bad_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tar");
    let mut builder = tar::Builder::new(fs::File::create(&path).unwrap());
    let mut add = |name: &str, extension: Option<&str>| {
        if let Some(key) = extension {
            builder.append_pax_extensions([(key, &b"1"[..])]).unwrap();
        }
        let mut header = tar::Header::new_ustar();
        header.set_size(1);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, &b"x"[..]).unwrap();
    };
    add("a.txt", Some("GNU.sparse.major"));
    add("b.txt", Some("comment"));
    builder.finish().unwrap();
    let dataset = open(&path);
    let message = dataset.get(0).unwrap_err().to_string();
    assert!(message.contains("a.txt: is stored as a sparse file"), "{message}");
    assert_eq!(dataset.fields(1).unwrap()["txt"], json!("x"));
}

#[test]
fn brace_glob_and_comma_lists_concatenate_their_files() {
    let dir = tempfile::tempdir().unwrap();
    for n in 8..12 {
        let name = format!("t-{n:04}.tar");
        tar(&dir.path().join(name), &[(&format!("s{n}.txt"), b"t"), ("u.txt", b"u")]);
    }
    let root = dir.path().display();
    let keys = |spec: String| -> Vec<String> {
        let found = samples(data::open(&spec).unwrap().as_ref());
        found.iter().map(|s| s.fields["__key__"].as_str().unwrap().to_owned()).collect()
    };
    let all = ["s8", "u", "s9", "u", "s10", "u", "s11", "u"];
    assert_eq!(keys(format!("{root}/t-{{0008..0011}}.tar")), all);
    assert_eq!(keys(format!("{root}/t-*.tar")), all);
    assert_eq!(keys(format!("{root}/t-0008.tar,{root}/t-00{{09,1?}}.tar")), all);
    assert!(open_error(&format!("{root}/t-{{0008..0012}}.tar")).contains("t-0012.tar"));
    assert!(open_error(&format!("{root}/x-*.tar")).contains("no file matches"));
}

#[test]
fn a_bad_member_makes_only_its_own_sample_bad() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.tar");
    let good = png(2, 2, RED);
    let mut bomb = png(1, 1, RED);
    // A header that claims 60000x60000 pixels, with a valid checksum.
    bomb[16..24].copy_from_slice(&[0, 0, 0xEA, 0x60, 0, 0, 0xEA, 0x60]);
    let checksum = crc32(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&checksum.to_be_bytes());
    tar(
        &path,
        &[
            ("a.png", &good),
            ("b.png", b"no image"),
            ("c.png", &good[..good.len() / 2]),
            ("d.json", b"{"),
            ("e.txt", &[0xFF, 0xFE]),
            ("f.png", &good),
            ("f.png", &good),
            ("g.png", &bomb),
            ("h.png", &good),
        ],
    );
    let dataset = open(&path);
    assert_eq!(dataset.len(), 8);
    for (index, member) in
        [(1, "b.png"), (2, "c.png"), (3, "d.json"), (4, "e.txt"), (5, "f.png"), (6, "g.png")]
    {
        let message = dataset.get(index).unwrap_err().to_string();
        assert!(message.contains("bad.tar: ") && message.contains(member), "{message}");
    }
    assert!(dataset.get(0).is_ok() && dataset.get(7).is_ok());
    let message = dataset.get(8).unwrap_err().to_string();
    assert!(message.contains("sample 8") && message.contains("it has 8"), "{message}");
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| (c >> 1) ^ (0xEDB8_8320 * (c & 1)))
    })
}

#[test]
fn errors_of_damaged_archives_name_the_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.tar");
    tar(&path, &[("a.png", &png(64, 64, RED)), ("b.txt", &[b'x'; 4000])]);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..2500]).unwrap();
    let message = open_error(path.to_str().unwrap());
    assert!(message.contains("cut.tar: ") && message.contains("truncated"), "{message}");
    fs::write(&path, [b'x'; 2000]).unwrap();
    assert!(open_error(path.to_str().unwrap()).contains("not a complete tar archive"));
    tar(&path, &[("README", b"x")]);
    assert!(open_error(path.to_str().unwrap()).contains("holds no samples"));
}

#[test]
fn errors_of_unsupported_files_list_the_supported_ones() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.csv");
    fs::write(&path, "x").unwrap();
    assert!(open_error(path.to_str().unwrap()).contains("allowed are *.tar"));
    assert!(open_error(dir.path().to_str().unwrap()).contains("metadata.jsonl"));
    assert!(open_error(&format!("{}/none.parquet", dir.path().display())).contains("none.parquet"));
    assert!(open_error("").contains("is empty"));
    for name in ["a.parquet", "b.tar.gz"] {
        fs::write(dir.path().join(name), "PAR1 and more").unwrap();
    }
    let message = open_error(&format!("{}/a.parquet", dir.path().display()));
    assert!(message.contains("not a whole Parquet file"), "{message}");
    assert!(open_error(&format!("{}/b.tar.gz", dir.path().display())).contains("decompress"));
}
