//! The header of a file: its keys and its list of tensors.

use super::cursor::Cursor;
use super::shown;
use super::tensor::{MAX_DIMENSIONS, MAX_NAME, Tensor, TensorType};
use super::value::{Array, Kind, Numbers, Strings, Value, ValueError};
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

/// Longest header in bytes. The largest known ones, with vocabulary and merges, have 20 MB.
pub const MAX_HEADER: u64 = 256 << 20;

/// Longest single text in bytes. Some files carry a whole `tokenizer.json`.
pub const MAX_STRING: u64 = 64 << 20;

/// Longest key in bytes, as the format's description has it.
pub const MAX_KEY: u64 = 65_535;

/// Most keys. Real files have about 50.
pub const MAX_KEYS: u64 = 65_536;

/// Most tensors. The largest known model with one tensor for each expert has 47,000.
pub const MAX_TENSORS: u64 = 65_536;

/// Alignment of the data section where the file names none.
const DEFAULT_ALIGNMENT: u32 = 32;

/// Fewest bytes of a key with its value: length, one character, type, one byte.
const KEY_BYTES: u64 = 8 + 1 + 4 + 1;

/// Fewest bytes of a tensor's entry: name length, dimensions, type, offset.
const TENSOR_BYTES: u64 = 8 + 4 + 4 + 8;

/// A header that is whole, and whose tensors all lie inside the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    version: u32,
    keys: BTreeMap<String, Value>,
    tensors: Vec<Tensor>,
    alignment: u32,
    data_start: u64,
    file_len: u64,
}

/// Why a file is not a whole GGUF file.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// The operating system could not read the file.
    #[error("read the header")]
    Read(#[source] io::Error),
    /// The first bytes are not those of a GGUF file.
    #[error("not a GGUF file: it begins with \"{}\"", found.escape_ascii())]
    NotGguf {
        /// The first bytes.
        found: [u8; 4],
    },
    /// The numbers stand the other way round.
    #[error("a big-endian GGUF file; this machine reads little-endian ones")]
    BigEndian,
    /// A version of the format that nobody reads here.
    #[error("GGUF version {found}; only versions 2 and 3 are read")]
    Version {
        /// The version that the file states.
        found: u32,
    },
    /// The file ends before its header does.
    #[error("the file is cut off: {what} at byte {at} needs {need} bytes and {left} are left")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Where.
        at: u64,
        /// Bytes needed.
        need: u64,
        /// Bytes left in the file.
        left: u64,
    },
    /// The header is longer than any real one.
    #[error("the header goes on beyond {limit} bytes, in {what}")]
    TooLarge {
        /// What was being read.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The file states a count that it cannot hold.
    #[error("the file is cut off or damaged: it claims {count} {what} where at most {limit} fit")]
    TooMany {
        /// What is counted.
        what: &'static str,
        /// The count.
        count: u64,
        /// The most that the file's length and the limits allow.
        limit: u64,
    },
    /// A text is longer than any real one.
    #[error("{what} at byte {at} claims {length} bytes; at most {limit} are read")]
    StringTooLong {
        /// What was being read.
        what: &'static str,
        /// Where.
        at: u64,
        /// The claimed length.
        length: u64,
        /// The limit.
        limit: u64,
    },
    /// A text is not UTF-8.
    #[error("{what} at byte {at} is not UTF-8")]
    NotUtf8 {
        /// What was being read.
        what: &'static str,
        /// Where.
        at: u64,
    },
    /// A key without a name.
    #[error("the key at byte {at} is empty")]
    EmptyKey {
        /// Where.
        at: u64,
    },
    /// A key that was there before.
    #[error("key {key} appears twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A type number that the format does not have.
    #[error("key {key} has the unknown value type {found}")]
    ValueType {
        /// The key.
        key: String,
        /// The number.
        found: u32,
    },
    /// An array of arrays.
    #[error("key {key} holds an array of arrays")]
    NestedArray {
        /// The key.
        key: String,
    },
    /// The alignment is of another type, or no power of two.
    #[error("general.alignment is {found}; it must be a u32 and a power of two")]
    Alignment {
        /// What the file has there.
        found: String,
    },
    /// A tensor name that was there before.
    #[error("tensor {tensor} appears twice")]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
    },
    /// A tensor with more dimensions than ggml has.
    #[error("tensor {tensor} has {found} dimensions; ggml has {MAX_DIMENSIONS}")]
    Dimensions {
        /// The tensor.
        tensor: String,
        /// Its dimensions.
        found: u32,
    },
    /// A tensor with no elements, or with more than can be counted.
    #[error("tensor {tensor} has the impossible shape {shape:?}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
    },
    /// A type that ggml does not know, or no longer.
    #[error("tensor {tensor} has the unknown type {found}")]
    TensorType {
        /// The tensor.
        tensor: String,
        /// The number of the type.
        found: u32,
    },
    /// A row that does not hold whole blocks.
    #[error("tensor {tensor} has rows of {row}, no multiple of the {block} that {kind} needs")]
    Row {
        /// The tensor.
        tensor: String,
        /// Elements of a row.
        row: u64,
        /// Its type.
        kind: TensorType,
        /// Elements of one block.
        block: u64,
    },
    /// Tensors that overlap, leave gaps or stand in another order than they are listed.
    #[error("tensor {tensor} is at offset {found}, not at {expected} where the one before it ends")]
    Misplaced {
        /// The tensor.
        tensor: String,
        /// Its offset.
        found: u64,
        /// Where it must be.
        expected: u64,
    },
    /// A tensor that reaches beyond the end of the file.
    #[error("the file is cut off: tensor {tensor} ends at byte {end} and the file at {file_len}")]
    OutOfFile {
        /// The tensor.
        tensor: String,
        /// Where it ends.
        end: u64,
        /// Length of the file.
        file_len: u64,
    },
}

