//! The gate before all services: who calls, what the call requires, and whether the daemon still takes it.
//!
//! One table says which role each RPC needs. A call that is not in it goes on and is answered by `UNIMPLEMENTED`;
//! a test proves that every RPC of the descriptors is in it.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::{Either, Ready, ready};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TrackedFuture;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use tower::{Layer, Service};

use super::call::{REQUEST_ID, Rpc, request_id_of};
use super::connection::Peer;
use super::refusals::Refusals;
use super::status::Fault;
use super::status::Spoken;
use crate::access::{Grants, Principal, Role};
use crate::lifecycle::{LifecycleWatch, Phase};
use crate::metrics::Metrics;

/// What a call requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Whoever can connect.
    Nothing,
    /// A role.
    Role(Role),
}

/// Whether a call is taken while the daemon drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WhileDraining {
    /// It tells about the daemon, or says itself why it ends.
    Taken,
    Refused,
}

/// One RPC.
#[derive(Debug)]
struct Row {
    path: &'static str,
    /// Its name in logs and figures.
    name: &'static str,
    need: Need,
    draining: WhileDraining,
}

const USE: Need = Need::Role(Role::Use);
const MANAGE: Need = Need::Role(Role::Manage);

const fn row(path: &'static str, name: &'static str, need: Need, draining: WhileDraining) -> Row {
    Row { path, name, need, draining }
}

/// Every RPC that is served.
const TABLE: [Row; 20] = {
    use WhileDraining::{Refused, Taken};
    [
        row("/hearth.v1.Inference/Generate", "generate", USE, Refused),
        row("/hearth.v1.Inference/Converse", "converse", USE, Refused),
        row("/hearth.v1.Inference/CountTokens", "count_tokens", USE, Refused),
        row("/hearth.v1.Inference/Render", "render", USE, Refused),
        row("/hearth.v1.Models/List", "list", USE, Refused),
        row("/hearth.v1.Models/Get", "get", USE, Refused),
        row("/hearth.v1.Models/Watch", "watch", USE, Refused),
        row("/hearth.v1.Models/Import", "import", MANAGE, Refused),
        row("/hearth.v1.Models/Remove", "remove", MANAGE, Refused),
        row("/hearth.v1.Models/Load", "load", MANAGE, Refused),
        row("/hearth.v1.Models/Plan", "plan", USE, Refused),
        row("/hearth.v1.Models/Pin", "pin", MANAGE, Refused),
        row("/hearth.v1.Models/Unload", "unload", MANAGE, Refused),
        row("/hearth.v1.Node/GetStatus", "get_status", USE, Taken),
        row("/hearth.v1.Node/WatchStatus", "watch_status", USE, Taken),
        row("/hearth.v1.Node/SetLogFilter", "set_log_filter", MANAGE, Taken),
        row("/grpc.health.v1.Health/Check", "health_check", Need::Nothing, Taken),
        row("/grpc.health.v1.Health/Watch", "health_watch", Need::Nothing, Taken),
        row("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "reflection", USE, Taken),
        row("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "reflection", USE, Taken),
    ]
};

/// What the gate knows. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    pub(crate) grants: watch::Receiver<Arc<Grants>>,
    pub(crate) lifecycle: LifecycleWatch,
    pub(crate) refusals: Refusals,
    pub(crate) metrics: Metrics,
    /// Calls that have not been answered; a drain waits for them.
    pub(crate) calls: TaskTracker,
}

/// A service behind the gate.
#[derive(Clone, Debug)]
pub(crate) struct Gated<S> {
    gate: Gate,
    inner: S,
}

impl Gate {
    /// Lets a call through, with who makes it, or says why not.
    fn admit(&self, row: &'static Row, request: &mut Request<Body>) -> Result<(), Fault> {
        let connected = request.extensions().get::<Peer>().map(|Peer(principal)| Arc::clone(principal));
        let connected = connected.unwrap_or_else(|| Arc::new(Principal::Stranger));
        let admitted = self.principal(&connected, request.headers()).and_then(|principal| {
            self.check(row, &principal)?;
            Ok(principal)
        });
        match admitted {
            Ok(principal) => {
                let rpc = Rpc { name: row.name, principal, metrics: self.metrics.clone() };
                request.extensions_mut().insert(rpc);
                Ok(())
            }
            Err(fault) => {
                self.refusals.call(row.name, &connected, request_id_of(request.headers()), &fault);
                Err(fault)
            }
        }
    }

    /// Who calls: the holder of the token where one is shown, else who is at the other end.
    fn principal(&self, connected: &Arc<Principal>, headers: &HeaderMap) -> Result<Arc<Principal>, Fault> {
        let Some(header) = headers.get(AUTHORIZATION) else { return Ok(Arc::clone(connected)) };
        let token = header.to_str().ok().and_then(|text| text.split_once(' '));
        match token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")) {
            Some((_, token)) => {
                self.grants.borrow().token(token.trim()).map(Arc::new).ok_or(Fault::UnknownToken)
            }
            None => Err(Fault::UnknownToken),
        }
    }

    fn check(&self, row: &Row, principal: &Principal) -> Result<(), Fault> {
        if let Need::Role(need) = row.need {
            let role = self.grants.borrow().role_of(principal);
            if role.is_none_or(|role| role < need) {
                return Err(refusal(principal, role, need));
            }
        }
        if row.draining == WhileDraining::Refused && self.lifecycle.phase() >= Phase::Draining {
            return Err(Fault::GoingDown { spoken: Spoken::Nothing });
        }
        Ok(())
    }
}

