//! The two ends of one request's event stream: the batch thread's, which never blocks, and the reader's.
//!
//! ```text
//!  batch thread ── Outlet (outbox ─► bounded channel) ──► Answers: Stream ── tonic ── HTTP/2 window
//!        ▲                                                     │
//!        └────────── cancelled / paused flags, wake ◄──────────┘
//! ```
//!
//! A full channel pauses the request; the reader wakes the batch thread when it has taken something.

use std::collections::VecDeque;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_stream::Stream;

use super::Command;
use super::event::{Event, Failure};

/// Events under way to one reader. Small: what the reader has not taken is computed in vain if it leaves.
const CHANNEL: usize = 32;

type Item = Result<Event, Failure>;

/// What both ends share.
#[derive(Debug, Default)]
struct Link {
    /// The reader is gone. An `Arc` of its own, since the abort callback looks at it during a step.
    cancelled: Arc<AtomicBool>,
    /// The channel was full; the reader wakes the batch thread.
    paused: AtomicBool,
    /// The request ended because the reader stalled, which it learns when it reads on.
    stalled: AtomicBool,
}

/// Makes the two ends of a request's stream.
pub fn stream(wake: SyncSender<Command>, stall: Duration, deadline: Option<Instant>) -> (Outlet, Answers) {
    let (sender, receiver) = mpsc::channel(CHANNEL);
    let link = Arc::new(Link::default());
    let timer = deadline.map(|at| Box::pin(tokio::time::sleep_until(at.into())));
    let outlet = Outlet { sender, link: Arc::clone(&link), outbox: VecDeque::new(), full_since: None, stall };
    (outlet, Answers { receiver, link, wake, timer, stall, over: false })
}

/// The batch thread's end.
#[derive(Debug)]
pub struct Outlet {
    sender: mpsc::Sender<Item>,
    link: Arc<Link>,
    /// What the channel did not take.
    outbox: VecDeque<Item>,
    full_since: Option<Instant>,
    stall: Duration,
}

impl Outlet {
    /// Set when the reader is gone.
    pub fn cancelled(&self) -> &Arc<AtomicBool> {
        &self.link.cancelled
    }

    /// Whether the reader is gone.
    pub fn is_cancelled(&self) -> bool {
        self.link.cancelled.load(Ordering::Relaxed) || self.sender.is_closed()
    }

    /// Sends an event, or keeps it until the reader has taken some.
    pub fn send(&mut self, item: Item, now: Instant) {
        self.outbox.push_back(item);
        self.flush(now);
    }

    /// Sends what was kept; true if nothing is left.
    pub fn flush(&mut self, now: Instant) -> bool {
        loop {
            let Some(item) = self.outbox.pop_front() else {
                self.full_since = None;
                return true;
            };
            match self.sender.try_send(item) {
                Ok(()) => {
                    self.full_since = None;
                    self.link.paused.store(false, Ordering::Release);
                }
                Err(mpsc::error::TrySendError::Closed(_)) => {
                    self.outbox.clear();
                    return true;
                }
                Err(mpsc::error::TrySendError::Full(item)) => {
                    self.outbox.push_front(item);
                    // Tell the reader first, then look again: it may have read in between.
                    if self.link.paused.swap(true, Ordering::AcqRel) {
                        self.full_since.get_or_insert(now);
                        return false;
                    }
                }
            }
        }
    }

    /// Whether events wait for the reader.
    pub fn is_blocked(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// When the reader counts as stalled; `None` while it reads.
    pub fn stalls_at(&self) -> Option<Instant> {
        self.full_since.map(|since| since + self.stall)
    }

    /// Gives up on the reader: what it has not taken is dropped, and it learns why if it reads on.
    pub fn give_up(&mut self) {
        self.outbox.clear();
        self.link.stalled.store(true, Ordering::Release);
    }
}

/// The reader's end. Dropping it cancels the request.
#[derive(Debug)]
pub struct Answers {
    receiver: mpsc::Receiver<Item>,
    link: Arc<Link>,
    wake: SyncSender<Command>,
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
    stall: Duration,
    over: bool,
}

impl Answers {
    fn wake(&self) {
        // A full queue wakes the thread just as well.
        drop(self.wake.try_send(Command::Wake));
    }

    fn cancel(&mut self) {
        self.link.cancelled.store(true, Ordering::Relaxed);
        self.over = true;
        self.receiver.close();
        self.wake();
    }
}

impl Stream for Answers {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        match self.receiver.poll_recv(cx) {
            Poll::Ready(Some(item)) => {
                if self.link.paused.swap(false, Ordering::AcqRel) {
                    self.wake();
                }
                self.over = item.is_err();
                return Poll::Ready(Some(item));
            }
            Poll::Ready(None) => {
                self.over = true;
                let stalled = self.link.stalled.load(Ordering::Acquire);
                let failure = Failure::ReaderStalled { stalled: self.stall };
                return Poll::Ready(stalled.then_some(Err(failure)));
            }
            Poll::Pending => {}
        }
        if let Some(timer) = &mut self.timer
            && timer.as_mut().poll(cx).is_ready()
        {
            self.cancel();
            return Poll::Ready(Some(Err(Failure::Deadline)));
        }
        Poll::Pending
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        if !self.over {
            self.cancel();
        }
    }
}
