//! One turn of a model: from the wish for a lease to the last thing that its engine says.

use std::pin::pin;

use futures_util::StreamExt;
use hearth_proto::v1 as pb;
use pb::progress::Stage;
use tokio::time::Instant;

use super::call::{Call, random};
use super::convert::{Answer, Generate, Summary};
use super::status::{Fault, Spoken};
use super::stream::{Outlet, Reader};
use crate::engines::event::{Finished, GenerateEvent};
use crate::engines::link::LinkError;
use crate::engines::request::GenerateRequest;
use crate::engines::{Acquiring, Engines, Intent, KeepAlive, Lease, Waiting, Wanted};
use crate::lifecycle::{LifecycleWatch, Phase};
use crate::metrics::Metrics;
use crate::units::ModelName;

/// How often a lease is taken that turns out to be on a dead engine. A request that was handed over is never
/// handed over again: it may be what killed the engine.
const ATTEMPTS: u32 = 3;

/// A request with what the configuration says of its model where the client does not.
pub(super) fn settled(request: Generate, engines: &Engines, model: &ModelName) -> Generate {
    let prompt = request.prompt.dated(engines.date(model));
    let sampling = request.sampling.or(&engines.sampling(model));
    Generate { prompt, sampling, ..request }
}

/// What the engine is asked. Where the client chose no seed, one is drawn.
pub(super) fn engine_request(call: &Call, request: Generate) -> GenerateRequest {
    let Generate { model: _, prompt, sampling, seed, stop, max_tokens, logprobs, output, keep_alive: _ } =
        request;
    GenerateRequest {
        request_id: call.request_id.clone(),
        prompt,
        sampling,
        stop,
        max_tokens,
        logprobs,
        seed: seed.unwrap_or_else(random),
        traceparent: call.traceparent.clone(),
        output,
    }
}

/// Tells a client what its model does.
#[derive(Debug)]
pub(super) struct Speaker {
    call: Call,
    answer: Answer,
    outlet: Outlet<pb::Event>,
}

impl Speaker {
    pub(super) fn new(call: Call, model: &ModelName, seed: u64, outlet: Outlet<pb::Event>) -> Self {
        let answer = Answer::new(call.request_id.clone(), random(), model.to_string(), seed, call.arrived);
        Self { call, answer, outlet }
    }

    /// A lease on an engine that is not known to have ended. The registry gives out no other, but an engine may
    /// end while the lease is on its way.
    pub(super) async fn lease(
        &mut self,
        engines: &Engines,
        model: &ModelName,
        keep_alive: Option<KeepAlive>,
    ) -> Result<Lease, Fault> {
        let wanted = Wanted { keep_alive, ..Intent::Answer.into() };
        let mut attempt = 1;
        loop {
            let acquiring = engines.acquire(model, wanted).await?;
            let lease = self.wait(acquiring).await?;
            if !lease.engine().has_ended() || attempt == ATTEMPTS {
                return Ok(lease);
            }
            attempt += 1;
        }
    }

    /// Waits for the model and tells how its load gets on.
    async fn wait(&mut self, mut acquiring: Acquiring) -> Result<Lease, Fault> {
        let mut has_waited = false;
        loop {
            match acquiring.next().await {
                Waiting::Over(lease) => {
                    if has_waited {
                        self.answer.loaded();
                    }
                    return Ok(lease?);
                }
                Waiting::Progress(progress) => {
                    has_waited = true;
                    if !self.answer.is_accepted() {
                        let waiting = acquiring.status().map_or(0, |status| status.waiting);
                        let ahead = u32::try_from(waiting.saturating_sub(1)).unwrap_or(u32::MAX);
                        self.outlet.send(self.answer.accepted(ahead)).await?;
                    }
                    self.outlet.send(self.answer.loading(progress)).await?;
                }
            }
        }
    }

    /// Hands the engine's events on until the turn is over; `hear` is shown what the model says.
    pub(super) async fn turn(
        &mut self,
        lease: &mut Lease,
        request: GenerateRequest,
        mut hear: impl FnMut(&pb::Event),
    ) -> Result<Finished, Fault> {
        let link = lease.engine().link().clone();
        let events = tokio::select! {
            biased;
            () = lease.aborted() => return Err(Fault::UnloadedInAnswer),
            events = link.generate(request, self.call.deadline) => events.map_err(|error| self.lost(error))?,
        };
        let mut events = pin!(events);
        loop {
            let event = tokio::select! {
                biased;
                () = lease.aborted() => return Err(Fault::UnloadedInAnswer),
                event = events.next() => event,
            };
            let event = event.unwrap_or(Err(LinkError::Protocol("an answer without an end")));
            let event = event.map_err(|error| self.lost(error))?;
            if let GenerateEvent::Finished(finished) = event {
                self.accept(0).await?;
                lease.mark_good();
                return Ok(finished);
            }
            self.tell(event, &mut hear).await?;
        }
    }

