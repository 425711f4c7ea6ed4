//! Functions of a program that a model may call.

use std::any::Any;
use std::fmt::{self, Display};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::FutureExt;
use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform};
use schemars::{JsonSchema, Schema};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::v1;

/// Formats that the daemon enforces, as its engine's `chat::schema` has them; it refuses a schema with others, such
/// as `uint32` and `ip`, which schemars derives.
const FORMATS: [&str; 10] =
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];

type Running = Pin<Box<dyn Future<Output = Result<String, String>> + Send>>;
type Function = dyn Fn(&str) -> Running + Send + Sync;

/// Tools as functions: name, description, and what runs when the model calls. The arguments' JSON Schema is made
/// of their type. Clones share the functions.
///
/// ```
/// use hearth_client::{Tools, schemars, serde};
///
/// #[derive(serde::Deserialize, schemars::JsonSchema)]
/// #[serde(crate = "hearth_client::serde")]
/// #[schemars(crate = "hearth_client::schemars")]
/// struct Sensor {
///     /// Where it hangs.
///     place: String,
/// }
///
/// let tools = Tools::new()
///     .tool("temperature", "Reads a sensor.", |sensor: Sensor| async move {
///         match sensor.place.as_str() {
///             "north" => Ok(12.5),
///             place => Err(format!("there is no sensor at {place}")),
///         }
///     });
/// assert_eq!(tools.declared()[0].name, "temperature");
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct Tools {
    entries: Vec<Entry>,
}

#[derive(Clone)]
struct Entry {
    declared: v1::Tool,
    function: Arc<Function>,
}

/// Arguments of a tool that takes none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub struct NoArguments {}

/// What a tool gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Given {
    /// Its result, as text.
    Result(String),
    /// Why there is none.
    Failure(String),
}

impl Tools {
    /// No tools.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a function. A text that it returns reaches the model as it is, anything else as JSON; what it fails
    /// with is told to the model, so that it may try something else.
    ///
    /// `uniqueItems` and formats that the daemon does not know are left out of the schema: items of a set that come
    /// twice are the type's to take, and a text that is no `IpAddr` is told to the model as a failure.
    ///
    /// It runs on the task of the loop: work that blocks belongs into `tokio::task::spawn_blocking`. Names have 1
    /// to 64 characters out of `A-Z a-z 0-9 _ - .`, and no two are the same; the daemon refuses others.
    pub fn tool<A, F, R, T, E>(
        self,
        name: impl Into<String>,
        description: impl Into<String>,
        function: F,
    ) -> Self
    where
        A: DeserializeOwned + JsonSchema + Send + 'static,
        F: Fn(A) -> R + Send + Sync + 'static,
        R: Future<Output = Result<T, E>> + Send + 'static,
        T: Serialize,
        E: Display,
    {
        let declared = v1::Tool {
            name: name.into(),
            description: Some(description.into()),
            parameters: Some(schema_of::<A>()),
        };
        let function = Arc::new(function);
        self.declare(declared, move |arguments| {
            let arguments = serde_json::from_str(&arguments);
            let function = Arc::clone(&function);
            async move {
                let arguments = arguments.map_err(|error| format!("the arguments do not fit: {error}"))?;
                let value = function(arguments).await.map_err(|error| error.to_string())?;
                text_of(&value).map_err(|error| format!("the result cannot be written as JSON: {error}"))
            }
        })
    }

    /// Adds a tool that was declared elsewhere: its function gets the arguments, and gives the result, as text.
    pub fn declare<F, R, E>(mut self, tool: v1::Tool, function: F) -> Self
    where
        F: Fn(String) -> R + Send + Sync + 'static,
        R: Future<Output = Result<String, E>> + Send + 'static,
        E: Display,
    {
        let function = move |arguments: &str| {
            let running = function(arguments.to_owned());
            let running: Running = Box::pin(async move { running.await.map_err(|error| error.to_string()) });
            running
        };
        self.entries.push(Entry { declared: tool, function: Arc::new(function) });
        self
    }

