//! The daemon's side of `status` and `top`: one model, which writes ten tokens between any two looks at it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{StreamExt, stream};
use hearth_client::v1::node_server::Node;
use hearth_client::v1::{self, pressure::Level};
use tonic::{Request, Response, Status, async_trait};
use tonic_types::{ErrorDetails, StatusExt};

use crate::daemon::Events;

const GIB: u64 = 1 << 30;

/// Who watches at this interval sees the daemon go down at once; others see that nothing happens.
pub(crate) const DOWN_MS: u32 = 123;

/// A board with a daemon.
#[derive(Clone, Default)]
pub(crate) struct Board {
    looks: Arc<AtomicU64>,
}

#[async_trait]
impl Node for Board {
    type WatchStatusStream = Events<v1::GetStatusResponse>;

    async fn get_status(
        &self,
        _: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        Ok(Response::new(self.look()))
    }

    async fn watch_status(
        &self,
        request: Request<v1::WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        let details = ErrorDetails::with_error_info("DRAINING", "hearth", []);
        let end = Status::with_error_details(tonic::Code::Aborted, "the daemon is going down", details);
        let first = stream::iter([Ok(self.look())]);
        Ok(Response::new(match request.into_inner().min_interval_ms {
            Some(DOWN_MS) => first.chain(stream::iter([Err(end)])).boxed(),
            _ => first.chain(stream::pending()).boxed(),
        }))
    }

    async fn set_log_filter(
        &self,
        _: Request<v1::SetLogFilterRequest>,
    ) -> Result<Response<v1::SetLogFilterResponse>, Status> {
        Err(Status::unimplemented("nobody asks for it"))
    }
}

impl Board {
    fn look(&self) -> v1::GetStatusResponse {
        let generated_tokens = self.looks.fetch_add(10, Ordering::SeqCst);
        v1::GetStatusResponse {
            version: Some(v1::Version { package: "1.2.3".to_owned(), ..v1::Version::default() }),
            phase: v1::Phase::Serving.into(),
            memory: Some(memory()),
            engines: vec![engine(generated_tokens)],
            storage: Some(v1::Storage { models_bytes: GIB, free_bytes: 2 * GIB }),
            sensors: vec![v1::Sensor { name: "cpu-thermal".to_owned(), celsius: 51.25 }],
            ..v1::GetStatusResponse::default()
        }
    }
}

fn memory() -> v1::Memory {
    let limit = |source: &str, bytes, reckoning: &str| v1::BudgetLimit {
        source: source.to_owned(),
        bytes,
        reckoning: reckoning.to_owned(),
    };
    v1::Memory {
        budget_bytes: 4 * GIB,
        budget_source: "/system.slice".to_owned(),
        reserved_bytes: 2 * GIB,
        lines: vec![v1::LedgerLine { label: "engine qwen3:8b".to_owned(), bytes: 2 * GIB }],
        limits: vec![
            limit("configured", 6 * GIB, "as [memory] budget says"),
            limit("/system.slice", 4 * GIB, "memory.max less 10 %"),
        ],
        pressure: Some(v1::Pressure {
            level: Level::None.into(),
            source: "psi".to_owned(),
            some_percent: Some(0.5),
            full_percent: Some(0.0),
        }),
    }
}

fn engine(generated_tokens: u64) -> v1::Engine {
    v1::Engine {
        model: "qwen3:8b".to_owned(),
        state: v1::ModelState::Ready.into(),
        state_reason: "was asked".to_owned(),
        pid: 12,
        running: 1,
        context_tokens: 4096,
        context_used: 100,
        cpu_level: "avx2".to_owned(),
        reserved_bytes: 2 * GIB,
        measured: Some(v1::MeasuredMemory {
            anonymous_bytes: GIB / 2,
            file_bytes: GIB,
            shared_bytes: 0,
            peak_bytes: 2 * GIB,
            estimated_bytes: 2 * GIB,
            gpu_bytes: 0,
        }),
        context_ceiling: 8192,
        kv_type: v1::KvType::Q80.into(),
        load_ms: Some(12_000.0),
        generated_tokens,
        pinned: true,
        ..v1::Engine::default()
    }
}
