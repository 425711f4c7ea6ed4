//! `render` and `count`: a prompt as the model would see it.

use clap::Args;
use hearth_client::{Client, Error, v1};

use super::exit::Failure;
use super::json::Line;
use super::output::Output;
use super::prompt::WholePromptArgs;

/// Shows a prompt as the model would see it.
#[derive(Debug, Args)]
pub(super) struct RenderArgs {
    #[command(flatten)]
    prompt: WholePromptArgs,
    /// Show the token ids too.
    #[arg(long)]
    tokens: bool,
}

/// Counts the tokens of a prompt.
#[derive(Debug, Args)]
pub(super) struct CountArgs {
    #[command(flatten)]
    prompt: WholePromptArgs,
}

pub(super) async fn render(
    args: RenderArgs,
    connect: impl Future<Output = Result<Client, Error>>,
    out: &mut Output,
) -> Result<(), Failure> {
    let request = v1::RenderRequest { with_tokens: args.tokens, ..args.prompt.request()? };
    let rendered = connect.await?.render(request).await?;
    if out.is_json() {
        let tokens = args.tokens.then_some(rendered.tokens.as_slice());
        return out.json(&Line::Rendered { text: &rendered.text, tokens });
    }
    out.line(&rendered.text)?;
    if args.tokens {
        let ids: Vec<_> = rendered.tokens.iter().map(ToString::to_string).collect();
        out.line(&ids.join(" "))?;
    }
    Ok(())
}

pub(super) async fn count(
    args: CountArgs,
    connect: impl Future<Output = Result<Client, Error>>,
    out: &mut Output,
) -> Result<(), Failure> {
    let v1::RenderRequest { model, prompt, with_tokens: _ } = args.prompt.request()?;
    let tokens = connect.await?.count_tokens(v1::CountTokensRequest { model, prompt }).await?;
    if out.is_json() { out.json(&Line::Count { tokens }) } else { out.line(&tokens.to_string()) }
}
