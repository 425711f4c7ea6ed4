//! Files as they should be, every hostile case by name, and bytes from anywhere.

use super::header::{Header, HeaderError};
use super::sample::{Put, PutTensor, Sample};
use super::validate::check;
use super::{Fault, TensorType, ValueError, Warning, facts, optional};
use proptest::prelude::*;
use std::io::Cursor;

/// Changes one thing of a good file.
type Change = fn(Sample) -> Sample;

fn read(file: &[u8]) -> Result<Header, HeaderError> {
    Header::read(Cursor::new(file), u64::try_from(file.len()).unwrap())
}

fn verdict(sample: &Sample) -> Result<Vec<Warning>, Fault> {
    check(&read(&sample.bytes()).expect("the sample is a whole file"))
}

fn reason(sample: &Sample) -> String {
    verdict(sample).expect_err("the sample is refused").to_string()
}

#[test]
fn good_files_of_each_family_pass_without_a_warning() {
    for sample in [Sample::qwen3(), Sample::glm4(), Sample::pieces()] {
        assert_eq!(verdict(&sample), Ok(Vec::new()));
    }
}

#[test]
fn version_2_is_read_like_version_3() {
    let old = Sample { version: 2, ..Sample::qwen3() };
    assert_eq!(read(&old.bytes()).unwrap().version(), 2);
    assert_eq!(verdict(&old), Ok(Vec::new()));
}

#[test]
fn getters_name_key_and_types() {
    let sample = Sample::qwen3()
        .put("a.text", Put::Text("x".to_owned()))
        .put("a.minus", Put::I32(-1))
        .put("a.plus", Put::I32(7))
        .put("a.large", Put::Raw(10, u64::MAX.to_le_bytes().to_vec()))
        .put("a.bool", Put::Bool(true));
    let header = read(&sample.bytes()).unwrap();
    assert_eq!(header.str("a.text"), Ok("x"));
    assert_eq!(header.u64("a.plus"), Ok(7));
    assert_eq!(header.u64("a.large"), Ok(u64::MAX));
    assert_eq!(header.bool("a.bool"), Ok(true));
    assert_eq!(header.f32("qwen3.attention.layer_norm_rms_epsilon"), Ok(1e-6));
    assert_eq!(header.array_len("tokenizer.ggml.tokens"), Ok(258));
    assert_eq!(header.strings("tokenizer.ggml.merges").unwrap().get(0), Some("h e"));
    assert_eq!(header.u64("a.none"), Err(ValueError::Missing { key: "a.none".to_owned() }));
    assert_eq!(optional(header.u64("a.none")), Ok(None));
    let text = |found: Result<u64, ValueError>| found.unwrap_err().to_string();
    assert_eq!(text(header.u64("a.text")), "key a.text holds string, not an unsigned integer");
    assert_eq!(text(header.u64("a.minus")), "key a.minus holds i32 -1, not an unsigned integer");
    assert_eq!(
        header.u32("a.large").unwrap_err().to_string(),
        format!("key a.large is {}, too large for u32", u64::MAX)
    );
    let wrong = header.strings("tokenizer.ggml.token_type").unwrap_err().to_string();
    assert_eq!(wrong, "key tokenizer.ggml.token_type holds array of i32, not array of string");
}

#[test]
fn facts_say_what_the_file_is() {
    let sample = Sample::qwen3().put("tokenizer.chat_template", Put::Text("{{ messages }}".to_owned()));
    let found = facts(&read(&sample.bytes()).unwrap());
    assert_eq!(found.architecture, "qwen3");
    assert_eq!(found.title.as_deref(), Some("A sample"));
    assert_eq!(found.parameters, 32 * 258);
    assert_eq!(found.tensor_bytes, 32 * 258 * 4);
    assert_eq!(found.quantization, "F16", "the file's own word counts");
    assert_eq!(found.context_length, Some(2048));
    assert_eq!(found.vocabulary_size, 258);
    assert_eq!(found.chat_template.as_deref(), Some("{{ messages }}"));
    assert_eq!((found.eos, found.bos), (Some(3), None));
    let guessed = facts(&read(&sample.without("general.file_type").bytes()).unwrap());
    assert_eq!(guessed.quantization, "F32", "else the commonest type");
}

