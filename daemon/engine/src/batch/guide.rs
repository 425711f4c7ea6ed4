//! What holds an answer on its way: the constraint, the thought before it, and tokens that must come.
//!
//! ```text
//!   Before ── the thought is over, or none began ──► Bound ── complete ──► (the answer ends)
//!   Watch ─── the model opens a call ──────────────► Bound ── complete ──► Watch, or the answer ends
//! ```
//!
//! Forced tokens wait in a queue; nothing is drawn while there are any, so it makes no difference to the text
//! whether they are computed in one batch or one by one.
//!
//! **Closing.** Near the limit, a token is taken only if the answer can still be closed behind it; where it
//! cannot, the answer is closed at once, by the shortest way that was found.

use std::collections::VecDeque;

use crate::chat::{Hold, OpenCall, Parser, Phase, Style};
use crate::constrain::{Constraint, ConstraintError, Guidance, Mask};
use crate::llama::{Model, Token};
use crate::sample::{SampleError, Sampler};

/// Limits above this are far away: nothing is closed early.
const FAR: u32 = 16_384;
/// Where no way out was found, it is looked for again so many tokens later.
const LOOK_AGAIN: u32 = 32;
/// Tokens to spare below which the way out is looked at with every token, beside twice its length.
const NEAR: u32 = 64;
/// Most of that length that counts: each look costs up to some milliseconds.
const LONG_WAY: u32 = 256;
/// With more to spare, the next look comes when this part of it is used up: a token that opens a list or an object
/// makes the way out longer than by itself.
const SPARE_PART: u32 = 8;
/// Tokens left for what a way out does not count.
const SLACK: u32 = 4;
/// Tokens that an answer behind a thought gets where no way out was found.
const ROOM: u32 = 64;

/// How an answer's thought begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// There is none.
    Never,
    /// The model must open one.
    Demanded,
    /// The model may.
    Allowed,
    /// The prompt opened it.
    Done,
}

/// The thought before an answer.
#[derive(Clone, Debug)]
pub struct Thought {
    /// How it begins.
    pub opening: Opening,
    /// Most tokens.
    pub budget: Option<u32>,
    /// Tokens that open one.
    pub open: Vec<Token>,
    /// Tokens that close one in good order.
    pub close: Vec<Token>,
    /// Tokens between the closing mark and the answer.
    pub gap: Vec<Token>,
}

impl Thought {
    /// No thought.
    pub const fn none() -> Self {
        Self { opening: Opening::Never, budget: None, open: Vec::new(), close: Vec::new(), gap: Vec::new() }
    }
}

/// What an answer is held by.
#[derive(Debug)]
pub struct Guide {
    guidance: Option<Guidance>,
    state: State,
    /// Tokens that end an answer beside the model's own.
    extra_ends: Vec<Token>,
    thought: Thought,
    /// Tokens of the thought so far.
    thought_tokens: u32,
    /// The tokens that come open the thought.
    opens: bool,
    /// The last token belonged to the thought.
    in_thought: bool,
    closed: bool,
    /// Calls are held from here on, which the parser does not know yet.
    hold: Option<Hold>,
    queue: VecDeque<Token>,
    /// What the model opened is no call that the grammar knows.
    declined: bool,
    /// The way out was taken.
    closing: bool,
    /// With more tokens left than this, the way out is not looked at.
    look_below: u32,
    /// The longest way out so far.
    longest: u32,
    /// Tokens that the answer needs behind its thought, once that was looked at.
    needed: Option<u32>,
}

#[derive(Debug)]
enum State {
    Free,
    Watch,
    Before(Constraint),
    Bound(Constraint),
}

/// Why no token was chosen.
#[derive(Debug, thiserror::Error)]
pub enum GuideError {
    /// See [`SampleError`].
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// See [`ConstraintError`].
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
}

/// The next token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// By the sampler.
    Drawn(Token),
    /// It must come.
    Forced(Token),
}

/// Whether an answer goes on behind a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Go {
    /// It does.
    On,
    /// It is complete.
    Over,
}

