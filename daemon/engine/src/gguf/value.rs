//! The typed values of a header.

use super::shown;
use std::fmt;

/// The type of a value, as a file numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Unsigned, 8 bits.
    U8,
    /// Signed, 8 bits.
    I8,
    /// Unsigned, 16 bits.
    U16,
    /// Signed, 16 bits.
    I16,
    /// Unsigned, 32 bits.
    U32,
    /// Signed, 32 bits.
    I32,
    /// Floating point, 32 bits.
    F32,
    /// One byte, zero for false.
    Bool,
    /// UTF-8 text.
    String,
    /// Values of one other kind.
    Array,
    /// Unsigned, 64 bits.
    U64,
    /// Signed, 64 bits.
    I64,
    /// Floating point, 64 bits.
    F64,
}

impl Kind {
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::String,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// The kind that has this number in a file.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(id).ok()?).copied()
    }

    /// Bytes of one value; none for text and arrays, which say their own length.
    pub(super) fn size(self) -> Option<u64> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::String | Self::Array => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::String => "string",
            Self::Array => "array",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        })
    }
}

/// One value of a header.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// See [`Kind::U8`].
    U8(u8),
    /// See [`Kind::I8`].
    I8(i8),
    /// See [`Kind::U16`].
    U16(u16),
    /// See [`Kind::I16`].
    I16(i16),
    /// See [`Kind::U32`].
    U32(u32),
    /// See [`Kind::I32`].
    I32(i32),
    /// See [`Kind::F32`].
    F32(f32),
    /// See [`Kind::Bool`].
    Bool(bool),
    /// See [`Kind::String`].
    String(String),
    /// See [`Kind::Array`].
    Array(Array),
    /// See [`Kind::U64`].
    U64(u64),
    /// See [`Kind::I64`].
    I64(i64),
    /// See [`Kind::F64`].
    F64(f64),
}

impl Value {
    /// The number or truth value that these bytes are; none if their count is not the kind's.
    pub(super) fn decode(kind: Kind, bytes: &[u8]) -> Option<Self> {
        match kind {
            Kind::U8 => bytes.try_into().ok().map(u8::from_le_bytes).map(Self::U8),
            Kind::I8 => bytes.try_into().ok().map(i8::from_le_bytes).map(Self::I8),
            Kind::U16 => bytes.try_into().ok().map(u16::from_le_bytes).map(Self::U16),
            Kind::I16 => bytes.try_into().ok().map(i16::from_le_bytes).map(Self::I16),
            Kind::U32 => bytes.try_into().ok().map(u32::from_le_bytes).map(Self::U32),
            Kind::I32 => bytes.try_into().ok().map(i32::from_le_bytes).map(Self::I32),
            Kind::F32 => bytes.try_into().ok().map(f32::from_le_bytes).map(Self::F32),
            Kind::Bool => bytes.try_into().ok().map(u8::from_le_bytes).map(|byte| Self::Bool(byte != 0)),
            Kind::U64 => bytes.try_into().ok().map(u64::from_le_bytes).map(Self::U64),
            Kind::I64 => bytes.try_into().ok().map(i64::from_le_bytes).map(Self::I64),
            Kind::F64 => bytes.try_into().ok().map(f64::from_le_bytes).map(Self::F64),
            Kind::String | Kind::Array => None,
        }
    }

    /// The type of this value.
    pub fn kind(&self) -> Kind {
        match self {
            Self::U8(_) => Kind::U8,
            Self::I8(_) => Kind::I8,
            Self::U16(_) => Kind::U16,
            Self::I16(_) => Kind::I16,
            Self::U32(_) => Kind::U32,
            Self::I32(_) => Kind::I32,
            Self::F32(_) => Kind::F32,
            Self::Bool(_) => Kind::Bool,
            Self::String(_) => Kind::String,
            Self::Array(_) => Kind::Array,
            Self::U64(_) => Kind::U64,
            Self::I64(_) => Kind::I64,
            Self::F64(_) => Kind::F64,
        }
    }

    /// The value as an unsigned number, if it is an integer that is not negative.
    pub fn unsigned(&self) -> Option<u64> {
        match *self {
            Self::U8(value) => Some(u64::from(value)),
            Self::U16(value) => Some(u64::from(value)),
            Self::U32(value) => Some(u64::from(value)),
            Self::U64(value) => Some(value),
            Self::I8(value) => u64::try_from(value).ok(),
            Self::I16(value) => u64::try_from(value).ok(),
            Self::I32(value) => u64::try_from(value).ok(),
            Self::I64(value) => u64::try_from(value).ok(),
            _ => None,
        }
    }