#[test]
fn every_cut_of_a_file_is_an_error_with_numbers() {
    let file = Sample::qwen3().bytes();
    for length in (0..file.len()).step_by(37) {
        let fault = read(&file[..length]).expect_err("a part is not a file");
        let cut = matches!(
            fault,
            HeaderError::Truncated { .. } | HeaderError::OutOfFile { .. } | HeaderError::TooMany { .. }
        );
        assert!(cut, "at {length}: {fault}");
    }
}

#[test]
fn a_file_that_shrinks_while_it_is_read_is_truncated() {
    let file = Sample::qwen3().header();
    let fault = Header::read(Cursor::new(&file[..file.len() / 2]), 1 << 40).expect_err("it ends too early");
    assert!(matches!(fault, HeaderError::Truncated { .. }), "{fault}");
}

#[test]
fn what_is_not_gguf_is_refused_by_name() {
    let mut swapped = Sample::qwen3().bytes();
    swapped[4..8].copy_from_slice(&3_u32.to_be_bytes());
    let version = |version| Sample { version, ..Sample::qwen3() }.bytes();
    let cases: [(Vec<u8>, &str); 6] = [
        (Vec::new(), "cut off: magic at byte 0 needs 4 bytes and 0 are left"),
        (b"Dear reader, this is a letter.".to_vec(), "it begins with \"Dear\""),
        (b"GGML\x03\0\0\0".to_vec(), "it begins with \"GGML\""),
        (swapped, "big-endian"),
        (version(1), "version 1"),
        (version(4), "version 4"),
    ];
    for (file, expected) in cases {
        let reason = read(&file).expect_err(expected).to_string();
        assert!(reason.contains(expected), "{reason}");
    }
}

#[test]
fn counts_and_lengths_are_believed_only_as_far_as_the_file_reaches() {
    let with = |at: usize, count: u64| {
        let mut file = Sample::qwen3().bytes();
        file[at..at + 8].copy_from_slice(&count.to_le_bytes());
        read(&file).expect_err("the count is impossible").to_string()
    };
    assert!(with(8, u64::MAX).contains("claims 18446744073709551615 tensors"));
    assert!(with(16, u64::MAX).contains("claims 18446744073709551615 keys"));
    assert!(with(24, u64::MAX).contains("key at byte 24 claims 18446744073709551615 bytes"));
    let array = |kind: u32| {
        let bytes = [kind.to_le_bytes().to_vec(), u64::MAX.to_le_bytes().to_vec()].concat();
        let sample = Sample::qwen3().put("a", Put::Raw(9, bytes));
        read(&sample.bytes()).expect_err("the array is impossible").to_string()
    };
    assert!(array(8).contains("claims 18446744073709551615 array elements"));
    assert!(array(10).contains("claims 18446744073709551615 array elements"));
    assert!(array(9).contains("array of arrays"));
    assert!(array(13).contains("unknown value type 13"));
}

#[test]
fn keys_are_named_once_and_in_utf8() {
    let mut twice = Sample::qwen3();
    twice.keys.push(("general.name".to_owned(), Put::U32(1)));
    assert!(matches!(read(&twice.bytes()), Err(HeaderError::DuplicateKey { key }) if key == "general.name"));
    let empty = Sample::qwen3().put("", Put::U32(1));
    assert!(matches!(read(&empty.bytes()), Err(HeaderError::EmptyKey { .. })));
    let bad =
        Sample::qwen3().put("a", Put::Raw(8, [2_u64.to_le_bytes().to_vec(), vec![0xC3, 0x28]].concat()));
    assert!(matches!(read(&bad.bytes()), Err(HeaderError::NotUtf8 { .. })));
}

