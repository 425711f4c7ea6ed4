//! Who gets memory: loads, contexts that grow, and what else the daemon needs; and who gives it back.

use super::model::{Growth, Model, Phase, Step, Stop};
use super::{Books, Effect, InstanceId, Level, Options, State, UnloadMode};
use crate::engines::AcquireError;
use crate::engines::config::Explicit;
use crate::memory::need::{Choice, Estimate, STEP, Sizes};
use crate::memory::plan::{Holder, Plan, Refusal, Room, plan, without_waiting};
use crate::units::{Bytes, ModelName};

/// A load that waits lets later ones that fit go first for so long, in milliseconds. After that they wait, too: the
/// models that they would bring might keep it out for ever.
const PATIENCE: u64 = 10_000;

/// What a load would do.
#[derive(Clone, Debug)]
pub(crate) struct Preview {
    pub(crate) action: Action,
    /// The way in which it is or would be loaded.
    pub(crate) choice: Choice,
    /// Most tokens that its context may grow to then.
    pub(crate) ceiling: u32,
    /// Models that would go: what they hold, and how long it takes to load them.
    pub(crate) evictions: Vec<(ModelName, Bytes, Option<u64>)>,
}

/// What a load would do, in a word.
#[derive(Clone, Debug)]
pub enum Action {
    /// Nothing: it is in memory, and not in another way than is wanted.
    Nothing,
    /// Load it.
    Load,
    /// Evict others first.
    Evict,
    /// Wait for others first.
    Wait,
    /// Refuse.
    Refuse(AcquireError),
}

impl State {
    /// Lets loads in that wait for memory, oldest first. While one waits, later ones get what is free, but only for a
    /// while.
    pub(super) fn admit(&mut self, books: Books, now: u64, out: &mut Vec<Effect>) {
        self.alarm = None;
        if self.pressure == Level::Full {
            // What comes free is the board's.
            return;
        }
        let mut free = books.free;
        let mut in_line: Option<u64> = None;
        for (instance, name, since) in self.waiting_for_memory() {
            let Some(options) = self.models.get(&name).and_then(|model| model.options.clone()) else {
                continue;
            };
            if let Some(first_since) = in_line {
                let may_pass = now < first_since.saturating_add(PATIENCE);
                let fits =
                    options.choices.first().filter(|choice| may_pass && choice.estimate.peak() <= free);
                if let Some(choice) = fits {
                    free = free.saturating_sub(choice.estimate.peak());
                    self.let_in(&name, instance, *choice, now, out);
                }
                continue;
            }
            match self.best(&name, &options, self.room(books, free, now)) {
                (choice, Plan::Load) => {
                    free = free.saturating_sub(choice.estimate.peak());
                    self.let_in(&name, instance, choice, now, out);
                }
                (_, Plan::Wait { until }) => {
                    self.alarm = until;
                    in_line = Some(since);
                }
                (_, Plan::Evict(models)) => {
                    let reason = format!("evicted to make room for {name}");
                    self.end_all(&models, &reason, out);
                    in_line = Some(since);
                }
                (_, Plan::Close { models, until }) => {
                    let reason = format!("its turn is over and {name} waits for its memory");
                    self.end_all(&models, &reason, out);
                    self.alarm = until;
                    in_line = Some(since);
                }
                (_, Plan::Refuse(refusal)) => self.refuse(&name, refusal, out),
            }
        }
    }

    /// The first of the ways to load a model that needs nobody to be waited for, else the first that can wait, else
    /// the refusal of the best.
    fn best(&self, name: &ModelName, options: &Options, room: Room) -> (Choice, Plan<ModelName>) {
        let holders = self.holders(Some(name));
        let mut waits: Option<(Choice, Plan<ModelName>)> = None;
        let mut refused: Option<(Choice, Plan<ModelName>)> = None;
        for choice in &options.choices {
            match plan(choice.estimate.peak(), room, &holders) {
                Plan::Refuse(refusal) => {
                    let refusal = with_context(refusal, options, room.budget);
                    let is_better = matches!(refusal, Refusal::FullNow { .. })
                        && matches!(refused, Some((_, Plan::Refuse(Refusal::NeverFits { .. }))));
                    if refused.is_none() || is_better {
                        refused = Some((*choice, Plan::Refuse(refusal)));
                    }
                }
                close @ Plan::Close { .. } => drop(waits.get_or_insert((*choice, close))),
                other => return (*choice, other),
            }
        }
        waits.or(refused).unwrap_or_else(|| {
            let none = Choice { sizes: options.wish.sizes, repack: false, estimate: Estimate::default() };
            let (need, budget) = (Bytes(0), room.budget);
            (none, Plan::Refuse(Refusal::NeverFits { need, budget, context: None }))
        })
    }