    /// As the model is told of them.
    pub fn declared(&self) -> Vec<v1::Tool> {
        self.entries.iter().map(|entry| entry.declared.clone()).collect()
    }

    /// Runs the function that a call names. Nothing that it does, a panic included, is an error here.
    pub(crate) async fn run(&self, call: &v1::ToolCall) -> Given {
        let Some(entry) = self.entries.iter().find(|entry| entry.declared.name == call.name) else {
            return Given::Failure(format!("there is no tool `{}`", call.name));
        };
        // A function may panic before it has made its future.
        let running = async { (entry.function)(&call.arguments).await };
        match AssertUnwindSafe(running).catch_unwind().await {
            Ok(Ok(text)) => Given::Result(text),
            Ok(Err(why)) => Given::Failure(why),
            Err(panic) => Given::Failure(words_of(&*panic)),
        }
    }
}

impl fmt::Debug for Tools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.entries.iter().map(|entry| &entry.declared.name);
        f.debug_list().entries(names).finish()
    }
}

impl Given {
    pub(crate) fn is_failure(&self) -> bool {
        matches!(self, Self::Failure(_))
    }

    /// What the model is told.
    pub(crate) fn into_text(self) -> String {
        match self {
            Self::Result(text) => text,
            Self::Failure(why) => serde_json::json!({ "error": why }).to_string(),
        }
    }
}

/// The schema of a type: in one piece where it is not recursive, without the type's name, since the model reads every
/// word of it, and without what the daemon cannot enforce and would refuse. What is wrong with the arguments then is
/// found when they are read.
fn schema_of<A: JsonSchema>() -> String {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.meta_schema = None;
        settings.inline_subschemas = true;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<A>();
    schema.remove("title");
    RecursiveTransform(|schema: &mut Schema| {
        let format = schema.get("format").and_then(|format| format.as_str());
        if format.is_some_and(|format| !FORMATS.contains(&format)) {
            schema.remove("format");
        }
        schema.remove("uniqueItems");
    })
    .transform(&mut schema);
    schema.to_value().to_string()
}

/// A text as it is, anything else as JSON.
fn text_of(value: &impl Serialize) -> Result<String, serde_json::Error> {
    let json = serde_json::to_string(value)?;
    if json.starts_with('"') { serde_json::from_str(&json) } else { Ok(json) }
}