#[test]
fn tensors_lie_in_the_file_one_behind_the_other() {
    type Spoil = fn(&mut Vec<PutTensor>);
    let second = |name: &str, offset| PutTensor {
        name: name.to_owned(),
        shape: vec![32],
        kind: 0,
        offset,
        bytes: 128,
    };
    let good = Sample::qwen3().tensors(|tensors| tensors.push(second("b", 32 * 258 * 4)));
    assert!(read(&good.bytes()).is_ok());
    let cases: [(Spoil, &str); 12] = [
        (|all| all[1].offset -= 32, "tensor b is at offset 32992, not at 33024"),
        (|all| all[1].offset += 32, "tensor b is at offset 33056, not at 33024"),
        (|all| all[1].offset = u64::MAX - 31, "not at 33024"),
        (|all| all[1].name = "token_embd.weight".to_owned(), "appears twice"),
        (|all| all[1].name = "x".repeat(64), "claims 64 bytes; at most 63"),
        (|all| all[1].shape = vec![64], "cut off: tensor b ends at byte"),
        (|all| all[1].shape = vec![0, 32], "impossible shape"),
        (|all| all[1].shape = vec![1 << 40, 1 << 40], "impossible shape"),
        (|all| all[1].shape = vec![1 << 62, 2], "impossible shape"),
        (|all| all[1].shape = vec![1; 5], "5 dimensions"),
        (|all| all[1].kind = 4, "unknown type 4"),
        (|all| all[1].kind = 43, "unknown type 43"),
    ];
    for (spoil, expected) in cases {
        let reason = read(&good.clone().tensors(spoil).bytes());
        // The data of the first is as long as it was, so only the list is wrong.
        let reason = reason.err().map(|fault| fault.to_string()).unwrap_or_default();
        assert!(reason.contains(expected), "wanted {expected}: {reason}");
    }
    let row = good.tensors(|all| {
        all[1].kind = 8;
        all[1].shape = vec![33];
    });
    assert!(
        read(&row.bytes())
            .unwrap_err()
            .to_string()
            .contains("rows of 33, no multiple of the 32 that Q8_0 needs")
    );
}

#[test]
fn tensor_types_know_their_blocks() {
    let sizes = [("Q4_0", 2, 18), ("Q8_0", 8, 34), ("Q4_K", 12, 144), ("Q6_K", 14, 210), ("MXFP4", 39, 17)];
    for (name, id, bytes) in sizes {
        let kind = TensorType::from_id(id).unwrap();
        assert_eq!((kind.name(), kind.bytes(kind.block())), (name, Some(bytes)));
    }
    assert_eq!(TensorType::from_id(8).unwrap().bytes(31), None);
    assert_eq!(TensorType::from_id(28).unwrap().bytes(u64::MAX), None);
}

#[test]
fn alignment_is_a_power_of_two_of_at_least_32() {
    let align = |value| Sample::qwen3().put("general.alignment", value);
    for wrong in [Put::U32(0), Put::U32(48), Put::I32(32), Put::Text("32".to_owned())] {
        assert!(matches!(read(&align(wrong).bytes()), Err(HeaderError::Alignment { .. })));
    }
    assert!(reason(&align(Put::U32(8))).contains("general.alignment is 8"));
    assert_eq!(verdict(&align(Put::U32(32))), Ok(Vec::new()));
}

