//! Image files named on the command line.

use std::fs;

use image::ImageFormat;
use serde_json::Value;

use super::{calumma_in, tiny};
use crate::common::fixture;
use crate::images::written::{encoded, oriented, upright};

#[test]
fn oriented_files_have_the_codes_of_the_upright_image() {
    let dir = tempfile::tempdir().unwrap();
    let mut args = vec!["vq", "encode", tiny(), "--json", "--quiet", "upright.png"];
    fs::write(dir.path().join("upright.png"), encoded(&upright(), ImageFormat::Png)).unwrap();
    let formats = [("png", ImageFormat::Png), ("webp", ImageFormat::WebP)];
    let files: Vec<_> = formats
        .into_iter()
        .flat_map(|(ending, format)| (1..=8).map(move |n| (format!("{n}.{ending}"), n, format)))
        .collect();
    for (name, orientation, format) in &files {
        let bytes = oriented(&upright(), *orientation, *format);
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    args.extend(files.iter().map(|(name, ..)| name.as_str()));
    let lines = calumma_in(dir.path(), &args).json();
    let codes = |line: &Value| line["codes"].clone();
    assert_eq!(lines.len(), 17);
    assert!(codes(&lines[0]).as_array().is_some_and(|codes| !codes.is_empty()));
    for line in &lines {
        assert_eq!(codes(line), codes(&lines[0]), "{}", line["path"]);
    }
}

#[test]
fn files_cut_short_are_bad_data() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["baseline_420.jpg", "progressive_420.jpg", "rgb_8.png", "lossy.webp"] {
        let bytes = fs::read(fixture("images/decoded").join(name)).unwrap();
        fs::write(dir.path().join(name), &bytes[..bytes.len() / 2]).unwrap();
        calumma_in(dir.path(), &["vq", "encode", tiny(), name])
            .fails(3, &[name, "not a readable image"]);
    }
}
