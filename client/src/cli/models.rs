//! `models`, `rm`, `load`, `unload`: the store, and what of it is in memory.

use clap::Args;
use hearth_client::v1;
use hearth_client::{Client, LoadEvent};

use super::exit::{Exit, Failure};
use super::json::{self, Line};
use super::output::Output;
use super::progress::{Step, Unit};
use super::table::{self, Table};

/// Lists the models, or shows one.
#[derive(Debug, Args)]
pub(super) struct ModelsArgs {
    /// Show this one.
    name: Option<String>,
}

/// Takes models out of the store.
#[derive(Debug, Args)]
pub(super) struct RmArgs {
    /// Models: `name[:tag]`.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

/// Puts a model into memory.
#[derive(Debug, Args)]
pub(super) struct LoadArgs {
    /// Model: `name[:tag]`.
    name: String,
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

pub(super) async fn list(args: ModelsArgs, client: &Client, out: &mut Output) -> Result<(), Failure> {
    if let Some(name) = args.name {
        let model = client.model(&name).await?;
        return show(&model, out);
    }
    let models = client.models().await?;
    if out.is_json() {
        return models.iter().try_for_each(|model| out.json(&Line::Model(json::Model::of(model))));
    }
    if models.is_empty() {
        return out.note("no models yet; bring one in with `hearth import FILE`");
    }
    let mut table = Table::new(["NAME", "SIZE", "WEIGHTS", "TYPE", "CONTEXT", "DIALECT", "STATE"]);
    models.iter().for_each(|model| table.row(row(model)));
    table.show(out)
}

pub(super) async fn remove(args: RmArgs, client: &Client, out: &mut Output) -> Result<(), Failure> {
    let mut first: Option<Exit> = None;
    for name in &args.names {
        match client.remove(name).await {
            Ok(freed_bytes) if out.is_json() => out.json(&Line::Removed { name, freed_bytes })?,
            Ok(freed) => out.line(&format!("removed {name}, {} freed", table::size(freed)))?,
            // The others are removed all the same, as rm does.
            Err(error) => {
                let exit = out.failure(&error.into());
                first.get_or_insert(exit);
            }
        }
    }
    first.map_or(Ok(()), |exit| Err(Failure::Reported(exit)))
}

pub(super) async fn load(args: LoadArgs, client: &Client, out: &mut Output) -> Result<(), Failure> {
    let mut loading = client.load(&args.name).await?;
    while let Some(event) = loading.next().await {
        match event? {
            LoadEvent::ProgressPermille(permille) => show_loading(permille, &args.name, out)?,
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

fn show(model: &v1::Model, out: &mut Output) -> Result<(), Failure> {
    if out.is_json() {
        return out.json(&Line::Model(json::Model::of(model)));
    }
    let mut said = facts(model).into_iter().filter(|(_, value)| !value.is_empty());
    said.try_for_each(|(name, value)| out.line(&format!("{name:<14}{value}")))
}

fn row(model: &v1::Model) -> [String; 7] {
    let facts = model.facts.clone().unwrap_or_default();
    [
        model.name.clone(),
        table::size(bytes(model)),
        table::count(facts.parameters),
        facts.quantization,
        facts.context_length.to_string(),
        facts.dialect,
        state(model),
    ]
}

fn facts(model: &v1::Model) -> Vec<(&'static str, String)> {
    let facts = model.facts.clone().unwrap_or_default();
    let yes_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let mut lines = vec![
        ("name", model.name.clone()),
        ("state", state(model)),
        ("title", facts.title),
        ("architecture", facts.architecture),
        ("dialect", facts.dialect),
        ("weights", format!("{} in {}", table::count(facts.parameters), facts.quantization)),
        ("context", format!("{} tokens", facts.context_length)),
        ("vocabulary", format!("{} tokens", facts.vocabulary_size)),
        ("tools", yes_no(facts.tools)),
        ("thinking", yes_no(facts.thinking)),
    ];
    if let Some(time) = &model.imported_at {
        lines.push(("imported", time.to_string()));
    }
    lines.extend(
        model.files.iter().map(|file| ("file", format!("{} {}", file.sha256, table::size(file.size_bytes)))),
    );
    lines
}

fn state(model: &v1::Model) -> String {
    let state = json::model_state(model.state());
    match model.state_reason.as_str() {
        "" => state,
        reason => format!("{state}: {reason}"),
    }
}

fn bytes(model: &v1::Model) -> u64 {
    model.files.iter().map(|file| file.size_bytes).fold(0, u64::saturating_add)
}

fn show_loading(permille: u32, name: &str, out: &mut Output) -> Result<(), Failure> {
    let done = u64::from(permille);
    if out.is_json() {
        return out.json(&Line::Progress { stage: "load".to_owned(), done, total: 1000 });
    }
    let what = format!("loading {name}");
    out.progress(&Step { what: &what, unit: Unit::Permille, done, total: 1000 })
}

fn show_loaded(model: &v1::LoadedModel, out: &mut Output) -> Result<(), Failure> {
    if out.is_json() {
        return out.json(&Line::loaded(model));
    }
    let v1::LoadedModel { name, context_tokens, sequences, load_ms } = model;
    out.line(&format!(
        "{name} is ready after {load_ms:.0} ms: {context_tokens} tokens of context for {sequences} answers at a time"
    ))
}