impl Guide {
    /// A guide at the start of an answer.
    pub fn new(mut guidance: Option<Guidance>, thought: Thought, extra_ends: &[Token]) -> Self {
        let whole = guidance.as_mut().and_then(|guidance| guidance.whole.take());
        let watching = guidance.as_ref().is_some_and(|guidance| guidance.form.opened.is_some());
        let mut guide = Self {
            guidance,
            state: State::Free,
            extra_ends: extra_ends.to_vec(),
            thought,
            thought_tokens: 0,
            opens: false,
            in_thought: false,
            closed: false,
            hold: None,
            queue: VecDeque::new(),
            declined: false,
            closing: false,
            look_below: u32::MAX,
            longest: 0,
            needed: None,
        };
        match whole {
            Some(constraint) if guide.thought.opening == Opening::Never => {
                guide.bind(constraint);
                guide.hold_calls(None, &[]);
            }
            Some(constraint) => {
                if guide.thought.opening == Opening::Demanded {
                    guide.queue.extend(&guide.thought.open);
                    guide.opens = true;
                }
                guide.state = State::Before(constraint);
            }
            None if watching => guide.state = State::Watch,
            None => {}
        }
        guide
    }

    /// What is held since the last time this was asked.
    pub fn newly_held(&mut self) -> Option<Hold> {
        self.hold.take()
    }

    /// Whether nothing is to follow the first call.
    pub fn is_single(&self) -> bool {
        self.guidance.as_ref().is_some_and(|guidance| guidance.form.single)
    }

    fn hold_calls(&mut self, open: Option<OpenCall>, seen: &[u8]) {
        let form = self.guidance.as_ref().map(|guidance| &guidance.form);
        let Some(style) = form.and_then(|form| form.calls) else { return };
        // Bare JSON is a call only if what follows lets it be one.
        let certain =
            open.as_ref().is_none_or(|open| open.alone && (style != Style::Json || self.is_single()));
        if certain {
            self.hold = Some(Hold { style, open, seen: seen.to_vec() });
        }
    }

    /// The next token that must come, if one must.
    pub fn forced(&mut self) -> Option<Token> {
        self.queue.pop_front()
    }

