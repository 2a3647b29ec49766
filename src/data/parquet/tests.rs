//! Every type, as this crate's writer and pyarrow write it, and damaged files.

#![allow(clippy::unwrap_used, reason = "tests")]

mod marks;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::parquet::basic::Compression;
use ::parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FixedLenByteArray,
    FixedLenByteArrayType, FloatType, Int32Type, Int64Type, Int96, Int96Type,
};
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Dataset, Parquet};
use crate::files::hex;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parquet").join(name)
}

/// A file of one row group whose only leaf has the given values and levels.
fn written<T: DataType>(
    schema: &str,
    codec: Compression,
    values: &[T::T],
    definition: Option<&[i16]>,
    repetition: Option<&[i16]>,
) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let schema = Arc::new(parse_message_type(&format!("message m {{ {schema} }}")).unwrap());
    let properties = Arc::new(WriterProperties::builder().set_compression(codec).build());
    let target: File = file.reopen().unwrap();
    let mut writer = SerializedFileWriter::new(target, schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<T>().write_batch(values, definition, repetition).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    file
}

/// A page header that names two billion elements of a field to skip; it took minutes.
#[test]
fn a_page_header_that_goes_on_behind_the_end_of_the_file_is_refused_at_once() {
    assert!(Parquet::open(&fixture("endless-page-header.parquet")).is_err());
}

/// A dictionary of a few bytes that says that it holds 220 million values; it took 7 GB.
#[test]
fn a_dictionary_that_names_more_values_than_it_has_is_refused_at_once() {
    let error = Parquet::open(&fixture("endless-dictionary.parquet")).err().unwrap().to_string();
    assert!(error.contains("says that it holds"), "{error}");
}

/// The field `c` of every row; `None` where there is none.
fn column(path: &Path) -> Vec<Option<Value>> {
    let dataset = Parquet::open(path).unwrap();
    let field = |index| dataset.fields(index).unwrap().remove("c");
    (0..dataset.len()).map(field).collect()
}

/// Two values of the type `physical annotation` read as `expected`: required, beside nulls, in lists of
/// three and two levels, repeated, in a struct and in a map.
fn check<T: DataType>(physical: &str, annotation: &str, values: [T::T; 2], expected: [Value; 2]) {
    let [a, b] = expected.clone();
    let leaf = |name: &str| format!("{physical} {name} {annotation};");
    let found = |schema: String, definition: Option<&[i16]>, repetition: Option<&[i16]>| {
        let file =
            written::<T>(&schema, Compression::UNCOMPRESSED, &values, definition, repetition);
        column(file.path())
    };
    let case = format!("{physical} {annotation}");
    let some = |values: &[Value]| values.iter().cloned().map(Some).collect::<Vec<_>>();
    assert_eq!(found(format!("required {}", leaf("c")), None, None), some(&expected), "{case}");
    let optional = found(format!("optional {}", leaf("c")), Some(&[0, 1, 0, 1]), None);
    assert_eq!(optional, some(&[Value::Null, a.clone(), Value::Null, b.clone()]), "{case}");
    // [a, null], [], null, [b]
    let lists = some(&[json!([a, null]), json!([]), Value::Null, json!([b])]);
    let three = format!(
        "optional group c (LIST) {{ repeated group list {{ optional {} }} }}",
        leaf("element")
    );
    assert_eq!(
        found(three, Some(&[3, 2, 1, 0, 3]), Some(&[0, 1, 0, 0, 0])),
        lists,
        "{case} in lists"
    );
    let lists = some(&[json!([a, b]), json!([]), Value::Null]);
    let two = format!("optional group c (LIST) {{ repeated {} }}", leaf("array"));
    assert_eq!(
        found(two, Some(&[2, 2, 1, 0]), Some(&[0, 1, 0, 0])),
        lists,
        "{case} in short lists"
    );
    let repeated = found(format!("repeated {}", leaf("c")), Some(&[1, 1, 0]), Some(&[0, 1, 0]));
    assert_eq!(repeated, some(&[json!([a, b]), json!([])]), "{case} repeated");
    let group = format!("optional group c {{ optional {} }}", leaf("m"));
    let objects = [Value::Null, json!({ "m": null }), json!({ "m": a }), json!({ "m": b })];
    assert_eq!(found(group, Some(&[0, 1, 2, 2]), None), some(&objects), "{case} in structs");
}

