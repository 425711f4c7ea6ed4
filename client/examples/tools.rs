//! A round of tool calls: the model asks for a sensor, this program reads it, the model answers.
#![expect(clippy::print_stdout, reason = "the answer goes there")]

use hearth_client::{ChatRequest, Client, Endpoint, v1};

const SENSOR: &str = r#"{"type":"object","properties":{"sensor":{"type":"string"}},"required":["sensor"]}"#;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::connect(Endpoint::from_env()?).await?;
    let tool = v1::Tool {
        name: "get_temperature".to_owned(),
        description: Some("Read the temperature of a sensor.".to_owned()),
        parameters: Some(SENSOR.to_owned()),
    };
    let mut talk = ChatRequest::new("demo").tool(tool).user("What is the temperature of the north sensor?");
    // A model that calls for ever must end.
    for _ in 0..4 {
        let answer = client.generate(talk.clone()).await?.answer().await?;
        talk = talk.message(answer.message());
        if answer.tool_calls.is_empty() {
            println!("{}", answer.text);
            break;
        }
        for call in &answer.tool_calls {
            println!("{} {}", call.name, call.arguments);
            talk = talk.tool_result(&call.id, r#"{"value": 12, "unit": "C"}"#);
        }
    }
    Ok(())
}