    /// Whether a token must come next.
    pub fn has_forced(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether the answer is complete before its next token, which happens where the limit is reached on the
    /// way out.
    pub fn is_over(&mut self) -> bool {
        match &mut self.state {
            State::Bound(constraint) if self.queue.is_empty() => {
                constraint.is_over() && self.ends_with_constraint() || self.closing_is_done()
            }
            _ => false,
        }
    }

    /// Chooses the next token, where none is forced. `left` tokens may still be written, this one included.
    ///
    /// # Errors
    /// [`GuideError`].
    pub fn choose(
        &mut self,
        sampler: &mut Sampler,
        logits: &[f32],
        model: &Model,
        phase: Phase,
        left: u32,
    ) -> Result<Chosen, GuideError> {
        let think = self.may_open(phase, model);
        let constraint = match &mut self.state {
            State::Before(_) if phase == Phase::Thinking => None,
            State::Before(constraint) | State::Bound(constraint) => Some(constraint),
            State::Free | State::Watch => None,
        };
        let Some(constraint) = constraint else {
            let token = sampler.choose(logits, None)?;
            return Ok(self.end_in_thought(token, model).map_or(Chosen::Drawn(token), Chosen::Forced));
        };
        let mut mask = constraint.mask()?;
        if let Some(think) = think {
            mask.allow(think);
        }
        let token = draw(constraint, sampler, logits, model, &mut mask)?;
        if Some(token) == think {
            self.opens = true;
            self.queue.extend(&self.thought.open[1..]);
            return Ok(Chosen::Drawn(token));
        }
        Ok(self.keep_closable(token, model, left).map_or(Chosen::Drawn(token), Chosen::Forced))
    }

    /// The token that opens a thought here, if the model may and one token is all it takes: the first piece of a
    /// longer mark could be the answer's own.
    fn may_open(&self, phase: Phase, model: &Model) -> Option<Token> {
        if phase != Phase::Start || self.thought.opening != Opening::Allowed {
            return None;
        }
        self.thought.open.first().copied().filter(|&token| model.piece_spelled(token) == b"<think>")
    }

    /// An answer that must still come does not end with its thought: the thought is closed instead.
    fn end_in_thought(&mut self, token: Token, model: &Model) -> Option<Token> {
        let pending = matches!(self.state, State::Before(_)) && !self.closed;
        let ends = pending && (model.is_end(token) || self.extra_ends.contains(&token));
        let (&first, rest) = self.thought.close.split_first().filter(|_| ends)?;
        self.queue.extend(rest);
        self.closed = true;
        Some(first)
    }

    /// Takes note of a token that was written, forced or chosen; `bytes` is what it added and `parser` has read
    /// it. `left` tokens may still be written.
    ///
    /// # Errors
    /// [`GuideError`].
    pub fn took(&mut self, token: Token, bytes: &[u8], parser: &Parser, left: u32) -> Result<Go, GuideError> {
        let phase = parser.phase();
        if phase == Phase::Thinking {
            self.think(left);
        }
        match std::mem::replace(&mut self.state, State::Free) {
            State::Free => {}
            State::Watch => {
                self.state = State::Watch;
                self.watch(parser)?;
            }
            State::Before(constraint) => self.before(constraint, token, bytes, phase)?,
            State::Bound(mut constraint) => {
                constraint.take(token, bytes)?;
                self.state = State::Bound(constraint);
                return Ok(self.follow());
            }
        }
        Ok(Go::On)
    }

    /// The constraint has taken a token: it is complete, or forces more, or waits.
    fn follow(&mut self) -> Go {
        let State::Bound(constraint) = &mut self.state else { return Go::On };
        if constraint.is_over() && self.queue.is_empty() {
            if self.ends_with_constraint() {
                return Go::Over;
            }
            self.state = State::Watch;
        } else if self.queue.is_empty() {
            if self.closing_is_done() {
                return Go::Over;
            }
            self.force();
        }
        Go::On
    }

    fn force(&mut self) {
        if let State::Bound(constraint) = &mut self.state
            && !self.closing
        {
            self.queue.extend(constraint.forced());
        }
    }

    fn closing_is_done(&mut self) -> bool {
        match &mut self.state {
            State::Bound(constraint) => self.closing && self.queue.is_empty() && constraint.may_end(),
            _ => false,
        }
    }

    /// Whether nothing may follow the constraint that holds now.
    fn ends_with_constraint(&self) -> bool {
        self.closing
            || self
                .guidance
                .as_ref()
                .is_none_or(|guidance| guidance.form.opened.is_none() || guidance.form.single)
    }

    fn bind(&mut self, constraint: Constraint) {
        self.look_below = u32::MAX;
        self.state = State::Bound(constraint);
        self.force();
    }

    /// A model that opens a call is held to the call's grammar from the next token on.
    fn watch(&mut self, parser: &Parser) -> Result<(), GuideError> {
        let (Some(open), Some(guidance)) = (parser.open_call(), &self.guidance) else {
            self.declined = false;
            return Ok(());
        };
        if self.declined {
            return Ok(());
        }
        match guidance.opened(&open)? {
            Some(constraint) => {
                self.bind(constraint);
                self.hold_calls(Some(open), &[]);
            }
            None => self.declined = true,
        }
        Ok(())
    }

    /// The answer proper begins with the first token that is neither thought nor what closes one.
    fn before(
        &mut self,
        mut constraint: Constraint,
        token: Token,
        bytes: &[u8],
        phase: Phase,
    ) -> Result<(), GuideError> {
        let opens = self.opens && phase == Phase::Start;
        self.opens = opens;
        let thought = std::mem::replace(&mut self.in_thought, phase == Phase::Thinking);
        match phase {
            Phase::Thinking => self.state = State::Before(constraint),
            Phase::Start if opens => self.state = State::Before(constraint),
            _ if self.closed || thought || bytes.ends_with(b"</think>") => {
                let has_gap = bytes.ends_with(b"\n");
                if !std::mem::replace(&mut self.closed, true) && self.queue.is_empty() && !has_gap {
                    self.queue.extend(&self.thought.gap);
                }
                if self.queue.is_empty() {
                    self.bind(constraint);
                    self.hold_calls(None, &[]);
                } else {
                    self.state = State::Before(constraint);
                }
            }
            _ => {
                constraint.take(token, bytes)?;
                self.bind(constraint);
                self.hold_calls(None, bytes);
            }
        }
        Ok(())
    }

    /// Counts a token of the thought; closes the thought where its budget is spent, or where what must follow
    /// would not fit any more.
    fn think(&mut self, left: u32) {
        self.thought_tokens += 1;
        if self.closed || self.has_forced() || self.thought.close.is_empty() {
            return;
        }
        let spent = self.thought.budget.is_some_and(|budget| self.thought_tokens >= budget);
        if spent || self.must_leave_room(left) {
            self.queue.extend(&self.thought.close);
            self.closed = true;
        }
    }

    fn must_leave_room(&mut self, left: u32) -> bool {
        let State::Before(constraint) = &mut self.state else { return false };
        if left > FAR {
            return false;
        }
        let most = usize::try_from(left).unwrap_or(usize::MAX);
        let way_out = *self.needed.get_or_insert_with(|| {
            constraint.closing(most).map_or(ROOM, |plan| u32::try_from(plan.len()).unwrap_or(ROOM))
        });
        let close = u32::try_from(self.thought.close.len()).unwrap_or(0);
        // Twice the shortest answer, so that a real one has a chance.
        left <= way_out.saturating_mul(2).saturating_add(close + SLACK)
    }

    /// Near the limit: the first token of the way out, where `token` would leave none.
    fn keep_closable(&mut self, token: Token, model: &Model, left: u32) -> Option<Token> {
        let (State::Bound(constraint) | State::Before(constraint)) = &mut self.state else { return None };
        if left > FAR {
            return None;
        }
        if left > self.look_below {
            return None;
        }
        let most = usize::try_from(left).unwrap_or(usize::MAX);
        let Some(plan) = constraint.closing(most) else {
            self.look_below = left.saturating_sub(LOOK_AGAIN);
            return None;
        };
        let way_out = u32::try_from(plan.len()).unwrap_or(left);
        self.longest = self.longest.max(way_out);
        let spare = left.saturating_sub(way_out);
        let near = NEAR.saturating_add(self.longest.min(LONG_WAY).saturating_mul(2));
        if spare > near {
            self.look_below = left.saturating_sub((spare - near) / SPARE_PART);
            return None;
        }
        let bytes = piece(model, token);
        let fits =
            model.is_end(token) || constraint.closing_after(token, &bytes, most.saturating_sub(1)).is_some();
        if fits && way_out < left {
            return None;
        }
        let way_out = constraint.closing(most)?;
        let Some((&first, rest)) = way_out.split_first() else {
            // Complete as it is, and what `token` begins would not be.
            return model.end();
        };
        self.closing = true;
        self.queue.extend(rest);
        Some(first)
    }
}

/// Draws a token that the grammar allows and that keeps numbers readable.
fn draw(
    constraint: &Constraint,
    sampler: &mut Sampler,
    logits: &[f32],
    model: &Model,
    mask: &mut Mask,
) -> Result<Token, GuideError> {
    loop {
        let token = sampler.choose(logits, Some(mask))?;
        if model.is_control(token) || !constraint.is_absurd(&piece(model, token)) {
            return Ok(token);
        }
        mask.forbid(token);
    }
}

fn piece(model: &Model, token: Token) -> Vec<u8> {
    let mut bytes = Vec::new();
    model.piece(token, &mut bytes);
    bytes
}
