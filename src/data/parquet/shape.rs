//! The columns of a Parquet file that are read, and how their values become JSON.

use ::parquet::basic::{ConvertedType, LogicalType, Repetition, Type as PhysicalType};
use ::parquet::record::Field;
use ::parquet::schema::types::Type;
use serde_json::Value;

use super::super::dataset::Fields;

/// How the values of a type are laid out; types without a counterpart in JSON have none.
#[derive(Debug, PartialEq)]
pub(super) enum Shape {
    /// A boolean, number or string.
    Value,
    /// Members in order, those that are left out as `None`.
    Struct { members: Vec<Option<Shape>>, is_image: bool },
    /// `is_doubled`: the record reader wraps the elements of a two-level list in one more list.
    List { item: Box<Shape>, is_doubled: bool },
}

impl Shape {
    /// The shape of a top-level column; `None` if it is left out.
    pub(super) fn of_column(kind: &Type) -> Option<Self> {
        if is_readable(kind) { Self::of(kind) } else { None }
    }

    fn of(kind: &Type) -> Option<Self> {
        let shape = Self::of_one(kind)?;
        let is_repeated = kind.get_basic_info().repetition() == Repetition::REPEATED;
        Some(if is_repeated { Self::list(shape, false) } else { shape })
    }

    /// The shape of one value of a type that may repeat.
    fn of_one(kind: &Type) -> Option<Self> {
        if kind.is_primitive() {
            return has_json(kind).then_some(Self::Value);
        }
        match kind.get_basic_info().converted_type() {
            ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE => None,
            ConvertedType::LIST => {
                let repeated = &kind.get_fields()[0];
                match is_element(repeated) {
                    true => Some(Self::list(Self::of_one(repeated)?, true)),
                    false => Some(Self::list(Self::of(&repeated.get_fields()[0])?, false)),
                }
            }
            _ => {
                let members: Vec<_> = kind.get_fields().iter().map(|kind| Self::of(kind)).collect();
                let is_image = is_image(kind);
                let is_read = is_image || members.iter().any(Option::is_some);
                is_read.then_some(Self::Struct { members, is_image })
            }
        }
    }

    fn list(item: Self, is_doubled: bool) -> Self {
        Self::List { item: Box::new(item), is_doubled }
    }

    /// Whether the values are images, or lists of them.
    pub(super) fn holds_images(&self) -> bool {
        match self {
            Self::Value => false,
            Self::Struct { is_image, .. } => *is_image,
            Self::List { item, .. } => item.holds_images(),
        }
    }

    /// `value` as JSON; `None` if it has no counterpart there.
    pub(super) fn json(&self, value: &Field) -> Option<Value> {
        match (self, value) {
            (_, Field::Null) => Some(Value::Null),
            (Self::Value, _) => scalar(value),
            (Self::Struct { members, .. }, Field::Group(row)) => {
                let members = row.get_column_iter().zip(members);
                let read = members.filter_map(|((name, value), shape)| {
                    Some((name.clone(), shape.as_ref()?.json(value)?))
                });
                Some(Value::Object(read.collect::<Fields>()))
            }
            (Self::List { item, is_doubled: false }, Field::ListInternal(list)) => {
                list.elements().iter().map(|value| item.json(value)).collect()
            }
            (Self::List { item, is_doubled: true }, Field::ListInternal(lists)) => {
                let elements = lists.elements().iter().flat_map(|inner| match inner {
                    Field::ListInternal(list) => list.elements(),
                    other => std::slice::from_ref(other),
                });
                elements.map(|value| item.json(value)).collect()
            }
            _ => None,
        }
    }
}

/// Whether the record reader takes `kind`: it panics on intervals and on lists and maps that break
/// the format's rules.
fn is_readable(kind: &Type) -> bool {
    let annotation = kind.get_basic_info().converted_type();
    if kind.is_primitive() {
        return annotation != ConvertedType::INTERVAL;
    }
    let fields = kind.get_fields();
    let repeats = |field: &Type| field.get_basic_info().repetition() == Repetition::REPEATED;
    let is_valid = match annotation {
        ConvertedType::LIST => {
            fields.len() == 1
                && repeats(&fields[0])
                && (fields[0].is_primitive() || !fields[0].get_fields().is_empty())
        }
        ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE => {
            fields.len() == 1
                && repeats(&fields[0])
                && fields[0].is_group()
                && [1, 2].contains(&fields[0].get_fields().len())
        }
        _ => !fields.is_empty(),
    };
    is_valid && fields.iter().all(|field| is_readable(field))
}