#[test]
fn what_llama_cpp_would_not_survive_is_refused_by_name() {
    let cases: [(&str, Change, &str); 38] = [
        ("no architecture", |s| s.without("general.architecture"), "key general.architecture is missing"),
        (
            "architecture of another type",
            |s| s.put("general.architecture", Put::U32(1)),
            "holds u32, not string",
        ),
        (
            "no layers",
            |s| s.put("qwen3.block_count", Put::U32(0)),
            "qwen3.block_count is 0; it must be 1 to 512",
        ),
        ("too many layers", |s| s.put("qwen3.block_count", Put::U32(513)), "qwen3.block_count is 513"),
        ("no layer count", |s| s.without("qwen3.block_count"), "key qwen3.block_count is missing"),
        ("no width", |s| s.put("qwen3.embedding_length", Put::U32(0)), "qwen3.embedding_length is 0"),
        (
            "absurd width",
            |s| s.put("qwen3.embedding_length", Put::U32(u32::MAX)),
            "embedding_length is 4294967295",
        ),
        ("no context", |s| s.put("qwen3.context_length", Put::U32(0)), "qwen3.context_length is 0"),
        (
            "prediction layers",
            |s| s.put("qwen3.nextn_predict_layers", Put::U32(3)),
            "nextn_predict_layers is 3",
        ),
        (
            "uneven heads",
            |s| s.put("qwen3.attention.head_count_kv", Put::U32(3)),
            "layer 0 has 4 attention heads, which 3 key/value heads",
        ),
        (
            "uneven heads in one layer",
            |s| s.put("qwen3.attention.head_count_kv", Put::I32s(vec![2, 3])),
            "layer 1 has 4 attention heads, which 3 key/value heads",
        ),
        ("no heads", |s| s.put("qwen3.attention.head_count", Put::U32(0)), "layer 0 has 0 attention heads"),
        (
            "heads for too few layers",
            |s| s.put("qwen3.attention.head_count", Put::I32s(vec![4])),
            "head_count has 1 elements; 2 are needed",
        ),
        (
            "negative heads",
            |s| s.put("qwen3.attention.head_count", Put::I32s(vec![4, -4])),
            "holds array of i32, not unsigned integers",
        ),
        (
            "keys longer than values",
            |s| s.put("qwen3.attention.key_length", Put::U32(16)),
            "attention.key_length is 16 and attention.value_length 8",
        ),
        (
            "half rotation where all turn",
            |s| s.put("qwen3.rope.dimension_count", Put::U32(4)),
            "rope.dimension_count is 4; qwen3 with heads of 8 needs all of them",
        ),
        (
            "unknown scaling",
            |s| s.put("qwen3.rope.scaling.type", Put::Text("bogus".to_owned())),
            "is \"bogus\"",
        ),
        ("used experts without experts", |s| s.put("qwen3.expert_used_count", Put::U32(2)), "2 of 0 experts"),
        (
            "more experts used than there are",
            |s| s.put("qwen3.expert_count", Put::U32(4)).put("qwen3.expert_used_count", Put::U32(5)),
            "5 of 4 experts are used",
        ),
        ("experts never used", |s| s.put("qwen3.expert_count", Put::U32(4)), "a token must use at least one"),
        ("too many experts", |s| s.put("qwen3.expert_count", Put::U32(1025)), "qwen3.expert_count is 1025"),
        (
            "groups that do not divide the experts",
            |s| {
                s.put("qwen3.expert_count", Put::U32(4))
                    .put("qwen3.expert_used_count", Put::U32(2))
                    .put("qwen3.expert_group_count", Put::U32(3))
            },
            "0 of 3 groups are used with 4 experts",
        ),
        (
            "negative epsilon",
            |s| s.put("qwen3.attention.layer_norm_rms_epsilon", Put::F32(-1.0)),
            "layer_norm_rms_epsilon is -1",
        ),
        (
            "epsilon that is no number",
            |s| s.put("qwen3.attention.layer_norm_rms_epsilon", Put::F32(f32::NAN)),
            "layer_norm_rms_epsilon is NaN",
        ),
        ("part of a model", |s| s.put("split.count", Put::U32(3)), "one of 3 parts"),
        (
            "unknown tokenizer",
            |s| s.put("tokenizer.ggml.model", Put::Text("rwkv".to_owned())),
            "kind \"rwkv\"",
        ),
        ("no tokens", |s| s.without("tokenizer.ggml.tokens"), "key tokenizer.ggml.tokens is missing"),
        (
            "tokens that are numbers",
            |s| s.put("tokenizer.ggml.tokens", Put::I32s(vec![1])),
            "holds array of i32, not array of string",
        ),
        (
            "too few token types",
            |s| s.put("tokenizer.ggml.token_type", Put::I32s(vec![1; 5])),
            "tokenizer.ggml.token_type has 5 elements; 258 are needed",
        ),
        (
            "too few scores",
            |s| s.put("tokenizer.ggml.scores", Put::I32s(vec![1; 5])),
            "tokenizer.ggml.scores has 5 elements; 258 are needed",
        ),
        ("no merges", |s| s.without("tokenizer.ggml.merges"), "key tokenizer.ggml.merges is missing"),
        (
            "merge of one part",
            |s| s.put("tokenizer.ggml.merges", Put::Texts(vec!["he".to_owned()])),
            "merge 0 is \"he\"",
        ),
        (
            "merge with nothing",
            |s| s.put("tokenizer.ggml.merges", Put::Texts(vec!["h ".to_owned()])),
            "merge 0 is \"h \"",
        ),
        (
            "special token outside",
            |s| s.put("tokenizer.ggml.eos_token_id", Put::U32(258)),
            "eos_token_id is 258, but the vocabulary has 258 tokens",
        ),
        (
            "beginning without a token",
            |s| s.put("tokenizer.ggml.add_bos_token", Put::Bool(true)),
            "add_bos_token is on, but tokenizer.ggml.bos_token_id is missing",
        ),
        (
            "end without a token",
            |s| s.put("tokenizer.ggml.add_eos_token", Put::Bool(true)).without("tokenizer.ggml.eos_token_id"),
            "add_eos_token is on, but tokenizer.ggml.eos_token_id is missing",
        ),
        (
            "pre-tokenizer that adds a beginning",
            |s| s.put("tokenizer.ggml.pre", Put::Text("llama-bpe".to_owned())),
            "add_bos_token is on, but tokenizer.ggml.bos_token_id is missing",
        ),
        (
            "endless template",
            |s| s.put("tokenizer.chat_template", Put::Text("x".repeat(65_537))),
            "tokenizer.chat_template is 65537 bytes long",
        ),
    ];
    for (name, change, expected) in cases {
        let reason = reason(&change(Sample::qwen3()));
        assert!(reason.contains(expected), "{name}: wanted {expected}: {reason}");
    }
}