fn fixed(bytes: &[u8]) -> FixedLenByteArray {
    ByteArray::from(bytes.to_vec()).into()
}

fn text(text: &str) -> ByteArray {
    text.into()
}

#[test]
fn integers_and_floats_of_every_kind_are_numbers() {
    check::<BoolType>("boolean", "", [true, false], [json!(true), json!(false)]);
    for annotation in ["", "(INT_8)", "(INT_16)", "(INT_32)", "(INTEGER(8,true))"] {
        check::<Int32Type>("int32", annotation, [-3, 7], [json!(-3), json!(7)]);
    }
    for (annotation, largest) in [
        ("(UINT_8)", u32::from(u8::MAX)),
        ("(INTEGER(16,false))", u32::from(u16::MAX)),
        ("(UINT_32)", u32::MAX),
    ] {
        check::<Int32Type>("int32", annotation, [1, largest as i32], [json!(1), json!(largest)]);
    }
    for annotation in ["", "(INT_64)", "(INTEGER(64,true))"] {
        let values = [i64::MIN, i64::MAX];
        check::<Int64Type>("int64", annotation, values, values.map(|value| json!(value)));
    }
    check::<Int64Type>("int64", "(UINT_64)", [0, -1], [json!(0), json!(u64::MAX)]);
    check::<FloatType>("float", "", [0.1, f32::NAN], [json!(0.1), Value::Null]);
    check::<DoubleType>("double", "", [-0.1, f64::INFINITY], [json!(-0.1), Value::Null]);
    let halves = [fixed(&[0, 0x38]), fixed(&[0, 0x7c])];
    check::<FixedLenByteArrayType>(
        "fixed_len_byte_array(2)",
        "(FLOAT16)",
        halves,
        [json!(0.5), Value::Null],
    );
}

#[test]
fn texts_decimals_and_identifiers_are_strings() {
    for annotation in ["(UTF8)", "(STRING)", "(ENUM)", "(JSON)"] {
        let values = [text("{\"a\": 1}"), text("é")];
        check::<ByteArrayType>("binary", annotation, values, [json!("{\"a\": 1}"), json!("é")]);
    }
    check::<Int32Type>("int32", "(DECIMAL(9,2))", [150, -7], [json!("1.50"), json!("-0.07")]);
    check::<Int64Type>("int64", "(DECIMAL(18,0))", [150, -7], [json!("150"), json!("-7")]);
    let values = [ByteArray::from(vec![0x7b]), ByteArray::from(vec![0xff, 0x85])];
    check::<ByteArrayType>("binary", "(DECIMAL(9,3))", values, [json!("0.123"), json!("-0.123")]);
    check::<FixedLenByteArrayType>(
        "fixed_len_byte_array(3)",
        "(DECIMAL(6,6))",
        [fixed(&[0, 0, 1]), fixed(&[0xff; 3])],
        [json!("0.000001"), json!("-0.000001")],
    );
    check::<FixedLenByteArrayType>(
        "fixed_len_byte_array(16)",
        "(UUID)",
        [fixed(&[0; 16]), fixed(&[0xab; 16])],
        [
            json!("00000000-0000-0000-0000-000000000000"),
            json!("abababab-abab-abab-abab-abababababab"),
        ],
    );
}

