// SPDX-License-Identifier: Apache-2.0
//! Messages of the wire as JSON, in the words of their definitions. What is empty is left out, as Go
//! leaves it out.
use serde_json::{Map, Value, json};

/// A field of a message as JSON; null when it is empty.
pub(crate) trait Field {
    fn value(&self) -> Value;
}

impl Field for String {
    fn value(&self) -> Value {
        if self.is_empty() { Value::Null } else { json!(self) }
    }
}

macro_rules! numbers {
    ($($number:ty)*) => {$(
        impl Field for $number {
            fn value(&self) -> Value {
                if *self == <$number>::default() { Value::Null } else { json!(self) }
            }
        }
    )*};
}

numbers! { bool u32 u64 i64 }

impl Field for f64 {
    fn value(&self) -> Value {
        if self.abs() < f64::EPSILON { Value::Null } else { json!(self) }
    }
}

impl Field for types::Labels {
    fn value(&self) -> Value {
        if self.is_empty() { Value::Null } else { json!(self) }
    }
}

impl<T: Field> Field for Option<T> {
    fn value(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::value)
    }
}

impl<T: Field> Field for Vec<T> {
    /// Numbers stay where they are in a list, also those that are 0.
    fn value(&self) -> Value {
        let value = |item: &T| match item.value() {
            Value::Null => json!(0),
            value => value,
        };
        if self.is_empty() { Value::Null } else { self.iter().map(value).collect() }
    }
}

impl Field for prost_types::Timestamp {
    fn value(&self) -> Value {
        let time = std::time::SystemTime::try_from(*self);
        time.map_or(Value::Null, |time| json!(crate::units::time(time)))
    }
}

/// An object of the fields that are not empty.
pub(crate) fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let said = fields.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(said.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
}

/// Says which fields of messages are shown.
macro_rules! messages {
    ($($message:path { $($field:ident),* $(,)? })*) => {$(
        impl $crate::json::Field for $message {
            fn value(&self) -> serde_json::Value {
                $crate::json::object([
                    $((stringify!($field), $crate::json::Field::value(&self.$field))),*
                ])
            }
        }
    )*};
}
pub(crate) use messages;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_empty_is_left_out_but_not_from_lists() {
        let shown =
            object([("a", 0_u64.value()), ("b", vec![0_u64, 2].value()), ("c", true.value())]);
        assert_eq!(shown.to_string(), r#"{"b":[0,2],"c":true}"#);
    }
}