/// The sample's tokens with one replaced.
fn retoken(mut sample: Sample, id: usize, text: &str) -> Sample {
    for (_, value) in &mut sample.keys {
        if let Put::Texts(tokens) = value
            && tokens.len() > id
        {
            tokens[id] = text.to_owned();
        }
    }
    sample
}

#[test]
fn tokens_with_the_same_text_are_refused_as_llama_cpp_reads_them() {
    let same = |text: &str| reason(&retoken(Sample::qwen3(), 257, text));
    assert_eq!(same("he"), "tokens 256 and 257 have the same text \"he\"");
    assert_eq!(same("he\0llo"), "tokens 256 and 257 have the same text \"he\"");
    let nameless = retoken(retoken(Sample::qwen3(), 256, ""), 257, "[EMPTY_256]");
    assert_eq!(reason(&nameless), "tokens 256 and 257 have the same text \"[EMPTY_256]\"");
    assert_eq!(same(&"x".repeat(5000)), "token 257 is 5000 bytes long; at most 4096 are possible");
}

#[test]
fn sentencepiece_without_byte_tokens_is_refused() {
    assert_eq!(
        reason(&retoken(Sample::pieces(), 3 + 0xE9, "é")),
        "the vocabulary has no token for the byte <0xE9>"
    );
    assert_eq!(verdict(&retoken(Sample::pieces(), 3 + 0x41, "A")), Ok(Vec::new()), "the letter will do");
}

#[test]
fn tokens_that_claim_to_be_a_byte_must_be_one() {
    let mut kinds = vec![1; 259];
    kinds[3] = 6;
    let typed = retoken(Sample::pieces(), 3, "<0x-1>").put("tokenizer.ggml.token_type", Put::I32s(kinds));
    assert!(reason(&typed).contains("token 3 stands for one byte but is written \"<0x-1>\""));
    let plamo =
        retoken(Sample::qwen3(), 257, "<0x-1>").put("tokenizer.ggml.model", Put::Text("plamo2".to_owned()));
    assert!(reason(&plamo).contains("token 257 stands for one byte but is written \"<0x-1>\""));
}

#[test]
fn the_table_of_embeddings_fits_vocabulary_and_width() {
    let shape = |shape: &[u64]| reason(&Sample::qwen3().tensors(|all| all[0].shape = shape.to_vec()));
    assert!(shape(&[32, 257]).contains("has the shape [32, 257]; width 32 and 258 tokens need 32 by 258"));
    assert!(shape(&[16, 258]).contains("has the shape [16, 258]"));
    assert!(shape(&[32]).contains("has the shape [32]"));
    assert_eq!(reason(&Sample::qwen3().tensors(Vec::clear)), "tensor token_embd.weight is missing");
}

#[test]
fn glm4_files_that_turn_every_dimension_are_refused() {
    let missing = reason(&Sample::glm4().without("glm4.rope.dimension_count"));
    assert!(missing.contains("glm4.rope.dimension_count is missing"), "{missing}");
    let full = reason(&Sample::glm4().put("glm4.rope.dimension_count", Put::U32(8)));
    assert!(
        full.contains("glm4.rope.dimension_count is 8, where GLM-4 turns only a part of the 8"),
        "{full}"
    );
    let odd = reason(&Sample::glm4().put("glm4.rope.dimension_count", Put::U32(3)));
    assert!(odd.contains("an even number"), "{odd}");
}

