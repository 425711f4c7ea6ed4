//! Tensors as a header lists them, and the types that ggml knows.

use std::fmt;

/// Most dimensions that ggml knows.
pub const MAX_DIMENSIONS: u32 = 4;

/// Longest tensor name in bytes: ggml has room for 64 with the closing zero.
pub const MAX_NAME: u64 = 63;

/// How a tensor's numbers are stored: in blocks of so many elements and so many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TensorType {
    id: u32,
    name: &'static str,
    block: u64,
    block_bytes: u64,
}

/// Every type of ggml that may stand in a file; the gaps are types that were removed.
const TYPES: &[TensorType] = &[
    of(0, "F32", 1, 4),
    of(1, "F16", 1, 2),
    of(2, "Q4_0", 32, 18),
    of(3, "Q4_1", 32, 20),
    of(6, "Q5_0", 32, 22),
    of(7, "Q5_1", 32, 24),
    of(8, "Q8_0", 32, 34),
    of(9, "Q8_1", 32, 36),
    of(10, "Q2_K", 256, 84),
    of(11, "Q3_K", 256, 110),
    of(12, "Q4_K", 256, 144),
    of(13, "Q5_K", 256, 176),
    of(14, "Q6_K", 256, 210),
    of(15, "Q8_K", 256, 292),
    of(16, "IQ2_XXS", 256, 66),
    of(17, "IQ2_XS", 256, 74),
    of(18, "IQ3_XXS", 256, 98),
    of(19, "IQ1_S", 256, 50),
    of(20, "IQ4_NL", 32, 18),
    of(21, "IQ3_S", 256, 110),
    of(22, "IQ2_S", 256, 82),
    of(23, "IQ4_XS", 256, 136),
    of(24, "I8", 1, 1),
    of(25, "I16", 1, 2),
    of(26, "I32", 1, 4),
    of(27, "I64", 1, 8),
    of(28, "F64", 1, 8),
    of(29, "IQ1_M", 256, 56),
    of(30, "BF16", 1, 2),
    of(34, "TQ1_0", 256, 54),
    of(35, "TQ2_0", 256, 66),
    of(39, "MXFP4", 32, 17),
    of(40, "NVFP4", 64, 36),
    of(41, "Q1_0", 128, 18),
    of(42, "Q2_0", 64, 18),
];

const fn of(id: u32, name: &'static str, block: u64, block_bytes: u64) -> TensorType {
    TensorType { id, name, block, block_bytes }
}

impl TensorType {
    /// The type that has this number in a file.
    pub fn from_id(id: u32) -> Option<Self> {
        TYPES.iter().find(|known| known.id == id).copied()
    }

    /// The number of this type in a file.
    pub fn id(self) -> u32 {
        self.id
    }

    /// The name that people use, such as `Q4_0`.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// Elements of one block; a row holds a whole number of blocks.
    pub fn block(self) -> u64 {
        self.block
    }

    /// Bytes of so many elements; none if they do not fill whole blocks or the number is too large.
    pub fn bytes(self, elements: u64) -> Option<u64> {
        let whole = elements.is_multiple_of(self.block);
        whole.then_some(elements / self.block)?.checked_mul(self.block_bytes)
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// One tensor of a file, which is known to lie inside the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// The name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Elements along each dimension, the innermost first.
    pub shape: Vec<u64>,
    /// How its numbers are stored.
    pub kind: TensorType,
    /// Where its data begins, in bytes from the beginning of the data section.
    pub offset: u64,
    /// Length of its data in bytes.
    pub bytes: u64,
}

impl Tensor {
    /// All its elements. The reader has proven that the product fits.
    pub fn elements(&self) -> u64 {
        self.shape.iter().fold(1, |product, side| product.saturating_mul(*side))
    }
}
