//! `hearth.v1.Models`.

mod import;

use std::collections::BTreeMap;

use hearth_proto::v1 as pb;
use hearth_proto::v1::models_server::Models;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument;

use super::call::Call;
use super::convert::{
    ModelWords, explicit_of, keep_alive_of, kv_type, model_name, model_of, model_ref, plan_of,
};
use super::status::{Fault, Invalid};
use super::stream::{DEFAULT_STALL, OnDrain, Outlet, Reply, Streams};
use crate::config::live::Live;
use crate::engines::{Engines, Explicit, Intent, Lease, UnloadMode, Waiting, Wanted};
use crate::metrics::Metrics;
use crate::store::Store;
use crate::units::ModelName;

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct ModelsService {
    pub(crate) engines: Engines,
    pub(crate) store: Store,
    pub(crate) streams: Streams,
    /// Says from which folders files may be imported by path.
    pub(crate) config: Live,
    pub(crate) metrics: Metrics,
    /// Counts changes of the store.
    pub(crate) changes: watch::Sender<u64>,
}

#[tonic::async_trait]
impl Models for ModelsService {
    type ImportStream = Reply<pb::ImportEvent>;
    type LoadStream = Reply<pb::LoadEvent>;
    type WatchStream = Reply<pb::ModelEvent>;

    async fn list(
        &self,
        request: Request<pb::ListModelsRequest>,
    ) -> Result<Response<pb::ListModelsResponse>, Status> {
        let call = Call::open(&request);
        call.unary(async { Ok(pb::ListModelsResponse { models: self.models().into_values().collect() }) })
            .await
    }

    async fn get(
        &self,
        request: Request<pb::GetModelRequest>,
    ) -> Result<Response<pb::GetModelResponse>, Status> {
        let call = Call::open(&request);
        let pb::GetModelRequest { model } = request.into_inner();
        let work = async {
            let manifest = self.engines.lookup(&model_ref(&model)?)?;
            let expected = self.engines.expected_load(&manifest);
            let pinned = self.engines.is_pinned(&manifest.name);
            let model = model_of(&manifest, self.words(&manifest.name).after(expected).pinned(pinned));
            Ok(pb::GetModelResponse { model: Some(model) })
        };
        call.unary(work).await
    }

    async fn import(
        &self,
        request: Request<Streaming<pb::ImportRequest>>,
    ) -> Result<Response<Self::ImportStream>, Status> {
        let call = Call::open(&request);
        let service = self.clone();
        let work = |outlet| import::import(service, request.into_inner(), outlet);
        Ok(self.streams.reply(call, DEFAULT_STALL, OnDrain::Finish, work))
    }

    async fn remove(
        &self,
        request: Request<pb::RemoveModelRequest>,
    ) -> Result<Response<pb::RemoveModelResponse>, Status> {
        let call = Call::open(&request);
        let pb::RemoveModelRequest { model } = request.into_inner();
        call.unary(async { self.take_out(model_name("model", &model)?).await }).await
    }

    async fn load(
        &self,
        request: Request<pb::LoadModelRequest>,
    ) -> Result<Response<Self::LoadStream>, Status> {
        let call = Call::open(&request);
        let (model, wanted) = self.wanted(request.into_inner()).map_err(|fault| call.fail(&fault))?;
        let engines = self.engines.clone();
        let work = |outlet| load(engines, model, wanted, outlet);
        Ok(self.streams.reply(call, DEFAULT_STALL, OnDrain::Finish, work))
    }

    async fn plan(
        &self,
        request: Request<pb::PlanModelRequest>,
    ) -> Result<Response<pb::PlanModelResponse>, Status> {
        let call = Call::open(&request);
        let pb::PlanModelRequest { model, context_tokens, kv_type } = request.into_inner();
        let work = async {
            let manifest = self.engines.lookup(&model_ref(&model)?)?;
            let explicit = explicit_of(context_tokens, kv_type)?;
            Ok(plan_of(self.engines.plan(&manifest, &explicit).await?))
        };
        call.unary(work).await
    }

    async fn pin(
        &self,
        request: Request<pb::PinModelRequest>,
    ) -> Result<Response<pb::PinModelResponse>, Status> {
        let call = Call::open(&request);
        let pb::PinModelRequest { model, pinned } = request.into_inner();
        let work = async {
            let model = self.resolve(&model)?;
            let pinned = self.engines.pin(&model, pinned).await?;
            Ok(pb::PinModelResponse { pinned })
        };
        call.unary(work).await
    }

    async fn unload(
        &self,
        request: Request<pb::UnloadModelRequest>,
    ) -> Result<Response<pb::UnloadModelResponse>, Status> {
        let call = Call::open(&request);
        let pb::UnloadModelRequest { model, abort } = request.into_inner();
        let mode = if abort { UnloadMode::Abort } else { UnloadMode::Wait };
        let work = async {
            let was_loaded = self.engines.unload(&self.resolve(&model)?, mode).await?;
            Ok(pb::UnloadModelResponse { was_loaded })
        };
        call.unary(work).await
    }