    fn let_in(
        &mut self,
        name: &ModelName,
        instance: InstanceId,
        choice: Choice,
        now: u64,
        out: &mut Vec<Effect>,
    ) {
        let Some(model) = self.models.get_mut(name) else { return };
        let ceiling = model.ceiling().max(choice.sizes.tokens);
        let step = Step::Starting { charge: choice.estimate.peak(), permille: 0, since: now };
        model.phase = Phase::Loading { instance, step };
        model.choice = Some(choice);
        model.began_with = choice.sizes.tokens;
        out.push(Effect::Admit { model: name.clone(), instance, choice, ceiling });
    }

    /// What a load would do now that somebody wants like this; `options` are the ways to do it.
    pub(crate) fn preview(
        &self,
        name: &ModelName,
        explicit: Explicit,
        options: &Options,
        books: Books,
        now: u64,
    ) -> Preview {
        let unknown = Model::default();
        let model = self.models.get(name).unwrap_or(&unknown);
        if let Some(choice) = model.choice.filter(|_| model.phase.is_ready() && !model.differs(explicit)) {
            return Preview {
                action: Action::Nothing,
                choice,
                ceiling: model.ceiling(),
                evictions: Vec::new(),
            };
        }
        let (choice, decision) = self.decision(name, options, books, now);
        let (action, evictions) = match (self.refuses(model), decision) {
            (Some(error), _) => (Action::Refuse(error), Vec::new()),
            (None, Plan::Refuse(refusal)) => (Action::Refuse(refusal.into()), Vec::new()),
            // One that has its place in line, or is to be loaded anew, waits until the board has memory again.
            (None, _) if self.pressure == Level::Full => (Action::Wait, Vec::new()),
            (None, Plan::Load) => (Action::Load, Vec::new()),
            (None, Plan::Wait { .. }) => (Action::Wait, Vec::new()),
            (None, Plan::Evict(models)) => (Action::Evict, self.told(&models)),
            (None, Plan::Close { models, .. }) => (Action::Wait, self.told(&models)),
        };
        Preview { action, choice, ceiling: model.capped(options.ceiling), evictions }
    }

    /// What would be done for it if it were asked for now, and the last to wait.
    fn decision(
        &self,
        name: &ModelName,
        options: &Options,
        books: Books,
        now: u64,
    ) -> (Choice, Plan<ModelName>) {
        // What it holds itself comes back before it is loaded anew. What leaves already is coming in any case.
        let own = match self.models.get(name).map(|model| model.phase) {
            Some(Phase::Unloading { .. }) | None => Bytes(0),
            Some(phase) => phase.staying(),
        };
        let room = self.room(books, books.free, now);
        let room = Room { coming: room.coming + own, arriving: self.arriving(Some(name)), ..room };
        match self.best(name, options, room) {
            // It waits for a moment, whether they are asked again, and then they go.
            (choice, Plan::Wait { until: Some(_) }) => {
                (choice, without_waiting(choice.estimate.peak(), room, &self.holders(Some(name))))
            }
            other => other,
        }
    }

    /// Why a load would be refused, whatever memory there is.
    fn refuses(&self, model: &Model) -> Option<AcquireError> {
        let pressed = self.pressure == Level::Full;
        match model.refusal(self.draining, pressed) {
            // A load lifts it.
            Some(AcquireError::Quarantined { .. }) => pressed.then_some(AcquireError::Pressure),
            other => other,
        }
    }

