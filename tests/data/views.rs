//! Views of a data set: exploded, grouped, counted and summarised.

use std::fs;
use std::path::PathBuf;

use calumma::data::{self, Counted};
use serde_json::json;

use super::{RED, open, parquet, png, samples};

/// A data set of 7 samples with `questions` lists of 0, 1, 2, 0, ... entries and one without.
fn questions() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let lines: Vec<String> = (0..7)
        .map(|n| {
            let list: Vec<_> = (0..n % 3).map(|k| json!({ "q": k, "n": "inner" })).collect();
            json!({ "questions": list, "n": n, "words": ["a", "b"] }).to_string()
        })
        .chain([json!({ "n": 7, "words": ["c"] }).to_string()])
        .collect();
    let path = dir.path().join("q.jsonl");
    fs::write(&path, lines.join("\n")).unwrap();
    (dir, path)
}

#[test]
fn exploding_gives_one_sample_per_entry() {
    let (_dir, path) = questions();
    let spec = path.to_str().unwrap();
    let exploded = data::open_as(spec, Some("questions"), None).unwrap();
    let entries: usize = (0..7).map(|n| n % 3).sum();
    assert_eq!(exploded.len(), entries + 1, "the sample without the field remains as a bad sample");
    let second = exploded.get(1).unwrap();
    assert_eq!(second.fields["q"], json!(0));
    assert_eq!(second.fields["n"], json!("inner"), "keys of the entry replace fields");
    assert!(!second.fields.contains_key("questions"));
    let message = exploded.get(entries).unwrap_err().to_string();
    assert!(message.contains("no field questions; available are n, words"), "{message}");
    let words = data::open_as(spec, Some("words"), None).unwrap();
    let found: Vec<_> = samples(words.as_ref()).iter().map(|s| s.fields["words"].clone()).collect();
    assert_eq!(found.len(), 15);
    assert_eq!(found[..2], [json!("a"), json!("b")]);
    assert!(data::open_as(spec, Some("n"), None).err().unwrap().to_string().contains("not a list"));
}

#[test]
fn exploding_a_grouped_data_set_restores_every_row() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    let images: Vec<_> = (0..10).map(|n| Some(png(1 + n / 3, 1, RED))).collect();
    parquet(&path, &images, &[None; 10]);
    let spec = path.to_str().unwrap();
    let grouped = data::open_as(spec, None, Some("id")).unwrap();
    let sizes: Vec<_> = samples(grouped.as_ref())
        .iter()
        .map(|s| (s.fields["turns"].as_array().unwrap().len(), s.images[0].width()))
        .collect();
    assert_eq!(sizes, [(3, 1), (3, 2), (3, 3), (1, 4)]);
    assert_eq!(grouped.fields(1).unwrap()["id"], json!(1));
    let again = data::Exploded::new(grouped, "turns").unwrap();
    let (rows, again) = (samples(open(&path).as_ref()), samples(&again));
    assert_eq!(rows.len(), again.len());
    for (row, back) in rows.iter().zip(&again) {
        assert_eq!((&row.fields, &row.images), (&back.fields, &back.images));
    }
    let message = data::open_as(spec, None, Some("key")).err().unwrap().to_string();
    assert!(message.contains("no field key; available are"), "{message}");
}

#[test]
fn more_bad_samples_than_allowed_stop_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    let lines: Vec<&str> = (0..200).map(|n| if n % 67 == 5 { "{" } else { "{}" }).collect();
    fs::write(&path, lines.join("\n")).unwrap();
    let counted = Counted::new(open(&path), data::DEFAULT_TOLERANCE).unwrap();
    for index in (0..139).chain([5, 72]) {
        assert_eq!(counted.take(index).unwrap().is_none(), index % 67 == 5);
    }
    let message = counted.take(139).unwrap_err().to_string();
    assert!(message.contains("3 of 200 samples are bad"), "{message}");
    assert!(message.contains("line 6"), "the first bad sample is named: {message}");
    let indices: Vec<usize> = counted.bad().iter().map(|bad| bad.index).collect();
    assert_eq!(indices, [5, 72, 139]);
    let tolerant = Counted::new(open(&path), 1.0).unwrap();
    assert!((0..200).all(|index| tolerant.take(index).is_ok()));
    assert!(Counted::new(open(&path), 1.5).is_err());
}

#[test]
fn inspection_counts_columns_images_and_bad_samples() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    let mut images = vec![Some(png(4, 3, RED)); 8];
    images[2] = Some(b"bad".to_vec());
    images[3] = Some(png(1, 1, RED));
    parquet(&path, &images, &[None; 8]);
    let found = data::inspect(open(&path).as_ref(), usize::MAX);
    assert_eq!((found.samples, found.inspected, found.bad.len()), (8, 8, 1));
    assert_eq!(found.bad[0].index, 2);
    assert_eq!(found.columns["words"].types["list"], 7);
    assert_eq!(found.columns["words"].examples[0], r#"["w0","all"]"#);
    let largest = &found.image_sizes[0];
    assert_eq!((largest.width, largest.height, largest.count), (4, 3, 6));
    assert_eq!(data::inspect(open(&path).as_ref(), 3).inspected, 3);
}
