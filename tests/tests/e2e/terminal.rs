//! A person at a terminal: `hearth` on a pseudo-terminal, a real daemon behind it.
//!
//! Nothing here depends on how fast things happen: each step waits for what the screen shows.

use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::path::Path;
use std::sync::{Arc, Mutex};

use hearth_tests::TestDaemon;
use hearth_tests::daemon::program;
use hearth_tests::eventually::eventually;
use hearth_tests::fixture::{self, Arch};
use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use serde_json::Value;

const ROWS: u16 = 50;
const COLUMNS: u16 = 100;

const ENTER: &str = "\r";
const ALT_ENTER: &str = "\x1b\r";
const UP: &str = "\x1b[A";
const TAB: &str = "\t";
const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";
const PASTE_BEGINS: &str = "\x1b[200~";
const PASTE_ENDS: &str = "\x1b[201~";

const TOOLS: &str = r#"[{"name": "get_temperature", "description": "Read the temperature of a sensor.",
  "parameters": {"type": "object", "properties": {"sensor": {"type": "string"}}, "required": ["sensor"]}}]"#;
const QUESTION: &str = "What is the temperature of the north sensor?";

/// What has reached the terminal.
struct Seen {
    screen: vt100::Parser,
    bytes: Vec<u8>,
}

/// A terminal with `hearth` on it.
struct Terminal {
    keys: Box<dyn Write + Send>,
    seen: Arc<Mutex<Seen>>,
    child: Box<dyn Child + Send + Sync>,
    // Closing it would hang up.
    _master: Box<dyn MasterPty + Send>,
}

impl Terminal {
    /// `hearth` with these arguments; lines of its history are kept in the daemon's test folder.
    fn open(daemon: &TestDaemon, args: &[&str], environment: &[(&str, &str)]) -> Self {
        let size = PtySize { rows: ROWS, cols: COLUMNS, ..PtySize::default() };
        let pair = native_pty_system().openpty(size).expect("a pseudo-terminal");
        let mut command = CommandBuilder::new(program("hearth"));
        command.args(args);
        command.cwd(daemon.folder());
        for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "CI", "HEARTH_TOKEN", "HEARTH_NO_HISTORY"] {
            command.env_remove(name);
        }
        command.env("TERM", "xterm-256color");
        command.env("HEARTH_ENDPOINT", format!("unix:{}", daemon.socket().display()));
        command.env("XDG_STATE_HOME", daemon.folder().join("xdg"));
        for (name, value) in environment {
            command.env(name, value);
        }
        let child = pair.slave.spawn_command(command).expect("start hearth");
        drop(pair.slave);
        let seen = watch(pair.master.try_clone_reader().expect("a reader"));
        let keys = pair.master.take_writer().expect("a writer");
        Self { keys, seen, child, _master: pair.master }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).and_then(|()| self.keys.flush()).expect("the terminal is open");
    }

    fn text(&self) -> String {
        self.seen.lock().expect("no panic").screen.screen().contents()
    }

    fn bytes(&self) -> Vec<u8> {
        self.seen.lock().expect("no panic").bytes.clone()
    }

    /// The row that the cursor is in.
    fn row(&self) -> String {
        let seen = self.seen.lock().expect("no panic");
        let screen = seen.screen.screen();
        let (row, _) = screen.cursor_position();
        screen.rows(0, COLUMNS).nth(row.into()).unwrap_or_default().trim_end().to_owned()
    }

    /// The words that are shown dimmed below the last row that holds `text`.
    fn dimmed_below(&self, text: &str) -> String {
        let seen = self.seen.lock().expect("no panic");
        let screen = seen.screen.screen();
        let rows: Vec<String> = screen.rows(0, COLUMNS).collect();
        let first = rows.iter().rposition(|row| row.contains(text)).expect("the text is shown") + 1;
        let first = u16::try_from(first).expect("a row");
        let cells = (first..ROWS).flat_map(|row| (0..COLUMNS).map(move |column| (row, column)));
        let cells = cells.filter_map(|(row, column)| screen.cell(row, column));
        cells.filter(|cell| cell.dim()).map(|cell| cell.contents().to_owned()).collect()
    }

    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let patient = eventually(what, || async { condition(self).then_some(()) });
        if tokio::time::timeout(hearth_tests::eventually::PATIENCE / 2, patient).await.is_err() {
            panic!("waited in vain for: {what}\n---- the screen:\n{}", self.text());
        }
    }

    async fn shows(&self, text: &str) {
        self.until(text, |terminal| terminal.text().contains(text)).await;
    }

    async fn prompts(&self) {
        self.until("the prompt", |terminal| terminal.row() == ">").await;
    }

    /// Types, and waits until it is on the screen.
    async fn types(&mut self, text: &str, row: &str) {
        self.press(text);
        self.until(row, |terminal| terminal.row() == row).await;
    }

    /// Types a line at the prompt and sends it.
    async fn says(&mut self, text: &str) {
        self.types(text, &format!("> {text}")).await;
        self.press(ENTER);
    }

    /// Says something and waits for the prompt behind the answer.
    async fn asks(&mut self, text: &str) {
        self.says(text).await;
        self.prompts().await;
    }

    async fn exits_with(&mut self, code: u32) {
        let mut exit = None;
        for _ in 0..3000 {
            exit = self.child.try_wait().expect("look at hearth");
            if exit.is_some() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let exit = exit.unwrap_or_else(|| panic!("it goes on:\n{}", self.text()));
        assert_eq!(exit.exit_code(), code, "{}", self.text());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
    }
}

