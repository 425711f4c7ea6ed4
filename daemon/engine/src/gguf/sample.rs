//! Writes small files for the tests of this module, well-formed or not.

use super::value::Kind;

/// A value as the tests write it.
#[derive(Debug, Clone)]
pub(super) enum Put {
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
    /// A type number and whatever bytes follow it.
    Raw(u32, Vec<u8>),
}

/// A tensor as the tests write it; its data is zeros.
#[derive(Debug, Clone)]
pub(super) struct PutTensor {
    pub(super) name: String,
    pub(super) shape: Vec<u64>,
    pub(super) kind: u32,
    pub(super) offset: u64,
    pub(super) bytes: usize,
}

/// A file in the making.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) version: u32,
    pub(super) keys: Vec<(String, Put)>,
    pub(super) tensors: Vec<PutTensor>,
}

impl Sample {
    /// The least file that passes every check: width 32, two layers, the given tokens.
    fn of(architecture: &str, model: &str, tokens: Vec<String>) -> Self {
        let key = |name: &str| format!("{architecture}.{name}");
        let count = u64::try_from(tokens.len()).unwrap();
        let keys = vec![
            ("general.architecture".to_owned(), Put::Text(architecture.to_owned())),
            ("general.name".to_owned(), Put::Text("A sample".to_owned())),
            ("general.file_type".to_owned(), Put::U32(1)),
            (key("block_count"), Put::U32(2)),
            (key("context_length"), Put::U32(2048)),
            (key("embedding_length"), Put::U32(32)),
            (key("attention.head_count"), Put::U32(4)),
            (key("attention.head_count_kv"), Put::U32(2)),
            (key("attention.layer_norm_rms_epsilon"), Put::F32(1e-6)),
            ("tokenizer.ggml.model".to_owned(), Put::Text(model.to_owned())),
            ("tokenizer.ggml.token_type".to_owned(), Put::I32s(vec![1; tokens.len()])),
            ("tokenizer.ggml.tokens".to_owned(), Put::Texts(tokens)),
            ("tokenizer.ggml.eos_token_id".to_owned(), Put::U32(3)),
        ];
        let table = PutTensor {
            name: "token_embd.weight".to_owned(),
            shape: vec![32, count],
            kind: 0,
            offset: 0,
            bytes: usize::try_from(count * 32 * 4).unwrap(),
        };
        Self { version: 3, keys, tensors: vec![table] }
    }

    /// A Qwen3 file with byte pairs.
    pub(super) fn qwen3() -> Self {
        let letters = super::validate::byte_letters().map(|(_, letter)| letter.to_string());
        let tokens = letters.chain(["he".to_owned(), "<|im_end|>".to_owned()]).collect();
        Self::of("qwen3", "gpt2", tokens)
            .put("tokenizer.ggml.pre", Put::Text("qwen2".to_owned()))
            .put("tokenizer.ggml.merges", Put::Texts(vec!["h e".to_owned()]))
    }

    /// A GLM-4 file, which turns half of each head.
    pub(super) fn glm4() -> Self {
        let mut sample = Self::qwen3();
        for (key, value) in &mut sample.keys {
            *key = key.replace("qwen3.", "glm4.");
            if key == "general.architecture" {
                *value = Put::Text("glm4".to_owned());
            }
        }
        sample
            .put("tokenizer.ggml.pre", Put::Text("glm4".to_owned()))
            .put("glm4.rope.dimension_count", Put::U32(4))
    }

    /// A Llama file with a SentencePiece vocabulary.
    pub(super) fn pieces() -> Self {
        let mut tokens = vec!["<unk>".to_owned(), "<s>".to_owned(), "</s>".to_owned()];
        tokens.extend((0..=255_u8).map(|byte| format!("<0x{byte:02X}>")));
        Self::of("llama", "llama", tokens)
    }

    /// Sets a key, new or not.
    pub(super) fn put(mut self, key: &str, value: Put) -> Self {
        match self.keys.iter_mut().find(|(known, _)| known == key) {
            Some((_, old)) => *old = value,
            None => self.keys.push((key.to_owned(), value)),
        }
        self
    }

    /// Takes a key away.
    pub(super) fn without(mut self, key: &str) -> Self {
        self.keys.retain(|(known, _)| known != key);
        self
    }

    /// Changes the tensors.
    pub(super) fn tensors(mut self, change: impl FnOnce(&mut Vec<PutTensor>)) -> Self {
        change(&mut self.tensors);
        self
    }

    /// The whole file.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut file = self.header();
        file.resize(file.len().next_multiple_of(32), 0);
        let start = file.len();
        for tensor in &self.tensors {
            let padded = (file.len() - start).next_multiple_of(32);
            file.resize(start + padded + tensor.bytes, 0);
        }
        file
    }

    /// The file up to the end of the list of tensors.
    pub(super) fn header(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend(u64::try_from(self.tensors.len()).unwrap().to_le_bytes());
        file.extend(u64::try_from(self.keys.len()).unwrap().to_le_bytes());
        for (key, value) in &self.keys {
            text(&mut file, key);
            value.write(&mut file);
        }
        for tensor in &self.tensors {
            text(&mut file, &tensor.name);
            file.extend(u32::try_from(tensor.shape.len()).unwrap().to_le_bytes());
            file.extend(tensor.shape.iter().flat_map(|side| side.to_le_bytes()));
            file.extend(tensor.kind.to_le_bytes());
            file.extend(tensor.offset.to_le_bytes());
        }
        file
    }
}

impl Put {
    fn write(&self, file: &mut Vec<u8>) {
        match self {
            Self::U32(value) => tagged(file, Kind::U32, value.to_le_bytes()),
            Self::I32(value) => tagged(file, Kind::I32, value.to_le_bytes()),
            Self::F32(value) => tagged(file, Kind::F32, value.to_le_bytes()),
            Self::Bool(value) => tagged(file, Kind::Bool, [u8::from(*value)]),
            Self::Text(value) => {
                tagged(file, Kind::String, []);
                text(file, value);
            }
            Self::Texts(values) => {
                array(file, Kind::String, values.len());
                values.iter().for_each(|value| text(file, value));
            }
            Self::I32s(values) => {
                array(file, Kind::I32, values.len());
                file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            Self::Raw(kind, bytes) => {
                file.extend(kind.to_le_bytes());
                file.extend(bytes);
            }
        }
    }
}

fn number(kind: Kind) -> u32 {
    (0..13).find(|id| Kind::from_id(*id) == Some(kind)).unwrap()
}

fn tagged<const N: usize>(file: &mut Vec<u8>, kind: Kind, bytes: [u8; N]) {
    file.extend(number(kind).to_le_bytes());
    file.extend(bytes);
}

fn array(file: &mut Vec<u8>, kind: Kind, count: usize) {
    tagged(file, Kind::Array, []);
    file.extend(number(kind).to_le_bytes());
    file.extend(u64::try_from(count).unwrap().to_le_bytes());
}

fn text(file: &mut Vec<u8>, value: &str) {
    file.extend(u64::try_from(value.len()).unwrap().to_le_bytes());
    file.extend(value.as_bytes());
}
