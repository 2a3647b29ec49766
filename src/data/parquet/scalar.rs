//! Values of primitive types as JSON, as `pyarrow` and `datasets` show them.

use ::parquet::basic::{ConvertedType, LogicalType, TimeUnit, Type as PhysicalType};
use ::parquet::record::Field;
use ::parquet::schema::types::Type;
use half::f16;
use serde_json::Value;

use super::time;

/// Most bytes of a decimal: 256 bits.
const MAX_DECIMAL_LEN: usize = 32;

/// The meaning of the values of a primitive type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scalar {
    /// Booleans, and numbers that need no conversion.
    Plain,
    /// Integers of 8, 16, 32 or 64 bits without a sign.
    Unsigned(u8),
    Float16,
    /// Digits after the point; a string of all digits.
    Decimal(usize),
    Text,
    /// `2026-01-31`.
    Date,
    /// `23:59:59`, with 6 or 9 digits of a fraction.
    Time(TimeUnit),
    /// `2026-01-31T23:59:59`, with 6 or 9 digits of a fraction; `+00:00` follows if it is in UTC.
    Timestamp(TimeUnit, bool),
    /// A timestamp of 96 bits, in UTC or not; read to the millisecond.
    Int96,
    Uuid,
}

impl Scalar {
    /// The meaning of `kind`; `None` for plain bytes, `Err` with the type's name if it has no
    /// counterpart in JSON.
    pub(super) fn of(kind: &Type) -> Result<Option<Self>, String> {
        let info = kind.get_basic_info();
        let (logical, converted) = (info.logical_type_ref(), info.converted_type());
        let found = match (kind.get_physical_type(), logical) {
            (PhysicalType::BOOLEAN | PhysicalType::FLOAT | PhysicalType::DOUBLE, _) => Self::Plain,
            (PhysicalType::INT32 | PhysicalType::INT64, Some(logical)) => {
                return Self::of_integer(logical).map(Some).ok_or_else(|| type_name(kind));
            }
            (PhysicalType::INT32 | PhysicalType::INT64, None) => {
                let scale = usize::try_from(kind.get_scale()).unwrap_or(0);
                let found = Self::of_converted(converted, scale);
                return found.map(Some).ok_or_else(|| type_name(kind));
            }
            (PhysicalType::INT96, _) => Self::Int96,
            (_, Some(LogicalType::Float16)) => Self::Float16,
            (_, Some(LogicalType::Uuid)) => Self::Uuid,
            (_, Some(LogicalType::Decimal(decimal))) => {
                Self::Decimal(usize::try_from(decimal.scale).unwrap_or(0))
            }
            (_, Some(LogicalType::String | LogicalType::Enum | LogicalType::Json)) => Self::Text,
            (_, None) => match converted {
                ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON => Self::Text,
                ConvertedType::DECIMAL => {
                    Self::Decimal(usize::try_from(kind.get_scale()).unwrap_or(0))
                }
                ConvertedType::NONE => return Ok(None),
                _ => return Err(type_name(kind)),
            },
            (_, Some(LogicalType::Unknown)) => return Ok(None),
            (_, Some(_)) => return Err(type_name(kind)),
        };
        Ok(Some(found))
    }

    fn of_integer(logical: &LogicalType) -> Option<Self> {
        Some(match logical {
            LogicalType::Integer(kind) if kind.is_signed => Self::Plain,
            LogicalType::Integer(kind) => Self::Unsigned(u8::try_from(kind.bit_width).ok()?),
            LogicalType::Unknown => Self::Plain,
            LogicalType::Decimal(kind) => Self::Decimal(usize::try_from(kind.scale).ok()?),
            LogicalType::Date => Self::Date,
            LogicalType::Time(kind) => Self::Time(kind.unit),
            LogicalType::Timestamp(kind) => Self::Timestamp(kind.unit, kind.is_adjusted_to_u_t_c),
            _ => return None,
        })
    }

    fn of_converted(converted: ConvertedType, scale: usize) -> Option<Self> {
        use ConvertedType as C;
        Some(match converted {
            C::NONE | C::INT_8 | C::INT_16 | C::INT_32 | C::INT_64 => Self::Plain,
            C::UINT_8 => Self::Unsigned(8),
            C::UINT_16 => Self::Unsigned(16),
            C::UINT_32 => Self::Unsigned(32),
            C::UINT_64 => Self::Unsigned(64),
            C::DECIMAL => Self::Decimal(scale),
            C::DATE => Self::Date,
            C::TIME_MILLIS => Self::Time(TimeUnit::MILLIS),
            C::TIME_MICROS => Self::Time(TimeUnit::MICROS),
            C::TIMESTAMP_MILLIS => Self::Timestamp(TimeUnit::MILLIS, true),
            C::TIMESTAMP_MICROS => Self::Timestamp(TimeUnit::MICROS, true),
            _ => return None,
        })
    }

