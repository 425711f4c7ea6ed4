//! Holding an answer to a grammar: which tokens may come next, which must, and how to close in time.
//!
//! The vocabulary's tables cost about a third of a second and 56 MB at 152,000 tokens, so they are made when a
//! request first asks for a grammar, and kept until memory is short. A mask costs some 20 µs then.

mod closing;
mod numbers;
mod vocabulary;

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use llguidance::api::{ParserLimits, StopReason, TopLevelGrammar};
use llguidance::toktrie::{InferenceCapabilities, SimpleVob, TokEnv};
use llguidance::{Matcher, ParserFactory};
use serde_json::Value;

use crate::chat::{Form, FormError, OpenCall, Opened, Output};
use crate::llama::{Model, Token};

use closing::Closers;
use numbers::Numbers;

/// Compiled grammars that are kept: the same tools come with every request of a program.
const KEPT: usize = 8;

/// How long the part of a schema is looked for that does not compile.
const LOCATING: Duration = Duration::from_millis(500);

/// What a grammar may cost, in the compiler's own units: no schema that was met in practice comes near, and the
/// worst that was found takes tenths of a second and some 50 MB. The compiler's own limits let 3 s and 240 MB pass,
/// which a board does not have while other answers are running.
fn limits() -> ParserLimits {
    ParserLimits {
        initial_lexer_fuel: 200_000,
        step_lexer_fuel: 100_000,
        step_max_items: 10_000,
        max_lexer_states: 50_000,
        max_grammar_size: 30_000,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

/// Why a constraint cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ConstraintError {
    /// The vocabulary cannot be made into tables.
    #[error("make the tables of the vocabulary: {0}")]
    Tables(String),
    /// The grammar's compiler refused.
    #[error("{0}")]
    Compile(String),
    /// The grammar became too large or failed while it ran.
    #[error("the grammar of the answer failed: {0}")]
    Run(String),
}

/// The vocabulary as grammars need it, and grammars compiled lately.
pub struct Grammars {
    model: Arc<Model>,
    ends: Vec<Token>,
    tables: Mutex<Option<Result<Arc<Tables>, String>>>,
    kept: Mutex<VecDeque<(u64, Matcher)>>,
}

struct Tables {
    environment: TokEnv,
    factory: ParserFactory,
    closers: Arc<Closers>,
}

/// One answer's grammar, at the place that the answer has reached.
pub struct Constraint {
    matcher: Matcher,
    environment: TokEnv,
    closers: Arc<Closers>,
    /// Watches numbers, where the grammar is JSON.
    numbers: Option<Numbers>,
    /// How to close from here, where that was asked.
    plan: Option<Vec<Token>>,
}

/// A set of tokens that may come next.
#[derive(Clone)]
pub struct Mask(SimpleVob);

/// What a request's grammars are compiled to.
pub struct Guidance {
    /// Holds from the first byte of the answer on.
    pub whole: Option<Constraint>,
    /// The request's form, for calls that the model opens.
    pub form: Form,
    /// Grammars of the calls that the model may open, compiled.
    ready: Vec<(u64, Matcher)>,
    grammars: Arc<Grammars>,
    tables: Arc<Tables>,
}

impl Grammars {
    /// Grammars over a model's vocabulary; `extra_ends` end an answer although the file does not say so.
    pub fn new(model: Arc<Model>, extra_ends: &[Token]) -> Self {
        Self { model, ends: extra_ends.to_vec(), tables: Mutex::default(), kept: Mutex::default() }
    }

    /// Compiles what a request asks for. Takes up to some milliseconds, the first time a third of a second.
    ///
    /// # Errors
    /// [`FormError`] with the field that the compiler complains about, or [`ConstraintError`].
    pub fn compile(
        self: &Arc<Self>,
        form: Form,
        output: Option<&Output>,
    ) -> Result<Option<Guidance>, Result<FormError, ConstraintError>> {
        let complaint = |why: String| {
            let started = Instant::now();
            let complain = |grammar: &TopLevelGrammar| {
                // The field is known in any case; its part is worth a moment only.
                if started.elapsed() > LOCATING {
                    return None;
                }
                self.matcher(grammar).err().map(|error| first_line(&error.to_string()))
            };
            form.complain(first_line(&why), output, &complain)
        };
        let compiled = |grammar: &TopLevelGrammar| match self.constraint(grammar, form.is_json) {
            Ok(constraint) => Ok(constraint),
            Err(ConstraintError::Compile(why)) => Err(Ok(complaint(why))),
            Err(other) => Err(Err(other)),
        };
        let whole = form.whole.as_ref().map(compiled).transpose()?;
        // What a call may look like is found out now, while the request can still be refused.
        // Later, in the middle of a step, all answers would wait for it.
        let mut ready = Vec::new();
        for grammar in form.opened.iter().flat_map(Opened::expected) {
            compiled(&grammar)?;
            ready.push((key(&grammar), self.matcher(&grammar).map_err(Err)?));
        }
        if whole.is_none() && form.opened.is_none() {
            return Ok(None);
        }
        let tables = self.tables().map_err(Err)?;
        Ok(Some(Guidance { whole, form, ready, grammars: Arc::clone(self), tables }))
    }

    /// Gives up everything that is kept. What was compiled for an answer stays with the answer.
    pub fn forget(&self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
        *self.tables.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn constraint(&self, grammar: &TopLevelGrammar, is_json: bool) -> Result<Constraint, ConstraintError> {
        Ok(self.tables()?.holding(self.matcher(grammar)?, is_json))
    }

    /// A matcher at its beginning, from those that are kept or compiled.
    fn matcher(&self, grammar: &TopLevelGrammar) -> Result<Matcher, ConstraintError> {
        let key = key(grammar);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = kept.iter().position(|(known, _)| *known == key)
            && let Some(entry) = kept.remove(at)
        {
            // A copy of its own: what one answer adds to the lexer's tables must not grow for ever.
            let copy = entry.1.deep_clone();
            kept.push_back(entry);
            return Ok(copy);
        }
        drop(kept);
        let matcher = Matcher::new(self.tables()?.factory.create_parser(grammar.clone()));
        if let Some(why) = matcher.get_error() {
            return Err(ConstraintError::Compile(why));
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back((key, matcher.deep_clone()));
        Ok(matcher)
    }

    fn tables(&self) -> Result<Arc<Tables>, ConstraintError> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let made = tables.get_or_insert_with(|| Tables::new(&self.model, &self.ends).map(Arc::new));
        made.clone().map_err(ConstraintError::Tables)
    }
}

impl Tables {
    fn new(model: &Arc<Model>, ends: &[Token]) -> Result<Self, String> {
        let environment = vocabulary::environment(model, ends)?;
        let slices = llguidance::earley::SlicedBiasComputer::json_slices();
        let mut factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices)
            .map_err(|error| error.to_string())?;
        factory.quiet();
        *factory.limits_mut() = limits();
        let closers = Arc::new(Closers::new(environment.tok_trie()));
        Ok(Self { environment, factory, closers })
    }

    fn holding(&self, matcher: Matcher, is_json: bool) -> Constraint {
        Constraint {
            matcher,
            environment: Arc::clone(&self.environment),
            closers: Arc::clone(&self.closers),
            numbers: is_json.then(Numbers::default),
            plan: None,
        }
    }
}

impl Guidance {
    /// The constraint of a call that the model has just opened; `None` where what it wrote so far is no call
    /// that the grammar knows, and stays text.
    ///
    /// # Errors
    /// [`ConstraintError`] where the grammar fails although it was compiled before.
    pub fn opened(&self, open: &OpenCall) -> Result<Option<Constraint>, ConstraintError> {
        let Some((grammar, written)) = self.form.opened.as_ref().and_then(|opened| opened.rest(open)) else {
            return Ok(None);
        };
        let wanted = key(&grammar);
        let ready = self.ready.iter().find(|(key, _)| *key == wanted);
        let matcher =
            ready.map_or_else(|| self.grammars.matcher(&grammar), |(_, ready)| Ok(ready.deep_clone()))?;
        let mut constraint = self.tables.holding(matcher, true);
        Ok(constraint.take_text(written.as_bytes()).then_some(constraint))
    }
}

impl Constraint {
    /// The tokens that may come next.
    ///
    /// # Errors
    /// [`ConstraintError::Run`].
    pub fn mask(&mut self) -> Result<Mask, ConstraintError> {
        self.matcher.compute_mask_or_eos().map(Mask).map_err(|error| run(&error))
    }

    /// Takes the token that was chosen. `bytes` is what it adds to the answer.
    ///
    /// # Errors
    /// [`ConstraintError::Run`], also for a token that may not come here.
    pub fn take(&mut self, token: Token, bytes: &[u8]) -> Result<(), ConstraintError> {
        self.matcher.consume_token(token.unsigned_abs()).map_err(|error| run(&error))?;
        if let Some(numbers) = &mut self.numbers {
            numbers.push(bytes);
        }
        self.plan = match self.plan.take() {
            Some(plan) if plan.first() == Some(&token) => Some(plan[1..].to_vec()),
            _ => None,
        };
        Ok(())
    }

    /// Tokens that must come next whatever the model wants, in canonical tokenization.
    pub fn forced(&mut self) -> Vec<Token> {
        let forced = self.matcher.compute_ff_tokens();
        forced.into_iter().map(u32::cast_signed).collect()
    }

    /// Whether the answer is complete and nothing more may come.
    pub fn is_over(&self) -> bool {
        self.matcher.is_stopped() && self.matcher.stop_reason().is_ok()
    }

    /// Whether the answer may end here.
    pub fn may_end(&mut self) -> bool {
        self.is_over() || self.matcher.is_accepting().unwrap_or(false)
    }

    /// Whether a token would take a number out of what a double holds. No schema means that, and no program
    /// could read it.
    pub fn is_absurd(&self, bytes: &[u8]) -> bool {
        self.numbers.as_ref().is_some_and(|numbers| !numbers.clone().push(bytes))
    }

    /// Tokens that close the answer from here, at most `most`; `None` where no such way was found.
    pub fn closing(&mut self, most: usize) -> Option<&[Token]> {
        if self.plan.is_none() {
            let in_string = self.numbers.as_ref().map(Numbers::in_string);
            self.plan = self.closers.plan(&self.matcher, self.environment.tok_trie(), in_string, most);
        }
        self.plan.as_deref()
    }

    /// How many tokens it would take to close after `token`, if not more than `most`. The way that is known
    /// already is tried first.
    pub fn closing_after(&mut self, token: Token, bytes: &[u8], most: usize) -> Option<usize> {
        let mut after = Self {
            matcher: self.matcher.clone(),
            environment: Arc::clone(&self.environment),
            closers: Arc::clone(&self.closers),
            numbers: self.numbers.clone(),
            plan: None,
        };
        let known = self.plan.clone();
        after.take(token, bytes).ok()?;
        if let Some(plan) = known.filter(|plan| plan.len() <= most) {
            let mut trial = after.matcher.clone();
            let ids: Vec<u32> = plan.iter().map(|token| token.unsigned_abs()).collect();
            if trial.try_consume_tokens(&ids).is_ok_and(|taken| taken == ids.len())
                && trial.is_accepting().unwrap_or(false)
            {
                return Some(plan.len());
            }
        }
        after.closing(most).map(<[Token]>::len)
    }

    /// Takes text that was written before the constraint began. False: the grammar does not allow it.
    fn take_text(&mut self, text: &[u8]) -> bool {
        let tokens = self.environment.tokenize_bytes(text);
        let taken = self.matcher.try_consume_tokens(&tokens).is_ok_and(|taken| taken == tokens.len());
        if let Some(numbers) = &mut self.numbers {
            numbers.push(text);
        }
        taken && !self.matcher.is_error()
    }
}

impl Mask {
    /// Whether a token may come.
    pub fn allows(&self, token: Token) -> bool {
        u32::try_from(token).is_ok_and(|token| (token as usize) < self.0.len() && self.0.is_allowed(token))
    }

    /// The set as bits, 32 tokens a word, the first token lowest.
    pub fn words(&self) -> &[u32] {
        self.0.as_slice()
    }

    /// Takes a token out.
    pub fn forbid(&mut self, token: Token) {
        self.0.disallow_token(token.unsigned_abs());
    }

    /// Puts a token in.
    pub fn allow(&mut self, token: Token) {
        self.0.allow_token(token.unsigned_abs());
    }

    /// Whether nothing may come.
    pub fn is_empty(&self) -> bool {
        self.0.is_zero()
    }
}

fn run(error: &dyn std::fmt::Display) -> ConstraintError {
    ConstraintError::Run(first_line(&error.to_string()))
}

/// A complaint without the dumps that follow it.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn key(grammar: &TopLevelGrammar) -> u64 {
    let mut hasher = DefaultHasher::new();
    for part in &grammar.grammars {
        part.name.hash(&mut hasher);
        part.lark_grammar.hash(&mut hasher);
        part.json_schema.as_ref().map(Value::to_string).hash(&mut hasher);
    }
    hasher.finish()
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammars").field("ends", &self.ends).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Constraint").field("stop", &self.matcher.stop_reason()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Guidance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guidance").field("form", &self.form).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mask({} tokens)", self.0.num_set())
    }
}

const _: () = {
    const fn sends<T: Send>() {}
    // Compiled on one thread, run on another.
    sends::<Constraint>();
    assert!(matches!(StopReason::NotStopped, StopReason::NotStopped));
};

#[cfg(test)]
mod tests;
