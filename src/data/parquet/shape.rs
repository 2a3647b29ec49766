//! The columns of a Parquet file: which are read, and how.
//!
//! The file is read by its physical types alone, because the crate's record reader panics on some
//! annotations and refuses others; their meaning is here.

use std::sync::Arc;

use ::parquet::basic::{ConvertedType, LogicalType, Repetition, Type as PhysicalType};
use ::parquet::errors::ParquetError;
use ::parquet::schema::types::{Type, TypePtr};

use super::scalar::{Scalar, type_name};

/// How the values of a type become JSON and images.
#[derive(Debug, PartialEq)]
pub(super) enum Shape {
    Scalar(Scalar),
    /// Bytes without an annotation; images if the column's values begin like images. The number of the
    /// image column.
    Binary(usize),
    /// A struct with binary `bytes` and perhaps `path`; the number of the image column.
    Image(usize),
    Struct(Vec<(String, Shape)>),
    /// An annotated list is a group of one repeated member, which in a list of three levels wraps
    /// each element once more.
    List {
        item: Box<Shape>,
        is_annotated: bool,
        is_wrapped: bool,
    },
    /// Entries of a key and, unless it is a set, a value.
    Map {
        key: Box<Shape>,
        value: Option<Box<Shape>>,
    },
    /// Left out, and reported.
    Unread,
}

/// A column or part of one that is not read.
#[derive(Debug, PartialEq)]
pub(super) struct Unread {
    /// The names from the top down, joined by dots.
    pub column: String,
    pub reason: String,
}

/// Column that may hold images.
#[derive(Debug)]
pub(super) struct ImageColumn {
    /// The names from the top down, joined by dots.
    pub name: String,
    /// Plain bytes rather than a struct of them.
    pub is_binary: bool,
    /// The type's name.
    pub kind: String,
}

/// What is read of a file.
#[derive(Debug, Default)]
pub(super) struct Columns {
    /// The shapes of the columns that are read.
    pub shapes: Vec<Shape>,
    /// Their types without annotations, in the same order.
    pub kinds: Vec<TypePtr>,
    pub images: Vec<ImageColumn>,
    pub unread: Vec<Unread>,
}

impl Columns {
    /// The columns of a file of the type `schema`.
    pub(super) fn of(schema: &Type) -> Result<Self, ParquetError> {
        let mut columns = Self::default();
        for kind in schema.get_fields() {
            let name = kind.name().to_owned();
            if !is_readable(kind) {
                columns.leave_out(name, "a group without members".to_owned());
                continue;
            }
            let shape = columns.shape(kind, &name);
            if shape.is_read() {
                columns.shapes.push(shape);
                columns.kinds.push(Arc::new(bare(kind)?));
            }
        }
        Ok(columns)
    }

    fn leave_out(&mut self, column: String, reason: String) -> Shape {
        self.unread.push(Unread { column, reason });
        Shape::Unread
    }

    /// The shape of the type `kind` of the column `name`, repetitions included.
    fn shape(&mut self, kind: &Type, name: &str) -> Shape {
        let shape = self.shape_of_one(kind, name);
        match repetition(kind) == Some(Repetition::REPEATED) && shape.is_read() {
            true => list(shape, false, false),
            false => shape,
        }
    }

    /// The shape of one value of a type that may repeat.
    fn shape_of_one(&mut self, kind: &Type, name: &str) -> Shape {
        if kind.is_primitive() {
            return match Scalar::of(kind) {
                Ok(Some(scalar)) => Shape::Scalar(scalar),
                Ok(None) => self.image(name, true, kind, Shape::Binary),
                Err(kind) => self.leave_out(name.to_owned(), format!("{kind} is not read")),
            };
        }
        let fields = kind.get_fields();
        let info = kind.get_basic_info();
        match (info.logical_type_ref(), info.converted_type()) {
            (Some(LogicalType::List), _) | (_, ConvertedType::LIST) => match fields {
                [repeated] if repetition(repeated) == Some(Repetition::REPEATED) => {
                    self.list(repeated, name)
                }
                _ => self.leave_out(name.to_owned(), "a list of no valid form".to_owned()),
            },
            (Some(LogicalType::Map), _)
            | (_, ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE) => match fields {
                [entry] if repetition(entry) == Some(Repetition::REPEATED) && entry.is_group() => {
                    self.map(entry, name)
                }
                _ => self.leave_out(name.to_owned(), "a map of no valid form".to_owned()),
            },
            _ if is_image(kind) => {
                let beside = fields.iter().map(|field| field.name());
                for member in beside.filter(|member| !["bytes", "path"].contains(member)) {
                    self.leave_out(format!("{name}.{member}"), "stands beside an image".to_owned());
                }
                self.image(name, false, kind, Shape::Image)
            }
            _ => {
                let member = |kind: &TypePtr| {
                    let inner = format!("{name}.{}", kind.name());
                    (kind.name().to_owned(), self.shape(kind, &inner))
                };
                some_read(fields.iter().map(member).collect())
            }
        }
    }

