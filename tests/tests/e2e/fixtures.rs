//! Fixtures against the reader that guards the engine.

use hearth_engine::gguf::{self, Header, validate};
use hearth_tests::fixture::{self, Arch, Gguf, Options, TensorType, Value};
use std::io::Cursor;

fn read(bytes: &[u8]) -> Result<Header, gguf::HeaderError> {
    Header::read(Cursor::new(bytes), u64::try_from(bytes.len()).unwrap())
}

fn checked(file: &Gguf) -> Header {
    let header = read(&file.to_bytes()).expect("the fixture is a whole file");
    assert_eq!(validate::check(&header), Ok(Vec::new()));
    header
}

#[test]
fn fixtures_of_every_family_pass_without_a_warning() {
    for arch in Arch::ALL {
        let facts = gguf::facts(&checked(&fixture::tiny(arch)));
        assert_eq!(facts.architecture, arch.name());
        assert_eq!(facts.quantization, "F16");
        assert_eq!(facts.context_length, Some(32_768));
        assert_eq!(facts.layers, Some(2));
        assert!(facts.vocabulary_size > 600, "{}", facts.vocabulary_size);
        assert!(facts.chat_template.is_some() && facts.eos.is_some());
    }
}

#[test]
fn options_reach_the_file() {
    let options = Options {
        context_length: 512,
        layers: 3,
        width: 96,
        vocabulary: 1000,
        weights: TensorType::Q8_0,
        ..Options::default()
    };
    let facts = gguf::facts(&checked(&fixture::tiny_with(Arch::Llama, &options)));
    assert_eq!((facts.context_length, facts.layers, facts.embedding_length), (Some(512), Some(3), Some(96)));
    assert_eq!((facts.vocabulary_size, facts.quantization.as_str()), (1000, "Q8_0"));
}

#[test]
fn a_fixture_depends_on_its_seed_alone() {
    let of_seed = |seed| fixture::tiny_with(Arch::Glm4, &Options { seed, ..Options::default() }).to_bytes();
    assert_eq!(of_seed(1), of_seed(1));
    assert_ne!(of_seed(1), of_seed(2));
}

#[test]
fn every_value_type_comes_back() {
    let mut file = fixture::tiny(Arch::Qwen3);
    file.set("a.u16", Value::U16(16)).set("a.u64", Value::U64(1 << 40)).set("a.i32", Value::I32(-5));
    file.set("a.f32s", Value::F32s(vec![0.5, 1.5])).set("a.u32s", Value::U32s(vec![1, 2, 3]));
    let header = checked(&file);
    assert_eq!((header.u64("a.u16"), header.u64("a.u64")), (Ok(16), Ok(1 << 40)));
    assert!(header.u64("a.i32").is_err());
    assert_eq!((header.array_len("a.f32s"), header.array_len("a.u32s")), (Ok(2), Ok(3)));
    let numbers = header.numbers("a.u32s").unwrap().iter().map(|number| number.unsigned());
    assert_eq!(numbers.collect::<Vec<_>>(), [Some(1), Some(2), Some(3)]);
}

#[test]
fn the_slow_model_is_large_and_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("slow.gguf");
    fixture::scaled(Arch::Qwen3, fixture::Size::Half).write(&path).unwrap();
    let header = Header::of(&std::fs::File::open(&path).unwrap()).unwrap();
    assert_eq!(validate::check(&header), Ok(Vec::new()));
    let facts = gguf::facts(&header);
    assert!((400_000_000..500_000_000).contains(&facts.parameters), "{}", facts.parameters);
    assert!((400_000_000..500_000_000).contains(&facts.tensor_bytes), "{}", facts.tensor_bytes);
}

#[test]
fn hostile_files_are_refused_for_their_own_reason() {
    for case in fixture::hostile() {
        let verdict = match read(&case.bytes()) {
            Ok(header) => {
                gguf::facts(&header);
                validate::check(&header).map(|_| ()).map_err(|fault| fault.to_string())
            }
            Err(fault) => Err(fault.to_string()),
        };
        if let Some(expected) = case.expected {
            let reason = verdict.expect_err(&case.name);
            assert!(reason.contains(expected), "{}: wanted {expected}: {reason}", case.name);
        }
    }
}
