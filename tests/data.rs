//! Data sets: readers over files that the tests write, reshaping, and documents as token ids.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, FloatType, Int64Type};
use ::parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use ::parquet::schema::parser::parse_message_type;
use calumma::data::template::{Loss, RenderOptions, Rendered, Template};
use calumma::data::{self, Counted, Dataset, Sample};
use calumma::tokenize::{BpeConfig, CodedSegment, Processor, Turn, train_bpe};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use vq_tokenizer::Codes;

const RED: [u8; 3] = [255, 0, 0];

fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn png(width: u32, height: u32, colour: [u8; 3]) -> Vec<u8> {
    encoded(RgbImage::from_pixel(width, height, Rgb(colour)), ImageFormat::Png)
}

fn tar(path: &Path, members: &[(&str, &[u8])]) {
    let mut builder = tar::Builder::new(File::create(path).unwrap());
    for (name, bytes) in members {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.finish().unwrap();
}

fn open(path: &Path) -> Box<dyn Dataset> {
    data::open(path.to_str().unwrap()).unwrap()
}

fn open_error(spec: &str) -> String {
    data::open(spec).err().unwrap().to_string()
}

fn samples(dataset: &dyn Dataset) -> Vec<Sample> {
    (0..dataset.len()).map(|index| dataset.get(index).unwrap()).collect()
}

/// Writes rows of an image, an integer, a list of strings, a float and a flag.
fn parquet(path: &Path, images: &[Option<Vec<u8>>], paths: &[Option<&str>]) {
    const SCHEMA: &str = "message schema {
        optional group image { optional binary bytes; optional binary path (UTF8); }
        optional int64 id;
        optional group words (LIST) { repeated group list { optional binary element (UTF8); } }
        optional float score;
        optional boolean flag;
        optional binary raw;
        optional int64 time (TIMESTAMP_MILLIS);
    }";
    let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
    let file = File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let rows = images.len();
    let present = |level: i16| vec![level; rows];
    // 1: the struct is there, 2: its member too
    let levels = |there: &mut dyn Iterator<Item = bool>| -> Vec<i16> {
        there.map(|there| 1 + i16::from(there)).collect()
    };
    let bytes: Vec<ByteArray> = images.iter().flatten().map(|b| b.clone().into()).collect();
    let names: Vec<ByteArray> = paths.iter().flatten().map(|path| (*path).into()).collect();
    let words: Vec<ByteArray> = (0..rows)
        .flat_map(|n| [format!("w{n}"), "all".to_owned()])
        .map(|w| w.as_str().into())
        .collect();
    let repeats: Vec<i16> = (0..2 * rows as i16).map(|n| n % 2).collect();
    let in_images = levels(&mut images.iter().map(Option::is_some));
    let in_paths = levels(&mut paths.iter().map(Option::is_some));
    column::<ByteArrayType>(&mut group, &bytes, &in_images, None);
    column::<ByteArrayType>(&mut group, &names, &in_paths, None);
    let ids: Vec<i64> = (0..rows as i64).map(|n| n / 3).collect();
    column::<Int64Type>(&mut group, &ids, &present(1), None);
    column::<ByteArrayType>(&mut group, &words, &vec![3; 2 * rows], Some(&repeats));
    column::<FloatType>(&mut group, &vec![0.1; rows], &present(1), None);
    column::<BoolType>(&mut group, &[], &present(0), None);
    column::<ByteArrayType>(&mut group, &vec!["x".into(); rows], &present(1), None);
    column::<Int64Type>(&mut group, &vec![1; rows], &present(1), None);
    group.close().unwrap();
    writer.close().unwrap();
}

/// Writes the next column of `group`.
fn column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, File>,
    values: &[T::T],
    definition: &[i16],
    repetition: Option<&[i16]>,
) {
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<T>().write_batch(values, Some(definition), repetition).unwrap();
    column.close().unwrap();
}

#[test]
fn webdataset_members_that_share_a_key_are_one_sample() {
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
    let found = samples(open(&path).as_ref());
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].images, [RgbImage::from_pixel(4, 2, Rgb(RED))]);
    let fields = json!({
        "__key__": "x/a", "txt": "a cat", "name": "cat", "keywords": ["pet", "animal"]
    });
    assert_eq!(serde_json::Value::from(found[0].fields.clone()), fields);
    assert!(found[0].source.ends_with("a.tar: x/a"), "{}", found[0].source);
    assert_eq!(found[1].images[0].dimensions(), (8, 4));
    assert_eq!(found[1].fields["json"], json!([1]));
}

