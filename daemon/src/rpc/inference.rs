//! `hearth.v1.Inference`.

use std::pin::pin;

use futures_util::StreamExt;
use hearth_proto::v1 as pb;
use hearth_proto::v1::inference_server::Inference;
use pb::progress::Stage;
use tonic::{Request, Response, Status};

use super::call::{Call, random};
use super::convert::{Answer, Generate, Summary, model_ref, prompt_of};
use super::status::{Fault, Spoken};
use super::stream::{OnDrain, Outlet, Reply, Streams};
use crate::engines::event::{GenerateEvent, Rendered};
use crate::engines::link::LinkError;
use crate::engines::request::GenerateRequest;
use crate::engines::{Acquiring, Engines, Intent, Lease, Waiting};
use crate::metrics::Metrics;
use crate::units::ModelName;

/// How often a lease is taken that turns out to be on a dead engine. A request that was handed over is never
/// handed over again: it may be what killed the engine.
const ATTEMPTS: u32 = 3;

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct InferenceService {
    pub(crate) engines: Engines,
    pub(crate) streams: Streams,
    pub(crate) metrics: Metrics,
}

#[tonic::async_trait]
impl Inference for InferenceService {
    type GenerateStream = Reply<pb::Event>;

    async fn generate(
        &self,
        request: Request<pb::GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let call = Call::open(&request);
        let request = Generate::try_from(request.into_inner()).map_err(|e| call.fail(&e.into()))?;
        let model = self.engines.lookup(&request.model).map_err(|e| call.fail(&e.into()))?.name;
        let stall = self.engines.reader_stall(&model);
        let (engines, of) = (self.engines.clone(), call.clone());
        let request = Generate { sampling: request.sampling.or(&engines.sampling(&model)), ..request };
        let tally = Tally::new(self.metrics.clone(), model.clone());
        let work = |outlet| async move { tally.keep(answer(engines, of, model, request, outlet)).await };
        Ok(self.streams.reply(call, stall, OnDrain::Finish, work))
    }

    async fn count_tokens(
        &self,
        request: Request<pb::CountTokensRequest>,
    ) -> Result<Response<pb::CountTokensResponse>, Status> {
        let call = Call::open(&request);
        let pb::CountTokensRequest { model, prompt } = request.into_inner();
        let work = async {
            let Rendered { tokens, .. } = self.rendered(&model, prompt).await?;
            let tokens = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
            Ok(pb::CountTokensResponse { tokens })
        };
        call.unary(work).await
    }

    async fn render(
        &self,
        request: Request<pb::RenderRequest>,
    ) -> Result<Response<pb::RenderResponse>, Status> {
        let call = Call::open(&request);
        let pb::RenderRequest { model, prompt, with_tokens } = request.into_inner();
        let work = async {
            let Rendered { text, tokens } = self.rendered(&model, prompt).await?;
            let tokens = if with_tokens { tokens } else { Vec::new() };
            Ok(pb::RenderResponse { text, tokens })
        };
        call.unary(work).await
    }
}

impl InferenceService {
    async fn rendered(&self, model: &str, prompt: Option<pb::Prompt>) -> Result<Rendered, Fault> {
        let (model, prompt) = (model_ref(model)?, prompt_of(prompt)?);
        let manifest = self.engines.lookup(&model)?;
        Ok(self.engines.render(&manifest, prompt).await?)
    }
}

/// Counts how an answer ended: well, with a fault, or given up by its client, which drops it.
struct Tally {
    metrics: Metrics,
    model: ModelName,
    ended: bool,
}

impl Tally {
    fn new(metrics: Metrics, model: ModelName) -> Self {
        Self { metrics, model, ended: false }
    }

    async fn keep(mut self, work: impl Future<Output = Result<Summary, Fault>>) -> Result<(), Fault> {
        let result = work.await;
        self.ended = true;
        match &result {
            Ok(Summary { reason, answered }) => {
                self.metrics.answered(&self.model, reason);
                self.metrics.measured(&self.model, answered);
            }
            Err(Fault::ClientGone) => self.ended = false,
            Err(fault) => self.metrics.answered(&self.model, fault.reason()),
        }
        result.map(drop)
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        if !self.ended {
            self.metrics.cancelled(&self.model);
        }
    }
}

