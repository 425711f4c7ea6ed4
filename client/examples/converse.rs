//! A conversation: each line of stdin is a question, and the model remembers the ones before.
#![expect(clippy::print_stdout, reason = "the answers go there")]

use std::io::{BufRead, Write};

use hearth_client::{Answer, ChatRequest, Client, Endpoint, GenerationEvent};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::connect(Endpoint::from_env()?).await?;
    let mut talk = ChatRequest::new("demo").system("You run a weather station.");
    for line in std::io::stdin().lock().lines() {
        talk = talk.user(line?);
        let mut answer = Answer::default();
        let mut events = client.generate(talk.clone()).await?;
        while let Some(event) = events.next().await {
            let event = event?;
            if let GenerationEvent::Text(delta) = &event {
                print!("{}", delta.text);
                std::io::stdout().flush()?;
            }
            answer.push(event);
        }
        println!();
        talk = talk.message(answer.message());
    }
    Ok(())
}
