//! A program that answers the calls of a tool.
//!
//! It gets the arguments as JSON on its stdin, and what it writes to stdout is the result. No shell is
//! involved unless the person wrote one.

use std::io;
use std::process::{ExitStatus, Stdio};

use hearth_client::v1;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, Command};

/// More than any context holds; a program that writes without end is cut off here.
const MOST_OUTPUT_BYTES: u64 = 1 << 20;

/// A program with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Program {
    /// As the person wrote it.
    text: String,
    /// Name and arguments; never empty.
    words: Vec<String>,
}

/// `NAME=COMMAND`: what answers the tool of that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct ToolCommand {
    pub(super) name: String,
    pub(super) program: Program,
}

/// Why a program gave no result.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum ProgramError {
    #[error("cannot run `{text}`")]
    Start { text: String, source: io::Error },
    #[error("`{text}` failed with {status}{}", tail(said))]
    Failed { text: String, status: ExitStatus, said: String },
    #[error("`{0}` wrote more than {MOST_OUTPUT_BYTES} bytes")]
    TooMuch(String),
}

impl ToolCommand {
    /// For clap.
    pub(in crate::cli) fn parse(argument: &str) -> Result<Self, String> {
        let (name, command) = argument.split_once('=').unwrap_or_default();
        if name.is_empty() {
            return Err("write NAME=COMMAND".to_owned());
        }
        Ok(Self { name: name.to_owned(), program: Program::words(command)? })
    }
}

impl Program {
    /// A command line, cut into words as a shell would.
    fn words(text: &str) -> Result<Self, String> {
        match shlex::split(text) {
            Some(words) if !words.is_empty() => Ok(Self { text: text.to_owned(), words }),
            Some(_) => Err("the command is empty".to_owned()),
            None => Err("a quote of the command is not closed".to_owned()),
        }
    }

    /// What a person typed at a prompt: a shell's business, pipes included.
    pub(in crate::cli) fn shell(text: &str) -> Self {
        let words = ["sh", "-c", text].map(str::to_owned).to_vec();
        Self { text: text.to_owned(), words }
    }

    pub(in crate::cli) fn text(&self) -> &str {
        &self.text
    }

    /// Runs it for a call and returns what it wrote. Dropping the future kills it.
    pub(in crate::cli) async fn run(&self, call: &v1::ToolCall) -> Result<String, ProgramError> {
        let failed = |source| ProgramError::Start { text: self.text.clone(), source };
        let mut child = self.command(call).spawn().map_err(failed)?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let ((), stdout, said) = tokio::join!(feed(stdin, &call.arguments), bounded(stdout), bounded(stderr));
        let stdout = stdout.map_err(failed)?;
        if stdout.len() as u64 > MOST_OUTPUT_BYTES {
            return Err(ProgramError::TooMuch(self.text.clone()));
        }
        let status = child.wait().await.map_err(failed)?;
        if !status.success() {
            let said = String::from_utf8_lossy(&said.unwrap_or_default()).into_owned();
            return Err(ProgramError::Failed { text: self.text.clone(), status, said });
        }
        let text = String::from_utf8_lossy(&stdout);
        Ok(text.trim_end_matches(['\n', '\r']).to_owned())
    }

    fn command(&self, call: &v1::ToolCall) -> Command {
        let mut command = Command::new(&self.words[0]);
        command
            .args(&self.words[1..])
            .env("HEARTH_TOOL_NAME", &call.name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }
}

/// A program that needs no arguments may close its stdin unread.
async fn feed(stdin: Option<ChildStdin>, arguments: &str) {
    if let Some(mut stdin) = stdin {
        drop(stdin.write_all(arguments.as_bytes()).await);
    }
}

async fn bounded(pipe: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(MOST_OUTPUT_BYTES + 1).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// The last line that a program wrote to stderr, where there is one.
fn tail(said: &str) -> String {
    said.lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .map(|line| format!(": {line}"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> v1::ToolCall {
        v1::ToolCall { id: "1".to_owned(), name: "t".to_owned(), arguments: r#"{"a":1}"#.to_owned() }
    }

    async fn run(command: &str) -> Result<String, ProgramError> {
        Program::shell(command).run(&call()).await
    }

    #[tokio::test]
    async fn arguments_come_on_stdin_and_the_result_on_stdout() {
        let command = ToolCommand::parse("t=cat").expect("a command");
        assert_eq!(command.program.run(&call()).await.expect("it runs"), r#"{"a":1}"#);
        assert_eq!(run("echo $HEARTH_TOOL_NAME").await.expect("it runs"), "t");
    }

    #[tokio::test]
    async fn a_program_that_fails_says_how() {
        let error = run("echo first >&2; echo why >&2; exit 3").await.expect_err("it failed").to_string();
        assert!(error.contains("exit status: 3: why"), "{error}");
        let missing = ToolCommand::parse("t=/no/such/program").expect("a command");
        assert!(matches!(missing.program.run(&call()).await, Err(ProgramError::Start { .. })));
    }

    #[tokio::test]
    async fn a_program_that_never_stops_writing_is_cut_off() {
        assert!(matches!(run("yes").await, Err(ProgramError::TooMuch(_))));
    }

    #[test]
    fn a_command_is_cut_into_words() {
        let command = ToolCommand::parse("read=sh -c 'cat; echo'").expect("a command");
        assert_eq!(command.program.words, ["sh", "-c", "cat; echo"]);
        for bad in ["read", "=x", "read=", "read='x"] {
            assert!(ToolCommand::parse(bad).is_err(), "{bad}");
        }
    }
}