    /// Tells an event that is not the last one.
    async fn tell(&mut self, event: GenerateEvent, hear: &mut impl FnMut(&pb::Event)) -> Result<(), Fault> {
        match event {
            GenerateEvent::Accepted { queue_position } if !self.answer.is_accepted() => {
                return self.accept(queue_position).await;
            }
            GenerateEvent::Accepted { queue_position: 0 } => {}
            GenerateEvent::Accepted { queue_position } => {
                self.progress(Stage::Queue, 0, queue_position.into()).await?;
            }
            GenerateEvent::Prefill { done, total } => {
                self.accept(0).await?;
                self.progress(Stage::Prefill, done.into(), total.into()).await?;
            }
            GenerateEvent::Context { ahead } => {
                self.accept(0).await?;
                self.progress(Stage::Context, 0, ahead.into()).await?;
            }
            GenerateEvent::Delta(delta) => {
                self.accept(0).await?;
                for event in self.answer.delta(delta) {
                    hear(&event);
                    self.outlet.mark_spoken();
                    self.outlet.send(event).await?;
                }
            }
            // It ends the turn and is told with what comes after it.
            GenerateEvent::Finished(_) => {}
        }
        Ok(())
    }

    /// Says that the request has its place, where that was not said.
    async fn accept(&mut self, queue_position: u32) -> Result<(), Fault> {
        if self.answer.is_accepted() {
            return Ok(());
        }
        self.outlet.send(self.answer.accepted(queue_position)).await
    }

    async fn progress(&mut self, stage: Stage, done: u64, total: u64) -> Result<(), Fault> {
        self.outlet.send(self.answer.progress(stage, done, total)).await
    }

    /// Says the last event; what the turn took.
    pub(super) async fn finish(&mut self, finished: Finished) -> Result<Summary, Fault> {
        let (event, summary) = self.answer.finished(finished);
        self.outlet.send(event).await?;
        Ok(summary)
    }

    /// Says that the model waits for results; what the turn took.
    pub(super) async fn end_turn(&mut self, finished: Finished) -> Result<Summary, Fault> {
        let (event, summary) = self.answer.turn(finished);
        self.outlet.send(event).await?;
        Ok(summary)
    }

    /// The results came: another turn begins.
    pub(super) fn begin_turn(&mut self) {
        self.answer.begin_turn(Instant::now());
    }

    /// Says the last event of a loop whose calls get no results.
    pub(super) async fn give_up(&mut self) -> Result<(), Fault> {
        self.outlet.send(self.answer.given_up()).await
    }

    fn lost(&self, error: LinkError) -> Fault {
        let spoken = if self.answer.has_spoken() { Spoken::Tokens } else { Spoken::Nothing };
        Fault::Engine { error, spoken }
    }
}

/// Counts how an answer ended: well, with a fault, given up by its client, or cut off. Each turn of a tool loop
/// is an answer.
pub(super) struct Tally {
    metrics: Metrics,
    lifecycle: LifecycleWatch,
    model: ModelName,
    reader: Reader<pb::Event>,
    ended: bool,
}

impl Tally {
    pub(super) fn new(
        metrics: Metrics,
        lifecycle: LifecycleWatch,
        model: ModelName,
        reader: Reader<pb::Event>,
    ) -> Self {
        Self { metrics, lifecycle, model, reader, ended: false }
    }

    /// Counts what the work comes to; `None` where all of it is counted.
    pub(super) async fn keep(
        mut self,
        work: impl Future<Output = Result<Option<Summary>, Fault>>,
    ) -> Result<(), Fault> {
        let result = work.await;
        self.ended = true;
        match &result {
            Ok(Some(summary)) => count(&self.metrics, &self.model, summary),
            Ok(None) => {}
            Err(Fault::ClientGone) => self.ended = false,
            Err(fault) => self.metrics.answered(&self.model, fault.reason()),
        }
        result.map(drop)
    }
}

/// Counts a turn that ended well.
pub(super) fn count(metrics: &Metrics, model: &ModelName, Summary { reason, answered }: &Summary) {
    metrics.answered(model, reason);
    metrics.measured(model, answered);
}

/// An answer that is dropped has lost its client, its time or its daemon.
impl Drop for Tally {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if self.reader.is_gone() {
            self.metrics.cancelled(&self.model);
        } else if self.lifecycle.phase() >= Phase::Draining {
            self.metrics.answered(&self.model, "DRAINING");
        } else {
            self.metrics.answered(&self.model, "DEADLINE");
        }
    }
}