fn words_of(panic: &(dyn Any + Send)) -> String {
    let words = panic.downcast_ref::<&str>().copied();
    match words.or_else(|| panic.downcast_ref::<String>().map(String::as_str)) {
        Some(words) => format!("the tool broke down: {words}"),
        None => "the tool broke down".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Add {
        /// The first number.
        a: u32,
        b: Option<f64>,
        #[serde(default)]
        more: Vec<Inner>,
    }

    #[derive(Deserialize, JsonSchema)]
    struct Inner {
        n: i64,
    }

    #[derive(Deserialize, JsonSchema)]
    struct Hosts {
        all: BTreeSet<IpAddr>,
        first: Option<Ipv4Addr>,
        /// A name that is no keyword here.
        format: Vec<BTreeSet<u8>>,
    }

    fn call(name: &str, arguments: &str) -> v1::ToolCall {
        v1::ToolCall { id: "1".to_owned(), name: name.to_owned(), arguments: arguments.to_owned() }
    }

    fn adding() -> Tools {
        Tools::new().tool("add", "Adds.", |add: Add| async move {
            let more: i64 = add.more.iter().map(|inner| inner.n).sum();
            if add.b.is_some_and(f64::is_sign_negative) {
                Err("too cold")
            } else {
                Ok(i64::from(add.a) + more)
            }
        })
    }

    #[test]
    fn the_schema_is_that_of_the_type_and_no_more() {
        let declared = adding().declared();
        let schema = declared[0].parameters.as_deref().expect("has arguments");
        let schema: serde_json::Value = serde_json::from_str(schema).expect("JSON");
        assert_eq!(schema["type"], "object");
        assert_eq!(schema["additionalProperties"], false);
        assert_eq!(schema["required"], serde_json::json!(["a"]));
        assert_eq!(schema["properties"]["a"]["description"], "The first number.");
        assert_eq!(schema["properties"]["more"]["items"]["properties"]["n"]["type"], "integer");
        for word in ["$schema", "$ref", "$defs", "title", "format"] {
            assert!(!schema.to_string().contains(word), "{word}: {schema}");
        }
        let none: serde_json::Value = serde_json::from_str(&schema_of::<NoArguments>()).expect("JSON");
        assert_eq!(none["type"], "object");
    }

    #[tokio::test]
    async fn what_the_daemon_would_refuse_is_left_out_of_the_schema() {
        let schema: serde_json::Value = serde_json::from_str(&schema_of::<Hosts>()).expect("JSON");
        assert!(!schema.to_string().contains("uniqueItems"), "{schema}");
        let fields = &schema["properties"];
        assert_eq!(fields["all"]["items"], serde_json::json!({ "type": "string" }));
        assert_eq!(fields["first"]["format"], "ipv4");
        assert_eq!(fields["format"]["items"]["items"]["maximum"], 255);
        assert_eq!(fields["format"]["items"]["items"]["format"], serde_json::Value::Null);
        let tools = Tools::new().tool("count", "", |hosts: Hosts| async move {
            Ok::<_, String>(hosts.all.len() + hosts.first.into_iter().count() + hosts.format.len())
        });
        let arguments = r#"{"all":["::1","10.0.0.1","::1"],"format":[]}"#;
        assert_eq!(tools.run(&call("count", arguments)).await, Given::Result("2".to_owned()));
        assert!(tools.run(&call("count", r#"{"all":["x"],"format":[]}"#)).await.is_failure());
    }

    #[tokio::test]
    async fn results_are_text_or_json() {
        let tools = Tools::new()
            .tool("text", "", |_: NoArguments| async { Ok::<_, String>("a \"b\"\n") })
            .tool("number", "", |_: NoArguments| async { Ok::<_, String>(12.5) })
            .tool("map", "", |_: NoArguments| async { Ok::<_, String>(BTreeMap::from([("a", 1)])) })
            .tool("nothing", "", |_: NoArguments| async { Ok::<_, String>(()) });
        for (name, text) in
            [("text", "a \"b\"\n"), ("number", "12.5"), ("map", r#"{"a":1}"#), ("nothing", "null")]
        {
            assert_eq!(tools.run(&call(name, "{}")).await, Given::Result(text.to_owned()));
        }
    }

    #[tokio::test]
    async fn whatever_goes_wrong_is_told() {
        #[expect(clippy::panic, reason = "that is what is told")]
        let tools = adding()
            .tool("early", "", |_: NoArguments| -> std::future::Ready<Result<(), String>> { panic!("early") })
            .tool("late", "", |n: Inner| async move {
                assert!(n.n == 0, "late {}", n.n);
                Ok::<_, String>(())
            });
        for (call, words) in [
            (call("add", r#"{"a":1,"b":-1}"#), "too cold"),
            (call("add", r#"{"b":1}"#), "missing field `a`"),
            (call("add", r#"{"a":1,"c":1}"#), "unknown field `c`"),
            (call("add", "["), "do not fit"),
            (call("sub", "{}"), "no tool `sub`"),
            (call("early", "{}"), "early"),
            (call("late", r#"{"n":7}"#), "late 7"),
        ] {
            let given = tools.run(&call).await;
            assert!(given.is_failure(), "{given:?}");
            let text = given.into_text();
            let told: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            assert!(told["error"].as_str().is_some_and(|why| why.contains(words)), "{text}");
        }
        assert_eq!(adding().run(&call("add", r#"{"a":1,"more":[{"n":2}]}"#)).await.into_text(), "3");
    }
}
