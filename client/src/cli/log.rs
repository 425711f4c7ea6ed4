//! `log`: what the daemon logs.

use std::time::Duration;

use clap::Args;
use hearth_client::{Client, v1};

use super::exit::Failure;
use super::json::Line;
use super::output::Output;

/// What goes back to the configuration.
const DEFAULT: &str = "default";

/// Changes what the daemon and its engines log.
///
/// It holds until the daemon is told otherwise, reads its configuration again or ends, or for a time.
#[derive(Debug, Args)]
pub(super) struct LogArgs {
    /// error, warn, info, debug or trace; directives such as `info,hearthd::engines=debug`; or `default`,
    /// which is what the configuration says.
    filter: String,
    /// Go back to the configuration after this time, as in 10m.
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    time: Option<Duration>,
}

pub(super) async fn run(args: LogArgs, client: &Client, out: &mut Output) -> Result<(), Failure> {
    let filter = if args.filter == DEFAULT { "" } else { args.filter.as_str() };
    let v1::SetLogFilterResponse { filter, previous } = client.set_log_filter(filter, args.time).await?;
    if out.is_json() {
        return out.json(&Line::LogFilter { filter: &filter, previous: &previous });
    }
    let time = args.time.map(|time| format!(" for {}", humantime::format_duration(time)));
    out.line(&format!("logging {filter}{}, before that {previous}", time.unwrap_or_default()))
}