/// One without a name is asked for it; one with a name is told what it lacks.
fn refusal(principal: &Principal, role: Option<Role>, need: Role) -> Fault {
    match principal {
        Principal::Loopback | Principal::Stranger if role.is_none() => Fault::Unnamed,
        _ => Fault::RoleNeeded { principal: principal.to_string(), need },
    }
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { gate: self.clone(), inner }
    }
}

impl<S> Service<Request<Body>> for Gated<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<Ready<Result<Response<Body>, S::Error>>, TrackedFuture<S::Future>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let row = TABLE.iter().find(|row| row.path == request.uri().path());
        let admitted = row.map_or(Ok(()), |row| self.gate.admit(row, &mut request));
        match admitted {
            Ok(()) => Either::Right(self.gate.calls.track_future(self.inner.call(request))),
            Err(fault) => {
                let id = request.headers().get(REQUEST_ID).cloned();
                let mut response = fault.status().into_http();
                if let Some(id) = id {
                    response.headers_mut().insert(REQUEST_ID, id);
                }
                Either::Left(ready(Ok(response)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    fn paths(descriptors: &[u8]) -> Vec<String> {
        let set = FileDescriptorSet::decode(descriptors).expect("generated descriptors");
        let mut paths = Vec::new();
        for file in set.file {
            for service in &file.service {
                let methods = service
                    .method
                    .iter()
                    .map(|method| format!("/{}.{}/{}", file.package(), service.name(), method.name()));
                paths.extend(methods);
            }
        }
        paths
    }

    #[test]
    fn every_rpc_is_in_the_table_once_and_no_other() {
        let served = [
            hearth_proto::DESCRIPTORS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let mut served: Vec<String> = served.into_iter().flat_map(paths).collect();
        served.sort();
        let mut listed: Vec<&str> = TABLE.iter().map(|row| row.path).collect();
        listed.sort_unstable();
        assert_eq!(listed, served);
        let distinct: BTreeSet<_> = listed.iter().collect();
        assert_eq!(distinct.len(), TABLE.len());
    }

    #[test]
    fn what_changes_the_board_needs_the_greater_role() {
        for row in &TABLE {
            let changes = ["Import", "Remove", "Load", "Pin", "Unload", "SetLogFilter"];
            let changes = changes.iter().any(|name| row.path.ends_with(&format!("/{name}")));
            assert_eq!(row.need == MANAGE, changes, "{}", row.path);
        }
    }
}
