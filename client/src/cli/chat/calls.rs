//! The calls of a model, answered by a person: with a program that they allow, or with what they write.

use hearth_client::v1;

use super::editor::{Editor, Input, Kind};
use super::talk::{Talk, result_or_error};
use super::{Interrupt, show};
use crate::cli::exit::Failure;
use crate::cli::output::Output;
use crate::cli::tools::{Means, Program};

/// What came of the calls of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    /// Every call has its result.
    All,
    /// The person would rather not.
    GivenUp,
}

/// Gets a result for each call and reports it.
pub(super) async fn answer(
    calls: &[v1::ToolCall],
    talk: &mut Talk,
    editor: &mut Editor,
    interrupt: &mut Interrupt,
    out: &mut Output,
) -> Result<Answered, Failure> {
    for call in calls {
        let Some(text) = result(call, talk, editor, interrupt, out).await? else {
            return Ok(Answered::GivenUp);
        };
        talk.report(call, &text);
    }
    Ok(Answered::All)
}

async fn result(
    call: &v1::ToolCall,
    talk: &Talk,
    editor: &mut Editor,
    interrupt: &mut Interrupt,
    out: &mut Output,
) -> Result<Option<String>, Failure> {
    let program = match talk.toolbox().means(call) {
        Some(Means::Said(text)) => {
            show::tool_result(text, out)?;
            return Ok(Some(text.to_owned()));
        }
        Some(Means::Program(program)) => program,
        None => return written(call, editor, interrupt, out).await,
    };
    let question = format!("run `{}` for {}? [Y/n] ", program.text(), call.name);
    match editor.read(&question, Kind::Reply).await? {
        Input::Text(reply) if is_yes(&reply) => run(program, call, interrupt, out).await,
        Input::Text(_) => written(call, editor, interrupt, out).await,
        Input::Interrupt | Input::End => Ok(None),
    }
}

/// Nothing is a yes, as the question says.
fn is_yes(reply: &str) -> bool {
    matches!(reply.trim().to_ascii_lowercase().as_str(), "" | "y" | "yes")
}

/// The person writes the result, or the command that makes it.
async fn written(
    call: &v1::ToolCall,
    editor: &mut Editor,
    interrupt: &mut Interrupt,
    out: &mut Output,
) -> Result<Option<String>, Failure> {
    out.note("(write the result, or !COMMAND to run one; Ctrl-C takes the question back)")?;
    match editor.read(&format!("← {}: ", call.name), Kind::Reply).await? {
        Input::Text(text) => match text.trim_start().strip_prefix('!') {
            Some(command) => run(&Program::shell(command), call, interrupt, out).await,
            None => Ok(Some(text)),
        },
        Input::Interrupt | Input::End => Ok(None),
    }
}

/// Runs a program; Ctrl-C ends it, and there is no result.
async fn run(
    program: &Program,
    call: &v1::ToolCall,
    interrupt: &mut Interrupt,
    out: &mut Output,
) -> Result<Option<String>, Failure> {
    interrupt.forget();
    let text = tokio::select! {
        biased;
        () = interrupt.came() => return Ok(None),
        result = program.run(call) => result_or_error(result),
    };
    show::tool_result(&text, out)?;
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_yes_runs_a_program() {
        assert!(["", "y", "Yes "].iter().all(|reply| is_yes(reply)));
        assert!(!["n", "no", "maybe", "rm"].iter().any(|reply| is_yes(reply)));
    }
}
