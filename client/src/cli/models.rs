//! `models`, `rm`: the store.

use clap::Args;
use hearth_client::{Client, v1};

use super::exit::{Exit, Failure};
use super::json::{self, Line};
use super::output::Output;
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
        ("pinned", yes_no(model.pinned)),
    ];
    if let Some(ms) = model.expected_load_ms {
        lines.push(("load time", format!("about {}", table::millis(ms))));
    }
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
