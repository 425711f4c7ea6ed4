//! What a constraint costs for each token, beside llama.cpp's own grammars.
//!
//! `grammar_cost MODEL.gguf [TOKENS]` writes random JSON of one schema over the model's vocabulary and prints one
//! line of JSON: microseconds for each token, of Hearth's constraint (mask, taking the token, forced tokens; the
//! choice itself apart, which is quicker among fewer) and of llama.cpp's GBNF sampler over all candidates.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_engine::chat::{Form, Output};
use hearth_engine::constrain::Grammars;
use hearth_engine::llama::{Backend, LoadMode, LoadOptions, Model, Token};
use hearth_engine::sample::{Sampler, Sampling};
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;

const SCHEMA: &str = r#"{"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer"},
    "tags":{"type":"array","items":{"type":"string"}}},"required":["name","age","tags"]}"#;

/// The same in llama.cpp's notation.
const GBNF: &str = r#"root ::= "{\"name\":" string ",\"age\":" integer ",\"tags\":" list "}"
string ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4}))* "\""
integer ::= "-"? ("0" | [1-9] [0-9]*)
list ::= "[" (string ("," string)*)? "]"
"#;

/// Tokens checked by GBNF: at 33 ms each, more would take minutes.
const GBNF_TOKENS: usize = 60;

fn main() -> ExitCode {
    match run() {
        Ok(line) => {
            #[expect(clippy::print_stdout, reason = "the figures are the result")]
            {
                println!("{line}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "a program for people")]
            {
                eprintln!("{error}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<String, Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = PathBuf::from(arguments.next().ok_or("usage: grammar_cost MODEL.gguf [TOKENS]")?);
    let tokens: usize = arguments.next().map_or(Ok(2000), |count| count.parse())?;
    let (tables, costs, vocabulary) = {
        let backend = Backend::init()?;
        let options =
            LoadOptions { path: &path, mode: LoadMode::VocabularyOnly, repack: false, gpu_layers: 0 };
        let model = Arc::new(Model::load(&backend, &options, &mut |_| true)?);
        let grammars = Arc::new(Grammars::new(Arc::clone(&model), &[]));
        let started = Instant::now();
        constraint(&grammars)?;
        let tables = started.elapsed();
        (tables, hearth(&model, &grammars, tokens)?, model.vocabulary_size())
    };
    let Costs { ours, plain, worst, written } = costs;
    let gbnf = gbnf(&path, vocabulary, &written)?;
    let us = |time: Duration, count: usize| {
        #[expect(clippy::cast_precision_loss, reason = "a mean of thousands")]
        let count = count.max(1) as f64;
        time.as_secs_f64() * 1e6 / count
    };
    Ok(format!(
        r#"{{"vocabulary":{},"tables_ms":{},"constraint_us":{:.1},"choice_us":{:.1},"worst_us":{:.1},"gbnf_us":{:.1}}}"#,
        vocabulary,
        tables.as_millis(),
        us(ours, tokens),
        us(plain, tokens),
        us(worst, 1),
        us(gbnf, written.len().min(GBNF_TOKENS)),
    ))
}

fn constraint(
    grammars: &Arc<Grammars>,
) -> Result<hearth_engine::constrain::Constraint, Box<dyn std::error::Error>> {
    let output = Output::JsonSchema(SCHEMA.to_owned());
    let form = Form::output_only(Some(&output))?;
    let guidance = grammars.compile(form, Some(&output)).map_err(|error| format!("{error:?}"))?;
    guidance.and_then(|guidance| guidance.whole).ok_or_else(|| "no constraint".into())
}

/// What Hearth's constraint cost.
struct Costs {
    /// Of the constraint.
    ours: Duration,
    /// Of choices without one.
    plain: Duration,
    /// Of the slowest token.
    worst: Duration,
    /// The first answers.
    written: Vec<Token>,
}

fn hearth(
    model: &Arc<Model>,
    grammars: &Arc<Grammars>,
    tokens: usize,
) -> Result<Costs, Box<dyn std::error::Error>> {
    let sampling = Sampling { temperature: 1.0, top_k: 40, seed: 1, ..Sampling::default() };
    let mut sampler = Sampler::new(sampling, model, &[]);
    let mut logits = vec![0.0_f32; usize::try_from(model.vocabulary_size())?];
    let (mut ours, mut plain, mut worst) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let (mut first, mut is_first) = (Vec::new(), true);
    let mut held = constraint(grammars)?;
    let mut count = 0;
    while count < tokens {
        noise(count as u64, &mut logits);
        let started = Instant::now();
        std::hint::black_box(sampler.choose(&logits, None)?);
        plain += started.elapsed();
        let started = Instant::now();
        let mask = held.mask()?;
        let masked = started.elapsed();
        let token = sampler.choose(&logits, Some(&mask))?;
        let started = Instant::now();
        let mut taken = vec![token];
        if !model.is_end(token) {
            let mut bytes = Vec::new();
            model.piece(token, &mut bytes);
            held.take(token, &bytes)?;
            taken.extend(held.forced());
            for &token in &taken[1..] {
                bytes.clear();
                model.piece(token, &mut bytes);
                held.take(token, &bytes)?;
            }
        }
        let took = masked + started.elapsed();
        ours += took;
        worst = worst.max(took);
        count += taken.len();
        if is_first {
            first.extend(&taken);
        }
        if held.is_over() || model.is_end(token) || first.len() > 400 {
            is_first = first.len() < GBNF_TOKENS && is_first;
            held = constraint(grammars)?;
        }
    }
    first.retain(|&token| !model.is_end(token));
    Ok(Costs { ours, plain, worst, written: first })
}

/// Time of llama.cpp's grammar sampler over all candidates, for the same tokens.
fn gbnf(path: &Path, vocabulary: i32, tokens: &[Token]) -> Result<Duration, Box<dyn std::error::Error>> {
    let backend = LlamaBackend::init()?;
    let params = LlamaModelParams::default().with_vocab_only(true);
    let model = LlamaModel::load_from_file(&backend, path, &params)?;
    let mut sampler = LlamaSampler::grammar(&model, GBNF, "root")?;
    let mut spent = Duration::ZERO;
    for &token in tokens.iter().take(GBNF_TOKENS) {
        let all = (0..vocabulary).map(|id| LlamaTokenData::new(LlamaToken(id), 0.0, 0.0));
        let mut all = LlamaTokenDataArray::from_iter(all, false);
        let started = Instant::now();
        all.apply_sampler(&mut sampler);
        spent += started.elapsed();
        sampler.accept(LlamaToken(token));
    }
    Ok(spent)
}

fn noise(step: u64, logits: &mut [f32]) {
    let mut state = step.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for logit in logits {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        #[expect(clippy::cast_precision_loss, reason = "noise")]
        let value = (state >> 40) as f32 / (1u64 << 24) as f32;
        *logit = value * 8.0;
    }
}