    /// Models with what they hold and how long they take to load.
    fn told(&self, models: &[ModelName]) -> Vec<(ModelName, Bytes, Option<u64>)> {
        let told = models.iter().map(|name| {
            let model = self.models.get(name);
            let charge = model.map(|model| model.phase.staying()).unwrap_or_default();
            (name.clone(), charge, model.and_then(|model| model.load_ms))
        });
        told.collect()
    }

    /// The state of memory, of which so much is still free.
    fn room(&self, books: Books, free: Bytes, now: u64) -> Room {
        // What comes back pays for what is over the budget first.
        let coming = (self.coming(true) + books.passing).saturating_sub(books.over);
        Room { budget: books.budget, free, coming, arriving: self.arriving(None), now }
    }

    // ---- contexts that grow

    pub(super) fn wants(&mut self, name: &ModelName, of: InstanceId, tokens: u32, out: &mut Vec<Effect>) {
        let Some(model) = self.models.get_mut(name) else { return };
        let (instance, Some(choice)) = (model.phase.instance(), model.choice) else { return };
        // Until it has answered what it was told last, what it wants may be settled by that.
        if instance != Some(of) || matches!(model.growth, Some(Growth::Made | Growth::Told)) {
            return;
        }
        match model.phase {
            Phase::Ready { .. } if tokens > choice.sizes.tokens => {
                model.growth = Some(Growth::Wanted(tokens))
            }
            Phase::Ready { .. } => {}
            _ => model.refuse_growth(of, out),
        }
    }

    pub(super) fn resized(&mut self, name: &ModelName, of: InstanceId, tokens: u32, out: &mut Vec<Effect>) {
        let Some(model) = self.models.get_mut(name) else { return };
        if model.phase.instance() != Some(of) {
            return;
        }
        // It is told one thing at a time.
        model.growth = None;
        let Some(choice) = model.choice else { return };
        let sizes = Sizes { tokens, ..choice.sizes };
        let estimate = model.options.as_ref().and_then(|o| o.footprint.estimate(&sizes, choice.repack));
        let Some(estimate) = estimate else { return };
        model.choice = Some(Choice { sizes, estimate, ..choice });
        let bytes = estimate.loaded() + model.excess;
        match &mut model.phase {
            Phase::Ready { charge, .. } | Phase::Unloading { charge, .. } if bytes != *charge => {
                self.settled.note(*charge, bytes);
                *charge = bytes;
                out.push(Effect::Settle { instance: of, bytes });
            }
            _ => {}
        }
    }

    /// What is there must be counted, whatever size its context has from now on.
    pub(super) fn takes(&mut self, name: &ModelName, of: InstanceId, bytes: Bytes, out: &mut Vec<Effect>) {
        let Some(model) = self.models.get_mut(name) else { return };
        if let Phase::Ready { instance, charge, .. } | Phase::Unloading { instance, charge, .. } =
            &mut model.phase
            && *instance == of
            && *charge < bytes
        {
            model.excess = model.excess + bytes.saturating_sub(*charge);
            self.settled.note(*charge, bytes);
            *charge = bytes;
            out.push(Effect::Settle { instance: of, bytes });
        }
    }

    /// Gets memory for contexts that are to grow. They come before loads: somebody is in the middle of an answer.
    /// What is free afterwards.
    pub(super) fn grow(&mut self, books: Books, now: u64, out: &mut Vec<Effect>) -> Bytes {
        let mut free = books.free;
        if self.pressure == Level::Full {
            return free;
        }
        let wanting: Vec<(ModelName, u32)> = self
            .models
            .iter()
            .filter_map(|(name, model)| match (model.growth, model.phase) {
                (Some(Growth::Wanted(tokens)), Phase::Ready { .. }) => Some((name.clone(), tokens)),
                _ => None,
            })
            .collect();
        for (name, tokens) in wanting {
            let room =
                Room { budget: books.budget, free, coming: self.coming(false), arriving: Bytes(0), now };
            free = free.saturating_sub(self.grow_one(&name, tokens, room, out));
        }
        free
    }

