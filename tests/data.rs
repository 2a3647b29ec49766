//! Data sets: readers of files that the tests write, reshaping, and documents as token ids.

mod archives;
mod rows;
mod views;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Float32Array, Int64Array, RecordBatch, StringArray,
    StructArray,
};
use arrow_schema::{DataType, Field};
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
    let bytes: ArrayRef =
        Arc::new(BinaryArray::from(images.iter().map(Option::as_deref).collect::<Vec<_>>()));
    let paths: ArrayRef = Arc::new(StringArray::from(paths.to_vec()));
    let image: ArrayRef = Arc::new(StructArray::from(vec![
        (Arc::new(Field::new("bytes", DataType::Binary, true)), bytes),
        (Arc::new(Field::new("path", DataType::Utf8, true)), paths),
    ]));
    let mut words = ListBuilder::new(StringBuilder::new());
    for row in 0..images.len() {
        words.append_value([Some(format!("w{row}")), Some("all".to_owned())]);
    }
    let rows = images.len() as i64;
    let batch = RecordBatch::try_from_iter_with_nullable([
        ("image", image, true),
        ("id", Arc::new(Int64Array::from_iter_values((0..rows).map(|n| n / 3))) as ArrayRef, true),
        ("words", Arc::new(words.finish()) as ArrayRef, true),
        ("score", Arc::new(Float32Array::from(vec![Some(0.1); images.len()])) as ArrayRef, true),
        ("flag", Arc::new(BooleanArray::from(vec![None; images.len()])) as ArrayRef, true),
    ]);
    let batch = batch.unwrap();
    let file = File::create(path).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
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
fn a_document_has_the_ids_of_the_processor() {
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