/// Reads all that comes, on a thread that ends with the terminal.
fn watch(mut reader: Box<dyn Read + Send>) -> Arc<Mutex<Seen>> {
    let size = |cells| NonZeroU16::new(cells).expect("not 0");
    let screen = vt100::Parser::new(size(ROWS), size(COLUMNS), 0);
    let seen = Arc::new(Mutex::new(Seen { screen, bytes: Vec::new() }));
    let shared = Arc::clone(&seen);
    std::thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(size @ 1..) = reader.read(&mut chunk) {
            let mut seen = shared.lock().expect("no panic");
            seen.screen.process(&chunk[..size]);
            seen.bytes.extend_from_slice(&chunk[..size]);
        }
    });
    seen
}

async fn with_demo() -> TestDaemon {
    let daemon = TestDaemon::start().await;
    daemon.import_demo().await;
    daemon.load("demo").await;
    daemon
}

fn chat<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["chat", "demo", "--temperature", "0", "--think", "off"], more].concat()
}

/// What was said in a saved conversation, as role and content.
fn saved(file: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(file).expect("the saved conversation");
    let saved: Value = serde_json::from_str(&text).expect("JSON");
    let messages = saved["messages"].as_array().expect("messages").iter();
    let part = |message: &Value, key: &str| message[key].as_str().expect("text").to_owned();
    messages.map(|message| (part(message, "role"), part(message, "content"))).collect()
}

#[tokio::test]
async fn a_conversation_from_the_prompt_to_its_end() {
    let daemon = with_demo().await;
    let mut terminal = Terminal::open(&daemon, &chat(&[]), &[]);
    terminal.prompts().await;
    terminal.shows("demo:latest").await;

    terminal.asks("Hello").await;
    terminal.says("/save first.json").await;
    terminal.shows("(saved to first.json)").await;
    terminal.prompts().await;
    let said = saved(&daemon.folder().join("first.json"));
    assert_eq!(said.len(), 2, "{said:?}");
    assert_eq!(said[0], ("user".to_owned(), "Hello".to_owned()));
    assert!(said[1].0 == "assistant" && !said[1].1.is_empty(), "{said:?}");
    let first_line = said[1].1.lines().next().expect("an answer");
    assert!(terminal.text().contains(first_line), "the answer is on the screen:\n{}", terminal.text());

    // Arrow up finds the command, and then the question, which is asked again.
    terminal.types(UP, "> /save first.json").await;
    terminal.types(UP, "> Hello").await;
    terminal.press(ENTER);
    terminal.prompts().await;

    terminal.says("/retry").await;
    terminal.prompts().await;
    terminal.asks("/save second.json").await;
    assert_eq!(saved(&daemon.folder().join("second.json")).len(), 4);

    terminal.asks("/clear").await;
    terminal.asks("/load first.json").await;
    terminal.shows("(2 messages of a conversation with demo)").await;
    terminal.asks("/system Be brief.").await;
    terminal.asks("/set top_k 3").await;
    terminal.says("/set").await;
    terminal.shows("top_k               3").await;
    terminal.prompts().await;

    terminal.press(CTRL_C);
    terminal.shows("(Ctrl-D ends the conversation)").await;
    terminal.prompts().await;
    terminal.press(CTRL_D);
    terminal.exits_with(0).await;
}

