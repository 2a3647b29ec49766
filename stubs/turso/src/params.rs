//! Values of a statement's parameters.

use rusqlite::types::Value;

/// Values for the parameters `?1`, `?2` and so on, in this order.
pub trait IntoParams {
    /// The values.
    #[doc(hidden)]
    fn into_params(self) -> Vec<Value>;
}

impl IntoParams for () {
    fn into_params(self) -> Vec<Value> {
        Vec::new()
    }
}

/// A tuple's values, each through `rusqlite`'s own conversion.
macro_rules! tuples {
    ($(($($name:ident)+))+) => {$(
        impl<$($name: OneValue),+> IntoParams for ($($name,)+) {
            fn into_params(self) -> Vec<Value> {
                #[allow(non_snake_case, reason = "the types' names name the fields")]
                let ($($name,)+) = self;
                vec![$($name.one_value()),+]
            }
        }
    )+};
}

tuples! { (A) (A B) (A B C) (A B C D) }

/// One of the types that values have here.
pub trait OneValue {
    fn one_value(self) -> Value;
}

impl OneValue for &str {
    fn one_value(self) -> Value {
        Value::Text(self.to_owned())
    }
}

macro_rules! owned {
    ($($type:ty)+) => {$(
        impl OneValue for $type {
            fn one_value(self) -> Value {
                self.into()
            }
        }
    )+};
}

owned! { String Vec<u8> i64 }
