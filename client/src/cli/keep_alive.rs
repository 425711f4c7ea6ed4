//! How long a model stays in memory, as people write it.

use std::time::Duration;

use hearth_client::KeepAlive;

/// Until its memory is needed.
const FOREVER: &str = "forever";

/// Reads `10m` or `forever`.
pub(super) fn parse(text: &str) -> Result<KeepAlive, humantime::DurationError> {
    match text {
        FOREVER => Ok(KeepAlive::Forever),
        time => humantime::parse_duration(time).map(KeepAlive::For),
    }
}

/// What [`parse`] reads; parts of a millisecond are left out, as on the wire.
pub(super) fn shown(keep_alive: KeepAlive) -> String {
    match keep_alive {
        KeepAlive::Forever => FOREVER.to_owned(),
        KeepAlive::For(time) => {
            let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            humantime::format_duration(Duration::from_millis(ms)).to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_read() {
        for text in ["forever", "10m", "1h 30m", "0s"] {
            let read = parse(text).expect("is valid");
            assert_eq!(shown(read), text);
        }
        assert!(parse("soon").is_err());
        assert!(parse("-1s").is_err());
    }
}
