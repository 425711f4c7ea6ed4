//! How an engine comes up. Each step takes the one before it by value, so that a step cannot be skipped,
//! and a value dropped on the way ends its process.
//!
//! ```text
//!  Spawned ──greet──► Greeted ──load──► Loaded      an engine
//!                        └─────inspect, render      an inspector
//! ```

use std::os::unix::net::UnixStream;
use std::time::Duration;

use futures_util::StreamExt;

use super::config::LoadParams;
use super::event::{LoadEvent, LoadedFacts};
use super::link::{Greeting, Link, LinkError};
use super::process::{ExitWatch, Process, SpawnError, Spawner, Spec};
use crate::memory::need::Choice;

/// A new process answers within milliseconds; a board that swaps may take seconds.
const GREET_TIMEOUT: Duration = Duration::from_secs(20);

/// The process runs; nothing was said.
#[derive(Debug)]
pub struct Spawned {
    process: Process,
    socket: UnixStream,
}

/// Both ends are of one build.
#[derive(Debug)]
pub struct Greeted {
    /// The process.
    pub process: Process,
    /// The connection to it.
    pub link: Link,
    /// What it said of itself.
    pub greeting: Greeting,
}

/// The model is in memory.
#[derive(Debug)]
pub struct Loaded {
    /// The process.
    pub process: Process,
    /// The connection to it.
    pub link: Link,
    /// What it said of itself.
    pub greeting: Greeting,
    /// What it offers.
    pub facts: LoadedFacts,
}

/// Why an engine did not come up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no process.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// It did not do what was asked.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// It did not answer.
    #[error("the engine did not answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// The load did not get on.
    #[error("the load did not get on for {} s", .0.as_secs())]
    Stalled(Duration),
}

impl Spawned {
    /// Starts a process.
    pub async fn spawn(spawner: &Spawner, spec: Spec<'_>) -> Result<Self, SpawnError> {
        let (process, socket) = spawner.spawn(spec).await?;
        Ok(Self { process, socket })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// How it will have ended.
    pub fn exit(&self) -> ExitWatch {
        self.process.exit()
    }

    /// Exchanges build ids. `sequences` is how many answers may flow at once.
    pub async fn greet(self, sequences: u32) -> Result<Greeted, StartError> {
        let Self { process, socket } = self;
        let hello = async {
            let link = Link::connect(socket, process.exit(), sequences).await?;
            let greeting = link.hello().await?;
            Ok::<_, LinkError>((link, greeting))
        };
        let silent = |_| StartError::Silent(GREET_TIMEOUT);
        let (link, greeting) = tokio::time::timeout(GREET_TIMEOUT, hello).await.map_err(silent)??;
        Ok(Greeted { process, link, greeting })
    }
}

impl Greeted {
    /// Loads the model. Each event of the engine must come within `stall` of the one before it.
    pub async fn load<F: Future<Output = ()>>(
        self,
        params: &LoadParams,
        (choice, ceiling): (&Choice, u32),
        stall: Duration,
        mut progress: impl FnMut(u32) -> F,
    ) -> Result<Loaded, StartError> {
        let Self { process, link, greeting } = self;
        let stalled = |_| StartError::Stalled(stall);
        let events =
            tokio::time::timeout(stall, link.load(params, choice, ceiling)).await.map_err(stalled)??;
        let mut events = std::pin::pin!(events);
        loop {
            let event = tokio::time::timeout(stall, events.next()).await.map_err(stalled)?;
            match event.ok_or(LinkError::Protocol("a load that ends without a result"))?? {
                LoadEvent::Progress(permille) => progress(permille).await,
                LoadEvent::Loaded(facts) => return Ok(Loaded { process, link, greeting, facts }),
            }
        }
    }
}

impl StartError {
    /// Whether the engine failed, rather than refused.
    pub fn is_crash(&self) -> bool {
        match self {
            Self::Spawn(_) => false,
            Self::Link(LinkError::Refused(_) | LinkError::BuildMismatch { .. }) => false,
            Self::Link(LinkError::Exited(_) | LinkError::Broken(_) | LinkError::Protocol(_)) => true,
            Self::Silent(_) | Self::Stalled(_) => true,
        }
    }
}
