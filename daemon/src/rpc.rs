//! The door for clients: gRPC services on local sockets.
//!
//! A call is converted to domain words, given to the handles behind, and their answer converted back. What
//! is decided here is only what a client may see: ids, codes, the order of events.
//!
//! **Invariant:** nothing outside this folder names `hearth.v1` types; [`status`] is the only place here
//! that names gRPC's codes.

mod call;
mod convert;
mod inference;
pub mod listen;
mod models;
mod node;
mod principal;
mod status;
mod stream;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::SystemTime;

use hearth_proto::DESCRIPTORS;
use hearth_proto::v1::inference_server::InferenceServer;
use hearth_proto::v1::models_server::ModelsServer;
use hearth_proto::v1::node_server::NodeServer;
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::task::TaskTracker;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use self::inference::InferenceService;
use self::listen::Listener;
use self::models::ModelsService;
use self::node::NodeService;
use self::stream::Streams;
use crate::engines::Engines;
use crate::lifecycle::LifecycleWatch;
use crate::store::Store;

/// The largest request: a long conversation with documents in it.
const MESSAGE_LIMIT: usize = 16 << 20;

/// What the services stand on.
#[derive(Clone, Debug)]
pub struct Backing {
    /// The models in memory.
    pub engines: Engines,
    /// The models on disk.
    pub store: Store,
    /// Folders whose files may be imported by path.
    pub import_dirs: Vec<PathBuf>,
    /// Whether the daemon takes requests.
    pub lifecycle: LifecycleWatch,
}

/// All services, ready to be served on any number of addresses.
#[derive(Clone)]
pub struct Services {
    routes: Routes,
    health: HealthReporter,
    lifecycle: LifecycleWatch,
    /// The work of streaming calls.
    calls: TaskTracker,
}

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Services").finish_non_exhaustive()
    }
}

impl Services {
    /// Puts the services together.
    pub async fn new(backing: Backing) -> Result<Self, tonic_reflection::server::Error> {
        let Backing { engines, store, import_dirs, lifecycle } = backing;
        let calls = TaskTracker::new();
        let streams = Streams { tasks: calls.clone(), lifecycle: lifecycle.clone() };
        let inference =
            InferenceServer::new(InferenceService { engines: engines.clone(), streams: streams.clone() });
        let models = ModelsServer::new(ModelsService {
            engines: engines.clone(),
            store: store.clone(),
            streams: streams.clone(),
            import_dirs,
            changes: watch::Sender::new(0),
        });
        let node = NodeServer::new(NodeService { engines, store, streams, started: SystemTime::now() });
        let health = HealthReporter::new();
        report(&health, ServingStatus::Serving).await;
        let routes = Routes::new(inference.max_decoding_message_size(MESSAGE_LIMIT))
            .add_service(models.max_decoding_message_size(MESSAGE_LIMIT))
            .add_service(node)
            .add_service(HealthServer::new(HealthService::from_health_reporter(health.clone())))
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?)
            .prepare();
        Ok(Self { routes, health, lifecycle, calls })
    }

    /// Serves until the daemon drains and the last call on this address has ended. Connections stay open
    /// while streams run, so that who comes late hears why nothing is taken instead of a closed socket.
    pub async fn serve(self, listener: Listener) -> Result<(), tonic::transport::Error> {
        let Self { routes, health: _, lifecycle, calls } = self;
        let server = Server::builder().add_routes(routes);
        let drain = async move {
            lifecycle.draining().await;
            calls.close();
            calls.wait().await;
        };
        match listener {
            Listener::Unix(listener, _file) => {
                server.serve_with_incoming_shutdown(UnixListenerStream::new(listener), drain).await
            }
            Listener::Tcp(listener) => {
                let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
                server.serve_with_incoming_shutdown(incoming, drain).await
            }
        }
    }

    /// Tells health checks that nothing new is taken.
    pub async fn stop_taking(&self) {
        report(&self.health, ServingStatus::NotServing).await;
    }
}

async fn report(health: &HealthReporter, status: ServingStatus) {
    let services = [
        "",
        <InferenceServer<InferenceService> as NamedService>::NAME,
        <ModelsServer<ModelsService> as NamedService>::NAME,
        <NodeServer<NodeService> as NamedService>::NAME,
    ];
    for service in services {
        health.set_service_status(service, status).await;
    }
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}