    /// What of the free memory it takes.
    fn grow_one(&mut self, name: &ModelName, wanted: u32, room: Room, out: &mut Vec<Effect>) -> Bytes {
        let holders = self.holders(Some(name));
        let Some(model) = self.models.get_mut(name) else { return Bytes(0) };
        let Phase::Ready { instance, leases, charge } = model.phase else { return Bytes(0) };
        let mut reason = format!("its context may not have more than {} tokens", model.ceiling());
        let room = Room { budget: room.budget.saturating_sub(charge), ..room };
        let sizes = model.next_contexts(wanted).into_iter();
        let sizes =
            sizes.filter_map(|tokens| Some((tokens, model.growth_peak(tokens)?.saturating_sub(charge))));
        let mut sizes: Vec<(u32, Bytes)> = sizes.collect();
        // What is free is enough for one of them before anybody goes for another.
        sizes.sort_by_key(|(_, extra)| *extra > room.free);
        for (tokens, extra) in sizes {
            match without_waiting(extra, room, &holders) {
                Plan::Load => {
                    model.growth = Some(Growth::Made);
                    model.phase = Phase::Ready { instance, leases, charge: charge + extra };
                    let bytes = charge + extra;
                    out.push(Effect::Grow { model: name.clone(), instance, bytes, tokens });
                    return extra;
                }
                Plan::Evict(models) => {
                    let reason = format!("evicted to make room for a longer context of {name}");
                    self.end_all(&models, &reason, out);
                    return Bytes(0);
                }
                Plan::Wait { .. } | Plan::Close { .. } => return Bytes(0),
                Plan::Refuse(refusal) => reason = refused_growth(tokens, extra, &refusal),
            }
        }
        model.growth = Some(Growth::Told);
        out.push(Effect::RefuseGrowth { instance, reason });
        Bytes(0)
    }

    // ---- giving back

    /// Idle models go, those that are worth least first, until the others keep within the budget.
    pub(super) fn fit(&mut self, books: Books, now: u64, out: &mut Vec<Effect>) {
        let over = books.over.saturating_sub(self.coming(true));
        if over > Bytes(0) {
            self.give_back(over, &format!("the memory budget shrank to {}", books.budget), now, out);
        }
    }

    /// Idle models go until so much is free, and those in use whose turn is over.
    pub(super) fn make_room(
        &mut self,
        need: Bytes,
        purpose: &str,
        books: Books,
        now: u64,
        out: &mut Vec<Effect>,
    ) {
        match plan(need, self.room(books, books.free, now), &self.holders(None)) {
            Plan::Evict(models) => self.end_all(&models, &format!("evicted to make room for {purpose}"), out),
            Plan::Close { models, .. } => {
                self.end_all(&models, &format!("its turn is over and {purpose} waits for its memory"), out);
            }
            Plan::Load | Plan::Wait { .. } | Plan::Refuse(_) => {}
        }
    }

    /// The board is short of memory: what is cached goes first, then models that nobody uses, one at a time.
    pub(super) fn press(&mut self, level: Level, now: u64, out: &mut Vec<Effect>) {
        self.pressure = level;
        if level == Level::None {
            self.shed = false;
            return;
        }
        let first = !std::mem::replace(&mut self.shed, true);
        // One that was in use could not give its context back then.
        let ready = self.models.values_mut().filter_map(|model| match (model.phase, model.growth) {
            (Phase::Ready { instance, .. }, None) if first || model.has_grown() => {
                model.growth = Some(Growth::Told);
                Some(Effect::Shed { instance, tokens: model.began_with })
            }
            _ => None,
        });
        out.extend(ready);
        if first {
            return;
        }
        self.give_back(Bytes(1), "the board is short of memory", now, out);
    }

    fn give_back(&mut self, bytes: Bytes, reason: &str, now: u64, out: &mut Vec<Effect>) {
        let idle: Vec<_> = self.holders(None).into_iter().filter(|h| h.idle_since.is_some()).collect();
        let all: Bytes = idle.iter().map(|holder| holder.charge).sum();
        let room =
            Room { budget: Bytes(u64::MAX), free: Bytes(0), coming: Bytes(0), arriving: Bytes(0), now };
        if let Plan::Evict(models) = without_waiting(bytes.min(all), room, &idle) {
            self.end_all(&models, reason, out);
        }
    }

    fn end_all(&mut self, models: &[ModelName], reason: &str, out: &mut Vec<Effect>) {
        for name in models {
            if let Some(model) = self.models.get_mut(name) {
                model.end(reason, UnloadMode::Wait, out);
            }
        }
    }