    /// `value`, read without its annotation, as JSON; `Err` says why it has no meaning.
    pub(super) fn json(self, value: &Field) -> Result<Value, String> {
        let integer = match value {
            Field::Int(value) => Some(i64::from(*value)),
            Field::Long(value) => Some(*value),
            _ => None,
        };
        Ok(match (self, value, integer) {
            (Self::Plain, Field::Bool(value), _) => (*value).into(),
            // The shortest decimal, not the double that the bits widen to.
            (Self::Plain, Field::Float(value), _) => shortest(*value),
            (Self::Plain, Field::Double(value), _) => (*value).into(),
            (Self::Plain, _, Some(value)) => value.into(),
            (Self::Unsigned(8), _, Some(value)) => (value as u8).into(),
            (Self::Unsigned(16), _, Some(value)) => (value as u16).into(),
            (Self::Unsigned(32), _, Some(value)) => (value as u32).into(),
            (Self::Unsigned(_), _, Some(value)) => (value as u64).into(),
            (Self::Decimal(scale), _, Some(value)) => decimal(&value.to_be_bytes(), scale)?.into(),
            (Self::Decimal(scale), Field::Bytes(value), _) => decimal(value.data(), scale)?.into(),
            (Self::Date, _, Some(days)) => time::date(days)?.into(),
            (Self::Time(unit), _, Some(value)) => time::time(value, unit)?.into(),
            (Self::Timestamp(unit, utc), _, Some(value)) => {
                time::timestamp(value, unit, utc)?.into()
            }
            (Self::Int96, Field::TimestampMillis(value), _) => {
                time::timestamp(*value, TimeUnit::MILLIS, false)?.into()
            }
            (Self::Text, Field::Bytes(value), _) => match std::str::from_utf8(value.data()) {
                Ok(text) => text.into(),
                Err(error) => return Err(format!("text that is not UTF-8: {error}")),
            },
            (Self::Float16, Field::Bytes(value), _) => match *value.data() {
                [low, high] => shortest(f16::from_le_bytes([low, high]).to_f32()),
                _ => return Err(format!("a half float of {} bytes", value.len())),
            },
            (Self::Uuid, Field::Bytes(value), _) => uuid(value.data())?.into(),
            (kind, value, _) => return Err(format!("{value} is no {kind:?}")),
        })
    }
}

/// `value` with as few digits as tell it from its neighbours; infinities and NaN become null.
fn shortest(value: f32) -> Value {
    value.to_string().parse::<f64>().ok().into()
}

/// The number in `bytes`, two's complement from the highest byte, with `scale` digits after the point.
fn decimal(bytes: &[u8], scale: usize) -> Result<String, String> {
    if bytes.len() > MAX_DECIMAL_LEN || scale > 3 * MAX_DECIMAL_LEN {
        let len = bytes.len();
        return Err(format!("a decimal of {len} bytes with {scale} digits after the point"));
    }
    let is_negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
    let mut magnitude = bytes.to_vec();
    if is_negative {
        let mut carry = true;
        for byte in magnitude.iter_mut().rev() {
            (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
        }
    }
    let mut digits = Vec::new();
    // The digits after the point, the point, and a digit before it.
    let shortest = if scale == 0 { 1 } else { scale + 2 };
    while magnitude.iter().any(|byte| *byte != 0) || digits.len() < shortest {
        let mut rest = 0_u32;
        for byte in &mut magnitude {
            let value = rest * 256 + u32::from(*byte);
            (*byte, rest) = ((value / 10) as u8, value % 10);
        }
        digits.push(char::from_digit(rest, 10).unwrap_or('0'));
        if digits.len() == scale {
            digits.push('.');
        }
    }
    if is_negative {
        digits.push('-');
    }
    Ok(digits.iter().rev().collect())
}

/// The usual form of a UUID: five groups of hexadecimal digits.
fn uuid(bytes: &[u8]) -> Result<String, String> {
    if bytes.len() != 16 {
        return Err(format!("a UUID of {} bytes", bytes.len()));
    }
    let hex = crate::files::hex(bytes);
    Ok([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

/// The name of a type in messages, such as `INT64 (TIMESTAMP)`.
pub(super) fn type_name(kind: &Type) -> String {
    let info = kind.get_basic_info();
    let physical = match kind.is_primitive() {
        true => kind.get_physical_type().to_string(),
        false => "group".to_owned(),
    };
    match (info.logical_type_ref(), info.converted_type()) {
        (None, ConvertedType::NONE) => physical,
        (None, converted) => format!("{physical} ({converted})"),
        (Some(logical), _) => {
            let logical = format!("{logical:?}").to_ascii_uppercase();
            let name = logical.split('(').next().unwrap_or_default();
            format!("{physical} ({name})")
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn decimals_have_all_their_digits() {
        for (bytes, scale, expected) in [
            (&[0][..], 0, "0"),
            (&[0], 2, "0.00"),
            (&[0x7b], 0, "123"),
            (&[0x7b], 1, "12.3"),
            (&[0x7b], 3, "0.123"),
            (&[0x7b], 5, "0.00123"),
            (&[0xff], 0, "-1"),
            (&[0xff, 0x85], 2, "-1.23"),
            (&[0x80], 0, "-128"),
            (&[0x01, 0, 0, 0, 0, 0, 0, 0, 0], 4, "1844674407370955.1616"),
            (&[], 0, "0"),
        ] {
            assert_eq!(decimal(bytes, scale).unwrap(), expected, "{bytes:?} {scale}");
        }
        assert!(decimal(&[1; 33], 0).is_err() && decimal(&[1], 1000).is_err());
    }
}
