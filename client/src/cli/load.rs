//! `load`, `unload`, `pin`, `unpin`: what of the store is in memory, and stays there.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use hearth_client::{Client, KeepAlive, KvType, LoadEvent, LoadOptions, v1};

use super::exit::Failure;
use super::json::Line;
use super::keep_alive;
use super::output::Output;
use super::progress::{Step, Unit};
use super::table;

/// The context that a model gets; what is not given is as the daemon's configuration has it.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct ContextArgs {
    /// Tokens of its context, shared by all answers: exactly so many, until it is unloaded.
    #[arg(long, value_name = "N")]
    ctx: Option<u32>,
    /// How its context is kept; q8_0 takes about half the memory of f16, q4_0 a quarter, at some cost in quality.
    #[arg(long, value_name = "TYPE", value_parser = kv_type())]
    kv: Option<KvType>,
}

/// Puts a model into memory.
///
/// A model that is in memory with another context is loaded anew once its answers have ended. `hearth plan` says
/// beforehand what a load would do.
#[derive(Debug, Args)]
pub(super) struct LoadArgs {
    /// Model: `name[:tag]`.
    name: String,
    #[command(flatten)]
    context: ContextArgs,
    /// How long it stays in memory once nobody uses it, as in 10m; or forever, until its memory is needed.
    #[arg(long, value_name = "TIME|forever", value_parser = keep_alive::parse)]
    keep_alive: Option<KeepAlive>,
}

/// Takes a model out of memory.
#[derive(Debug, Args)]
pub(super) struct UnloadArgs {
    /// Model: `name[:tag]`.
    name: String,
    /// End running answers at once instead of waiting for them.
    #[arg(long)]
    abort: bool,
}

/// Keeps a model in memory whatever others need, until the daemon ends; it is not loaded for that.
#[derive(Debug, Args)]
pub(super) struct PinArgs {
    /// Model: `name[:tag]`.
    name: String,
}

/// Lets a pinned model go again when others need its memory.
#[derive(Debug, Args)]
pub(super) struct UnpinArgs {
    /// Model: `name[:tag]`.
    name: String,
}

pub(super) async fn load(args: LoadArgs, client: &Client, out: &mut Output) -> Result<(), Failure> {
    let LoadArgs { name, context, keep_alive } = args;
    let what = match out.is_json() {
        true => String::new(),
        false => loading(&name, expected(&name, client).await),
    };
    let mut loading = client.load_with(&name, LoadOptions { keep_alive, ..context.options() }).await?;
    while let Some(event) = loading.next().await {
        match event? {
            LoadEvent::ProgressPermille(permille) => show_loading(permille, &what, out)?,
            LoadEvent::Ready(model) => show_loaded(&model, out)?,
        }
    }
    Ok(())
}

pub(super) async fn unload(args: UnloadArgs, client: &Client, out: &mut Output) -> Result<(), Failure> {
    let was_loaded = client.unload(&args.name, args.abort).await?;
    let name = &args.name;
    match was_loaded {
        _ if out.is_json() => out.json(&Line::Unloaded { name, was_loaded }),
        true => out.line(&format!("unloaded {name}")),
        false => out.line(&format!("{name} was not in memory")),
    }
}

pub(super) async fn pin(args: PinArgs, client: &Client, out: &mut Output) -> Result<(), Failure> {
    let name = &args.name;
    let pinned = client.pin(name, true).await?;
    match pinned {
        _ if out.is_json() => out.json(&Line::Pinned { name, pinned }),
        true => out.line(&format!("{name} stays in memory once it is loaded")),
        false => out.line(&format!("{name} is not pinned")),
    }
}

pub(super) async fn unpin(args: UnpinArgs, client: &Client, out: &mut Output) -> Result<(), Failure> {
    let name = &args.name;
    let pinned = client.pin(name, false).await?;
    match pinned {
        _ if out.is_json() => out.json(&Line::Pinned { name, pinned }),
        true => out.line(&format!("{name} stays pinned: the daemon's configuration says so")),
        false => out.line(&format!("{name} goes when its memory is needed")),
    }
}

impl ContextArgs {
    pub(super) fn options(self) -> LoadOptions {
        let Self { ctx, kv } = self;
        LoadOptions { context_tokens: ctx, kv_type: kv, keep_alive: None }
    }
}

fn kv_type() -> impl TypedValueParser<Value = KvType> {
    PossibleValuesParser::new(["f16", "q8_0", "q4_0"]).map(|name| match name.as_str() {
        "f16" => KvType::F16,
        "q8_0" => KvType::Q80,
        _ => KvType::Q40,
    })
}

/// How long the load will take. A wrong name is told by the load itself.
async fn expected(name: &str, client: &Client) -> Option<f64> {
    client.model(name).await.ok().and_then(|model| model.expected_load_ms)
}

/// What is going on while a model is loaded.
pub(super) fn loading(what: &str, expected_ms: Option<f64>) -> String {
    match expected_ms {
        Some(ms) => format!("loading {what} (about {})", table::millis(ms)),
        None => format!("loading {what}"),
    }
}

fn show_loading(permille: u32, what: &str, out: &mut Output) -> Result<(), Failure> {
    let done = u64::from(permille);
    if out.is_json() {
        return out.json(&Line::Progress { stage: "load".to_owned(), done, total: 1000, expected_ms: None });
    }
    out.progress(&Step { what, unit: Unit::Permille, done, total: 1000 })
}

fn show_loaded(model: &v1::LoadedModel, out: &mut Output) -> Result<(), Failure> {
    if out.is_json() {
        return out.json(&Line::loaded(model));
    }
    let v1::LoadedModel { name, context_tokens, sequences, load_ms, .. } = model;
    out.line(&format!(
        "{name} is ready after {load_ms:.0} ms: {context_tokens} tokens of context for {sequences} answers at a time"
    ))
}
