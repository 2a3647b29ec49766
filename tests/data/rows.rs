//! Readers of rows: Parquet, image folders and JSON lines; and image modes.

use std::fs;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};
use serde_json::json;

use super::{RED, encoded, open, parquet, png, tar};

#[test]
fn parquet_rows_become_images_and_json_fields() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    fs::write(dir.path().join("side.png"), png(5, 6, RED)).unwrap();
    let images = [Some(png(3, 2, RED)), None, None, Some(b"bad".to_vec()), None];
    let paths = [Some("a.png"), Some("side.png"), Some("../side.png"), None, None];
    parquet(&path, &images, &paths);
    let dataset = open(&path);
    let first = dataset.get(0).unwrap();
    assert_eq!(first.images, [RgbImage::from_pixel(3, 2, Rgb(RED))]);
    let time = "1970-01-01T00:00:00.001000+00:00";
    let fields =
        json!({ "id": 0, "words": ["w0", "all"], "score": 0.1, "flag": null, "time": time });
    assert_eq!(serde_json::Value::from(first.fields), fields);
    assert_eq!(dataset.get(1).unwrap().images[0].dimensions(), (5, 6));
    for (index, words) in [(2, "without .."), (3, "image"), (4, "neither bytes nor a path")] {
        let message = dataset.get(index).unwrap_err().to_string();
        assert!(message.contains(&format!("row {index}, column image")), "{message}");
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(dataset.fields(3).unwrap()["id"], json!(1));
    let unused = dataset.unused();
    assert!(unused.len() == 1 && unused[0].what.ends_with("column raw"), "{unused:?}");
}

#[test]
fn parquet_rows_keep_their_order_across_batches() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("many.parquet");
    let images: Vec<_> = (0..1000).map(|n| Some(png(1 + n % 7, 1, RED))).collect();
    parquet(&path, &images, &vec![None; 1000]);
    let dataset = open(&path);
    assert_eq!(dataset.len(), 1000);
    for index in [0, 255, 256, 511, 777, 999] {
        let sample = dataset.get(index).unwrap();
        assert_eq!(sample.fields["words"][0], json!(format!("w{index}")));
        assert_eq!(sample.images[0].width(), 1 + index as u32 % 7);
    }
}

#[test]
fn image_folders_refuse_paths_outside_their_directory() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("sub/a.png"), png(2, 3, RED)).unwrap();
    let lines = [
        r#"{"file_name": "sub/a.png", "text": "red"}"#,
        "",
        r#"{"file_name": "../a.png"}"#,
        r#"{"file_name": "/etc/hostname"}"#,
        r#"{"text": "no image"}"#,
        r#"{"file_name": "gone.png"}"#,
        "[1, 2]",
    ];
    fs::write(dir.path().join("metadata.jsonl"), lines.join("\n")).unwrap();
    let dataset = open(dir.path());
    assert_eq!(dataset.len(), 6);
    let first = dataset.get(0).unwrap();
    assert_eq!((first.images[0].dimensions(), &first.fields["text"]), ((2, 3), &json!("red")));
    for (index, line, words) in [
        (1, 3, "without .."),
        (2, 4, "without .."),
        (3, 5, "no string file_name"),
        (4, 6, "gone.png"),
        (5, 7, "holds a list"),
    ] {
        let message = dataset.get(index).unwrap_err().to_string();
        assert!(message.contains(&format!("metadata.jsonl: line {line}")), "{message}");
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn json_lines_may_hold_segments_messages_and_instructions() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.png"), png(2, 1, RED)).unwrap();
    fs::write(dir.path().join("b.png"), png(1, 2, RED)).unwrap();
    let lines = [
        json!({ "segments": [{ "type": "image", "path": "b.png" },
            { "type": "text", "text": "x" }, { "type": "image", "path": "a.png" }] }),
        json!({ "messages": [
            { "role": "user", "content": [{ "type": "image", "path": "a.png" }] },
            { "role": "assistant", "content": "red" }] }),
        json!({ "instruction": "add", "input": "1 2", "output": "3" }),
        json!({ "instruction": "sing", "input": "", "output": "la" }),
        json!({ "image": "a.png", "text": "row" }),
        json!({ "segments": [{ "type": "video" }] }),
        json!({ "messages": [{ "role": "nobody", "content": "" }] }),
        json!({ "image": "." }),
    ];
    let text: Vec<String> = lines.iter().map(ToString::to_string).collect();
    let path = dir.path().join("docs.jsonl");
    fs::write(&path, text.join("\n")).unwrap();
    let dataset = open(&path);
    let widths = |index: usize| -> Vec<u32> {
        dataset.get(index).unwrap().images.iter().map(RgbImage::width).collect()
    };
    assert_eq!((widths(0), widths(1), widths(4)), (vec![1, 2], vec![2], vec![2]));
    assert_eq!(dataset.fields(2).unwrap()["prompt"], json!("add\n1 2"));
    assert_eq!(dataset.fields(3).unwrap()["prompt"], json!("sing"));
    for (index, words) in [(5, "video"), (6, "role"), (7, "not a regular file")] {
        let message = dataset.get(index).unwrap_err().to_string();
        assert!(message.contains(&format!("line {}", index + 1)), "{message}");
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn images_of_every_mode_become_rgb_on_white() {
    let dir = tempfile::tempdir().unwrap();
    let clear = RgbaImage::from_pixel(1, 1, Rgba([0, 0, 0, 0]));
    let half = RgbaImage::from_pixel(1, 1, Rgba([255, 0, 0, 128]));
    let grey = image::GrayImage::from_pixel(1, 1, image::Luma([40]));
    let deep = image::ImageBuffer::from_pixel(1, 1, image::Luma([0xFFFF_u16]));
    let modes: [(DynamicImage, [u8; 3]); 4] = [
        (clear.into(), [255; 3]),
        (half.into(), [255, 127, 127]),
        (grey.into(), [40; 3]),
        (DynamicImage::ImageLuma16(deep), [255; 3]),
    ];
    for (n, (image, colour)) in modes.into_iter().enumerate() {
        for format in [ImageFormat::Png, ImageFormat::WebP] {
            if format == ImageFormat::WebP && n == 3 {
                continue;
            }
            let ending = if format == ImageFormat::Png { "png" } else { "webp" };
            let path = dir.path().join(format!("{n}{ending}.tar"));
            tar(&path, &[(&format!("a.{ending}"), &encoded(image.clone(), format))]);
            assert_eq!(open(&path).get(0).unwrap().images[0].get_pixel(0, 0), &Rgb(colour));
        }
    }
}
