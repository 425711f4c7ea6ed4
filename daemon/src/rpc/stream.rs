//! Answers that come in parts.
//!
//! The head of a streamed answer goes out at once; a tracked task does the work and puts items into a
//! bounded channel. How the work ended travels on a lane of its own, so that a full channel never hides an
//! error, and a stream ends exactly once: after its last item, with or without a status.
//!
//! ```text
//!  task ──items (bounded)──► Reply ──► client        the client goes: the task is dropped
//!    └────── end (one) ──────►                       nobody reads for too long: the task gives up
//! ```

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::TaskTracker;
use tonic::{Response, Status};
use tracing::Instrument;

use super::call::Call;
use super::status::{Fault, Spoken};
use crate::lifecycle::{LifecycleWatch, Phase};

/// Items on their way to a client. Small: what waits here was computed and is not yet wanted.
const BUFFER: usize = 8;

/// How long a stream that has no time of its own waits for its reader.
pub(crate) const DEFAULT_STALL: Duration = Duration::from_secs(60);

/// What streams need of the daemon. Clones are cheap.
#[derive(Clone, Debug)]
pub(crate) struct Streams {
    pub(crate) tasks: TaskTracker,
    pub(crate) lifecycle: LifecycleWatch,
}

/// Whether a stream goes on while the daemon drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnDrain {
    /// It is work that shall be finished.
    Finish,
    /// It has no end of its own.
    End,
}

/// The answer of a streaming call.
#[derive(Debug)]
pub(crate) struct Reply<T> {
    items: mpsc::Receiver<T>,
    end: Option<oneshot::Receiver<Result<(), Status>>>,
}

/// Where the work puts its items.
#[derive(Debug)]
pub(crate) struct Outlet<T> {
    items: mpsc::Sender<T>,
    stall: Duration,
    spoken: Arc<AtomicBool>,
}

impl Streams {
    /// Begins the work of a streaming call.
    pub(crate) fn reply<T, F>(
        &self,
        call: Call,
        stall: Duration,
        on_drain: OnDrain,
        work: impl FnOnce(Outlet<T>) -> F,
    ) -> Response<Reply<T>>
    where
        T: Send + 'static,
        F: Future<Output = Result<(), Fault>> + Send + 'static,
    {
        let (items, inbox) = mpsc::channel(BUFFER);
        let (end, ended) = oneshot::channel();
        let response = call.respond(Reply { items: inbox, end: Some(ended) });
        let spoken = Arc::new(AtomicBool::new(false));
        let work = work(Outlet { items: items.clone(), stall, spoken: Arc::clone(&spoken) });
        let guard = Guard { lifecycle: self.lifecycle.clone(), on_drain, spoken };
        let span = call.span();
        let task = async move {
            let Some(result) = guard.supervise(&call, &items, work).await else { return call.given_up() };
            if result.is_ok() {
                call.succeeded();
            }
            // One who no longer listens needs no answer.
            end.send(result.map_err(|fault| call.fail(&fault))).ok();
        };
        self.tasks.spawn(task.instrument(span.or_current()));
        response
    }
}

/// What may end the work beside itself.
struct Guard {
    lifecycle: LifecycleWatch,
    on_drain: OnDrain,
    /// Whether the client has a part of an answer.
    spoken: Arc<AtomicBool>,
}

impl Guard {
    /// How the work ended; `None` where nobody wants to know.
    async fn supervise<T>(
        &self,
        call: &Call,
        items: &mpsc::Sender<T>,
        work: impl Future<Output = Result<(), Fault>>,
    ) -> Option<Result<(), Fault>> {
        if self.lifecycle.phase() >= Phase::Draining {
            return Some(Err(self.going_down()));
        }
        // The client first: without it nothing is worth doing. The work last: what ended it outranks it.
        tokio::select! {
            biased;
            () = items.closed() => None,
            () = self.lifecycle.aborted() => Some(Err(self.going_down())),
            () = self.lifecycle.draining(), if self.on_drain == OnDrain::End => Some(Err(self.going_down())),
            () = at(call.deadline) => Some(Err(Fault::Deadline)),
            result = work => Some(result),
        }
    }