/// One answer, from the wish for a lease to the last event.
async fn answer(
    engines: Engines,
    call: Call,
    model: ModelName,
    request: Generate,
    outlet: Outlet<pb::Event>,
) -> Result<Summary, Fault> {
    let Generate { model: _, prompt, sampling, seed, stop, max_tokens, logprobs } = request;
    let seed = seed.unwrap_or_else(random);
    let mut answer = Answer::new(call.request_id.clone(), random(), model.to_string(), seed, call.arrived);
    let request = GenerateRequest {
        request_id: call.request_id.clone(),
        prompt,
        sampling,
        stop,
        max_tokens,
        logprobs,
        seed,
        traceparent: call.traceparent.clone(),
    };
    let lease = living(&engines, &model, &call, &mut answer, &outlet).await?;
    relay(lease, request, &call, &mut answer, &outlet).await
}

/// A lease on an engine that is not known to have ended. The registry gives out no other, but an engine may
/// end while the lease is on its way.
async fn living(
    engines: &Engines,
    model: &ModelName,
    call: &Call,
    answer: &mut Answer,
    outlet: &Outlet<pb::Event>,
) -> Result<Lease, Fault> {
    let mut attempt = 1;
    loop {
        let acquiring = engines.acquire(model, Intent::Answer).await?;
        let lease = wait(acquiring, call, answer, outlet).await?;
        if !lease.engine().has_ended() || attempt == ATTEMPTS {
            return Ok(lease);
        }
        attempt += 1;
    }
}

/// Waits for the model and tells how its load gets on.
async fn wait(
    mut acquiring: Acquiring,
    call: &Call,
    answer: &mut Answer,
    outlet: &Outlet<pb::Event>,
) -> Result<Lease, Fault> {
    loop {
        match acquiring.next().await {
            Waiting::Over(lease) => {
                if answer.is_accepted() {
                    answer.loaded_in(call.arrived.elapsed());
                }
                return Ok(lease?);
            }
            Waiting::Progress(permille) => {
                if !answer.is_accepted() {
                    let waiting = acquiring.status().map_or(0, |status| status.waiting);
                    let ahead = u32::try_from(waiting.saturating_sub(1)).unwrap_or(u32::MAX);
                    outlet.send(answer.accepted(ahead)).await?;
                }
                outlet.send(answer.progress(Stage::Load, permille.into(), 1000)).await?;
            }
        }
    }
}

/// Hands the engine's events on until the answer is whole.
async fn relay(
    mut lease: Lease,
    request: GenerateRequest,
    call: &Call,
    answer: &mut Answer,
    outlet: &Outlet<pb::Event>,
) -> Result<Summary, Fault> {
    let link = lease.engine().link().clone();
    let events = tokio::select! {
        biased;
        () = lease.aborted() => return Err(Fault::UnloadedInAnswer),
        events = link.generate(request, call.deadline) => events.map_err(|error| lost(error, answer))?,
    };
    let mut events = pin!(events);
    loop {
        let event = tokio::select! {
            biased;
            () = lease.aborted() => return Err(Fault::UnloadedInAnswer),
            event = events.next() => event,
        };
        let event = event.unwrap_or(Err(LinkError::Protocol("an answer without an end")));
        let event = event.map_err(|error| lost(error, answer))?;
        if !answer.is_accepted() && !matches!(event, GenerateEvent::Accepted { .. }) {
            outlet.send(answer.accepted(0)).await?;
        }
        match event {
            GenerateEvent::Accepted { queue_position } if !answer.is_accepted() => {
                outlet.send(answer.accepted(queue_position)).await?;
            }
            GenerateEvent::Accepted { queue_position: 0 } => {}
            GenerateEvent::Accepted { queue_position } => {
                outlet.send(answer.progress(Stage::Queue, 0, queue_position.into())).await?;
            }
            GenerateEvent::Prefill { done, total } => {
                outlet.send(answer.progress(Stage::Prefill, done.into(), total.into())).await?;
            }
            GenerateEvent::Delta(delta) => {
                if let Some(event) = answer.delta(delta) {
                    outlet.mark_spoken();
                    outlet.send(event).await?;
                }
            }
            GenerateEvent::Finished(finished) => {
                lease.mark_good();
                let (event, summary) = answer.finished(finished);
                outlet.send(event).await?;
                return Ok(summary);
            }
        }
    }
}

fn lost(error: LinkError, answer: &Answer) -> Fault {
    let spoken = if answer.has_spoken() { Spoken::Tokens } else { Spoken::Nothing };
    Fault::Engine { error, spoken }
}
