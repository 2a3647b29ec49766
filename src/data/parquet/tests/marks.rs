//! `<image>` marks in conversations, and where the images of rows lie.

use super::*;
use crate::data::image_key::Place;

/// A file of a column `image` of bytes and one of conversations of two turns, a row for each question.
fn conversations(questions: [&str; 2]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let schema = "message m { required binary image; optional group conversations (LIST) {
        repeated group list { optional group element {
            optional binary from (UTF8); optional binary value (UTF8); } } } }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().build());
    let target: File = file.reopen().unwrap();
    let mut writer = SerializedFileWriter::new(target, schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let image = ByteArray::from(std::fs::read(fixture("../images/rgb_small.png")).unwrap());
    let speakers = ["human", "gpt", "human", "gpt"].map(text);
    let values = [questions[0], "x", questions[1], "x"].map(text);
    let (definition, repetition): (&[i16], &[i16]) = (&[4; 4], &[0, 1, 0, 1]);
    for (values, definition, repetition) in [
        (vec![image.clone(), image], None, None),
        (speakers.to_vec(), Some(definition), Some(repetition)),
        (values.to_vec(), Some(definition), Some(repetition)),
    ] {
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&values, definition, repetition).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
    file
}

#[test]
fn marks_in_conversations_stand_for_the_images_of_the_row() {
    let file = conversations(["<image>\nWhat?", "<image><image>"]);
    let dataset = Parquet::open(file.path()).unwrap();
    let sample = dataset.get(0).unwrap();
    let question = json!([{ "type": "image" }, { "type": "text", "text": "\nWhat?" }]);
    let expected = json!([{ "from": "human", "value": question }, { "from": "gpt", "value": "x" }]);
    assert_eq!((&sample.fields["conversations"], sample.images.len()), (&expected, 1));
    assert_eq!(Dataset::fields(&dataset, 0).unwrap(), sample.fields);
    for result in [dataset.get(1).map(drop), Dataset::fields(&dataset, 1).map(drop)] {
        let message = result.unwrap_err().to_string();
        assert!(message.contains("row 1: conversations: 2 <image> marks"), "{message}");
    }
}

#[test]
fn images_lie_in_their_rows() {
    let file = conversations(["<image>\nWhat?", "Why?"]);
    let dataset = Parquet::open(file.path()).unwrap();
    let place = |part: &str| Some(vec![Place::part(file.path(), part)]);
    assert_eq!(dataset.image_places(0).unwrap(), place("0/0"));
    assert_eq!(dataset.image_places(1).unwrap(), place("1/0"));
    assert!(dataset.image_places(2).is_err());
}
