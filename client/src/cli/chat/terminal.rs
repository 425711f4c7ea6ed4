//! A conversation with a person at a terminal.
//!
//! A turn that fails is told and taken back, and the conversation goes on.

use std::path::Path;

use hearth_client::v1;

use super::Interrupt;
use super::calls::{self, Answered};
use super::command::{self, Command, NAMES, Said};
use super::editor::{Editor, Input, Kind};
use super::saved::Saved;
use super::settings;
use super::talk::Talk;
use crate::cli::exit::{Failure, chain};
use crate::cli::output::Output;
use crate::cli::tools;

const PROMPT: &str = "> ";

/// The person's side of the conversation.
pub(super) struct Terminal<'a> {
    pub(super) talk: Talk,
    pub(super) editor: Editor,
    pub(super) interrupt: Interrupt,
    pub(super) out: &'a mut Output,
}

/// Whether there is more to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    GoOn,
    End,
}

impl Terminal<'_> {
    /// Talks until the person has said enough.
    pub(super) async fn run(mut self) -> Result<(), Failure> {
        // A wrong name is told before the person has written anything.
        let model = self.talk.client().model(&self.talk.setup.model).await?;
        self.out.note(&format!("{}: /help lists the commands, Ctrl-D ends", model.name))?;
        loop {
            match self.editor.read(PROMPT, Kind::Talk).await? {
                Input::End => return Ok(()),
                Input::Interrupt => self.out.note("(Ctrl-D ends the conversation)")?,
                Input::Text(text) => match command::parse(&text) {
                    Ok(Said::Nothing) => {}
                    Ok(Said::Text(text)) => self.asks(text).await?,
                    Ok(Said::Command(command)) => {
                        if self.obeys(command).await? == Then::End {
                            return Ok(());
                        }
                    }
                    Err(bad) => self.out.complain(&bad.to_string())?,
                },
            }
        }
    }

    async fn asks(&mut self, text: String) -> Result<(), Failure> {
        self.talk.say(text);
        self.hears_out().await
    }

    async fn obeys(&mut self, command: Command) -> Result<Then, Failure> {
        match command {
            Command::Quit => return Ok(Then::End),
            Command::Help => self.helps()?,
            Command::Retry if self.talk.ask_again() => self.hears_out().await?,
            Command::Retry => self.out.complain("nothing was asked yet")?,
            Command::Set(None) => {
                settings::shown(&self.talk.setup).iter().try_for_each(|l| self.out.line(l))?
            }
            Command::Save(path) => self.saves(&path)?,
            Command::Load(path) => self.loads(&path)?,
            Command::Tools(Some(path)) => self.takes_tools(&path)?,
            quiet => {
                let told = self.changes(quiet);
                self.out.note(told)?;
            }
        }
        Ok(Then::GoOn)
    }

    /// Commands that cannot fail; returns what to tell.
    fn changes(&mut self, command: Command) -> &'static str {
        let setup = &mut self.talk.setup;
        match command {
            Command::System(None) => {
                setup.system = None;
                "(no instructions)"
            }
            Command::System(text) => {
                setup.system = text;
                "(instructions are set, from the next answer on)"
            }
            Command::Think(think) => {
                setup.thinking = think.to_wire();
                match setup.thinking {
                    v1::Thinking::On => "(it thinks before it answers)",
                    v1::Thinking::Off => "(it answers at once)",
                    v1::Thinking::Unspecified => "(whether it thinks is up to the model)",
                }
            }
            Command::Set(Some(change)) => match change.apply(setup) {
                Ok(()) => "(set)",
                Err(_) => "(not set)",
            },
            Command::Clear => {
                self.talk.clear();
                "(what was said is forgotten)"
            }
            _ => {
                setup.tools.clear();
                "(no tools)"
            }
        }
    }

    fn helps(&mut self) -> Result<(), Failure> {
        for name in NAMES {
            let left = format!("{} {}", name.name, name.follows);
            self.out.line(&format!("{left:<30}{}", name.does))?;
        }
        for line in [
            "//TEXT                        say /TEXT",
            "\\ Enter, Alt-Enter, \"\"\"        a new line, a block of lines",
            "Up, Ctrl-R, Tab               earlier lines, search them, complete",
            "Ctrl-C, Ctrl-D                stop the answer, end",
        ] {
            self.out.line(line)?;
        }
        Ok(())
    }

    fn saves(&mut self, path: &Path) -> Result<(), Failure> {
        let setup = &self.talk.setup;
        let saved = Saved::of(&setup.model, setup.system.as_deref(), self.talk.said());
        match saved.write(path) {
            Ok(()) => self.out.note(&format!("(saved to {})", path.display())),
            Err(error) => self.out.complain(&chain(&error)),
        }
    }

    fn loads(&mut self, path: &Path) -> Result<(), Failure> {
        let saved = match Saved::read(path) {
            Ok(saved) => saved,
            Err(error) => return self.out.complain(&chain(&error)),
        };
        let messages = saved.messages();
        let told = format!("({} messages of a conversation with {})", messages.len(), saved.model);
        self.talk.setup.system = saved.system;
        self.talk.resume(messages);
        self.out.note(&told)
    }

    fn takes_tools(&mut self, path: &Path) -> Result<(), Failure> {
        match tools::read(path) {
            Ok(tools) => {
                let names: Vec<&str> = tools.iter().map(|tool| tool.name.as_str()).collect();
                let told = format!("(tools: {})", names.join(", "));
                self.talk.setup.tools = tools;
                self.out.note(&told)
            }
            Err(failure) => self.out.complain(&failure.message()),
        }
    }

    /// The model's turns up to its answer: one, and one more after each round of tool results.
    async fn hears_out(&mut self) -> Result<(), Failure> {
        loop {
            let calls = self.hears().await?;
            if calls.is_empty() {
                return Ok(());
            }
            let Self { talk, editor, interrupt, out } = self;
            if calls::answer(&calls, talk, editor, interrupt, out).await? == Answered::GivenUp {
                talk.take_back();
                return out.note("(the question is taken back)");
            }
        }
    }

    /// One turn of the model: its calls, or none where it is the person's turn again.
    async fn hears(&mut self) -> Result<Vec<v1::ToolCall>, Failure> {
        self.interrupt.forget();
        let heard = tokio::select! {
            // Ctrl-C first: a model that streams without a pause must not outrun it.
            biased;
            () = self.interrupt.came() => Err(Failure::Interrupted),
            heard = self.talk.listen(self.out) => heard,
        };
        match heard {
            Ok(calls) => return Ok(calls),
            Err(Failure::Interrupted) => {
                self.talk.cut_short();
                self.out.note("(stopped)")?;
            }
            Err(failure @ (Failure::Call(_) | Failure::EndlessTools(_))) => {
                self.talk.take_back();
                self.out.failure(&failure);
            }
            Err(failure) => return Err(failure),
        }
        Ok(Vec::new())
    }
}
