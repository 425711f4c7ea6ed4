//! The door for clients: gRPC services on local sockets.
//!
//! A call is converted to domain words, given to the handles behind, and their answer converted back. What
//! is decided here is only what a client may see: ids, codes, the order of events.
//!
//! **Invariant:** nothing outside this folder names `hearth.v1` types; [`status`] is the only place here
//! that names gRPC's codes.

mod call;
mod connection;
mod converse;
mod convert;
mod gate;
mod inference;
mod models;
mod node;
mod places;
mod refusals;
mod status;
mod stream;
#[cfg(test)]
mod tests;
mod turn;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hearth_proto::DESCRIPTORS;
use hearth_proto::v1::inference_server::InferenceServer;
use hearth_proto::v1::models_server::ModelsServer;
use hearth_proto::v1::node_server::NodeServer;
use tokio::sync::{mpsc, watch};
use tokio_rustls::rustls::ServerConfig;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use self::connection::Greeter;
use self::gate::Gate;
use self::inference::InferenceService;
use self::models::ModelsService;
use self::node::NodeService;
use self::refusals::Refusals;
use self::stream::Streams;
use crate::access::Grants;
use crate::board::pressure::Report;
use crate::board::sensors::SensorReader;
use crate::config::live::Live;
use crate::engines::Engines;
use crate::lifecycle::LifecycleWatch;
use crate::listen::Listener;
use crate::memory::Limit;
use crate::metrics::Metrics;
use crate::store::Store;
use crate::telemetry::LogControl;

/// The largest request: a long conversation with documents in it.
const MESSAGE_LIMIT: usize = 16 << 20;

/// How long connections stay after their last call, for readers that are slow and streams that have no end.
const LAST_BYTES: Duration = Duration::from_secs(5);

/// Streams of one connection at once; a program has a few.
const STREAMS: u32 = 128;

/// How long a silent peer on the network is believed to be there, before and after it is asked.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// What the services stand on.
#[derive(Clone, Debug)]
pub struct Backing {
    /// The models in memory.
    pub engines: Engines,
    /// The models on disk.
    pub store: Store,
    /// What may change while the daemon runs.
    pub config: Live,
    /// Whether the daemon takes requests.
    pub lifecycle: LifecycleWatch,
    /// Who may do what.
    pub grants: watch::Receiver<Arc<Grants>>,
    /// Certificates for TCP. Absent: TCP is plain.
    pub tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    /// What is logged.
    pub log: LogControl,
    /// Where calls are counted.
    pub metrics: Metrics,
    /// What the board says.
    pub board: Board,
    /// When the daemon started.
    pub started: SystemTime,
}

/// What the board says.
#[derive(Clone, Debug)]
pub struct Board {
    /// What limits the memory budget.
    pub limits: watch::Receiver<Vec<Limit>>,
    /// How short of memory it is.
    pub pressure: watch::Receiver<Report>,
    /// Its temperatures.
    pub sensors: SensorReader,
}

/// All services, ready to be served on any number of addresses.
#[derive(Clone)]
pub struct Services {
    routes: Routes,
    health: HealthReporter,
    lifecycle: LifecycleWatch,
    /// The work of streaming calls.
    calls: TaskTracker,
    gate: Gate,
    greeter: Greeter,
}

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Services").finish_non_exhaustive()
    }
}

impl Services {
    /// Puts the services together.
    pub async fn new(backing: Backing) -> Result<Self, tonic_reflection::server::Error> {
        let Backing { engines, store, config, lifecycle, grants, tls, log, metrics, board, started } =
            backing;
        let calls = TaskTracker::new();
        let refusals = Refusals::new(metrics.clone());
        let greeter = Greeter::new(tls, refusals.clone());
        let gate = Gate {
            grants,
            lifecycle: lifecycle.clone(),
            refusals,
            metrics: metrics.clone(),
            calls: calls.clone(),
        };
        let streams = Streams { tasks: calls.clone(), lifecycle: lifecycle.clone() };
        let inference = InferenceServer::new(InferenceService {
            engines: engines.clone(),
            streams: streams.clone(),
            metrics: metrics.clone(),
        });
        let models = ModelsServer::new(ModelsService {
            engines: engines.clone(),
            store: store.clone(),
            streams: streams.clone(),
            config,
            metrics,
            changes: watch::Sender::new(0),
        });
        let node = NodeServer::new(NodeService {
            engines,
            store,
            streams,
            log,
            timer: Arc::default(),
            board,
            started,
        });
        let health = HealthReporter::new();
        report(&health, ServingStatus::Serving).await;
        let routes = Routes::new(inference.max_decoding_message_size(MESSAGE_LIMIT))
            .add_service(models.max_decoding_message_size(MESSAGE_LIMIT))
            .add_service(node)
            .add_service(HealthServer::new(HealthService::from_health_reporter(health.clone())))
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?)
            .prepare();
        Ok(Self { routes, health, lifecycle, calls, gate, greeter })
    }

    /// Serves until the daemon drains and the last call on this address has ended. Connections stay open
    /// while streams run, so that who comes late hears why nothing is taken instead of a closed socket.
    pub async fn serve(self, listener: Listener) -> Result<(), tonic::transport::Error> {
        let Self { routes, health, lifecycle, calls, gate, greeter } = self;
        // A peer that lost its power or its radio does not say so. On this machine the kernel does.
        let keep_alive = matches!(listener, Listener::Tcp(_)).then_some(KEEP_ALIVE);
        let server = Server::builder()
            .http2_keepalive_interval(keep_alive)
            .http2_keepalive_timeout(keep_alive)
            .max_concurrent_streams(STREAMS)
            .layer(gate)
            .add_routes(routes);
        let drain = async move {
            lifecycle.draining().await;
            calls.close();
            calls.wait().await;
            // Those who watch the health have heard that it is not serving: their streams end here.
            forget(&health).await;
        };
        let (greeted, connections) = mpsc::channel(connection::BACKLOG);
        let incoming = ReceiverStream::new(connections);
        let serving = server.serve_with_incoming_shutdown(incoming, drain);
        // Once the last call has ended nobody is let in any more, and the connections have a moment for what is
        // still on its way.
        let accepting = async {
            greeter.accept(listener, greeted).await;
            tokio::time::sleep(LAST_BYTES).await;
        };
        tokio::select! {
            served = serving => served,
            () = accepting => Ok(()),
        }
    }

    /// Tells health checks that nothing new is taken.
    pub async fn stop_taking(&self) {
        report(&self.health, ServingStatus::NotServing).await;
    }
}

/// What the health service knows about; the empty name is the daemon as a whole.
const HEALTH: [&str; 4] = [
    "",
    <InferenceServer<InferenceService> as NamedService>::NAME,
    <ModelsServer<ModelsService> as NamedService>::NAME,
    <NodeServer<NodeService> as NamedService>::NAME,
];

async fn report(health: &HealthReporter, status: ServingStatus) {
    for service in HEALTH {
        health.set_service_status(service, status).await;
    }
}

async fn forget(health: &HealthReporter) {
    let mut health = health.clone();
    for service in HEALTH {
        health.clear_service_status(service).await;
    }
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}