/// Whether the repeated group or primitive in a list is the element itself (a two-level list), by
/// the record reader's rule and the format's (LogicalTypes.md, backward-compatibility rules).
fn is_element(repeated: &Type) -> bool {
    if repeated.is_primitive() {
        return true;
    }
    let fields = repeated.get_fields();
    let is_list = repeated.get_basic_info().converted_type() == ConvertedType::LIST;
    let single_repeated =
        fields.len() == 1 && fields[0].get_basic_info().repetition() == Repetition::REPEATED;
    let name = repeated.name();
    !is_list
        && !single_repeated
        && (fields.len() > 1 || name == "array" || name.ends_with("_tuple"))
}

/// Whether `kind` is a struct with binary `bytes`.
fn is_image(kind: &Type) -> bool {
    kind.get_fields().iter().any(|child| {
        child.name() == "bytes"
            && child.is_primitive()
            && child.get_physical_type() == PhysicalType::BYTE_ARRAY
            && !is_text(child)
    })
}

fn is_text(kind: &Type) -> bool {
    let info = kind.get_basic_info();
    matches!(info.logical_type_ref(), Some(LogicalType::String | LogicalType::Json))
        || matches!(
            info.converted_type(),
            ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON
        )
}

/// Whether values of the primitive type `kind` have a counterpart in JSON.
fn has_json(kind: &Type) -> bool {
    use ConvertedType as C;
    let info = kind.get_basic_info();
    match kind.get_physical_type() {
        PhysicalType::BOOLEAN | PhysicalType::FLOAT | PhysicalType::DOUBLE => true,
        // a time in nanoseconds has a logical type only
        PhysicalType::INT32 | PhysicalType::INT64 => {
            matches!(info.logical_type_ref(), None | Some(LogicalType::Integer { .. }))
                && matches!(
                    info.converted_type(),
                    C::NONE
                        | C::INT_8
                        | C::INT_16
                        | C::INT_32
                        | C::INT_64
                        | C::UINT_8
                        | C::UINT_16
                        | C::UINT_32
                        | C::UINT_64
                )
        }
        PhysicalType::BYTE_ARRAY => is_text(kind),
        PhysicalType::INT96 | PhysicalType::FIXED_LEN_BYTE_ARRAY => false,
    }
}