    fn image(
        &mut self,
        name: &str,
        is_binary: bool,
        kind: &Type,
        shape: fn(usize) -> Shape,
    ) -> Shape {
        let (name, kind) = (name.to_owned(), type_name(kind));
        self.images.push(ImageColumn { name, is_binary, kind });
        shape(self.images.len() - 1)
    }

    /// The shape of an annotated list of `repeated`.
    fn list(&mut self, repeated: &Type, name: &str) -> Shape {
        let is_wrapped = !is_element(repeated);
        let item = match is_wrapped {
            true => self.shape(&repeated.get_fields()[0], name),
            false => self.shape_of_one(repeated, name),
        };
        if item.is_read() { list(item, true, is_wrapped) } else { item }
    }

    fn map(&mut self, entry: &Type, name: &str) -> Shape {
        let (key, value) = match entry.get_fields() {
            [key] => (key, None),
            [key, value] => (key, Some(value)),
            _ => return self.leave_out(name.to_owned(), "a map of no valid form".to_owned()),
        };
        let key = self.shape(key, &format!("{name}.key"));
        let value = value.map(|value| Box::new(self.shape(value, &format!("{name}.value"))));
        let is_read = key.has_json() && value.as_ref().is_none_or(|value| value.is_read());
        match is_read {
            true => Shape::Map { key: Box::new(key), value },
            false => Shape::Unread,
        }
    }
}

impl Shape {
    fn is_read(&self) -> bool {
        *self != Self::Unread
    }

    /// Whether values have a counterpart in JSON beside their images.
    pub(super) fn has_json(&self) -> bool {
        match self {
            Self::Scalar(_) | Self::Map { .. } => true,
            Self::Binary(_) | Self::Image(_) | Self::Unread => false,
            Self::Struct(members) => members.iter().any(|(_, shape)| shape.has_json()),
            Self::List { item, .. } => item.has_json(),
        }
    }
}

fn list(item: Shape, is_annotated: bool, is_wrapped: bool) -> Shape {
    Shape::List { item: Box::new(item), is_annotated, is_wrapped }
}

/// A struct of `members`, unless none of them is read.
fn some_read(members: Vec<(String, Shape)>) -> Shape {
    match members.iter().any(|(_, shape)| shape.is_read()) {
        true => Shape::Struct(members),
        false => Shape::Unread,
    }
}

fn repetition(kind: &Type) -> Option<Repetition> {
    let info = kind.get_basic_info();
    info.has_repetition().then(|| info.repetition())
}

/// Whether the record reader takes `kind`: it panics on groups without members.
fn is_readable(kind: &Type) -> bool {
    repetition(kind).is_some()
        && (kind.is_primitive()
            || !kind.get_fields().is_empty() && kind.get_fields().iter().all(|f| is_readable(f)))
}

/// Whether the repeated group or primitive in a list is the element itself (a two-level list), by
/// the format's backward-compatibility rules (LogicalTypes.md).
fn is_element(repeated: &Type) -> bool {
    if repeated.is_primitive() {
        return true;
    }
    let fields = repeated.get_fields();
    let is_list = repeated.get_basic_info().converted_type() == ConvertedType::LIST;
    let name = repeated.name();
    fields.len() > 1
        || is_list
        || repetition(&fields[0]) == Some(Repetition::REPEATED)
        || name == "array"
        || name.ends_with("_tuple")
}

/// Whether `kind` is a struct with binary `bytes`.
fn is_image(kind: &Type) -> bool {
    let fields = kind.get_fields();
    let is_binary = |child: &Type| {
        child.is_primitive()
            && child.get_physical_type() == PhysicalType::BYTE_ARRAY
            && Scalar::of(child) == Ok(None)
            && repetition(child) != Some(Repetition::REPEATED)
    };
    fields.iter().any(|child| child.name() == "bytes" && is_binary(child))
}

/// `kind` without annotations, as the file is read.
pub(super) fn bare(kind: &Type) -> Result<Type, ParquetError> {
    let name = kind.name();
    if kind.is_primitive() {
        let physical = kind.get_physical_type();
        let mut builder = Type::primitive_type_builder(name, physical);
        if let Type::PrimitiveType { type_length, .. } = kind {
            builder = builder.with_length(*type_length);
        }
        let repetition = repetition(kind).unwrap_or(Repetition::REQUIRED);
        return builder.with_repetition(repetition).build();
    }
    let fields = kind.get_fields().iter().map(|kind| Ok(Arc::new(bare(kind)?)));
    let fields = fields.collect::<Result<_, ParquetError>>()?;
    let mut builder = Type::group_type_builder(name).with_fields(fields);
    if let Some(repetition) = repetition(kind) {
        builder = builder.with_repetition(repetition);
    }
    builder.build()
}
