//! The eight orientations in every format and every container.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use ::parquet::data_type::{ByteArray, ByteArrayType};
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;
use calumma::data;
use image::{ImageFormat, RgbImage};
use vq_tokenizer::preprocess::{open_image, to_rgb};

use super::written::{oriented, upright};

const FORMATS: [ImageFormat; 3] = [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP];

/// Name, format and bytes of the upright image in a file of each orientation and format.
fn files() -> Vec<(String, ImageFormat, Vec<u8>)> {
    let ending = |format| match format {
        ImageFormat::Jpeg => "jpg",
        ImageFormat::Png => "png",
        _ => "webp",
    };
    FORMATS
        .into_iter()
        .flat_map(|format| (1..=8).map(move |orientation| (format, orientation)))
        .map(|(format, orientation)| {
            let bytes = oriented(&upright(), orientation, format);
            (format!("o{orientation}.{}", ending(format)), format, bytes)
        })
        .collect()
}

/// Asserts that `image` is the upright one; JPEG may be off by a little in each pixel.
fn assert_upright(image: &RgbImage, format: ImageFormat, what: &str) {
    let upright = upright();
    assert_eq!(image.dimensions(), upright.dimensions(), "{what}");
    let worst = image.iter().zip(upright.iter()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    let allowed = if format == ImageFormat::Jpeg { 12 } else { 0 };
    assert!(worst <= allowed, "{what} is off by {worst}");
}

/// Asserts that the samples of `spec` have the upright image, in the order of [`files`].
fn assert_all_upright(spec: &Path) {
    let dataset = data::open(spec.to_str().unwrap()).unwrap();
    let files = files();
    assert_eq!(dataset.len(), files.len(), "{}", spec.display());
    for (index, (name, format, _)) in files.iter().enumerate() {
        let sample = dataset.get(index).unwrap();
        assert_upright(&sample.images[0], *format, &format!("{name} in {}", spec.display()));
    }
}

#[test]
fn orientation_is_applied_to_a_file() {
    let dir = tempfile::tempdir().unwrap();
    for (name, format, bytes) in files() {
        let path = dir.path().join(&name);
        fs::write(&path, bytes).unwrap();
        assert_upright(&to_rgb(open_image(&path).unwrap()), format, &name);
    }
}

#[test]
fn orientation_is_applied_in_image_folders_and_json_lines() {
    let dir = tempfile::tempdir().unwrap();
    let mut lines = String::new();
    for (name, _, bytes) in files() {
        fs::write(dir.path().join(&name), bytes).unwrap();
        lines += &format!("{{\"file_name\": {name:?}}}\n");
    }
    fs::write(dir.path().join("metadata.jsonl"), &lines).unwrap();
    assert_all_upright(dir.path());
    let documents = dir.path().join("documents.jsonl");
    fs::write(&documents, lines.replace("file_name", "image")).unwrap();
    assert_all_upright(&documents);
}

#[test]
fn orientation_is_applied_in_archives() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tar");
    let mut builder = tar::Builder::new(File::create(&path).unwrap());
    for (index, (name, _, bytes)) in files().into_iter().enumerate() {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        let name = format!("{index:02}-{name}");
        builder.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    builder.finish().unwrap();
    assert_all_upright(&path);
}

#[test]
fn orientation_is_applied_in_parquet_files() {
    const SCHEMA: &str = "message schema { optional group image { optional binary bytes; optional binary path (UTF8); } }";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
    let file = File::create(&path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let bytes: Vec<ByteArray> = files().into_iter().map(|(_, _, bytes)| bytes.into()).collect();
    for (values, level) in [(bytes.as_slice(), 2), (&[], 1)] {
        let mut column = group.next_column().unwrap().unwrap();
        let levels = vec![level; bytes.len()];
        column.typed::<ByteArrayType>().write_batch(values, Some(&levels), None).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
    assert_all_upright(&path);
}
