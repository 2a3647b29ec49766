//! Values of Arrow arrays.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, types};
use arrow_schema::DataType;
use serde_json::Value;

/// Whether a column of type `kind` holds images: a struct with binary `bytes`, or a list of it.
pub(super) fn is_image(kind: &DataType) -> bool {
    match kind {
        DataType::Struct(children) => {
            children.iter().any(|child| child.name() == "bytes" && is_binary(child.data_type()))
        }
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            is_image(item.data_type())
        }
        _ => false,
    }
}

fn is_binary(kind: &DataType) -> bool {
    match kind {
        DataType::Dictionary(_, values) => is_binary(values),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => true,
        _ => false,
    }
}

/// The array and position of the value itself, looked up in the dictionary if there is one.
pub(super) fn resolve(array: &dyn Array, at: usize) -> (&dyn Array, usize) {
    match array.as_any_dictionary_opt() {
        Some(dictionary) if array.is_valid(at) => {
            let key = integer(dictionary.keys(), at).and_then(|key| usize::try_from(key).ok());
            (dictionary.values().as_ref(), key.unwrap_or(0))
        }
        _ => (array, at),
    }
}

/// The bytes at `at` of a binary column; `None` if null.
pub(super) fn bytes(array: &dyn Array, at: usize) -> Option<&[u8]> {
    let (array, at) = resolve(array, at);
    if array.is_null(at) {
        return None;
    }
    match array.data_type() {
        DataType::Binary => Some(array.as_binary::<i32>().value(at)),
        DataType::LargeBinary => Some(array.as_binary::<i64>().value(at)),
        DataType::BinaryView => Some(array.as_binary_view().value(at)),
        _ => None,
    }
}

/// The entries of the list at `at`; `None` if the column holds no lists.
pub(super) fn list_items(array: &dyn Array, at: usize) -> Option<Arc<dyn Array>> {
    match array.data_type() {
        DataType::List(_) => Some(array.as_list::<i32>().value(at)),
        DataType::LargeList(_) => Some(array.as_list::<i64>().value(at)),
        DataType::FixedSizeList(..) => Some(array.as_fixed_size_list().value(at)),
        _ => None,
    }
}

/// The integer at `at`; `None` for other types.
fn integer(array: &dyn Array, at: usize) -> Option<i128> {
    Some(match array.data_type() {
        DataType::Int8 => array.as_primitive::<types::Int8Type>().value(at).into(),
        DataType::Int16 => array.as_primitive::<types::Int16Type>().value(at).into(),
        DataType::Int32 => array.as_primitive::<types::Int32Type>().value(at).into(),
        DataType::Int64 => array.as_primitive::<types::Int64Type>().value(at).into(),
        DataType::UInt8 => array.as_primitive::<types::UInt8Type>().value(at).into(),
        DataType::UInt16 => array.as_primitive::<types::UInt16Type>().value(at).into(),
        DataType::UInt32 => array.as_primitive::<types::UInt32Type>().value(at).into(),
        DataType::UInt64 => array.as_primitive::<types::UInt64Type>().value(at).into(),
        _ => return None,
    })
}

/// The value at `at` as JSON; `None` for types without a counterpart there.
pub(super) fn value(array: &dyn Array, at: usize) -> Option<Value> {
    let (array, at) = resolve(array, at);
    if let Some(items) = list_items(array, at) {
        if array.is_null(at) {
            return Some(Value::Null);
        }
        return (0..items.len()).map(|item| value(items.as_ref(), item)).collect();
    }
    let found = match array.data_type() {
        DataType::Null => Value::Null,
        _ if array.is_null(at) => Value::Null,
        DataType::Boolean => array.as_boolean().value(at).into(),
        DataType::Utf8 => array.as_string::<i32>().value(at).into(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(at).into(),
        DataType::Utf8View => array.as_string_view().value(at).into(),
        DataType::Float64 => array.as_primitive::<types::Float64Type>().value(at).into(),
        DataType::Float32 => {
            // the shortest decimal, not the double that the bits widen to
            let number = array.as_primitive::<types::Float32Type>().value(at);
            number.to_string().parse::<f64>().ok().into()
        }
        DataType::Struct(children) => {
            let columns = array.as_struct().columns();
            let named = children.iter().zip(columns);
            Value::Object(
                named.filter_map(|(f, c)| Some((f.name().clone(), value(c, at)?))).collect(),
            )
        }
        _ => {
            let number = integer(array, at)?;
            match (u64::try_from(number), i64::try_from(number)) {
                (Ok(number), _) => number.into(),
                (_, Ok(number)) => number.into(),
                _ => return None,
            }
        }
    };
    Some(found)
}
