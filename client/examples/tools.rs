//! A model that calls a function of this program: it asks for a sensor, the function reads it, the model answers.
#![expect(clippy::print_stdout, reason = "the answer goes there")]

use hearth_client::{ChatRequest, Client, Endpoint, RunEvent, RunOptions, Tools, schemars, serde};

// What the model says when it calls. A doc comment here, or on a field, would be a description that it reads.
#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(crate = "hearth_client::serde")]
#[schemars(crate = "hearth_client::schemars")]
struct Sensor {
    sensor: String,
}

// A text reaches the model as it is, any other type as JSON, and an error as `{"error": "..."}`.
async fn read(Sensor { sensor }: Sensor) -> Result<&'static str, String> {
    match sensor.as_str() {
        "" => Err("there is no sensor without a name".to_owned()),
        _ => Ok(r#"{"value": 12, "unit": "C"}"#),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::connect(Endpoint::from_env()?).await?;
    let tools = Tools::new().tool("get_temperature", "Read the temperature of a sensor.", read);
    let request = ChatRequest::new("demo").user("What is the temperature of the north sensor?");
    let show = |event: RunEvent<'_>| {
        if let RunEvent::Tool(called) = event {
            println!("{} {}", called.call.name, called.call.arguments);
        }
    };
    let outcome = client.run_tools_observed(request, &tools, RunOptions::default(), show).await?;
    println!("{}", outcome.answer.text);
    Ok(())
}