#[test]
fn dates_and_times_are_iso_strings() {
    check::<Int32Type>("int32", "(DATE)", [0, -1], [json!("1970-01-01"), json!("1969-12-31")]);
    for annotation in ["(TIME_MILLIS)", "(TIME(MILLIS,false))"] {
        let expected = [json!("00:00:01"), json!("00:00:00.001000")];
        check::<Int32Type>("int32", annotation, [1000, 1], expected);
    }
    let second = 1_000_000_i64;
    for (annotation, unit, zone) in [
        ("(TIMESTAMP_MILLIS)", 1_000, "+00:00"),
        ("(TIMESTAMP_MICROS)", second, "+00:00"),
        ("(TIMESTAMP(MILLIS,false))", 1_000, ""),
        ("(TIMESTAMP(MICROS,true))", second, "+00:00"),
        ("(TIMESTAMP(NANOS,false))", 1_000 * second, ""),
    ] {
        let at = |time: &str| json!(format!("{time}{zone}"));
        let expected = [at("1970-01-01T00:00:01"), at("1969-12-31T23:59:59.500000")];
        check::<Int64Type>("int64", annotation, [unit, -unit / 2], expected);
    }
    for (annotation, unit) in [("(TIME_MICROS)", second), ("(TIME(NANOS,true))", 1_000 * second)] {
        let expected = [json!("00:00:01"), json!("00:00:00.500000")];
        check::<Int64Type>("int64", annotation, [unit, unit / 2], expected);
    }
    // Day 2440588 of the Julian calendar is 1970-01-01.
    let mut values = [Int96::new(), Int96::new()];
    values[0].set_data(1_500_000_000, 0, 2_440_588);
    values[1].set_data(0, 0, 2_440_587);
    let expected = [json!("1970-01-01T00:00:01.500000"), json!("1969-12-31T00:00:00")];
    check::<Int96Type>("int96", "", values, expected);
}

#[test]
fn columns_without_a_counterpart_are_reported_with_their_type() {
    let bytes = [ByteArray::from(vec![1, 2]), ByteArray::from(vec![3])];
    let spans = [fixed(&[0; 12]), fixed(&[1; 12])];
    for (file, reason) in [
        (
            written::<ByteArrayType>(
                "required binary c;",
                Compression::UNCOMPRESSED,
                &bytes,
                None,
                None,
            ),
            "BYTE_ARRAY values that do not begin like images",
        ),
        (
            written::<ByteArrayType>(
                "required binary c (BSON);",
                Compression::UNCOMPRESSED,
                &bytes,
                None,
                None,
            ),
            "BYTE_ARRAY (BSON) is not read",
        ),
        (
            written::<FixedLenByteArrayType>(
                "required fixed_len_byte_array(12) c (INTERVAL);",
                Compression::UNCOMPRESSED,
                &spans,
                None,
                None,
            ),
            "FIXED_LEN_BYTE_ARRAY (INTERVAL) is not read",
        ),
    ] {
        assert_eq!(column(file.path()), [None, None]);
        let unused = Parquet::open(file.path()).unwrap().unused();
        assert_eq!(unused.len(), 1, "{unused:?}");
        assert!(unused[0].what.ends_with(": column c"), "{unused:?}");
        assert_eq!(unused[0].reason, reason);
    }
}

#[test]
fn a_value_without_meaning_costs_its_row_only() {
    let bytes = [ByteArray::from(vec![0xff]), "good".into()];
    let schema = "required binary c (UTF8);";
    let file = written::<ByteArrayType>(schema, Compression::UNCOMPRESSED, &bytes, None, None);
    let dataset = Parquet::open(file.path()).unwrap();
    let message = dataset.get(0).unwrap_err().to_string();
    assert!(message.contains("row 0: column c: text that is not UTF-8"), "{message}");
    assert_eq!(dataset.fields(1).unwrap()["c"], json!("good"));
    assert!(dataset.get(2).unwrap_err().to_string().contains("it has 2"));
}

#[test]
fn every_codec_is_read() {
    let values: Vec<ByteArray> =
        (0..500).map(|n| format!("text {}", n % 7).as_str().into()).collect();
    for codec in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(Default::default()),
        Compression::BROTLI(Default::default()),
        Compression::ZSTD(Default::default()),
        // The framing of Hadoop, then without any.
        Compression::LZ4,
        Compression::LZ4_RAW,
    ] {
        let file =
            written::<ByteArrayType>("required binary c (UTF8);", codec, &values, None, None);
        let found = column(file.path());
        assert_eq!(found.len(), 500, "{codec:?}");
        assert_eq!(found[499], Some(json!("text 2")), "{codec:?}");
    }
}