impl Header {
    /// Reads the header of an open file, without moving the file's own position.
    ///
    /// # Errors
    /// See [`HeaderError`].
    pub fn of(file: &File) -> Result<Self, HeaderError> {
        let file_len = file.metadata().map_err(HeaderError::Read)?.len();
        Self::read(FileAt { file, at: 0 }, file_len)
    }

    /// Reads a header from the beginning of a file of this length.
    ///
    /// # Errors
    /// See [`HeaderError`].
    pub fn read(reader: impl Read, file_len: u64) -> Result<Self, HeaderError> {
        let mut cursor = Cursor::new(reader, file_len);
        let version = read_version(&mut cursor)?;
        let tensor_count = cursor.u64("tensor count")?;
        let key_count = cursor.u64("key count")?;
        possible("keys", key_count, MAX_KEYS.min(cursor.left() / KEY_BYTES))?;
        possible("tensors", tensor_count, MAX_TENSORS.min(cursor.left() / TENSOR_BYTES))?;

        let keys = read_keys(&mut cursor, key_count)?;
        let alignment = alignment(&keys)?;
        let tensors = read_tensors(&mut cursor, tensor_count)?;
        let data_start = cursor.at().next_multiple_of(u64::from(alignment));
        let header = Self { version, keys, tensors, alignment, data_start, file_len: cursor.file_len() };
        header.check_places()?;
        Ok(header)
    }

    /// Version of the format, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Every tensor begins at a multiple of so many bytes of the data section.
    pub fn alignment(&self) -> u32 {
        self.alignment
    }

    /// Where the data section begins, in bytes from the beginning of the file.
    pub fn data_start(&self) -> u64 {
        self.data_start
    }

