//! The `tracing` layer into the journal: every field of an event and of its spans becomes a journal field.
//!
//! A thread of its own writes, through a bounded queue, so that a journal that hangs holds up nobody. Lines that
//! find the queue full are counted, and the count is logged once there is room again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use systemd_journal_logger::JournalLog;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::line::{Fields, JournalFields, Line};

/// Lines that wait for a busy journal: a burst of requests at DEBUG.
const QUEUE: usize = 1024;

/// How long the daemon's end waits for its last lines.
const FLUSH: Duration = Duration::from_secs(1);

/// How often a full queue is looked at meanwhile.
const FLUSH_STEP: Duration = Duration::from_millis(2);

/// The layer. Clones share the thread.
#[derive(Clone, Debug)]
pub(super) struct Journal {
    queue: SyncSender<Item>,
    lost: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Item {
    Line(Box<Line>),
    /// Answered once everything before it is written.
    Flush(SyncSender<()>),
}

impl Journal {
    /// Finds the journal and starts the thread.
    ///
    /// # Errors
    /// There is no journal, or no thread.
    pub(super) fn connect() -> io::Result<Self> {
        let journal = JournalLog::new()?;
        Self::start(move |line| {
            let arguments = format_args!("{}", line.message);
            let record = log::Record::builder()
                .args(arguments)
                .level(line.level)
                .target(line.target)
                .module_path_static(line.module)
                .file_static(line.file)
                .line(line.number)
                .key_values(&line.fields)
                .build();
            // A journal that is being restarted misses a line; there is nobody to tell.
            journal.journal_send(&record).ok();
        })
    }

    fn start(write: impl FnMut(&Line) + Send + 'static) -> io::Result<Self> {
        let (queue, items) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&lost);
        std::thread::Builder::new().name("journal".to_owned()).spawn(move || run(items, &counter, write))?;
        Ok(Self { queue, lost })
    }

    /// Waits until what was logged is written, or for a second.
    pub(super) fn flush(&self) {
        let (done, written) = sync_channel(1);
        let end = Instant::now() + FLUSH;
        // A full queue is being written, or its journal hangs.
        while self.queue.try_send(Item::Flush(done.clone())).is_err() {
            if Instant::now() >= end {
                return;
            }
            std::thread::sleep(FLUSH_STEP);
        }
        written.recv_timeout(FLUSH).ok();
    }

    fn put(&self, line: Line) {
        if self.queue.try_send(Item::Line(Box::new(line))).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn run(items: Receiver<Item>, lost: &AtomicU64, mut write: impl FnMut(&Line)) {
    for item in items {
        match item {
            Item::Line(line) => write(&line),
            Item::Flush(done) => drop(done.try_send(())),
        }
        let lost = lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            write(&loss(lost));
        }
    }
}

fn loss(lines: u64) -> Line {
    Line {
        level: log::Level::Warn,
        target: module_path!(),
        module: Some(module_path!()),
        file: Some(file!()),
        number: Some(line!()),
        message: format!("Lost {lines} lines: the journal was too slow"),
        fields: JournalFields::default(),
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Journal {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        let mut said = Fields::default();
        event.record(&mut said);
        let mut fields = JournalFields::default();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(of_span) = span.extensions().get::<Fields>() {
                fields.add(of_span);
            }
        }
        fields.add(&said);
        self.put(Line {
            level: level(*metadata.level()),
            target: metadata.target(),
            module: metadata.module_path(),
            file: metadata.file(),
            number: metadata.line(),
            message: said.sentence(),
            fields,
        });
    }
}

fn level(level: Level) -> log::Level {
    match level {
        Level::ERROR => log::Level::Error,
        Level::WARN => log::Level::Warn,
        Level::INFO => log::Level::Info,
        Level::DEBUG => log::Level::Debug,
        Level::TRACE => log::Level::Trace,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn fields_of_events_and_spans_arrive() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        let journal = Journal::start(move |line| {
            let fields = line.fields.0.clone();
            sink.lock().expect("no panic").push((line.level, line.message.clone(), fields));
        })
        .expect("a thread");
        let subscriber = tracing_subscriber::registry().with(journal.clone());
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("load", model.name = "tiny:latest", late = tracing::field::Empty);
            span.record("late", 7);
            span.in_scope(|| tracing::warn!(error = "no luck", "Failed"));
        });
        journal.flush();
        let seen = seen.lock().expect("no panic");
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let fields = vec![
            pair("HEARTH_MODEL", "tiny:latest"),
            pair("HEARTH_LATE", "7"),
            pair("HEARTH_ERROR", "no luck"),
        ];
        assert_eq!(*seen, [(log::Level::Warn, "Failed (error=no luck)".to_owned(), fields)]);
    }

    #[test]
    fn a_journal_that_hangs_holds_up_nobody_and_the_loss_is_told() {
        let (go, wait) = sync_channel::<()>(1);
        let written = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&written);
        let mut waited = false;
        let journal = Journal::start(move |line| {
            if !std::mem::replace(&mut waited, true) {
                wait.recv().ok();
            }
            sink.lock().expect("no panic").push(line.message.clone());
        })
        .expect("a thread");
        let subscriber = tracing_subscriber::registry().with(journal.clone());
        tracing::subscriber::with_default(subscriber, || {
            (0..QUEUE + 100).for_each(|number| tracing::info!(number, "Line"));
        });
        go.send(()).expect("it waits");
        journal.flush();
        let written = written.lock().expect("no panic");
        let lost =
            written.iter().find_map(|line| line.strip_prefix("Lost ")?.split(' ').next()?.parse().ok());
        assert!((99..=100).contains(&lost.unwrap_or(0)), "{lost:?}");
        assert_eq!(written.len(), QUEUE + 100 - lost.unwrap_or(0) + 1);
    }
}
