//! Requests and answers the way tests need them.

use hearth_client::{Answer, ChatRequest, Client, Error, GenerationEvent, v1};

/// The next token is always the most likely one.
pub fn greedy() -> v1::Sampling {
    v1::Sampling { temperature: Some(0.0), ..v1::Sampling::default() }
}

/// A question that is answered greedily in at most `max_tokens` tokens.
pub fn ask(model: &str, text: &str, max_tokens: u32) -> ChatRequest {
    ChatRequest::new(model).user(text).sampling(greedy()).max_tokens(max_tokens)
}

/// A raw prompt that is continued greedily.
pub fn raw(model: &str, text: &str, max_tokens: u32) -> v1::GenerateRequest {
    v1::GenerateRequest {
        model: model.to_owned(),
        prompt: Some(v1::Prompt { kind: Some(v1::prompt::Kind::Raw(text.to_owned())) }),
        sampling: Some(greedy()),
        max_tokens: Some(max_tokens),
        ..v1::GenerateRequest::default()
    }
}

/// The whole answer.
///
/// # Errors
/// What the daemon says.
pub async fn answer(client: &Client, request: ChatRequest) -> Result<Answer, Error> {
    client.generate(request).await?.answer().await
}

/// The token ids of an answer; the request must ask for log probabilities.
///
/// # Errors
/// What the daemon says.
pub async fn tokens(client: &Client, request: ChatRequest) -> Result<Vec<v1::TokenLogprob>, Error> {
    let mut generation = client.generate(request).await?;
    let mut tokens = Vec::new();
    while let Some(event) = generation.next().await {
        if let GenerationEvent::Text(delta) | GenerationEvent::Reasoning(delta) = event? {
            tokens.extend(delta.logprobs);
        }
    }
    Ok(tokens)
}

/// Why an answer ended.
///
/// # Panics
/// When it has not.
pub fn reason(answer: &Answer) -> v1::FinishReason {
    answer.finished.as_ref().expect("the answer has ended").reason()
}

/// What an answer used.
///
/// # Panics
/// When it has not ended.
pub fn usage(answer: &Answer) -> v1::Usage {
    answer.finished.as_ref().and_then(|finished| finished.usage).expect("the answer has ended")
}

/// The refusal behind an error.
///
/// # Panics
/// When the daemon was not even asked.
pub fn refusal(error: &Error) -> &hearth_client::Refusal {
    error.refusal().unwrap_or_else(|| panic!("not a refusal: {error}"))
}
