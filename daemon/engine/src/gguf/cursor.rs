//! Reads a header's bytes in order and never further than the file or the limit.

use super::header::{HeaderError, MAX_HEADER, MAX_STRING};
use std::io::{BufReader, Read};

/// Longest text kept between two strings of an array.
const SCRATCH: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Cursor<R> {
    reader: BufReader<R>,
    /// Bytes read so far.
    at: u64,
    file_len: u64,
    /// The bytes of the string that is being read; kept so that a vocabulary needs one allocation.
    scratch: Vec<u8>,
}

impl<R: Read> Cursor<R> {
    pub(super) fn new(reader: R, file_len: u64) -> Self {
        Self { reader: BufReader::with_capacity(64 * 1024, reader), at: 0, file_len, scratch: Vec::new() }
    }

    pub(super) fn at(&self) -> u64 {
        self.at
    }

    pub(super) fn file_len(&self) -> u64 {
        self.file_len
    }

    /// Bytes between here and the end of the file.
    pub(super) fn left(&self) -> u64 {
        self.file_len.saturating_sub(self.at)
    }

    pub(super) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], HeaderError> {
        let need = u64::try_from(N).unwrap_or(u64::MAX);
        self.reserve(need, what)?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).map_err(|source| self.failed(source, what, need))?;
        self.at += need;
        Ok(bytes)
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, HeaderError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, HeaderError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// So many bytes, which the caller keeps.
    pub(super) fn bytes(&mut self, count: u64, what: &'static str) -> Result<Vec<u8>, HeaderError> {
        let mut bytes = Vec::new();
        self.read_into(&mut bytes, count, what)?;
        Ok(bytes)
    }

    /// A text with its length before it.
    pub(super) fn string<T>(
        &mut self,
        what: &'static str,
        limit: u64,
        with: impl FnOnce(&str) -> T,
    ) -> Result<T, HeaderError> {
        let begin = self.at;
        let length = self.u64(what)?;
        if length > limit.min(MAX_STRING) {
            let limit = limit.min(MAX_STRING);
            return Err(HeaderError::StringTooLong { what, at: begin, length, limit });
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        self.read_into(&mut scratch, length, what)?;
        let text = std::str::from_utf8(&scratch).map_err(|_| HeaderError::NotUtf8 { what, at: begin })?;
        let made = with(text);
        scratch.truncate(SCRATCH);
        scratch.shrink_to(SCRATCH);
        self.scratch = scratch;
        Ok(made)
    }

    fn read_into(&mut self, bytes: &mut Vec<u8>, count: u64, what: &'static str) -> Result<(), HeaderError> {
        self.reserve(count, what)?;
        let read = (&mut self.reader).take(count).read_to_end(bytes).map_err(HeaderError::Read)?;
        if u64::try_from(read) != Ok(count) {
            return Err(self.truncated(what, count));
        }
        self.at += count;
        Ok(())
    }

    /// Fails where so many bytes would leave the file or the limit.
    fn reserve(&self, need: u64, what: &'static str) -> Result<(), HeaderError> {
        if need > self.left() {
            return Err(self.truncated(what, need));
        }
        if need > MAX_HEADER.saturating_sub(self.at) {
            return Err(HeaderError::TooLarge { what, limit: MAX_HEADER });
        }
        Ok(())
    }

    fn truncated(&self, what: &'static str, need: u64) -> HeaderError {
        HeaderError::Truncated { what, at: self.at, need, left: self.left() }
    }

    /// A file that became shorter than it was is truncated, not unreadable.
    fn failed(&self, source: std::io::Error, what: &'static str, need: u64) -> HeaderError {
        if source.kind() == std::io::ErrorKind::UnexpectedEof {
            self.truncated(what, need)
        } else {
            HeaderError::Read(source)
        }
    }
}