#[tokio::test]
async fn commands_are_explained_completed_and_corrected() {
    let daemon = with_demo().await;
    let mut terminal = Terminal::open(&daemon, &chat(&[]), &[]);
    terminal.prompts().await;
    terminal.says("/help").await;
    terminal.shows("/retry").await;
    terminal.shows("Ctrl-C, Ctrl-D").await;
    terminal.prompts().await;

    terminal.says("/hlep").await;
    terminal.shows("there is no command /hlep (did you mean /help?)").await;
    terminal.prompts().await;
    terminal.says("/think perhaps").await;
    terminal.shows("write /think on|off|auto").await;
    terminal.prompts().await;

    terminal.press("/sy");
    terminal.until("what was typed", |terminal| terminal.row() == "> /sy").await;
    terminal.types(TAB, "> /system").await;
    terminal.press(CTRL_C);
    terminal.prompts().await;

    // Nothing of all that was said to the model.
    terminal.asks("/save empty.json").await;
    assert!(saved(&daemon.folder().join("empty.json")).is_empty());
    terminal.says("/quit").await;
    terminal.exits_with(0).await;
}

#[tokio::test]
async fn input_of_several_lines_is_one_question() {
    let daemon = with_demo().await;
    let mut terminal = Terminal::open(&daemon, &chat(&["--max-tokens", "1"]), &[]);
    terminal.prompts().await;

    terminal.types("one \\", "> one \\").await;
    terminal.press(ENTER);
    terminal.types("two", "… two").await;
    terminal.press(ALT_ENTER);
    terminal.types("three", "three").await;
    terminal.press(ENTER);
    terminal.prompts().await;

    terminal.types("\"\"\"", "> \"\"\"").await;
    terminal.press(ENTER);
    terminal.types("block \\", "block \\").await;
    terminal.press(ENTER);
    terminal.types("end\"\"\"", "end\"\"\"").await;
    terminal.press(ENTER);
    terminal.prompts().await;

    terminal.types(&format!("{PASTE_BEGINS}a \\\r\n  b{PASTE_ENDS}"), "  b").await;
    terminal.press(ENTER);
    terminal.prompts().await;

    terminal.asks("//slash").await;
    terminal.asks("/save lines.json").await;
    let said = saved(&daemon.folder().join("lines.json"));
    let asked: Vec<&str> =
        said.iter().filter(|(role, _)| role == "user").map(|(_, text)| text.as_str()).collect();
    assert_eq!(asked, ["one \ntwo\nthree", "block \\\nend", "a \\\n  b", "/slash"]);
}

#[tokio::test]
async fn ctrl_c_stops_a_long_answer_and_leaves_the_prompt() {
    let daemon = TestDaemon::with("[engine]\ncontext_tokens = 16384\n").await;
    daemon.import("tiny", &fixture::tiny(Arch::Qwen3)).await;
    daemon.load("tiny").await;
    let args = ["chat", "tiny", "--temperature", "0", "--max-tokens", "16000"];
    let mut terminal = Terminal::open(&daemon, &args, &[]);
    terminal.prompts().await;
    terminal.says("go").await;
    terminal.until("a good part of the answer", |terminal| terminal.text().len() > 500).await;
    terminal.press(CTRL_C);
    terminal.shows("(stopped)").await;
    terminal.prompts().await;
    eventually("the sequence is free", || async {
        (daemon.engine("tiny").await?.running == 0).then_some(())
    })
    .await;
    terminal.says("/help").await;
    terminal.shows("/quit").await;
    terminal.prompts().await;
    terminal.press(CTRL_D);
    terminal.exits_with(0).await;
}

