//! Every reader on the forms that files have in practice: the samples are the same, and what is not used is
//! counted.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use calumma::data::{self, Unused, inspect};
use serde_json::Value;

use super::{RED, open_error, png, tar};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Plain,
    Bom,
    Crlf,
    BlankLine,
    Null,
    NaN,
    Stray,
    NonUtf8Name,
    DanglingLink,
}

const FORMS: [Form; 9] = [
    Form::Plain,
    Form::Bom,
    Form::Crlf,
    Form::BlankLine,
    Form::Null,
    Form::NaN,
    Form::Stray,
    Form::NonUtf8Name,
    Form::DanglingLink,
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Reader {
    FolderJsonl,
    FolderCsv,
    Classes,
    Archive,
    Jsonl,
    JsonList,
    Benchmark,
}

const READERS: [Reader; 7] = [
    Reader::FolderJsonl,
    Reader::FolderCsv,
    Reader::Classes,
    Reader::Archive,
    Reader::Jsonl,
    Reader::JsonList,
    Reader::Benchmark,
];

/// `lines` as the text of a file in this form.
fn text(lines: &[String], form: Form) -> String {
    let end = if form == Form::Crlf { "\r\n" } else { "\n" };
    let blank = if form == Form::BlankLine { format!("{end} {end}") } else { end.to_owned() };
    let mark = if form == Form::Bom { "\u{FEFF}" } else { "" };
    format!("{mark}{}{end}", lines.join(&blank))
}

/// Two JSON objects with the given keys, and what the form adds.
fn objects(keys: impl Fn(usize) -> String, form: Form) -> Vec<String> {
    let more = match form {
        Form::Null => ", \"other\": null, \"images\": null, \"messages\": null",
        Form::NaN => ", \"other\": NaN, \"list\": [-Infinity]",
        _ => "",
    };
    (0..2).map(|n| format!("{{{}{more}}}", keys(n))).collect()
}

/// Writes a data set of two images, of widths 1 and 2; returns its spec.
fn make(reader: Reader, form: Form, dir: &Path) -> String {
    for n in 0..2 {
        fs::write(dir.join(format!("{n}.png")), png(n + 1, 1, RED)).unwrap();
    }
    let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    match reader {
        Reader::FolderJsonl => {
            let lines = objects(|n| format!(r#""file_name": "{n}.png", "n": {n}"#), form);
            fs::write(dir.join("metadata.jsonl"), text(&lines, form)).unwrap();
            at("")
        }
        Reader::FolderCsv => {
            let empty = match form {
                Form::Null => "",
                Form::NaN => "NaN",
                _ => "x",
            };
            let rows = [
                "file_name,n,other".to_owned(),
                format!("0.png,0,{empty}"),
                "1.png,1,x".to_owned(),
            ];
            fs::write(dir.join("metadata.csv"), text(&rows, form)).unwrap();
            at("")
        }
        Reader::Classes => {
            for n in 0..2 {
                fs::create_dir(dir.join(format!("class{n}"))).unwrap();
                let (from, to) = (format!("{n}.png"), format!("class{n}/{n}.png"));
                fs::rename(dir.join(from), dir.join(to)).unwrap();
            }
            at("")
        }
        Reader::Archive => {
            archive(form, &dir.join("a.tar"));
            at("a.tar")
        }
        Reader::Jsonl => {
            let lines = objects(|n| format!(r#""image": "{n}.png", "n": {n}"#), form);
            fs::write(dir.join("a.jsonl"), text(&lines, form)).unwrap();
            at("a.jsonl")
        }
        Reader::JsonList => {
            let lines = objects(|n| format!(r#""image": "{n}.png", "n": {n}"#), form);
            let lines = [format!("[{},", lines[0]), format!("{}]", lines[1])];
            fs::write(dir.join("a.json"), text(&lines, form)).unwrap();
            at("a.json")
        }
        Reader::Benchmark => {
            let keys = |n| {
                format!(r#""question_id": {n}, "image": "{n}.png", "text": "a", "label": "no""#)
            };
            fs::write(dir.join("pope.json"), text(&objects(keys, form), form)).unwrap();
            format!("pope:questions={}&images={}", at("pope.json"), at(""))
        }
    }
}

/// Writes an archive of two images with their JSON to `path`.
fn archive(form: Form, path: &Path) {
    let images: Vec<_> = (0..2).map(|n| png(n + 1, 1, RED)).collect();
    let objects = objects(|n| format!("\"n\": {n}"), form);
    let json: Vec<_> = objects.into_iter().map(|line| text(&[line], form)).collect();
    let mut members = vec![
        ("0.png", &images[0][..]),
        ("0.json", json[0].as_bytes()),
        ("1.png", &images[1][..]),
        ("1.json", json[1].as_bytes()),
    ];
    if form == Form::Stray {
        members.push(("stray.npy", b"x"));
    }
    tar(path, &members);
}

/// Adds a file that no sample names, where the form asks for one; whether the reader must tell of it.
fn add_stray(reader: Reader, form: Form, dir: &Path) -> bool {
    let is_folder = matches!(reader, Reader::FolderJsonl | Reader::FolderCsv | Reader::Classes);
    match form {
        Form::Stray => {
            fs::write(dir.join("stray.dat"), "x").unwrap();
            is_folder || reader == Reader::Archive
        }
        #[cfg(unix)]
        Form::NonUtf8Name => {
            use std::os::unix::ffi::OsStringExt;
            let name = OsString::from_vec(b"caf\xE9.txt".to_vec());
            fs::write(dir.join(PathBuf::from(name)), "x").unwrap();
            is_folder
        }
        #[cfg(unix)]
        Form::DanglingLink => {
            std::os::unix::fs::symlink("/nowhere/x.txt", dir.join("link.txt")).unwrap();
            std::os::unix::fs::symlink(".", dir.join("again")).unwrap();
            is_folder
        }
        _ => false,
    }
}

#[test]
fn every_reader_reads_every_form_of_its_files() {
    for reader in READERS {
        for form in FORMS {
            let what = format!("{reader:?}, {form:?}");
            let dir = tempfile::tempdir().unwrap();
            let spec = make(reader, form, dir.path());
            let is_told = add_stray(reader, form, dir.path());
            let dataset = data::open(&spec).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(dataset.len(), 2, "{what}");
            for n in 0..2 {
                let sample = dataset.get(n).unwrap_or_else(|e| panic!("{what}: {e}"));
                assert_eq!(sample.images[0].width() as usize, n + 1, "{what}");
                assert_eq!(sample.images.len(), 1, "{what}");
                let number = ["n", "question_id"].iter().find_map(|key| sample.fields.get(*key));
                let (label, number) = (sample.fields.get("label"), number.and_then(Value::as_u64));
                let class = format!("class{n}");
                assert!(
                    number == Some(n as u64) || label == Some(&class.as_str().into()),
                    "{what}: {:?}",
                    sample.fields
                );
            }
            let unused = dataset.unused();
            // The benchmark's and the lines' own files lie in no image folder; a link back to a directory
            // is one more thing to tell.
            let is_link_back = |unused: &&Unused| unused.reason.contains("under another name");
            let strays = unused.iter().filter(|unused| !is_link_back(unused));
            let count: usize = strays.map(|unused| unused.count).sum();
            assert_eq!(count, usize::from(is_told), "{what}: {unused:?}");
            assert!(unused.iter().all(|u| !u.reason.is_empty() && !u.what.is_empty()), "{what}");
            let found = inspect(dataset.as_ref(), usize::MAX);
            assert_eq!((found.bad.len(), &found.unused), (0, &unused), "{what}");
            assert!(serde_json::to_string(&found).unwrap().contains("\"unused\":["), "{what}");
        }
    }
}

#[test]
fn every_reader_names_utf_16_pointers_of_git_lfs_and_compressed_files() {
    let wide: Vec<u8> =
        "\u{FEFF}{\"file_name\": \"a\"}\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    let gzip = b"\x1F\x8B\x08\0\0\0\0\0\0\x03";
    for name in
        ["a.tar", "a.jsonl", "a.json", "a.parquet", "metadata.jsonl", "metadata.csv", "pope.json"]
    {
        for (bytes, words) in
            [(&wide[..], "UTF-16"), (pointer, "Git LFS"), (gzip, "compressed (gzip)")]
        {
            if words == "UTF-16" && (name.ends_with("tar") || name.ends_with("parquet")) {
                continue;
            }
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(name);
            fs::write(&path, bytes).unwrap();
            let at = dir.path().to_str().unwrap();
            let spec = match name {
                "metadata.jsonl" | "metadata.csv" => at.to_owned(),
                "pope.json" => format!("pope:questions={at}/pope.json&images={at}"),
                name => format!("{at}/{name}"),
            };
            let message = open_error(&spec);
            assert!(message.contains(name) && message.contains(words), "{name}: {message}");
        }
    }
}

#[test]
fn a_line_that_is_cut_off_is_one_bad_sample() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("a.jsonl", "{\"n\": 0}\n{\"n\": 1, \"te"),
        ("a.json", "[{\"n\": 0}, {\"n\": 1, \"te"),
        ("metadata.jsonl", "{\"file_name\": \"0.png\"}\n{\"file_na"),
    ] {
        fs::write(dir.path().join("0.png"), png(1, 1, RED)).unwrap();
        fs::write(dir.path().join(name), text).unwrap();
        let spec = if name == "metadata.jsonl" { dir.path().into() } else { dir.path().join(name) };
        let dataset = super::open(&spec);
        assert_eq!(dataset.len(), 2, "{name}");
        assert!(dataset.get(0).is_ok(), "{name}");
        assert!(dataset.get(1).unwrap_err().to_string().contains(name), "{name}");
    }
}
