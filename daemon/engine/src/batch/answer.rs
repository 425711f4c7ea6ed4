//! One answer in the making: from logits to typed events.
//!
//! Each token runs through one synchronous step: draw, log probabilities, end token, bytes, dialect parser,
//! stop strings, constraint. What comes out is ready for the reader.

use std::time::{Duration, Instant};

use super::event::{AnswerDelta, Ended, Event, Why};
use super::guide::{Chosen, Go, Guide, GuideError};
use crate::chat::{Delta, End, Finish, Parser, StopStrings};
use crate::llama::{Model, Token};
use crate::sample::{self, Logprob, Sampler, Sampling};

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
    /// Control tokens that the parser reads as text.
    pub visible: Vec<Token>,
    /// Holds the answer to its form.
    pub guide: Guide,
    /// Whether forced tokens are computed one by one.
    pub one_by_one: bool,
    /// The answer ends behind its first call, however that was written.
    pub one_call: bool,
}

/// The state of one answer.
#[derive(Debug)]
pub struct Answer {
    sampler: Sampler,
    parser: Parser,
    stop: StopStrings,
    stop_texts: Vec<String>,
    max_tokens: u32,
    /// Tokens that the context has room for behind the prompt.
    room: u32,
    logprobs: Option<usize>,
    extra_ends: Vec<Token>,
    visible: Vec<Token>,
    guide: Guide,
    one_by_one: bool,
    one_call: bool,
    prompt_tokens: usize,
    cached_tokens: usize,
    generated: u32,
    forced: u32,
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
    /// An answer to `prompt`, submitted at `now`; the context holds `context` tokens in all.
    pub fn new(
        options: AnswerOptions,
        model: &Model,
        prompt: &[Token],
        context: usize,
        now: Instant,
    ) -> Self {
        Self {
            sampler: Sampler::new(options.sampling, model, prompt),
            parser: options.parser,
            stop: StopStrings::new(options.stop.clone()),
            stop_texts: options.stop,
            max_tokens: options.max_tokens.unwrap_or(u32::MAX),
            room: u32::try_from(context.saturating_sub(prompt.len())).unwrap_or(u32::MAX),
            // The log probability of a forced token is known only where it is computed by itself.
            one_by_one: options.one_by_one || options.logprobs.is_some(),
            one_call: options.one_call,
            logprobs: options.logprobs,
            extra_ends: options.extra_ends,
            visible: options.visible,
            guide: options.guide,
            prompt_tokens: prompt.len(),
            cached_tokens: 0,
            generated: 0,
            forced: 0,
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

    /// Tokens written so far, forced ones included.
    pub const fn generated(&self) -> u32 {
        self.generated
    }

    /// Whether the prompt is already longer than the limit allows to add to.
    pub const fn wants_nothing(&self) -> bool {
        self.max_tokens == 0
    }

    /// Takes the logits of the next token. Appends what became known to `events` and returns the tokens to
    /// compute next: the one that was chosen and those that are forced behind it. None: the answer is over, and
    /// its last event was appended.
    ///
    /// # Errors
    /// [`GuideError`] where no token can be chosen.
    pub fn step(
        &mut self,
        model: &Model,
        logits: &[f32],
        now: Instant,
        events: &mut Vec<Event>,
    ) -> Result<Vec<Token>, GuideError> {
        self.clock.first_token.get_or_insert(now);
        let mut next = Vec::new();
        self.hold_calls(events);
        if self.guide.is_over() {
            self.end(End::Natural, None, now, events);
            return Ok(next);
        }
        loop {
            let token = self.next_token(model, logits)?;
            self.note(model, logits, token);
            if !self.read(model, token, now, events)? {
                return Ok(Vec::new());
            }
            next.push(token);
            // What the context has no room for is not written either.
            if self.one_by_one || !self.guide.has_forced() || self.left() == 0 {
                return Ok(next);
            }
        }
    }

    /// Calls that a grammar holds are said as they come.
    fn hold_calls(&mut self, events: &mut Vec<Event>) {
        if let Some(hold) = self.guide.newly_held() {
            let mut deltas = Vec::new();
            self.parser.hold(&hold, &mut deltas);
            // Parts of calls: no stop string ends them.
            self.emit(deltas, events);
        }
    }

    fn next_token(&mut self, model: &Model, logits: &[f32]) -> Result<Token, GuideError> {
        let left = self.left();
        self.generated += 1;
        let phase = self.parser.phase();
        let drawn = match self.guide.forced() {
            None => self.guide.choose(&mut self.sampler, logits, model, phase, left)?,
            Some(token) => Chosen::Forced(token),
        };
        match drawn {
            Chosen::Drawn(token) => {
                self.sampler.accept(token);
                Ok(token)
            }
            Chosen::Forced(token) => {
                self.forced += 1;
                self.sampler.saw(token);
                Ok(token)
            }
        }
    }

    /// Tokens that may still be written.
    fn left(&self) -> u32 {
        self.max_tokens.min(self.room).saturating_sub(self.generated)
    }

    /// Reads a token that was written. False: it was the last.
    fn read(
        &mut self,
        model: &Model,
        token: Token,
        now: Instant,
        events: &mut Vec<Event>,
    ) -> Result<bool, GuideError> {
        let visible = self.visible.contains(&token);
        if !visible && (model.is_end(token) || self.extra_ends.contains(&token)) {
            self.end(End::Natural, None, now, events);
            return Ok(false);
        }
        let mut bytes = Vec::new();
        if visible {
            bytes = model.piece_spelled(token);
        } else {
            model.piece(token, &mut bytes);
        }
        let mut deltas = Vec::new();
        self.parser.push(&bytes, &mut deltas);
        if let Some(stop) = self.emit(deltas, events) {
            self.finish(Why::StopString(stop), now, events);
            return Ok(false);
        }
        let go = self.guide.took(token, &bytes, &self.parser, self.left())?;
        self.hold_calls(events);
        if go == Go::Over || self.one_call && self.parser.calls_made() > 0 {
            self.end(End::Natural, None, now, events);
            return Ok(false);
        }
        if self.generated >= self.max_tokens {
            self.end(End::Limit, Some(Why::Length), now, events);
            return Ok(false);
        }
        // The last token needs no room.
        if self.generated > self.room {
            self.end(End::Limit, Some(Why::ContextFull), now, events);
            return Ok(false);
        }
        Ok(true)
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
                // Several calls that came at once, as in a list.
                Delta::ToolCallStarted { index, .. }
                | Delta::ToolCallArguments { index, .. }
                | Delta::ToolCallCompleted { index, .. }
                    if self.one_call && index > 0 => {}
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
            forced_tokens: self.forced,
            queue: since(admitted, self.clock.submitted),
            prefill: since(first, admitted),
            decode: since(now, first),
        }));
    }
}
