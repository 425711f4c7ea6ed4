//! `hearth.v1.Inference`.

use hearth_proto::v1 as pb;
use hearth_proto::v1::inference_server::Inference;
use tonic::{Request, Response, Status, Streaming};

use super::call::Call;
use super::converse::converse;
use super::convert::{Generate, Summary, model_ref, prompt_of};
use super::status::Fault;
use super::stream::{DEFAULT_STALL, OnDrain, Outlet, Reply, Streams};
use super::turn::{Speaker, Tally, engine_request, settled};
use crate::engines::Engines;
use crate::engines::event::Rendered;
use crate::metrics::Metrics;
use crate::units::ModelName;

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
    type ConverseStream = Reply<pb::Event>;

    async fn generate(
        &self,
        request: Request<pb::GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let call = Call::open(&request);
        let request = Generate::try_from(request.into_inner()).map_err(|e| call.fail(&e.into()))?;
        let model = self.engines.lookup(&request.model).map_err(|e| call.fail(&e.into()))?.name;
        let stall = self.engines.reader_stall(&model);
        let (engines, of) = (self.engines.clone(), call.clone());
        let request = settled(request, &engines, &model);
        let (metrics, lifecycle) = (self.metrics.clone(), self.streams.lifecycle.clone());
        let work = |outlet: Outlet<_>| async move {
            let tally = Tally::new(metrics, lifecycle, model.clone(), outlet.reader());
            tally.keep(answer(engines, of, model, request, outlet)).await
        };
        Ok(self.streams.reply(call, stall, OnDrain::Finish, work))
    }

    async fn converse(
        &self,
        request: Request<Streaming<pb::ConverseRequest>>,
    ) -> Result<Response<Self::ConverseStream>, Status> {
        let call = Call::open(&request);
        let (engines, of) = (self.engines.clone(), call.clone());
        let (metrics, lifecycle) = (self.metrics.clone(), self.streams.lifecycle.clone());
        let said = request.into_inner();
        let work = |outlet| converse(engines, of, said, outlet, metrics, lifecycle);
        // Until the model is known; then its own time holds.
        Ok(self.streams.reply(call, DEFAULT_STALL, OnDrain::Finish, work))
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

/// One answer, from the wish for a lease to the last event.
async fn answer(
    engines: Engines,
    call: Call,
    model: ModelName,
    request: Generate,
    outlet: Outlet<pb::Event>,
) -> Result<Option<Summary>, Fault> {
    let keep_alive = request.keep_alive;
    let request = engine_request(&call, request);
    let mut speaker = Speaker::new(call, &model, request.seed, outlet);
    let mut lease = speaker.lease(&engines, &model, keep_alive).await?;
    let finished = speaker.turn(&mut lease, request, |_| {}).await?;
    Ok(Some(speaker.finish(finished).await?))
}
