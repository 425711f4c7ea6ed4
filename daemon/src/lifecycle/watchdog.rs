//! The watchdog: the service manager hears from the daemon only while all of the daemon's own loops turn.
//!
//! ```text
//!  tick n ──► every loop is asked to note n ──► tick n+1: did all note n? ──yes──► WATCHDOG=1, ask for n+1
//!                                                        └──no──► silence: the manager ends the daemon
//! ```
//!
//! A loop answers between two of its own polls, so one that blocks its thread does not, and neither do the
//! others on that thread. What an engine does has no part in it: a bad model must never restart the daemon.
//!
//! Ticks come from a timer of the kernel and not from the runtime's own, whose wheel wakes up more often than it
//! has to: an idle daemon shall wake up once a tick.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::notify;

/// The loops that the watchdog listens to. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Pulse {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    tick: watch::Sender<u64>,
    /// Short sections only.
    members: Mutex<Vec<Weak<Member>>>,
}

#[derive(Debug)]
struct Member {
    name: String,
    noted: AtomicU64,
}

impl Pulse {
    /// Does the work of a loop and answers every tick meanwhile.
    pub async fn guard<T>(&self, name: impl Into<String>, work: impl Future<Output = T>) -> T {
        let mut ticks = self.shared.tick.subscribe();
        let noted = AtomicU64::new(*ticks.borrow_and_update());
        let member = Arc::new(Member { name: name.into(), noted });
        self.members().push(Arc::downgrade(&member));
        let mut work = pin!(work);
        loop {
            // The tick first: work that is always ready must not hide it.
            tokio::select! {
                biased;
                Ok(()) = ticks.changed() => member.noted.store(*ticks.borrow_and_update(), Ordering::Relaxed),
                result = &mut work => return result,
            }
        }
    }

    /// Ends a tick and begins the next; the names of the loops that did not answer the one that ended.
    fn tick(&self) -> Vec<String> {
        let asked = *self.shared.tick.borrow();
        let mut silent = Vec::new();
        self.members().retain(|member| {
            let Some(member) = member.upgrade() else { return false };
            if member.noted.load(Ordering::Relaxed) < asked {
                silent.push(member.name.clone());
            }
            true
        });
        self.shared.tick.send_replace(asked + 1);
        silent
    }

    fn members(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Member>>> {
        self.shared.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the service manager twice a period that the daemon is alive, as long as it is. Ends only where the
/// kernel has no timer.
///
/// # Errors
/// There is no timer.
pub async fn run(pulse: Pulse, period: Duration) -> io::Result<()> {
    let timer = timer(period / 2)?;
    loop {
        let mut ready = timer.readable().await?;
        // How many ticks have passed is of no interest.
        rustix::io::read(timer.get_ref(), &mut [0; 8]).ok();
        ready.clear_ready();
        let silent = pulse.tick();
        if silent.is_empty() {
            notify::alive();
        } else {
            tracing::error!(loops = %silent.join(", "), "Loops of the daemon do not turn");
        }
    }
}

#[expect(deprecated, reason = "unsound only for a type that does not own its descriptor, as this one does")]
fn timer(every: Duration) -> io::Result<AsyncFd<OwnedFd>> {
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
    let every = Timespec::try_from(every).map_err(io::Error::other)?;
    let times = Itimerspec { it_interval: every, it_value: every };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &times)?;
    AsyncFd::with_interest(timer, Interest::READABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ticks are made by hand: this is the clock.
    #[tokio::test]
    async fn a_loop_that_turns_is_heard_and_one_that_blocks_is_named() {
        let pulse = Pulse::default();
        let turning = tokio::spawn({
            let pulse = pulse.clone();
            async move { pulse.guard("turning", std::future::pending::<()>()).await }
        });
        tokio::task::yield_now().await;
        for _ in 0..3 {
            assert_eq!(pulse.tick(), Vec::<String>::new());
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
        }
        // A guarded loop that is never polled is a blocked one.
        let mut blocked = Box::pin(pulse.guard("blocked", std::future::pending::<()>()));
        assert!(futures_util::FutureExt::now_or_never(&mut blocked).is_none());
        assert_eq!(pulse.tick(), Vec::<String>::new());
        tokio::task::yield_now().await;
        assert_eq!(pulse.tick(), ["blocked"]);
        assert!(futures_util::FutureExt::now_or_never(&mut blocked).is_none());
        tokio::task::yield_now().await;
        assert_eq!(pulse.tick(), Vec::<String>::new(), "it turns again");
        drop(blocked);
        turning.abort();
        assert!(turning.await.is_err());
        pulse.tick();
        assert_eq!(pulse.tick(), Vec::<String>::new(), "the gone are not waited for");
    }

    #[tokio::test]
    async fn a_guarded_loop_returns_what_it_makes() {
        assert_eq!(Pulse::default().guard("short", async { 7 }).await, 7);
    }

    #[tokio::test]
    async fn the_timer_ticks() {
        let timer = timer(Duration::from_millis(1)).expect("the kernel has timers");
        for _ in 0..3 {
            let mut ready = timer.readable().await.expect("it is watched");
            rustix::io::read(timer.get_ref(), &mut [0; 8]).ok();
            ready.clear_ready();
        }
    }
}
