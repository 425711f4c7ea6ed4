//! One question, its answer as it is written: `cargo run --example ask -- demo 'Hello!'`.
#![expect(clippy::print_stdout, reason = "the answer goes there")]

use std::io::Write;

use hearth_client::{ChatRequest, Client, Endpoint, GenerationEvent};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let model = words.next().unwrap_or_else(|| "demo".to_owned());
    let question = words.next().unwrap_or_else(|| "Hello!".to_owned());

    let client = Client::connect(Endpoint::from_env()?).await?;
    let mut answer = client.generate(ChatRequest::new(model).user(question)).await?;
    while let Some(event) = answer.next().await {
        if let GenerationEvent::Text(delta) = event? {
            print!("{}", delta.text);
            std::io::stdout().flush()?;
        }
    }
    println!();
    Ok(())
}
