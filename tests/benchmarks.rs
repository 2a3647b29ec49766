//! Public benchmarks: small files in the published formats, and errors of malformed ones.

mod captions;
mod questions;
mod vqav2;

use std::fs;

use calumma::data::{self, Dataset};
use image::{Rgb, RgbImage};
use serde_json::Value;
use tempfile::TempDir;

use vqav2::{QUESTIONS, annotations, three, vqa};

/// A directory of text files; names that end in `.jpg` become images of the given width.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match content.parse::<u32>() {
            Ok(width) if name.ends_with(".jpg") => {
                RgbImage::from_pixel(width, 2, Rgb([9; 3])).save(&path).unwrap();
            }
            _ => fs::write(&path, content).unwrap(),
        }
    }
    dir
}

/// `spec` with `@` replaced by the directory.
fn at(dir: &TempDir, spec: &str) -> String {
    spec.replace('@', dir.path().to_str().unwrap())
}

fn open(dir: &TempDir, spec: &str) -> Box<dyn Dataset> {
    data::open(&at(dir, spec)).unwrap_or_else(|e| panic!("{e}"))
}

/// The message of the error on opening `spec`; checks that the exit code is that of bad data.
fn error(dir: &TempDir, spec: &str) -> String {
    let error = data::open(&at(dir, spec)).err().expect(spec);
    assert_eq!(error.exit_code(), 3);
    error.to_string()
}

fn fields(dataset: &dyn Dataset) -> Vec<Value> {
    (0..dataset.len()).map(|n| dataset.fields(n).unwrap().into()).collect()
}

fn width(dataset: &dyn Dataset, index: usize) -> u32 {
    let sample = dataset.get(index).unwrap();
    assert_eq!(sample.images.len(), 1);
    sample.images[0].width()
}

#[test]
fn wrong_specs_and_paths_are_refused() {
    let dir = vqa(QUESTIONS, &annotations(&three()));
    for (spec, words) in [
        ("vqav2:questions=@/q.json&image=@", "unknown key \"image\", the nearest is \"images\""),
        ("vqav2:questions=@/q.json", "key \"images\" is missing"),
        ("vqav3:questions=@/q.json", "unknown kind \"vqav3\", the nearest is \"vqav2\""),
        ("vqav2:questions=@/none.json&images=@", "none.json: No such file"),
        ("vqav2:questions=@&images=@", "not a regular file"),
        ("vqav2:questions=@/q.json&images=@/none", "none: No such file"),
        ("vqav2:questions=@/q.json&images=@/q.json", "must be a directory"),
    ] {
        let message = error(&dir, spec);
        assert!(message.contains(words), "{words}: {message}");
    }
}
