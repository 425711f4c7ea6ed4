//! Short-lived engine processes that look at a file without loading its weights: at import, and for
//! `Render` and `CountTokens` of a model that is not in memory.
//!
//! A file that crashes its inspector is refused like one that llama.cpp refuses in words: that is what
//! the inspector is for.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::config::LoadParams;
use super::event::{Inspection, Rendered};
use super::link::{FailureReason, Link, LinkError};
use super::process::{EngineExit, SpawnError, Spawner, Spec, Task};
use super::request::Prompt;
use super::start::{Spawned, StartError};

/// Inspectors at a time. Each holds a vocabulary, 60 MB at most, which the reserve covers.
const INSPECTORS: usize = 2;

/// Reading a header and a vocabulary from a slow card.
const TIMEOUT: Duration = Duration::from_secs(120);

/// How long an inspector has to end by itself. Nothing is lost with it.
const GRACE: Duration = Duration::from_millis(500);

/// Runs inspectors. Clones share the limit.
#[derive(Clone, Debug)]
pub struct Inspectors {
    spawner: Spawner,
    places: Arc<Semaphore>,
}

/// Why there is no inspection.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// llama.cpp refuses the file; these are its words.
    #[error("llama.cpp refuses the file: {0}")]
    BadModel(String),
    /// The file made the inspector crash.
    #[error("inspecting the file failed: {0}")]
    Crashed(Arc<EngineExit>),
    /// The inspector says no for another reason.
    #[error(transparent)]
    Link(LinkError),
    /// There is no inspector.
    #[error(transparent)]
    Spawn(SpawnError),
    /// It took too long.
    #[error("inspecting the file took longer than {} s", .0.as_secs())]
    Timeout(Duration),
}

impl Inspectors {
    /// Inspectors out of `spawner`.
    pub fn new(spawner: Spawner) -> Self {
        Self { spawner, places: Arc::new(Semaphore::new(INSPECTORS)) }
    }

    /// The facts of a file, and what it would take to load it.
    pub async fn inspect(
        &self,
        model: &Path,
        label: &str,
        load: &LoadParams,
    ) -> Result<Inspection, InspectError> {
        self.ask(model, label, |link| async move { link.inspect(load).await }).await
    }

    /// A prompt as the model would see it.
    pub async fn render(
        &self,
        model: &Path,
        label: &str,
        prompt: Prompt,
        dialect: Option<String>,
    ) -> Result<Rendered, InspectError> {
        self.ask(model, label, |link| async move { link.render(prompt, dialect).await }).await
    }

    /// Dropping the future ends the inspector.
    async fn ask<T, F>(
        &self,
        model: &Path,
        label: &str,
        question: impl FnOnce(Link) -> F,
    ) -> Result<T, InspectError>
    where
        F: Future<Output = Result<T, LinkError>>,
    {
        let ending = |_| InspectError::Spawn(SpawnError::Ending);
        let _place = self.places.acquire().await.map_err(ending)?;
        let spec = Spec { task: Task::Inspect, model, label, reservation: None };
        let asked = async {
            let inspector = Spawned::spawn(&self.spawner, spec).await?.greet(1).await?;
            let answer = question(inspector.link).await;
            Ok::<_, StartError>((answer, inspector.process))
        };
        let timeout = |_| InspectError::Timeout(TIMEOUT);
        let (answer, process) = tokio::time::timeout(TIMEOUT, asked).await.map_err(timeout)??;
        process.stop(GRACE).await;
        answer.map_err(InspectError::from)
    }
}

impl From<LinkError> for InspectError {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Refused(failure) if failure.reason == FailureReason::BadModel => {
                let words = if failure.detail.is_empty() { failure.message } else { failure.detail };
                Self::BadModel(words)
            }
            LinkError::Exited(exit) => Self::Crashed(exit),
            other => Self::Link(other),
        }
    }
}

impl From<StartError> for InspectError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Spawn(error) => Self::Spawn(error),
            StartError::Link(error) => error.into(),
            StartError::Silent(time) | StartError::Stalled(time) => Self::Timeout(time),
        }
    }
}
