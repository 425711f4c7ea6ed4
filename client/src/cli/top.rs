//! `top`: what the daemon is doing, on the whole screen, as it goes on.

mod bar;
mod rates;
mod screen;
mod state;
mod view;

use std::io;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use hearth_client::v1::{self, GetStatusResponse};
use hearth_client::{Client, Error, Events, reason};
use ratatui::crossterm::terminal;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::MissedTickBehavior;

use super::exit::Failure;
use super::json::{self, Line};
use super::output::Output;
use screen::{Keys, Screen};
use state::{Event, Then, Top};
use view::View;

/// The daemon sends no two messages within less.
const LEAST_INTERVAL: Duration = Duration::from_millis(100);
/// The width of a frame that is no terminal's.
const PLAIN_WIDTH: u16 = 100;

/// Shows memory and models on the whole screen, as they change.
///
/// Keys: q, Esc or Ctrl-C ends, s sorts by memory or by name, space holds the picture. The bars are shares of what
/// the engines may use in all. Speeds are those of all answers of a model together.
#[derive(Debug, Args)]
pub(super) struct TopArgs {
    /// How often to look, as in 500ms; at least 100ms.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,
    /// Write one frame as plain text, after one interval, in which speeds are measured.
    #[arg(long)]
    once: bool,
}

fn interval(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(interval) if interval < LEAST_INTERVAL => Err("at least 100ms".to_owned()),
        Ok(interval) => Ok(interval),
        Err(error) => Err(error.to_string()),
    }
}

pub(super) async fn run(
    args: TopArgs,
    connect: impl Future<Output = Result<Client, Error>>,
    out: &mut Output,
) -> Result<(), Failure> {
    if args.once {
        return once(args.interval, &connect.await?, out).await;
    }
    if !out.has_screen() {
        let told = "top draws on a terminal: give --once for one frame, or use `hearth status --watch`";
        return Err(Failure::Usage(told.to_owned()));
    }
    let client = connect.await?;
    let mut watch = Watch::begin(&client, args.interval).await?;
    // A refusal is told before the screen is taken.
    let first = watch.next().await?;
    let mut top = Top::new(first, args.interval, Instant::now());
    let mut signals = Signals::listen()?;
    let mut screen = Screen::open().map_err(terminal_failed)?;
    let mut keys = Keys::listen();
    let mut ticks = tokio::time::interval(args.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let view = View { top: &top, time: SystemTime::now(), colour: out.has_colour() };
        screen.draw(view).map_err(terminal_failed)?;
        let event = tokio::select! {
            // What ends it first: a daemon that talks without a pause must not outrun it.
            biased;
            () = signals.came() => return Err(Failure::Interrupted),
            event = keys.next() => event.map_err(terminal_failed)?,
            status = watch.next() => Event::Status(Box::new(status?)),
            _ = ticks.tick() => Event::Tick,
        };
        if top.on(event, Instant::now()) == Then::End {
            return Ok(());
        }
    }
}

/// Two looks at the daemon, and what came between them.
async fn once(interval: Duration, client: &Client, out: &mut Output) -> Result<(), Failure> {
    let mut top = Top::new(client.status().await?, interval, Instant::now());
    tokio::time::sleep(interval).await;
    top.on(Event::Status(Box::new(client.status().await?)), Instant::now());
    if out.is_json() {
        let rates = top.status().engines.iter().map(|engine| rate(engine, &top)).collect();
        let status = Box::new(json::Status::of(top.status()));
        return out.json(&Line::Top { status, rates });
    }
    let width =
        if out.has_screen() { terminal::size().map_or(PLAIN_WIDTH, |(width, _)| width) } else { PLAIN_WIDTH };
    let view = View { top: &top, time: SystemTime::now(), colour: false };
    view.text(width).iter().try_for_each(|line| out.line(line))
}

fn rate<'a>(engine: &'a v1::Engine, top: &Top) -> json::Rate<'a> {
    let speed = top.speed(&engine.model);
    json::Rate {
        model: &engine.model,
        decode_tokens_per_second: speed.map(|speed| speed.decode),
        prefill_tokens_per_second: speed.map(|speed| speed.prefill),
    }
}

fn terminal_failed(error: io::Error) -> Failure {
    Failure::Terminal(error.into())
}

/// The daemon's messages.
struct Watch<'a> {
    client: &'a Client,
    messages: Events<GetStatusResponse>,
}

impl<'a> Watch<'a> {
    async fn begin(client: &'a Client, interval: Duration) -> Result<Self, Error> {
        Ok(Self { client, messages: client.watch_status(Some(interval)).await? })
    }

    /// The next message. A daemon that goes down is one that is gone.
    async fn next(&mut self) -> Result<GetStatusResponse, Error> {
        match self.messages.next().await {
            Some(Ok(status)) => Ok(status),
            Some(Err(Error::Refused(refusal))) if refusal.reason.as_deref() == Some(reason::DRAINING) => {
                Err(self.gone("it is going down"))
            }
            Some(Err(error)) => Err(error),
            None => Err(self.gone("it says nothing more")),
        }
    }

    fn gone(&self, why: &str) -> Error {
        Error::ConnectionLost {
            endpoint: self.client.endpoint().clone(),
            source: io::Error::other(why.to_owned()),
        }
    }
}

/// What ends a program; the terminal is given back first.
struct Signals([Signal; 3]);

impl Signals {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(Failure::Start);
        let hangup = listen(SignalKind::hangup())?;
        Ok(Self([listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, hangup]))
    }

    async fn came(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_not_too_short() {
        assert_eq!(interval("100ms"), Ok(LEAST_INTERVAL));
        assert_eq!(interval("99ms"), Err("at least 100ms".to_owned()));
        assert!(interval("often").is_err());
    }
}