fn scalar(value: &Field) -> Option<Value> {
    Some(match value {
        Field::Bool(value) => (*value).into(),
        Field::Byte(value) => (*value).into(),
        Field::Short(value) => (*value).into(),
        Field::Int(value) => (*value).into(),
        Field::Long(value) => (*value).into(),
        Field::UByte(value) => (*value).into(),
        Field::UShort(value) => (*value).into(),
        Field::UInt(value) => (*value).into(),
        Field::ULong(value) => (*value).into(),
        // the shortest decimal, not the double that the bits widen to
        Field::Float(value) => value.to_string().parse::<f64>().ok().into(),
        Field::Double(value) => (*value).into(),
        Field::Str(value) => value.as_str().into(),
        _ => return None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs::File;
    use std::sync::Arc;

    use ::parquet::data_type::{ByteArray, ByteArrayType, Int32Type};
    use ::parquet::file::properties::WriterProperties;
    use ::parquet::file::reader::{FileReader, SerializedFileReader};
    use ::parquet::file::writer::SerializedFileWriter;
    use ::parquet::schema::parser::parse_message_type;
    use serde_json::json;

    use super::*;

    fn shapes(columns: &str) -> Vec<Option<Shape>> {
        let schema = parse_message_type(&format!("message m {{ {columns} }}")).unwrap();
        schema.get_fields().iter().map(|kind| Shape::of_column(kind)).collect()
    }

    #[test]
    fn images_are_structs_of_bytes_and_lists_of_them() {
        let image = "optional binary bytes; optional binary path (UTF8);";
        let found = shapes(&format!(
            "optional group a {{ {image} }}
             optional group b (LIST) {{ repeated group list {{ optional group element {{ {image} }} }} }}
             optional group c (LIST) {{ repeated group array {{ {image} }} }}
             repeated group d {{ {image} }}
             optional group e {{ optional group f {{ {image} }} optional binary text (UTF8); }}
             optional group g {{ optional binary bytes (UTF8); }}"
        ));
        let images: Vec<_> = found.iter().map(|s| s.as_ref().unwrap().holds_images()).collect();
        assert_eq!(images, [true, true, true, true, false, false]);
    }

    #[test]
    fn columns_without_a_counterpart_and_broken_groups_are_left_out() {
        let found = shapes(
            "optional binary raw;
             optional int64 time (TIMESTAMP_MILLIS);
             optional int64 nanos (TIMESTAMP(NANOS,true));
             optional fixed_len_byte_array(12) span (INTERVAL);
             optional group nested { optional fixed_len_byte_array(12) span (INTERVAL); optional int32 n; }
             optional group broken (LIST) { optional int32 n; }
             optional group map (MAP) { repeated group kv { required binary key (UTF8); optional int32 value; } }
             optional group empty { optional binary raw; }",
        );
        assert!(found.iter().all(Option::is_none), "{found:?}");
        assert_eq!(shapes("optional int32 n (UINT_8);"), [Some(Shape::Value)]);
    }

    /// The JSON values of the only column of `schema`, written by `write`.
    fn read(column: &str, write: impl FnOnce(&mut SerializedFileWriter<File>)) -> Vec<Value> {
        let schema = Arc::new(parse_message_type(&format!("message m {{ {column} }}")).unwrap());
        let file = tempfile::tempfile().unwrap();
        let properties = Arc::new(WriterProperties::default());
        let mut writer =
            SerializedFileWriter::new(file.try_clone().unwrap(), schema.clone(), properties)
                .unwrap();
        write(&mut writer);
        writer.close().unwrap();
        let reader = SerializedFileReader::new(file).unwrap();
        let shape = Shape::of_column(&schema.get_fields()[0]).unwrap();
        let rows = reader.get_row_iter(None).unwrap();
        rows.map(|row| shape.json(row.unwrap().get_column_iter().next().unwrap().1).unwrap())
            .collect()
    }

    #[test]
    fn lists_of_two_and_three_levels_are_flat() {
        let texts: Vec<ByteArray> = ["a", "b", "c"].map(ByteArray::from).into();
        // Rows: [a, b], [], null, [c].
        let write = |deepest: i16| {
            let texts = texts.clone();
            move |writer: &mut SerializedFileWriter<File>| {
                let mut group = writer.next_row_group().unwrap();
                let mut column = group.next_column().unwrap().unwrap();
                let definition = [deepest, deepest, 1, 0, deepest];
                let write = column.typed::<ByteArrayType>();
                write.write_batch(&texts, Some(&definition), Some(&[0, 1, 0, 0, 0])).unwrap();
                column.close().unwrap();
                group.close().unwrap();
            }
        };
        let expected = [json!(["a", "b"]), json!([]), Value::Null, json!(["c"])];
        let two = "optional group q (LIST) { repeated binary array (UTF8); }";
        assert_eq!(read(two, write(2)), expected);
        let three =
            "optional group q (LIST) { repeated group list { optional binary element (UTF8); } }";
        assert_eq!(read(three, write(3)), expected);
    }

    #[test]
    fn lists_of_structs_of_two_levels_are_flat() {
        let column = "optional group q (LIST) { repeated group array { required int32 n; optional int32 m; } }";
        let found = read(column, |writer| {
            let mut group = writer.next_row_group().unwrap();
            for deepest in [2, 3] {
                let mut column = group.next_column().unwrap().unwrap();
                let write = column.typed::<Int32Type>();
                write.write_batch(&[1, 2], Some(&[deepest; 2]), Some(&[0, 1])).unwrap();
                column.close().unwrap();
            }
            group.close().unwrap();
        });
        assert_eq!(found, [json!([{ "n": 1, "m": 1 }, { "n": 2, "m": 2 }])]);
    }
}