    pub(super) fn refuse(&mut self, name: &ModelName, refusal: Refusal, out: &mut Vec<Effect>) {
        if let Some(model) = self.models.get_mut(name) {
            model.fail_waiters(&AcquireError::Refused(refusal), out);
            model.end(&refusal.to_string(), UnloadMode::Wait, out);
        }
    }

    fn waiting_for_memory(&self) -> Vec<(InstanceId, ModelName, u64)> {
        let waiting = self.models.iter().filter_map(|(name, model)| match model.phase {
            Phase::Loading { instance, step: Step::Waiting { since } } => {
                Some((instance, name.clone(), since))
            }
            _ => None,
        });
        let mut waiting: Vec<_> = waiting.collect();
        waiting.sort();
        waiting
    }

    /// What engines that are to end will give back; those that end their answers first, too, where `patient`.
    fn coming(&self, patient: bool) -> Bytes {
        let charge = |model: &Model| match model.phase {
            Phase::Unloading { charge, stop, .. } if patient || stop == Stop::Told => Some(charge),
            _ => None,
        };
        self.models.values().filter_map(charge).sum()
    }

    /// What models hold that may be asked to go once they have come, or grown.
    fn arriving(&self, but: Option<&ModelName>) -> Bytes {
        let charge = |(name, model): (&ModelName, &Model)| match model.phase {
            _ if self.pinned.contains(name) || Some(name) == but => None,
            Phase::Loading { step: Step::Starting { charge, .. }, .. } => Some(charge),
            Phase::Ready { charge, .. } if model.growth == Some(Growth::Made) => Some(charge),
            _ => None,
        };
        self.models.iter().filter_map(charge).sum()
    }

    /// Loaded models that may be asked to go.
    fn holders(&self, but: Option<&ModelName>) -> Vec<Holder<ModelName>> {
        let may_go = |name: &&ModelName| !self.pinned.contains(*name) && Some(*name) != but;
        self.models.keys().filter(may_go).filter_map(|name| self.models.get(name)?.holder(name)).collect()
    }
}

impl Model {
    /// Sizes to grow to, the best first: doubled until it is enough, so that it is seldom; else just enough.
    fn next_contexts(&self, wanted: u32) -> Vec<u32> {
        let (Some(choice), ceiling) = (self.choice, self.ceiling()) else { return Vec::new() };
        if wanted > ceiling || wanted <= choice.sizes.tokens {
            return Vec::new();
        }
        let doubled = std::iter::successors(Some(choice.sizes.tokens.max(1)), |tokens| tokens.checked_mul(2));
        let doubled = doubled.take(32).find(|tokens| *tokens >= wanted).unwrap_or(wanted).min(ceiling);
        let enough = wanted.next_multiple_of(STEP).min(ceiling);
        if enough < doubled { vec![doubled, enough] } else { vec![doubled] }
    }

    /// The most that the engine takes while its context is made anew: what was cached is in memory twice.
    fn growth_peak(&self, tokens: u32) -> Option<Bytes> {
        let (choice, options) = (self.choice?, self.options.as_ref()?);
        let grown = options.footprint.estimate(&Sizes { tokens, ..choice.sizes }, choice.repack)?;
        Some(grown.loaded() + self.excess + choice.estimate.kv)
    }
}

/// A refusal names what would fit.
fn with_context(refusal: Refusal, options: &Options, budget: Bytes) -> Refusal {
    match refusal {
        Refusal::NeverFits { need, budget: all, context: _ } => {
            let context = options.footprint.largest_context(&options.wish, budget);
            Refusal::NeverFits { need, budget: all, context }
        }
        other => other,
    }
}

fn refused_growth(tokens: u32, extra: Bytes, refusal: &Refusal) -> String {
    let free = match refusal {
        Refusal::NeverFits { budget, .. } => format!("the whole memory budget leaves {budget} to it"),
        Refusal::FullNow { free, idle, .. } => {
            format!("{free} are free and {idle} more could be freed, the rest is in use")
        }
    };
    format!("a context of {tokens} tokens takes {extra} more for a moment, and {free}")
}