    fn going_down(&self) -> Fault {
        let spoken = if self.spoken.load(Ordering::Relaxed) { Spoken::Tokens } else { Spoken::Nothing };
        Fault::GoingDown { spoken }
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Whether somebody still listens to an answer.
#[derive(Debug)]
pub(crate) struct Reader<T>(mpsc::Sender<T>);

impl<T> Reader<T> {
    pub(crate) fn is_gone(&self) -> bool {
        self.0.is_closed()
    }
}

impl<T> Outlet<T> {
    /// The same with another time that a slow reader has.
    pub(crate) fn with_stall(self, stall: Duration) -> Self {
        Self { stall, ..self }
    }

    /// Who listens.
    pub(crate) fn reader(&self) -> Reader<T> {
        Reader(self.items.clone())
    }

    /// The client has a part of an answer: to ask again would not give the same one.
    pub(crate) fn mark_spoken(&self) {
        self.spoken.store(true, Ordering::Relaxed);
    }

    /// Hands an item on; waits while the reader is slow, but not for ever.
    pub(crate) async fn send(&self, item: T) -> Result<(), Fault> {
        let sent = tokio::time::timeout(self.stall, self.items.send(item)).await;
        sent.map_err(|_| Fault::ReaderStalled(self.stall))?.map_err(|_| Fault::ClientGone)?;
        Ok(())
    }
}

impl<T> Stream for Reply<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.items.poll_recv(context) {
            Poll::Ready(Some(item)) => return Poll::Ready(Some(Ok(item))),
            Poll::Ready(None) => {}
            Poll::Pending => return Poll::Pending,
        }
        let Some(end) = &mut self.end else { return Poll::Ready(None) };
        let Poll::Ready(result) = Pin::new(end).poll(context) else { return Poll::Pending };
        self.end = None;
        let lost = |_| Err(Fault::Internal("the work of the call was lost").status());
        Poll::Ready(result.unwrap_or_else(lost).err().map(Err))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use tonic::{Code, Request};

    use super::*;
    use crate::lifecycle::Lifecycle;

    fn streams() -> (Streams, Lifecycle) {
        let lifecycle = Lifecycle::new();
        (Streams { tasks: TaskTracker::new(), lifecycle: lifecycle.watch() }, lifecycle)
    }

    fn call() -> Call {
        Call::open(&Request::new(()))
    }

    fn begin<F>(streams: &Streams, call: Call, work: impl FnOnce(Outlet<u32>) -> F) -> Reply<u32>
    where
        F: Future<Output = Result<(), Fault>> + Send + 'static,
    {
        streams.reply(call, DEFAULT_STALL, OnDrain::Finish, work).into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_stops_gets_what_was_sent_and_then_the_reason() {
        let (streams, _lifecycle) = streams();
        let mut reply = begin(&streams, call(), |outlet| async move {
            for i in 0.. {
                outlet.send(i).await?;
            }
            Ok(())
        });
        tokio::time::sleep(DEFAULT_STALL * 2).await;
        let mut got = Vec::new();
        while let Some(Ok(item)) = reply.next().await {
            got.push(item);
        }
        assert_eq!(got, (0..8).collect::<Vec<_>>());
        assert!(reply.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_ends_the_work_with_its_own_status() {
        let (streams, _lifecycle) = streams();
        let deadline = Some(Instant::now() + Duration::from_secs(1));
        let mut reply = begin(&streams, Call { deadline, ..call() }, |outlet| async move {
            outlet.send(1).await?;
            std::future::pending().await
        });
        assert_eq!(reply.next().await.map(Result::ok), Some(Some(1)));
        let end = reply.next().await.and_then(Result::err).map(|status| status.code());
        assert_eq!(end, Some(Code::DeadlineExceeded));
        assert!(reply.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_goes_takes_the_work_with_it() {
        let (streams, _lifecycle) = streams();
        let (alive, mut died) = oneshot::channel::<()>();
        let reply = begin(&streams, call(), |_outlet| async move {
            let _alive = alive;
            std::future::pending().await
        });
        tokio::task::yield_now().await;
        assert!(died.try_recv().is_err());
        drop(reply);
        assert!(died.await.is_err());
        streams.tasks.close();
        streams.tasks.wait().await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_aborting_daemon_says_so() {
        let (streams, lifecycle) = streams();
        let mut reply = begin(&streams, call(), |_outlet| std::future::pending());
        lifecycle.abort();
        let status = reply.next().await.and_then(Result::err).expect("a status");
        assert!(status.message().contains("going down"));
    }
}
