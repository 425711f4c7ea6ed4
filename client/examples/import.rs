//! Brings a model into the store and shows how far it is: `cargo run --example import -- qwen3:8b FILE`.
#![expect(clippy::print_stdout, reason = "the progress goes there")]

use hearth_client::{Client, Endpoint, ImportEvent};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (Some(name), Some(path)) = (std::env::args().nth(1), std::env::args().nth(2)) else {
        return Err("give a name and a GGUF file".into());
    };
    let file = tokio::fs::File::open(path).await?;
    let size = file.metadata().await?.len();

    let client = Client::connect(Endpoint::from_env()?).await?;
    let mut import = client.import(&name, file, size, None).await?;
    while let Some(event) = import.next().await {
        match event? {
            ImportEvent::Progress(progress) => {
                println!("{} of {} bytes", progress.done_bytes, progress.total_bytes);
            }
            ImportEvent::Done(model) => println!("imported {}", model.name),
        }
    }
    Ok(())
}
