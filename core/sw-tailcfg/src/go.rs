//! A serde deserializer with the habits of Go's `encoding/json` (control.md, conventions).
//!
//! It wraps another deserializer and changes three things for the types of this crate, so that the types need not
//! say them field by field:
//!
//! * names of struct fields match in any letter case, an exact match first;
//! * `null` reads as the zero value of whatever is wanted;
//! * with [`Twice::LastWins`] a name may occur more than once.
//!
//! Free JSON (`serde_json::Value`) and the keys of maps pass unchanged.

use std::fmt;

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::Value;

/// What to do when a name occurs twice in one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Twice {
    /// Fail; costs nothing.
    Refuse,
    /// Keep the last; every object is buffered first.
    LastWins,
}

/// The wrapped deserializer.
pub(crate) struct Go<D> {
    inner: D,
    twice: Twice,
}

impl<D> Go<D> {
    pub(crate) fn new(inner: D, twice: Twice) -> Self {
        Self { inner, twice }
    }
}

/// What is wanted, hence what `null` stands for.
#[derive(Clone, Copy)]
enum Want {
    Bool,
    Number,
    Text,
    List,
    Map,
    Struct(&'static [&'static str]),
}

/// serde_json's own types announce themselves by names that begin so; they must meet their own deserializer.
const SERDE_JSON_OWN: &str = "$serde_json";

macro_rules! want {
    ($($method:ident: $want:expr,)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.inner.deserialize_any(Wanted { visitor, want: $want, twice: self.twice })
        }
    )*};
}

macro_rules! pass {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$method(visitor)
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Go<D> {
    type Error = D::Error;

    want! {
        deserialize_bool: Want::Bool,
        deserialize_i8: Want::Number,
        deserialize_i16: Want::Number,
        deserialize_i32: Want::Number,
        deserialize_i64: Want::Number,
        deserialize_u8: Want::Number,
        deserialize_u16: Want::Number,
        deserialize_u32: Want::Number,
        deserialize_u64: Want::Number,
        deserialize_f32: Want::Number,
        deserialize_f64: Want::Number,
        deserialize_str: Want::Text,
        deserialize_string: Want::Text,
        deserialize_seq: Want::List,
        deserialize_map: Want::Map,
    }

    pass! {
        deserialize_any deserialize_char deserialize_bytes deserialize_byte_buf deserialize_unit
        deserialize_identifier deserialize_ignored_any
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_option(Optional { visitor, twice: self.twice })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        if name.starts_with(SERDE_JSON_OWN) {
            return self.inner.deserialize_struct(name, fields, visitor);
        }
        self.inner.deserialize_any(Wanted { visitor, want: Want::Struct(fields), twice: self.twice })
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        if name.starts_with(SERDE_JSON_OWN) {
            return self.inner.deserialize_newtype_struct(name, visitor);
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_unit_struct(name, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, D::Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_enum(name, variants, visitor)
    }
}

/// A visitor that reads `null` as the zero value and wraps what lies inside lists and objects.
struct Wanted<V> {
    visitor: V,
    want: Want,
    twice: Twice,
}

macro_rules! visit {
    ($($method:ident($kind:ty))*) => {$(
        fn $method<E: Error>(self, value: $kind) -> Result<V::Value, E> {
            self.visitor.$method(value)
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Wanted<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    visit! {
        visit_bool(bool) visit_i64(i64) visit_u64(u64) visit_f64(f64)
        visit_str(&str) visit_borrowed_str(&'de str) visit_string(String)
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        match self.want {
            Want::Bool => self.visitor.visit_bool(false),
            Want::Number => self.visitor.visit_u64(0),
            Want::Text => self.visitor.visit_str(""),
            Want::List => self.visitor.visit_seq(SeqDeserializer::<_, E>::new(std::iter::empty::<u8>())),
            Want::Map | Want::Struct(_) => {
                self.visitor.visit_map(MapDeserializer::<_, E>::new(std::iter::empty::<(u8, u8)>()))
            }
        }
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.visit_unit()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<V::Value, A::Error> {
        match self.want {
            Want::List => self.visitor.visit_seq(List { inner: list, twice: self.twice }),
            // A struct must not be filled by position.
            Want::Bool | Want::Number | Want::Text | Want::Map | Want::Struct(_) => {
                Err(A::Error::invalid_type(serde::de::Unexpected::Seq, &self.visitor))
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<V::Value, A::Error> {
        let fields = match self.want {
            Want::Struct(fields) => Some(fields),
            Want::Bool | Want::Number | Want::Text | Want::List | Want::Map => None,
        };
        match (fields, self.twice) {
            (Some(fields), Twice::LastWins) => {
                let mut entries: Vec<(String, Value)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    let name = canonical(fields, &name).map_or(name, str::to_owned);
                    match entries.iter_mut().find(|(other, _)| *other == name) {
                        Some(entry) => entry.1 = value,
                        None => entries.push((name, value)),
                    }
                }
                let entries = entries.into_iter().map(|(name, value)| (name, Buffered(value)));
                let mut object = MapDeserializer::<_, serde_json::Error>::new(entries);
                self.visitor.visit_map(&mut object).map_err(A::Error::custom)
            }
            (fields, _) => self.visitor.visit_map(Object { inner: map, fields, twice: self.twice }),
        }
    }
}

/// The field that `name` means: an exact match, else one in another letter case.
fn canonical(fields: &'static [&'static str], name: &str) -> Option<&'static str> {
    let exact = fields.iter().find(|field| **field == name);
    exact.or_else(|| fields.iter().find(|field| field.eq_ignore_ascii_case(name))).copied()
}

/// A buffered value that is read with Go's habits again.
struct Buffered(Value);

impl<'de> IntoDeserializer<'de, serde_json::Error> for Buffered {
    type Deserializer = Go<Value>;

    fn into_deserializer(self) -> Go<Value> {
        Go::new(self.0, Twice::LastWins)
    }
}

struct Optional<V> {
    visitor: V,
    twice: Twice,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Optional<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_some(Go::new(deserializer, self.twice))
    }
}

struct List<A> {
    inner: A,
    twice: Twice,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for List<A> {
    type Error = A::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, A::Error> {
        self.inner.next_element_seed(Seed { seed, twice: self.twice })
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

struct Object<A> {
    inner: A,
    /// The names of a struct, `None` for a map.
    fields: Option<&'static [&'static str]>,
    twice: Twice,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Object<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        match self.fields {
            Some(fields) => self.inner.next_key_seed(Name { seed, fields }),
            None => self.inner.next_key_seed(seed),
        }
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, A::Error> {
        self.inner.next_value_seed(Seed { seed, twice: self.twice })
    }
}

/// Hands a value on with Go's habits.
struct Seed<S> {
    seed: S,
    twice: Twice,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Seed<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.seed.deserialize(Go::new(deserializer, self.twice))
    }
}

/// Hands the name of a field on in the spelling that the struct knows.
struct Name<S> {
    seed: S,
    fields: &'static [&'static str],
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Name<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.seed.deserialize(NameDeserializer { inner: deserializer, fields: self.fields })
    }
}

struct NameDeserializer<D> {
    inner: D,
    fields: &'static [&'static str],
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for NameDeserializer<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_str(NameVisitor { visitor, fields: self.fields })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

struct NameVisitor<V> {
    visitor: V,
    fields: &'static [&'static str],
}

impl<'de, V: Visitor<'de>> Visitor<'de> for NameVisitor<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<V::Value, E> {
        match canonical(self.fields, name) {
            Some(field) => self.visitor.visit_borrowed_str(field),
            None => self.visitor.visit_str(name),
        }
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_enum(data)
    }
}
