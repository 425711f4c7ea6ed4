//! `hearth.v1.Node`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hearth_proto::v1 as pb;
use hearth_proto::v1::node_server::Node;
use hearth_proto::{API_REVISION, BUILD_ID};
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval};
use tonic::{Request, Response, Status};

use super::Board;
use super::call::Call;
use super::convert::{engine_of, memory_of, timestamp, watch_interval};
use super::status::{Fault, Invalid};
use super::stream::{DEFAULT_STALL, OnDrain, Reply, Streams};
use crate::board::sensors::Temperature;
use crate::engines::{Engines, ModelState, ModelStatus};
use crate::lifecycle::Phase;
use crate::store::Store;
use crate::telemetry::{Change, LogControl};

/// A week: what is forgotten for longer belongs into the configuration.
const LONGEST_CHANGE_MS: u64 = 7 * 24 * 3600 * 1000;

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct NodeService {
    pub(crate) engines: Engines,
    pub(crate) store: Store,
    pub(crate) streams: Streams,
    pub(crate) log: LogControl,
    /// Ends the last change of the log filter that was for a time. Short sections only.
    pub(crate) timer: Arc<Mutex<Option<AbortHandle>>>,
    pub(crate) board: Board,
    pub(crate) started: SystemTime,
}

#[tonic::async_trait]
impl Node for NodeService {
    type WatchStatusStream = Reply<pb::GetStatusResponse>;

    async fn get_status(
        &self,
        request: Request<pb::GetStatusRequest>,
    ) -> Result<Response<pb::GetStatusResponse>, Status> {
        let call = Call::open(&request);
        call.unary(self.status()).await
    }

    async fn watch_status(
        &self,
        request: Request<pb::WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        let call = Call::open(&request);
        let pause = watch_interval(request.into_inner()).map_err(|e| call.fail(&e.into()))?;
        let service = self.clone();
        let work = |outlet: super::stream::Outlet<_>| async move {
            let mut ticks = interval(pause);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut last = None;
            loop {
                ticks.tick().await;
                let status = service.status().await?;
                if last.as_ref() != Some(&status) {
                    outlet.send(status.clone()).await?;
                    last = Some(status);
                }
            }
        };
        Ok(self.streams.reply(call, DEFAULT_STALL, OnDrain::End, work))
    }

    async fn set_log_filter(
        &self,
        request: Request<pb::SetLogFilterRequest>,
    ) -> Result<Response<pb::SetLogFilterResponse>, Status> {
        let call = Call::open(&request);
        let request = request.into_inner();
        call.unary(async { self.change_log_filter(request) }).await
    }
}

impl NodeService {
    fn take_back_after(&self, change: Change, time: Duration) -> AbortHandle {
        let (log, lifecycle) = (self.log.clone(), self.streams.lifecycle.clone());
        let task = self.streams.tasks.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(time) => log.take_back(change),
                () = lifecycle.draining() => {}
            }
        });
        task.abort_handle()
    }

    fn change_log_filter(&self, request: pb::SetLogFilterRequest) -> Result<pb::SetLogFilterResponse, Fault> {
        let pb::SetLogFilterRequest { filter, for_ms } = request;
        if for_ms.is_some_and(|for_ms| !(1..=LONGEST_CHANGE_MS).contains(&for_ms)) {
            let why = format!("is not within 1 and {LONGEST_CHANGE_MS} (a week); left out it stays");
            return Err(Invalid::new("for_ms", why).into());
        }
        let previous = self.log.filter();
        let change = self.log.set(&filter)?;
        let filter = self.log.filter();
        tracing::info!(filter.old = %previous, filter.new = %filter, for_ms, "Changed what is logged");
        let timer = for_ms.map(|for_ms| self.take_back_after(change, Duration::from_millis(for_ms)));
        let earlier =
            std::mem::replace(&mut *self.timer.lock().unwrap_or_else(PoisonError::into_inner), timer);
        if let Some(earlier) = earlier {
            earlier.abort();
        }
        Ok(pb::SetLogFilterResponse { filter, previous })
    }

    async fn status(&self) -> Result<pb::GetStatusResponse, Fault> {
        let store = self.store.clone();
        let usage = tokio::task::spawn_blocking(move || store.usage()).await;
        let usage =
            usage.map_err(|_| Fault::Internal("work on the disk was cut off"))?.map_err(Fault::Disk)?;
        self.engines.renew_budget().await;
        let version = pb::Version {
            api_revision: API_REVISION,
            package: env!("CARGO_PKG_VERSION").to_owned(),
            build_id: BUILD_ID.to_owned(),
        };
        Ok(pb::GetStatusResponse {
            version: Some(version),
            started_at: Some(timestamp(self.started)),
            phase: self.phase().into(),
            memory: Some(self.memory()),
            engines: self.engines_that(|status| status.state != ModelState::Absent),
            storage: Some(pb::Storage { models_bytes: usage.models.0, free_bytes: usage.free.0 }),
            sensors: self.sensors(),
            gone: self
                .engines_that(|status| status.state == ModelState::Absent && status.last_used.is_some()),
        })
    }

    fn phase(&self) -> pb::Phase {
        match self.streams.lifecycle.phase() {
            Phase::Starting | Phase::Serving => pb::Phase::Serving,
            Phase::Draining | Phase::Stopped => pb::Phase::Draining,
        }
    }

    fn memory(&self) -> pb::Memory {
        let Board { limits, pressure, sensors: _ } = &self.board;
        memory_of(self.engines.ledger(), &limits.borrow(), &pressure.borrow())
    }

    fn sensors(&self) -> Vec<pb::Sensor> {
        let found = self.board.sensors.read().into_iter();
        found.map(|Temperature { name, celsius }| pb::Sensor { name, celsius }).collect()
    }

    fn engines_that(&self, are_meant: impl Fn(&ModelStatus) -> bool) -> Vec<pb::Engine> {
        let states = self.engines.watch();
        let states = states.borrow();
        let meant = states.iter().filter(|(_, status)| are_meant(status));
        meant.map(|(name, status)| engine_of(name, status, self.engines.ledger())).collect()
    }
}
