//! One answer in the making: from logits to typed events.
//!
//! Each token runs through one synchronous step: draw, log probabilities, end token, bytes, dialect parser,
//! stop strings. What comes out is ready for the reader.

use std::time::{Duration, Instant};

use super::event::{AnswerDelta, Ended, Event, Why};
use crate::chat::{Delta, End, Finish, Parser, StopStrings};
use crate::llama::{Model, Token};
use crate::sample::{self, Logprob, SampleError, Sampler, Sampling};

/// What an answer is made of.
#[derive(Debug)]
pub struct AnswerOptions {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Reads the text; `None` for a raw prompt, where all is text.
    pub parser: Parser,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// Most tokens. `None`: until the context is full.
    pub max_tokens: Option<u32>,
    /// Log probabilities wanted, and of how many alternatives.
    pub logprobs: Option<usize>,
    /// Tokens that end the answer beside the model's own.
    pub extra_ends: Vec<Token>,
}

/// The state of one answer.
#[derive(Debug)]
pub struct Answer {
    sampler: Sampler,
    parser: Parser,
    stop: StopStrings,
    stop_texts: Vec<String>,
    max_tokens: u32,
    logprobs: Option<usize>,
    extra_ends: Vec<Token>,
    prompt_tokens: usize,
    cached_tokens: usize,
    generated: u32,
    clock: Clock,
    /// Tokens and log probabilities since the last delta.
    new_tokens: Vec<Token>,
    new_logprobs: Vec<(Logprob, Vec<u8>)>,
}

/// When an answer passed its stages.
#[derive(Clone, Copy, Debug)]
struct Clock {
    submitted: Instant,
    admitted: Option<Instant>,
    first_token: Option<Instant>,
}

impl Answer {
    /// An answer to `prompt`, submitted at `now`.
    pub fn new(options: AnswerOptions, model: &Model, prompt: &[Token], now: Instant) -> Self {
        Self {
            sampler: Sampler::new(options.sampling, model, prompt),
            parser: options.parser,
            stop: StopStrings::new(options.stop.clone()),
            stop_texts: options.stop,
            max_tokens: options.max_tokens.unwrap_or(u32::MAX),
            logprobs: options.logprobs,
            extra_ends: options.extra_ends,
            prompt_tokens: prompt.len(),
            cached_tokens: 0,
            generated: 0,
            clock: Clock { submitted: now, admitted: None, first_token: None },
            new_tokens: Vec::new(),
            new_logprobs: Vec::new(),
        }
    }

    /// The request got its place. Only the first time counts: a preempted one comes back.
    pub fn admitted(&mut self, cached: usize, now: Instant) {
        if self.clock.admitted.is_none() {
            self.clock.admitted = Some(now);
            self.cached_tokens = cached;
        }
    }

    /// Whether a token was written yet.
    pub const fn has_begun(&self) -> bool {
        self.clock.first_token.is_some()
    }

    /// Whether the prompt is already longer than the limit allows to add to.
    pub const fn wants_nothing(&self) -> bool {
        self.max_tokens == 0
    }

    /// Takes the logits of the next token. Appends what became known to `events` and returns the token to
    /// compute next, or `None` if the answer is over, whose last event was appended then.
    ///
    /// # Errors
    /// [`SampleError`] where no token can be chosen.
    pub fn step(
        &mut self,
        model: &Model,
        logits: &[f32],
        now: Instant,
        events: &mut Vec<Event>,
    ) -> Result<Option<Token>, SampleError> {
        let token = self.sampler.sample(logits)?;
        self.clock.first_token.get_or_insert(now);
        self.generated += 1;
        self.note(model, logits, token);
        if model.is_end(token) || self.extra_ends.contains(&token) {
            self.end(End::Natural, None, now, events);
            return Ok(None);
        }
        let mut bytes = Vec::new();
        model.piece(token, &mut bytes);
        let mut deltas = Vec::new();
        self.parser.push(&bytes, &mut deltas);
        if let Some(stop) = self.emit(deltas, events) {
            self.finish(Why::StopString(stop), now, events);
            return Ok(None);
        }
        if self.generated >= self.max_tokens {
            self.end(End::Limit, Some(Why::Length), now, events);
            return Ok(None);
        }
        Ok(Some(token))
    }

    /// The context is full: the answer ends here.
    pub fn context_full(&mut self, now: Instant, events: &mut Vec<Event>) {
        self.end(End::Limit, Some(Why::ContextFull), now, events);
    }

    /// Ends an answer that may not have a single token.
    pub fn length_reached(&mut self, now: Instant, events: &mut Vec<Event>) {
        self.end(End::Limit, Some(Why::Length), now, events);
    }

    fn note(&mut self, model: &Model, logits: &[f32], token: Token) {
        self.new_tokens.push(token);
        if let Some(count) = self.logprobs {
            let piece = |token| model.piece_spelled(token);
            self.new_logprobs.push((sample::logprob(logits, token, count, piece), piece(token)));
        }
    }

    /// Passes deltas on, text through the stop strings. Returns the stop string that was met.
    fn emit(&mut self, deltas: Vec<Delta>, events: &mut Vec<Event>) -> Option<String> {
        for delta in deltas {
            match delta {
                Delta::Text(text) => {
                    let (text, matched) = self.stop.push(&text);
                    if !text.is_empty() {
                        self.send(Delta::Text(text), events);
                    }
                    if let Some(at) = matched {
                        return Some(self.stop_texts.get(at).cloned().unwrap_or_default());
                    }
                }
                other => {
                    self.flush_stop(events);
                    self.send(other, events);
                }
            }
        }
        None
    }

    fn send(&mut self, delta: Delta, events: &mut Vec<Event>) {
        events.push(Event::Delta(AnswerDelta {
            delta: Some(delta),
            tokens: std::mem::take(&mut self.new_tokens),
            logprobs: std::mem::take(&mut self.new_logprobs),
        }));
    }

    /// What the stop strings held back is text after all.
    fn flush_stop(&mut self, events: &mut Vec<Event>) {
        let held = self.stop.flush();
        if !held.is_empty() {
            self.send(Delta::Text(held), events);
        }
    }

    fn end(&mut self, end: End, why: Option<Why>, now: Instant, events: &mut Vec<Event>) {
        let mut deltas = Vec::new();
        let finish = self.parser.finish(end, &mut deltas);
        if let Some(stop) = self.emit(deltas, events) {
            self.finish(Why::StopString(stop), now, events);
            return;
        }
        self.flush_stop(events);
        let why = match (why, finish) {
            (None, Finish::ToolCalls) => Why::ToolCalls,
            (None, Finish::Stop) => Why::Stop,
            (None, Finish::Length) => Why::Length,
            (Some(why), _) => why,
        };
        self.finish(why, now, events);
    }

    fn finish(&mut self, why: Why, now: Instant, events: &mut Vec<Event>) {
        if !self.new_tokens.is_empty() {
            events.push(Event::Delta(AnswerDelta {
                delta: None,
                tokens: std::mem::take(&mut self.new_tokens),
                logprobs: std::mem::take(&mut self.new_logprobs),
            }));
        }
        let admitted = self.clock.admitted.unwrap_or(now);
        let first = self.clock.first_token.unwrap_or(now);
        let since =
            |later: Instant, earlier: Instant| -> Duration { later.saturating_duration_since(earlier) };
        events.push(Event::Ended(Ended {
            why,
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens,
            generated_tokens: self.generated,
            queue: since(admitted, self.clock.submitted),
            prefill: since(first, admitted),
            decode: since(now, first),
        }));
    }
}
