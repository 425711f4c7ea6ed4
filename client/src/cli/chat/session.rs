//! A conversation line by line, out of a pipe, or from a terminal while the answers go elsewhere.
//!
//! In a pipe the first failure ends it, so that a script sees it in the exit code. From a terminal it is told
//! and taken back, and the conversation goes on.

use std::io::IsTerminal;

use hearth_client::v1;
use tokio::io::{AsyncBufReadExt, BufReader, Split, Stdin};

use super::Interrupt;
use super::talk::Talk;
use crate::cli::exit::Failure;
use crate::cli::output::Output;

/// What a person gave.
enum Input {
    Line(String),
    /// Ctrl-C at the prompt.
    Interrupt,
    /// Ctrl-D.
    End,
}

/// How a turn of the model ended.
enum Turn {
    /// It is the person's turn.
    Done,
    /// These calls wait for their results.
    Called(Vec<v1::ToolCall>),
}

/// The person's side of the conversation.
struct Person {
    lines: Split<BufReader<Stdin>>,
    interrupt: Interrupt,
}

pub(super) async fn run(mut talk: Talk, interrupt: Interrupt, out: &mut Output) -> Result<(), Failure> {
    // A wrong name is told before the person has written anything.
    talk.client().model(&talk.setup.model).await?;
    let mut person = Person { lines: BufReader::new(tokio::io::stdin()).split(b'\n'), interrupt };
    loop {
        match person.reads(out).await? {
            Input::End => return Ok(()),
            Input::Interrupt => out.note("(Ctrl-D ends the conversation)")?,
            Input::Line(line) => match line.trim() {
                "" => {}
                "/quit" => return Ok(()),
                "/reset" => talk.clear(),
                _ => {
                    talk.say(line);
                    person.hears_out(&mut talk, out).await?;
                }
            },
        }
    }
}

impl Person {
    /// The model's turns up to its answer: one, and one more after each round of tool results.
    async fn hears_out(&mut self, talk: &mut Talk, out: &mut Output) -> Result<(), Failure> {
        while let Turn::Called(calls) = self.hears(talk, out).await? {
            if !self.gives_results(&calls, talk, out).await? {
                talk.take_back();
                break;
            }
        }
        Ok(())
    }

    /// One turn of the model.
    async fn hears(&mut self, talk: &mut Talk, out: &mut Output) -> Result<Turn, Failure> {
        let heard = tokio::select! {
            // Ctrl-C first: a model that streams without a pause must not outrun it.
            biased;
            () = self.interrupt.came() => Err(Failure::Interrupted),
            heard = talk.listen(out) => heard,
        };
        match heard {
            Ok(calls) if calls.is_empty() => Ok(Turn::Done),
            Ok(calls) => Ok(Turn::Called(calls)),
            Err(failure @ Failure::Interrupted) => {
                talk.cut_short();
                out.failure(&failure);
                Ok(Turn::Done)
            }
            Err(failure) if goes_on_after(&failure) => {
                talk.take_back();
                out.failure(&failure);
                Ok(Turn::Done)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Asks for the result of each call; false: there is none.
    async fn gives_results(
        &mut self,
        calls: &[v1::ToolCall],
        talk: &mut Talk,
        out: &mut Output,
    ) -> Result<bool, Failure> {
        for call in calls {
            match self.reads(out).await? {
                Input::Line(text) => talk.report(call, &text),
                Input::Interrupt | Input::End => return Ok(false),
            }
        }
        Ok(true)
    }

    /// The next line.
    async fn reads(&mut self, out: &mut Output) -> Result<Input, Failure> {
        loop {
            let line = tokio::select! {
                () = self.interrupt.came() => return Ok(Input::Interrupt),
                line = self.lines.next_segment() => line.map_err(Failure::Stdin)?,
            };
            match line.map(String::from_utf8) {
                None => return Ok(Input::End),
                Some(Ok(line)) => return Ok(Input::Line(line.trim_end_matches('\r').to_owned())),
                Some(Err(_)) => out.note("hearth: that line is not UTF-8 and was left out")?,
            }
        }
    }
}

/// Whether the conversation outlives a failure.
fn goes_on_after(failure: &Failure) -> bool {
    matches!(failure, Failure::Call(_) | Failure::EndlessTools(_)) && std::io::stdin().is_terminal()
}