#[tokio::test]
async fn a_tool_call_is_shown_asked_for_and_answered() {
    let daemon = with_demo().await;
    std::fs::write(daemon.folder().join("tools.json"), TOOLS).expect("write the tools");
    let mut terminal = Terminal::open(&daemon, &chat(&[]), &[]);
    terminal.prompts().await;
    terminal.says("/tools tools.json").await;
    terminal.shows("(tools: get_temperature)").await;
    terminal.prompts().await;

    terminal.says(QUESTION).await;
    terminal.shows("→ get_temperature {").await;
    let asked = "← get_temperature:";
    terminal.until(asked, |terminal| terminal.row() == asked).await;
    let result = r#"{"value": 12, "unit": "C"}"#;
    terminal.types(result, &format!("{asked} {result}")).await;
    terminal.press(ENTER);
    terminal.prompts().await;
    terminal.asks("/save tool.json").await;
    let said = saved(&daemon.folder().join("tool.json"));
    assert_eq!(said[2], ("tool".to_owned(), result.to_owned()));
    assert!(said[3].1.contains("12"), "{said:?}");

    // A command makes the result, and Ctrl-C takes the question back.
    terminal.asks("/clear").await;
    terminal.says(QUESTION).await;
    terminal.until(asked, |terminal| terminal.row() == asked).await;
    let command = r#"!echo '{"value": 17, "unit": "C"}'"#;
    terminal.types(command, &format!("{asked} {command}")).await;
    terminal.press(ENTER);
    terminal.shows(r#"← {"value": 17, "unit": "C"}"#).await;
    terminal.prompts().await;
    terminal.asks("/clear").await;
    terminal.says(QUESTION).await;
    terminal.until(asked, |terminal| terminal.row() == asked).await;
    terminal.press(CTRL_C);
    terminal.shows("(the question is taken back)").await;
    terminal.prompts().await;
    terminal.press(CTRL_D);
    terminal.exits_with(0).await;
}

#[tokio::test]
async fn a_command_for_a_tool_runs_when_the_person_says_yes() {
    let daemon = with_demo().await;
    std::fs::write(daemon.folder().join("tools.json"), TOOLS).expect("write the tools");
    let script =
        "get_temperature=sh -c 'cat > asked.json; echo \"{\\\"value\\\": 21, \\\"unit\\\": \\\"C\\\"}\"'";
    let args = chat(&["--tools", "tools.json", "--tool-cmd", script, "-p", QUESTION]);
    let mut terminal = Terminal::open(&daemon, &args, &[]);
    terminal.shows("[Y/n]").await;
    assert!(!daemon.folder().join("asked.json").exists(), "nothing runs before the yes");
    terminal.press("y\r");
    terminal.exits_with(0).await;
    terminal.shows(r#"← {"value": 21, "unit": "C"}"#).await;
    let asked = std::fs::read_to_string(daemon.folder().join("asked.json")).expect("the arguments");
    let asked: Value = serde_json::from_str(&asked).expect("JSON");
    assert!(asked["sensor"].is_string(), "{asked}");

    // Without a terminal nobody can be asked.
    let refused = hearth_tests::cli::hearth(&daemon, &args).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    let with_yes = hearth_tests::cli::command(&daemon, &[&args[..], &["--yes"]].concat())
        .current_dir(daemon.folder())
        .spawn();
    let run = hearth_tests::cli::ended(with_yes.expect("start hearth")).await;
    assert!(run.code == Some(0) && run.stdout.contains("21"), "{run:?}");
}

#[tokio::test]
async fn thoughts_are_dimmed_and_colours_can_be_turned_off() {
    let daemon = with_demo().await;
    let args = ["chat", "demo", "--temperature", "0", "--think", "on"];
    let mut terminal = Terminal::open(&daemon, &args, &[]);
    terminal.prompts().await;
    terminal.asks("Hello").await;
    assert!(!terminal.dimmed_below("> Hello").is_empty(), "no thought:\n{}", terminal.text());

    let mut plain = Terminal::open(&daemon, &args, &[("NO_COLOR", "1")]);
    plain.prompts().await;
    plain.asks("Hello").await;
    plain.shows("[thinking]").await;
    let colours = |bytes: Vec<u8>| {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        text.split("\x1b[")
            .skip(1)
            .filter(|rest| {
                let end = rest.find(|c: char| !c.is_ascii_digit() && c != ';');
                end.is_some_and(|end| rest[end..].starts_with('m'))
            })
            .count()
    };
    assert!(colours(terminal.bytes()) > 0);
    assert_eq!(colours(plain.bytes()), 0, "{:?}", String::from_utf8_lossy(&plain.bytes()));
}

#[tokio::test]
async fn lines_are_remembered_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;

    let daemon = with_demo().await;
    let mut terminal = Terminal::open(&daemon, &chat(&["--max-tokens", "1"]), &[]);
    terminal.prompts().await;
    terminal.asks("remember me").await;
    terminal.press(CTRL_D);
    terminal.exits_with(0).await;
    let file = daemon.folder().join("xdg/hearth-cli/history");
    let mode = std::fs::metadata(&file).expect("the history").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let mut later = Terminal::open(&daemon, &chat(&["--max-tokens", "1"]), &[]);
    later.prompts().await;
    later.types(UP, "> remember me").await;

    let before = std::fs::read_to_string(&file).expect("the history");
    let mut forgetful = Terminal::open(&daemon, &chat(&["--max-tokens", "1", "--no-history"]), &[]);
    forgetful.prompts().await;
    forgetful.asks("forget me").await;
    forgetful.press(CTRL_D);
    forgetful.exits_with(0).await;
    assert_eq!(std::fs::read_to_string(&file).expect("the history"), before);
}

#[tokio::test]
async fn a_terminal_shows_how_far_an_import_is() {
    let daemon = TestDaemon::start().await;
    let mut terminal = Terminal::open(&daemon, &["import", "--demo"], &[]);
    terminal.exits_with(0).await;
    terminal.shows("imported demo:latest").await;
    let bytes = terminal.bytes();
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains("importing demo ["), "no bar: {text:?}");
    assert!(!terminal.text().contains("importing"), "the bar goes away:\n{}", terminal.text());
}