    async fn watch(
        &self,
        request: Request<pb::WatchModelsRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let call = Call::open(&request);
        let service = self.clone();
        let work = |outlet| async move { service.watch_models(outlet).await };
        Ok(self.streams.reply(call, DEFAULT_STALL, OnDrain::End, work))
    }
}

impl ModelsService {
    fn resolve(&self, model: &str) -> Result<ModelName, Fault> {
        Ok(self.engines.lookup(&model_ref(model)?)?.name)
    }

    fn wanted(&self, request: pb::LoadModelRequest) -> Result<(ModelName, Wanted), Fault> {
        let pb::LoadModelRequest { model, context_tokens, kv_type, keep_alive_ms } = request;
        let explicit = explicit_of(context_tokens, kv_type)?;
        let says_how = explicit != Explicit::default();
        let wanted = Wanted {
            intent: Intent::Load,
            explicit: says_how.then_some(explicit),
            keep_alive: keep_alive_of(keep_alive_ms)?,
        };
        Ok((self.resolve(&model)?, wanted))
    }

    fn words(&self, model: &ModelName) -> ModelWords {
        self.engines.watch().borrow().get(model).into()
    }

    fn models(&self) -> BTreeMap<ModelName, pb::Model> {
        let states = self.engines.watch();
        let states = states.borrow();
        let manifests = self.store.list().into_iter();
        let models = manifests.map(|manifest| {
            let words = ModelWords::from(states.get(&manifest.name));
            let model = model_of(&manifest, words.pinned(self.engines.is_pinned(&manifest.name)));
            (manifest.name, model)
        });
        models.collect()
    }