#[test]
fn files_of_pyarrow_hold_what_pyarrow_reads() {
    let expected = std::fs::read_to_string(fixture("expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&expected).unwrap();
    for (name, rows) in expected.as_object().unwrap() {
        let dataset = Parquet::open(&fixture(&format!("{name}.parquet"))).unwrap();
        let rows = rows.as_array().unwrap();
        assert_eq!(dataset.len(), rows.len(), "{name}");
        for (index, row) in rows.iter().enumerate() {
            assert_eq!(
                Value::Object(dataset.fields(index).unwrap()),
                row["fields"],
                "{name} {index}"
            );
            let digests = dataset.image_keys(index).unwrap();
            let theirs = row["images"].as_array().unwrap();
            assert_eq!(digests.len(), theirs.len(), "{name} {index}");
            for (ours, theirs) in digests.iter().zip(theirs) {
                assert!(theirs.as_str().unwrap().starts_with(ours), "{name} {index}");
            }
            let sample = dataset.get(index).unwrap();
            assert!(
                sample.images.iter().all(|image| image.dimensions() == (3, 2)),
                "{name} {index}"
            );
        }
        let unused: Vec<_> = dataset.unused().into_iter().map(|unused| unused.what).collect();
        let is_images = rows.iter().any(|row| !row["images"].as_array().unwrap().is_empty());
        assert_eq!(unused.len(), usize::from(is_images), "{name}: {unused:?}");
    }
}

#[test]
fn a_column_of_bytes_with_a_failed_download_is_one_of_images() {
    let image = std::fs::read(fixture("../images/rgb_small.png")).unwrap();
    let bytes = [ByteArray::from(b"<html>".to_vec()), image.clone().into(), ByteArray::new()];
    let file = written::<ByteArrayType>(
        "optional binary c;",
        Compression::UNCOMPRESSED,
        &bytes[..2],
        Some(&[1, 0, 1]),
        None,
    );
    let dataset = Parquet::open(file.path()).unwrap();
    assert!(dataset.get(0).unwrap_err().to_string().contains("row 0, column c"));
    assert!(dataset.get(1).unwrap().images.is_empty());
    assert_eq!(dataset.get(2).unwrap().images.len(), 1);
    assert_eq!(dataset.image_keys(2).unwrap(), [hex(&Sha256::digest(&image)[..16])]);
    assert!(dataset.unused().is_empty());
}

/// Opens the file of `bytes` and reads what can be read.
fn exercise(bytes: &[u8]) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let Ok(dataset) = Parquet::open(file.path()) else { return };
    for index in 0..dataset.len().min(8) {
        let _ = (dataset.get(index), dataset.fields(index), dataset.image_keys(index));
    }
    let _ = dataset.unused();
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = std::fs::read(fixture("codec-snappy-1.parquet")).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    for len in (0..whole.len()).step_by(13) {
        std::fs::write(file.path(), &whole[..len]).unwrap();
        assert!(Parquet::open(file.path()).is_err(), "{len}");
    }
}

#[test]
fn rows_of_a_damaged_row_group_are_bad_and_the_others_are_read() {
    let mut bytes = std::fs::read(fixture("images.parquet")).unwrap();
    // The first page of the first column of the first of two row groups.
    bytes[4..24].fill(0xff);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let dataset = Parquet::open(file.path()).unwrap();
    assert_eq!(dataset.len(), 3);
    for index in [0, 1] {
        let message = dataset.get(index).unwrap_err().to_string();
        assert!(message.contains("row group 0 is damaged"), "{message}");
    }
    assert_eq!(dataset.fields(2).unwrap()["id"], json!(3));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_files_never_panic(
        name in prop::sample::select(vec!["images", "types", "codec-lz4-1", "codec-brotli-2", "codec-none-2"]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        in_footer: bool,
    ) {
        let mut bytes = std::fs::read(fixture(&format!("{name}.parquet"))).unwrap();
        let len = bytes.len();
        let footer = u32::from_le_bytes(bytes[len - 8..len - 4].try_into().unwrap()) as usize;
        let start = if in_footer { len - 8 - footer } else { 0 };
        for (at, byte) in changes {
            bytes[start + at.index(len - start)] = byte;
        }
        exercise(&bytes);
    }
}
