//! Data set readers on files written by the tests, views, and documents as token ids.

mod archives;
mod folders;
mod forms;
mod mutated;
mod peers;
mod preference;
mod rows;
mod views;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use ::parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, FloatType, Int64Type};
use ::parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use ::parquet::schema::parser::parse_message_type;
use calumma::data::{self, Dataset, Loss, RenderOptions, Rendered, Sample};
use calumma::tokenize::{BpeConfig, CodedSegment, Processor, Template, Turn, train_bpe};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
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

pub fn png(width: u32, height: u32, colour: [u8; 3]) -> Vec<u8> {
    encoded(RgbImage::from_pixel(width, height, Rgb(colour)), ImageFormat::Png)
}

pub fn tar(path: &Path, members: &[(&str, &[u8])]) {
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

/// Writes rows with an image, an integer, a list of strings, a float and a boolean.
pub fn parquet(path: &Path, images: &[Option<Vec<u8>>], paths: &[Option<&str>]) {
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
fn a_rendered_document_has_the_ids_of_the_processor() {
    let processor = processor();
    let document = rendered("{name}<image>", json!({ "name": "red" }), Loss::All);
    let tokens = document.tokens(&processor).unwrap();
    assert_eq!(tokens, processor.document(&document.segments).unwrap());
    let bare = document.without_prompt().unwrap().tokens(&processor).unwrap();
    assert_eq!(bare.ids[0], tokens.ids[0]);
    assert!(tokens.ids.ends_with(&bare.ids[1..]));
}

#[test]
fn answers_in_a_document_are_supervised_as_in_a_chat() {
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