    fn note_change(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    async fn take_out(&self, name: ModelName) -> Result<pb::RemoveModelResponse, Fault> {
        let (store, of) = (self.store.clone(), name.clone());
        let freed = self.change(name, move || store.remove(&of)).await?;
        Ok(pb::RemoveModelResponse { freed_bytes: freed.0 })
    }

    /// Changes the store while `name` is kept out of memory. The work goes to its end even where the client
    /// goes, so that no change is made without being told to the registry and to those who watch.
    async fn change<T, E>(
        &self,
        name: ModelName,
        change: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, Fault>
    where
        T: Send + 'static,
        E: Send + 'static,
        Fault: From<E>,
    {
        let service = self.clone();
        let work = async move {
            let mut hold = service.engines.hold(&name).await??;
            let made = blocking(change).await;
            if matches!(made, Ok(Ok(_))) {
                hold.mark_changed();
            }
            drop(hold);
            // One that failed may have come halfway; looking once too often costs nothing.
            service.note_change();
            Ok(made??)
        };
        let work = self.streams.tasks.spawn(work.in_current_span());
        work.await.unwrap_or(Err(Fault::Internal("a change of the store was cut off")))
    }

    async fn watch_models(&self, outlet: Outlet<pb::ModelEvent>) -> Result<(), Fault> {
        let (mut states, mut changes) = (self.engines.watch(), self.changes.subscribe());
        states.mark_unchanged();
        let mut known = self.models();
        for event in opening(&known) {
            outlet.send(event).await?;
        }
        loop {
            tokio::select! {
                state = states.changed() => state.map_err(|_| Fault::Internal("the registry has ended"))?,
                change = changes.changed() => change.map_err(|_| Fault::Internal("the store has ended"))?,
            }
            let now = self.models();
            for event in differences(&known, &now) {
                outlet.send(event).await?;
            }
            known = now;
        }
    }
}

/// The opening list; its last event says that it is complete, also where there is no model at all.
fn opening(models: &BTreeMap<ModelName, pb::Model>) -> Vec<pb::ModelEvent> {
    let mut events: Vec<_> = models.values().map(|model| event(Some(model.clone()), String::new())).collect();
    if events.is_empty() {
        events.push(event(None, String::new()));
    }
    if let Some(last) = events.last_mut() {
        last.in_sync = true;
    }
    events
}

fn differences(
    old: &BTreeMap<ModelName, pb::Model>,
    new: &BTreeMap<ModelName, pb::Model>,
) -> Vec<pb::ModelEvent> {
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    let gone = gone.map(|name| event(None, name.to_string()));
    let changed = new.iter().filter(|(name, model)| old.get(*name) != Some(*model));
    let changed = changed.map(|(_, model)| event(Some(model.clone()), String::new()));
    gone.chain(changed).collect()
}

fn event(model: Option<pb::Model>, removed: String) -> pb::ModelEvent {
    pb::ModelEvent { model, removed, in_sync: false }
}

async fn load(
    engines: Engines,
    model: ModelName,
    wanted: Wanted,
    outlet: Outlet<pb::LoadEvent>,
) -> Result<(), Fault> {
    use pb::load_event::Event;
    let mut acquiring = engines.acquire(&model, wanted).await?;
    let mut waited = false;
    loop {
        match acquiring.next().await {
            Waiting::Progress(progress) => {
                waited = true;
                let event = Event::ProgressPermille(progress.permille);
                outlet.send(pb::LoadEvent { event: Some(event) }).await?;
            }
            Waiting::Over(lease) => {
                let ready = loaded(&engines, &model, &lease?, waited);
                return outlet.send(pb::LoadEvent { event: Some(Event::Ready(ready)) }).await;
            }
        }
    }
}

fn loaded(engines: &Engines, model: &ModelName, lease: &Lease, waited: bool) -> pb::LoadedModel {
    let engine = lease.engine();
    let status = engines.watch().borrow().get(model).cloned().unwrap_or_default();
    let kept = status.choice.map_or(pb::KvType::Unspecified, |choice| kv_type(choice.sizes.kv_type));
    let load_ms = if waited { engine.load_time().as_secs_f64() * 1000.0 } else { 0.0 };
    pb::LoadedModel {
        name: model.to_string(),
        context_tokens: engine.beat().context_tokens,
        sequences: engine.facts().sequences,
        load_ms,
        context_ceiling: status.ceiling.unwrap_or(0),
        kv_type: kept.into(),
        reserved_bytes: engines.ledger().size(engine.line()).0,
    }
}

/// Does what waits for a disk where that holds up nobody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Fault::Internal("work on the disk was cut off"))
}

impl From<Invalid> for Status {
    fn from(invalid: Invalid) -> Self {
        Fault::Invalid(invalid).status()
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::mpsc::sync_channel;
    use std::time::Duration;

    use tokio::sync::oneshot;
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::config::Config;
    use crate::engines::Base;
    use crate::engines::program::Program;
    use crate::lifecycle::Lifecycle;
    use crate::memory::ledger::Ledger;
    use crate::memory::{Budget, BudgetSource};
    use crate::units::Bytes;

    /// Longer than anything here takes on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(20);

    fn service(folder: &std::path::Path) -> ModelsService {
        let config = Config { state_dir: folder.to_owned(), ..Config::default() };
        let store = Store::open(&config.state_dir).expect("a new store");
        let ledger = Ledger::new(Budget { bytes: Bytes(1), source: BudgetSource::Configured });
        let tasks = TaskTracker::new();
        let none = PathBuf::from("/none");
        let config = Live::fixed(config);
        let base = Base::alone(config.clone(), Program::plain(none), store.clone(), ledger);
        let engines = Engines::start(base, &tasks).expect("a thread");
        let streams = Streams { tasks, lifecycle: Lifecycle::new().watch() };
        let (metrics, changes) = (Metrics::default(), watch::Sender::new(0));
        ModelsService { engines, store, streams, config, metrics, changes }
    }

    #[tokio::test]
    async fn a_change_is_told_even_if_its_client_goes() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let service = service(folder.path());
        let mut changes = service.changes.subscribe();
        let name: ModelName = "a".parse().expect("a name");
        let (begun, has_begun) = oneshot::channel();
        let (go_on, may_go_on) = sync_channel(1);
        let change = service.change(name.clone(), move || {
            begun.send(()).ok();
            may_go_on.recv().map_err(|_| Fault::Internal("nobody lets it go on"))
        });
        tokio::select! {
            _ = change => panic!("it waits"),
            begun = has_begun => begun.expect("it begins"),
        }
        // The client has gone, and the change goes on.
        let held = || async { service.engines.hold(&name).await.expect("the registry runs").is_err() };
        assert!(held().await);
        assert!(!changes.has_changed().expect("the service is there"));
        go_on.send(()).expect("the change goes on");
        tokio::time::timeout(PATIENCE, changes.changed()).await.expect("soon").expect("it is told");
        assert!(!held().await);
    }

    fn models(models: &[(&str, &str)]) -> BTreeMap<ModelName, pb::Model> {
        let model = |(name, reason): &(&str, &str)| {
            let name: ModelName = name.parse().expect("a name");
            let model = pb::Model {
                name: name.to_string(),
                state_reason: (*reason).to_owned(),
                ..pb::Model::default()
            };
            (name, model)
        };
        models.iter().map(model).collect()
    }

    #[test]
    fn the_opening_list_is_closed_even_if_it_is_empty() {
        assert_eq!(
            opening(&models(&[])),
            [pb::ModelEvent { model: None, in_sync: true, ..Default::default() }]
        );
        let events = opening(&models(&[("a", ""), ("b", "")]));
        assert_eq!(events.iter().map(|event| event.in_sync).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn only_changes_are_told() {
        let events =
            differences(&models(&[("a", ""), ("b", ""), ("c", "")]), &models(&[("a", ""), ("b", "x")]));
        let told: Vec<_> = events
            .iter()
            .map(|event| (event.removed.as_str(), event.model.as_ref().map(|m| m.name.as_str())))
            .collect();
        assert_eq!(told, [("c:latest", None), ("", Some("b:latest"))]);
    }
}
