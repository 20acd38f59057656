//! DAG-CBOR, in and out. The only place that knows it.
//!
//! Values are decoded into typed structs, never into a dynamic one: a megabyte of empty arrays would become a
//! hundred megabytes of values. One value has one encoding: what does not encode to the bytes it came from is
//! refused, which covers long integers, indefinite lengths, unsorted or duplicate keys, and trailing bytes alike.

use std::{convert::Infallible, fmt};

use serde::{Deserialize, Deserializer, Serialize, de, de::DeserializeOwned};
use serde_ipld_dagcbor::DecodeError;

use crate::cid::shortened;

/// Why bytes are no canonical DAG-CBOR of a type, or a value cannot be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Not DAG-CBOR, or not of this type.
    #[error("not readable as DAG-CBOR: {0}")]
    Malformed(String),
    /// Readable, but another encoding of the same value is the canonical one.
    #[error("not the canonical DAG-CBOR of its value")]
    NotCanonical,
    /// The value has no encoding.
    #[error("not writable as DAG-CBOR: {0}")]
    Unwritable(String),
}

/// Longest message of the decoder that is kept, in characters: it quotes what a stranger wrote.
const MAX_MESSAGE_LEN: usize = 160;

impl CodecError {
    fn malformed(error: &DecodeError<Infallible>) -> Self {
        let message = match error {
            DecodeError::Msg(message) => shortened(message, MAX_MESSAGE_LEN),
            other => shortened(&other.to_string(), MAX_MESSAGE_LEN),
        };
        CodecError::Malformed(message)
    }
}

/// Encodes a value.
///
/// # Errors
/// [`CodecError::Unwritable`] if its type has no DAG-CBOR form.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    serde_ipld_dagcbor::to_vec(value).map_err(|error| CodecError::Unwritable(error.to_string()))
}

/// Decodes a value from all of `bytes`.
///
/// # Errors
/// [`CodecError::Malformed`] or [`CodecError::NotCanonical`].
pub fn decode_canonical<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Result<T, CodecError> {
    let value: T = serde_ipld_dagcbor::from_slice(bytes).map_err(|error| CodecError::malformed(&error))?;
    if encode(&value)? == bytes { Ok(value) } else { Err(CodecError::NotCanonical) }
}

/// Decodes a value that may have more fields than its type knows, in any encoding. For a look at a version before
/// anything is made of the rest.
pub(crate) fn peek<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_ipld_dagcbor::from_slice(bytes).ok()
}

/// Reads a list of at most `MAX` items; memory grows with the items that are there, not with what is claimed.
pub(crate) fn bounded_list<'de, const MAX: usize, T, D>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    struct List<const MAX: usize, T>(std::marker::PhantomData<T>);

    impl<'de, const MAX: usize, T: Deserialize<'de>> de::Visitor<'de> for List<MAX, T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MAX} items")
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(item) = items.next_element()? {
                if list.len() == MAX {
                    return Err(de::Error::invalid_length(MAX + 1, &self));
                }
                list.push(item);
            }
            Ok(list)
        }
    }

    deserializer.deserialize_seq(List::<MAX, T>(std::marker::PhantomData)).map(Some)
}