#[test]
fn what_is_merely_strange_is_served_with_a_warning() {
    let pre = Sample::qwen3().put("tokenizer.ggml.pre", Put::Text("deepseek-llm".to_owned()));
    assert_eq!(verdict(&pre), Ok(vec![Warning::LongRuns { pre: "deepseek-llm".to_owned() }]));
    let none = Sample::qwen3().without("tokenizer.ggml.pre");
    assert_eq!(verdict(&none), Ok(vec![Warning::LongRuns { pre: "default".to_owned() }]));
    let lost = retoken(Sample::qwen3().without("tokenizer.ggml.merges"), 0, "zero")
        .put("tokenizer.ggml.merges", Put::Texts(vec!["h e".to_owned()]));
    assert_eq!(verdict(&lost), Ok(vec![Warning::LosesByte { byte: 0 }]));
    let mut alien = Sample::qwen3().put("general.architecture", Put::Text("alien".to_owned()));
    for (key, _) in &mut alien.keys {
        *key = key.replace("qwen3.", "alien.");
    }
    assert_eq!(verdict(&alien), Ok(vec![Warning::Architecture { name: "alien".to_owned() }]));
}

#[test]
fn a_shared_descriptor_keeps_its_place() {
    use std::io::{Seek, SeekFrom, Write};
    let path = std::env::temp_dir().join(format!("hearth-gguf-{}", std::process::id()));
    let mut file =
        std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    file.write_all(&Sample::qwen3().bytes()).unwrap();
    file.seek(SeekFrom::Start(7)).unwrap();
    assert!(Header::of(&file).is_ok());
    assert_eq!(file.stream_position().unwrap(), 7);
}

#[test]
fn text_of_a_file_stands_in_errors_without_control_characters_and_not_too_long() {
    let sample =
        Sample::qwen3().put("tokenizer.ggml.merges", Put::Texts(vec![format!("\u{1b}{}", "x".repeat(9000))]));
    let reason = reason(&sample);
    assert!(reason.contains("merge 0 is \"\\u{1b}xxx"), "{reason}");
    assert!(reason.len() < 200, "{reason}");
}

/// Everything that is done with a header of unknown origin.
fn survive(file: &[u8]) {
    if let Ok(header) = read(file) {
        facts(&header);
        match check(&header) {
            Ok(warnings) => warnings.iter().for_each(|warning| assert!(!warning.to_string().is_empty())),
            Err(fault) => assert!(!fault.to_string().is_empty()),
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(tail in proptest::collection::vec(any::<u8>(), 0..2048)) {
        survive(&tail);
        survive(&[b"GGUF\x03\0\0\0".as_slice(), &tail].concat());
        let counts = [1_u64.to_le_bytes(), 3_u64.to_le_bytes()].concat();
        survive(&[b"GGUF\x03\0\0\0".as_slice(), &counts, &tail].concat());
    }

    #[test]
    fn mutated_headers_never_panic(
        family in 0..3_usize,
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
        early in any::<bool>(),
    ) {
        let sample = [Sample::qwen3, Sample::glm4, Sample::pieces][family]();
        let mut file = sample.bytes();
        let reach = if early { 700 } else { sample.header().len() };
        for (place, byte) in changes {
            file[place.index(reach)] = byte;
        }
        survive(&file);
    }
}

/// The most address space that this process ever had, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmPeak:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// A sparse file can have any length; only what is really read may be made room for.
#[test]
fn a_claimed_length_makes_no_room() {
    let before = peak();
    let claims = [
        Put::Raw(8, (64_u64 << 20).to_le_bytes().to_vec()),
        Put::Raw(9, [0_u32.to_le_bytes().to_vec(), (255_u64 << 20).to_le_bytes().to_vec()].concat()),
        Put::Raw(9, [8_u32.to_le_bytes().to_vec(), (100_u64 << 20).to_le_bytes().to_vec()].concat()),
    ];
    for claim in claims {
        let file = Sample { keys: vec![("a".to_owned(), claim)], ..Sample::qwen3() }.header();
        for claimed in [1 << 30, u64::MAX] {
            let fault = Header::read(Cursor::new(&file), claimed).expect_err("the file ends long before");
            assert!(
                matches!(fault, HeaderError::Truncated { .. } | HeaderError::StringTooLong { .. }),
                "{fault}"
            );
        }
    }
    let grown = peak() - before;
    assert!(grown < 60 << 20, "{grown} bytes");
}