    /// What the value is, for an error: its kind, and the number itself where that is the trouble.
    fn describe(&self) -> String {
        match self {
            Self::Array(array) => format!("array of {}", array.element()),
            Self::I8(value) if *value < 0 => format!("i8 {value}"),
            Self::I16(value) if *value < 0 => format!("i16 {value}"),
            Self::I32(value) if *value < 0 => format!("i32 {value}"),
            Self::I64(value) if *value < 0 => format!("i64 {value}"),
            other => other.kind().to_string(),
        }
    }

    /// The error for a value that is not what was wanted.
    pub(super) fn not(&self, key: &str, wanted: &'static str) -> ValueError {
        ValueError::Type { key: shown(key), found: self.describe(), wanted }
    }
}

/// Values of one kind, as compact as in the file.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    /// Texts.
    Strings(Strings),
    /// Numbers or truth values.
    Numbers(Numbers),
}

impl Array {
    /// How many elements.
    pub fn len(&self) -> usize {
        match self {
            Self::Strings(strings) => strings.len(),
            Self::Numbers(numbers) => numbers.len(),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The kind of the elements.
    pub fn element(&self) -> Kind {
        match self {
            Self::Strings(_) => Kind::String,
            Self::Numbers(numbers) => numbers.kind,
        }
    }
}

/// Texts, one behind the other: a vocabulary of 150,000 tokens is two allocations.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Strings {
    text: String,
    /// Where each text ends; a header is far below 4 GiB.
    ends: Vec<u32>,
}

impl Strings {
    /// How many texts.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The text with this number.
    pub fn get(&self, index: usize) -> Option<&str> {
        let begin = match index.checked_sub(1) {
            Some(before) => *self.ends.get(before)?,
            None => 0,
        };
        let end = *self.ends.get(index)?;
        self.text.get(usize::try_from(begin).ok()?..usize::try_from(end).ok()?)
    }

    /// All texts in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// Adds a text; false if all of them together are too long.
    pub(super) fn push(&mut self, text: &str) -> bool {
        let Ok(end) = u32::try_from(self.text.len().saturating_add(text.len())) else { return false };
        self.text.push_str(text);
        self.ends.push(end);
        true
    }
}

impl fmt::Debug for Strings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} strings]", self.len())
    }
}

/// Numbers or truth values of one kind, kept as the bytes of the file.
#[derive(Clone, PartialEq, Eq)]
pub struct Numbers {
    kind: Kind,
    bytes: Vec<u8>,
    count: usize,
}

impl Numbers {
    /// Whole values only; none if the kind has no fixed size.
    pub(super) fn new(kind: Kind, bytes: Vec<u8>) -> Option<Self> {
        let size = usize::try_from(kind.size()?).ok()?;
        let count = bytes.len().checked_div(size)?;
        Some(Self { kind, bytes, count })
    }

    /// The kind of the elements.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How many elements.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All elements in order.
    pub fn iter(&self) -> impl Iterator<Item = Value> {
        let size = self.kind.size().and_then(|size| usize::try_from(size).ok()).unwrap_or(1);
        self.bytes.chunks_exact(size).filter_map(|bytes| Value::decode(self.kind, bytes))
    }
}

impl fmt::Debug for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} of {}]", self.count, self.kind)
    }
}

/// Why a key does not give the value that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// The header has no such key.
    #[error("key {key} is missing")]
    Missing {
        /// The key.
        key: String,
    },
    /// The key has a value of another type.
    #[error("key {key} holds {found}, not {wanted}")]
    Type {
        /// The key.
        key: String,
        /// What it holds.
        found: String,
        /// What was asked for.
        wanted: &'static str,
    },
    /// The number is too large for what was asked for.
    #[error("key {key} is {found}, too large for {wanted}")]
    TooLarge {
        /// The key.
        key: String,
        /// The number.
        found: u64,
        /// The type that was asked for.
        wanted: &'static str,
    },
}

/// Makes a missing key an absent value and leaves every other error.
///
/// # Errors
/// Whatever is wrong with a key that is there.
pub fn optional<T>(found: Result<T, ValueError>) -> Result<Option<T>, ValueError> {
    match found {
        Ok(value) => Ok(Some(value)),
        Err(ValueError::Missing { .. }) => Ok(None),
        Err(fault) => Err(fault),
    }
}