    /// Length of the file in bytes.
    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    /// The tensors in the order of the file.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// All keys with their values, by name.
    pub fn keys(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.keys.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value of a key.
    ///
    /// # Errors
    /// The key is missing.
    pub fn value(&self, key: &str) -> Result<&Value, ValueError> {
        self.keys.get(key).ok_or_else(|| ValueError::Missing { key: shown(key) })
    }

    /// A text.
    ///
    /// # Errors
    /// The key is missing or holds something else.
    pub fn str(&self, key: &str) -> Result<&str, ValueError> {
        match self.value(key)? {
            Value::String(text) => Ok(text),
            other => Err(other.not(key, "string")),
        }
    }

    /// An integer of any type that is not negative.
    ///
    /// # Errors
    /// The key is missing or holds something else.
    pub fn u64(&self, key: &str) -> Result<u64, ValueError> {
        let value = self.value(key)?;
        value.unsigned().ok_or_else(|| value.not(key, "an unsigned integer"))
    }

    /// An integer of any type that is not negative and fits.
    ///
    /// # Errors
    /// The key is missing, holds something else or a larger number.
    pub fn u32(&self, key: &str) -> Result<u32, ValueError> {
        let found = self.u64(key)?;
        u32::try_from(found).map_err(|_| ValueError::TooLarge { key: shown(key), found, wanted: "u32" })
    }

    /// A floating-point number of 32 bits.
    ///
    /// # Errors
    /// The key is missing or holds something else.
    pub fn f32(&self, key: &str) -> Result<f32, ValueError> {
        match self.value(key)? {
            Value::F32(number) => Ok(*number),
            other => Err(other.not(key, "f32")),
        }
    }

    /// A truth value.
    ///
    /// # Errors
    /// The key is missing or holds something else.
    pub fn bool(&self, key: &str) -> Result<bool, ValueError> {
        match self.value(key)? {
            Value::Bool(truth) => Ok(*truth),
            other => Err(other.not(key, "bool")),
        }
    }

    /// An array of any kind.
    ///
    /// # Errors
    /// The key is missing or holds something else.
    pub fn array(&self, key: &str) -> Result<&Array, ValueError> {
        match self.value(key)? {
            Value::Array(array) => Ok(array),
            other => Err(other.not(key, "array")),
        }
    }

    /// How many elements an array has.
    ///
    /// # Errors
    /// The key is missing or holds no array.
    pub fn array_len(&self, key: &str) -> Result<usize, ValueError> {
        self.array(key).map(Array::len)
    }

    /// An array of texts.
    ///
    /// # Errors
    /// The key is missing or holds something else.
    pub fn strings(&self, key: &str) -> Result<&Strings, ValueError> {
        match self.value(key)? {
            Value::Array(Array::Strings(strings)) => Ok(strings),
            other => Err(other.not(key, "array of string")),
        }
    }

    /// An array of numbers.
    ///
    /// # Errors
    /// The key is missing or holds something else.
    pub fn numbers(&self, key: &str) -> Result<&Numbers, ValueError> {
        match self.value(key)? {
            Value::Array(Array::Numbers(numbers)) => Ok(numbers),
            other => Err(other.not(key, "array of numbers")),
        }
    }

    /// ggml wants every tensor exactly where the one before it ends, rounded up to the alignment.
    /// That also says that no two tensors overlap.
    fn check_places(&self) -> Result<(), HeaderError> {
        let mut expected: u64 = 0;
        for tensor in &self.tensors {
            let name = || shown(&tensor.name);
            if tensor.offset != expected {
                return Err(HeaderError::Misplaced { tensor: name(), found: tensor.offset, expected });
            }
            let end = self.data_start.saturating_add(expected).saturating_add(tensor.bytes);
            if end > self.file_len {
                return Err(HeaderError::OutOfFile { tensor: name(), end, file_len: self.file_len });
            }
            // Both are at most the length of the file, so neither the sum nor the rounding overflows
            // in any file that exists; one that claims to be longer has no next tensor inside it.
            let after = expected.saturating_add(tensor.bytes);
            expected = after.checked_next_multiple_of(u64::from(self.alignment)).unwrap_or(u64::MAX);
        }
        Ok(())
    }
}

fn read_version(cursor: &mut Cursor<impl Read>) -> Result<u32, HeaderError> {
    let found = cursor.array("magic")?;
    if &found != b"GGUF" {
        return Err(HeaderError::NotGguf { found });
    }
    let version = cursor.u32("version")?;
    match (version, version.swap_bytes()) {
        (2 | 3, _) => Ok(version),
        (_, 1..=3) => Err(HeaderError::BigEndian),
        (found, _) => Err(HeaderError::Version { found }),
    }
}

/// Refuses a count before anything is made room for.
fn possible(what: &'static str, count: u64, limit: u64) -> Result<(), HeaderError> {
    if count > limit {
        return Err(HeaderError::TooMany { what, count, limit });
    }
    Ok(())
}

fn read_keys(cursor: &mut Cursor<impl Read>, count: u64) -> Result<BTreeMap<String, Value>, HeaderError> {
    let mut keys = BTreeMap::new();
    for _ in 0..count {
        let at = cursor.at();
        let key = cursor.string("key", MAX_KEY, str::to_owned)?;
        if key.is_empty() {
            return Err(HeaderError::EmptyKey { at });
        }
        if keys.contains_key(&key) {
            return Err(HeaderError::DuplicateKey { key: shown(&key) });
        }
        let value = read_value(cursor, &key)?;
        keys.insert(key, value);
    }
    Ok(keys)
}

fn read_value(cursor: &mut Cursor<impl Read>, key: &str) -> Result<Value, HeaderError> {
    match read_kind(cursor, key)? {
        (_, Kind::String) => cursor.string("text", MAX_STRING, str::to_owned).map(Value::String),
        (_, Kind::Array) => read_array(cursor, key).map(Value::Array),
        (found, kind) => {
            let bytes = cursor.bytes(kind.size().unwrap_or(0), "value")?;
            let unknown = || HeaderError::ValueType { key: shown(key), found };
            Value::decode(kind, &bytes).ok_or_else(unknown)
        }
    }
}

/// The number of a type and what it means.
fn read_kind(cursor: &mut Cursor<impl Read>, key: &str) -> Result<(u32, Kind), HeaderError> {
    let found = cursor.u32("value type")?;
    let kind = Kind::from_id(found).ok_or_else(|| HeaderError::ValueType { key: shown(key), found })?;
    Ok((found, kind))
}

fn read_array(cursor: &mut Cursor<impl Read>, key: &str) -> Result<Array, HeaderError> {
    let (found, kind) = read_kind(cursor, key)?;
    let count = cursor.u64("array length")?;
    let unknown = || HeaderError::ValueType { key: shown(key), found };
    match kind {
        Kind::Array => Err(HeaderError::NestedArray { key: shown(key) }),
        Kind::String => read_strings(cursor, count).map(Array::Strings),
        numeric => {
            let size = numeric.size().unwrap_or(1);
            possible("array elements", count, cursor.left() / size)?;
            let bytes = cursor.bytes(count.saturating_mul(size), "array")?;
            Numbers::new(numeric, bytes).map(Array::Numbers).ok_or_else(unknown)
        }
    }
}

fn read_strings(cursor: &mut Cursor<impl Read>, count: u64) -> Result<Strings, HeaderError> {
    possible("array elements", count, cursor.left() / 8)?;
    let mut strings = Strings::default();
    for _ in 0..count {
        let fits = cursor.string("text", MAX_STRING, |text| strings.push(text))?;
        if !fits {
            return Err(HeaderError::TooLarge { what: "text", limit: MAX_HEADER });
        }
    }
    Ok(strings)
}

fn alignment(keys: &BTreeMap<String, Value>) -> Result<u32, HeaderError> {
    match keys.get("general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::U32(bytes)) if bytes.is_power_of_two() => Ok(*bytes),
        Some(Value::U32(bytes)) => Err(HeaderError::Alignment { found: bytes.to_string() }),
        Some(other) => Err(HeaderError::Alignment { found: other.kind().to_string() }),
    }
}

fn read_tensors(cursor: &mut Cursor<impl Read>, count: u64) -> Result<Vec<Tensor>, HeaderError> {
    let mut tensors = Vec::new();
    let mut names = HashSet::new();
    for _ in 0..count {
        let tensor = read_tensor(cursor)?;
        if !names.insert(tensor.name.clone()) {
            return Err(HeaderError::DuplicateTensor { tensor: shown(&tensor.name) });
        }
        tensors.push(tensor);
    }
    Ok(tensors)
}

fn read_tensor(cursor: &mut Cursor<impl Read>) -> Result<Tensor, HeaderError> {
    let name = cursor.string("tensor name", MAX_NAME, str::to_owned)?;
    let dimensions = cursor.u32("tensor dimensions")?;
    if dimensions > MAX_DIMENSIONS {
        return Err(HeaderError::Dimensions { tensor: shown(&name), found: dimensions });
    }
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        shape.push(cursor.u64("tensor shape")?);
    }
    let found = cursor.u32("tensor type")?;
    let offset = cursor.u64("tensor offset")?;
    let Some(kind) = TensorType::from_id(found) else {
        return Err(HeaderError::TensorType { tensor: shown(&name), found });
    };
    let bytes = tensor_bytes(&name, &shape, kind)?;
    Ok(Tensor { name, shape, kind, offset, bytes })
}

/// Length of a tensor's data; ggml counts elements and bytes in signed 64 bits.
fn tensor_bytes(name: &str, shape: &[u64], kind: TensorType) -> Result<u64, HeaderError> {
    let impossible = || HeaderError::Shape { tensor: shown(name), shape: shape.to_owned() };
    let elements = shape.iter().try_fold(1_u64, |product, side| product.checked_mul(*side));
    let elements = elements.filter(|count| *count > 0 && i64::try_from(*count).is_ok());
    let elements = elements.ok_or_else(impossible)?;
    let row = shape.first().copied().unwrap_or(1);
    if !row.is_multiple_of(kind.block()) {
        return Err(HeaderError::Row { tensor: shown(name), row, kind, block: kind.block() });
    }
    let bytes = kind.bytes(elements).filter(|count| i64::try_from(*count).is_ok());
    bytes.ok_or_else(impossible)
}

/// Reads at positions of its own, so that a shared descriptor keeps its place.
struct FileAt<'a> {
    file: &'a File,
    at: u64,
}

impl Read for FileAt<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(bytes, self.at)?;
        self.at = self.at.saturating_add(u64::try_from(count).unwrap_or(0));
        Ok(count)
    }
}