#[test]
fn brace_glob_and_comma_lists_join_their_files() {
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
fn one_bad_member_spoils_its_own_sample_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.tar");
    let good = png(2, 2, RED);
    let mut bomb = png(1, 1, RED);
    // a header that claims 60000x60000 pixels, with its own checksum
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
fn damaged_archives_are_refused_with_their_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.tar");
    tar(&path, &[("a.png", &png(64, 64, RED)), ("b.txt", &[b'x'; 4000])]);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..2500]).unwrap();
    let message = open_error(path.to_str().unwrap());
    assert!(message.contains("cut.tar: ") && message.contains("truncated"), "{message}");
    fs::write(&path, [b'x'; 2000]).unwrap();
    assert!(open_error(path.to_str().unwrap()).contains("not a whole tar archive"));
    tar(&path, &[("README", b"x")]);
    assert!(open_error(path.to_str().unwrap()).contains("holds no samples"));
}

#[test]
fn what_is_no_data_set_is_refused_with_what_is_allowed() {
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

#[test]
fn parquet_rows_hold_their_image_and_columns_as_json() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    fs::write(dir.path().join("side.png"), png(5, 6, RED)).unwrap();
    let images = [Some(png(3, 2, RED)), None, None, Some(b"bad".to_vec()), None];
    let paths = [Some("a.png"), Some("side.png"), Some("../side.png"), None, None];
    parquet(&path, &images, &paths);
    let dataset = open(&path);
    let first = dataset.get(0).unwrap();
    assert_eq!(first.images, [RgbImage::from_pixel(3, 2, Rgb(RED))]);
    let fields = json!({ "id": 0, "words": ["w0", "all"], "score": 0.1, "flag": null });
    assert_eq!(serde_json::Value::from(first.fields), fields);
    assert_eq!(dataset.get(1).unwrap().images[0].dimensions(), (5, 6));
    for (index, words) in [(2, "without .."), (3, "image"), (4, "neither bytes nor a path")] {
        let message = dataset.get(index).unwrap_err().to_string();
        assert!(message.contains(&format!("row {index}, column image")), "{message}");
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(dataset.fields(3).unwrap()["id"], json!(1));
}

#[test]
fn parquet_rows_past_a_batch_keep_their_order() {
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
fn image_folders_stay_inside_their_directory() {
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
fn json_lines_hold_segments_messages_and_instructions() {
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
fn images_of_every_mode_become_rgb_over_white() {
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

/// 7 samples with `questions` lists of 0, 1, 2, 0, ... entries, and one without the field.
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
    assert_eq!(exploded.len(), entries + 1, "the sample without the field stays as a bad one");
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
fn grouping_and_exploding_again_keeps_every_row() {
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
    assert!(message.contains("line 6"), "the first bad one is named: {message}");
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
    let largest = &found.picture_sizes[0];
    assert_eq!((largest.width, largest.height, largest.count), (4, 3, 6));
    assert_eq!(data::inspect(open(&path).as_ref(), 3).inspected, 3);
}

fn processor() -> Processor {
    let config = BpeConfig { num_codes: 16, vocab_size: 300, ..BpeConfig::default() };
    Processor::new(train_bpe(&config, ["what colour is it", "red"]).unwrap(), (1, 2)).unwrap()
}

fn rendered(source: &str, fields: serde_json::Value, loss: Loss) -> Rendered {
    let images = [Codes { ids: vec![3, 4], height: 1, width: 2 }];
    let options = RenderOptions { loss, max_turns: None };
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let fields = fields.as_object().unwrap();
    Template::parse(source).unwrap().render(fields, &images, &options, &mut rng).unwrap()
}

#[test]
fn a_document_becomes_the_ids_that_the_processor_gives_it() {
    let processor = processor();
    let document = rendered("{name}<image>", json!({ "name": "red" }), Loss::All);
    let tokens = document.tokens(&processor).unwrap();
    assert_eq!(tokens, processor.document(&document.segments).unwrap());
    let bare = document.without_prompt().unwrap().tokens(&processor).unwrap();
    assert_eq!(bare.ids[0], tokens.ids[0]);
    assert!(tokens.ids.ends_with(&bare.ids[1..]));
}

#[test]
fn answers_are_supervised_as_in_a_chat() {
    let processor = processor();
    let fields =
        json!({ "turns": [{ "q": "what is it", "a": "red" }, { "q": "is it", "a": "it" }] });
    let source = "<image>{#turns|<sep>}{q}<sep>{a}{/turns}";
    let document = rendered(source, fields, Loss::Answers);
    let text = |text: &str| CodedSegment::Text(text.to_owned());
    let chat = processor.chat(&[
        Turn::user(vec![document.segments[0].clone(), text("what is it")]),
        Turn::assistant(vec![text("red")]),
        Turn::user(vec![text("is it")]),
        Turn::assistant(vec![text("it")]),
    ]);
    assert_eq!(document.tokens(&processor).unwrap(), chat.unwrap());
    assert!(document.without_prompt().is_none());
}
