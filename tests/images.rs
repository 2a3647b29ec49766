//! Image files as Pillow sees them: every kind of file, orientation, damage.
//!
//! The files below `fixtures/images/decoded` and what Pillow sees in them are written by
//! `fixtures/make_image_fixtures.py`.

mod containers;
mod damage;
mod metadata;
pub mod written;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use image::RgbImage;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use vq_tokenizer::Result;
use vq_tokenizer::preprocess::{decode_image, to_rgb};

use crate::common::fixture;

/// The image of `bytes` as all readers see it.
fn rgb(bytes: &[u8]) -> Result<RgbImage> {
    decode_image(bytes).map(to_rgb)
}

/// The message with which `bytes` are refused.
fn refusal(bytes: &[u8]) -> String {
    rgb(bytes).unwrap_err().to_string()
}

/// A file that Pillow read for `expected.json`.
fn decoded(name: &str) -> Vec<u8> {
    fs::read(fixture("images/decoded").join(name)).unwrap()
}

/// What Pillow sees in a file.
#[derive(Deserialize)]
struct Seen {
    width: u32,
    height: u32,
    rgb_sha256: String,
}

fn expected() -> BTreeMap<String, Seen> {
    serde_json::from_slice(&decoded("expected.json")).unwrap()
}

#[test]
fn every_kind_of_file_equals_pillow_byte_for_byte() {
    let expected = expected();
    assert!(expected.len() > 90);
    let mut wrong = Vec::new();
    for (name, seen) in &expected {
        match rgb(&decoded(name)) {
            Ok(image) => {
                let same = image.dimensions() == (seen.width, seen.height)
                    && format!("{:x}", Sha256::digest(image.as_raw())) == seen.rgb_sha256;
                if !same {
                    wrong.push(format!("{name}: other pixels"));
                }
            }
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_fixtures_are_those_of_the_script() {
    let names = fs::read_dir(fixture("images/decoded")).unwrap();
    let mut names: Vec<String> =
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != "expected.json");
    names.sort();
    assert_eq!(names, expected().into_keys().collect::<Vec<_>>());
}

#[test]
fn images_are_decoded_in_one_place() {
    const DECODERS: [&str; 9] = [
        "image::open",
        "load_from_memory",
        "image::load",
        "ImageReader",
        "JpegDecoder",
        "PngDecoder",
        "WebPDecoder",
        "Decompress::",
        "next_frame",
    ];
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let place = root.join("vq_tokenizer/src/preprocess");
    let allowed = [place.join("image_file.rs"), place.join("jpeg.rs")];
    let mut files = Vec::new();
    for dir in ["src", "vq_tokenizer/src", "examples", "benches"] {
        sources(&root.join(dir), &mut files);
    }
    assert!(files.len() > 100, "the sources are where this test looks");
    for file in files.iter().filter(|file| !allowed.contains(file)) {
        let source = fs::read_to_string(file).unwrap();
        for decoder in DECODERS {
            assert!(!source.contains(decoder), "{} uses {decoder}", file.display());
        }
    }
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}
