//! What to do about a failure: one line for each way out.

use std::io;

use hearth_client::{Code, Endpoint, Error, Refusal, reason};

use super::exit::Failure;

/// What a person can do next. None: the message says it, or nothing helps.
pub(super) fn of(failure: &Failure) -> Option<String> {
    match failure {
        Failure::Call(error) => of_error(error),
        Failure::EndlessTools(_) => {
            Some("say what is missing, or take its tools away: --tool-choice none".to_owned())
        }
        _ => None,
    }
}

fn of_error(error: &Error) -> Option<String> {
    Some(match error {
        Error::Unreachable { endpoint, source } => unreachable(endpoint, source.kind()),
        Error::ConnectionLost { endpoint: Endpoint::Http { .. }, .. } => {
            "it may have been stopped, or it serves TLS there: then the endpoint begins with https://"
                .to_owned()
        }
        Error::ConnectionLost { .. } => {
            "it may have been stopped: `hearth status` says whether it is back".to_owned()
        }
        Error::Refused(refusal) => return of_refusal(refusal),
        Error::Handshake { .. } => return handshake(error),
        Error::TokenInClear { .. } => "use https, or a Unix socket on the board itself".to_owned(),
        Error::Secret { .. } => {
            "your user must be able to read it; `ls -l` shows who is, and it should be nobody else".to_owned()
        }
        Error::Protocol(_) => {
            "is this program as new as the daemon? compare --version with `hearth status`".to_owned()
        }
        _ => return None,
    })
}

fn unreachable(endpoint: &Endpoint, kind: io::ErrorKind) -> String {
    match kind {
        io::ErrorKind::PermissionDenied => {
            "your user must be in the group of the socket: sudo usermod -aG hearth $USER, then log in again"
                .to_owned()
        }
        _ => format!(
            "is it running? start it with `{}`, or name another with --endpoint or HEARTH_ENDPOINT; \
             --wait 1m waits for it",
            start(endpoint)
        ),
    }
}

/// How a daemon is started that listens there.
fn start(endpoint: &Endpoint) -> String {
    match endpoint {
        Endpoint::Unix(_) if *endpoint == Endpoint::default() => {
            "sudo systemctl start hearthd".to_owned()
                + "`, or `hearthd serve --listen "
                + &endpoint.to_string()
        }
        Endpoint::Unix(_) => format!("hearthd serve --listen {endpoint}"),
        Endpoint::Http { host, port } | Endpoint::Https { host, port } => {
            format!("hearthd serve --listen tcp:{host}:{port}")
        }
    }
}

fn handshake(error: &Error) -> Option<String> {
    let Error::Handshake { source, .. } = error else { return None };
    let text = source.to_string();
    Some(if text.contains("not valid for name") {
        "its certificate is for another name: give that with --tls-name".to_owned()
    } else if text.contains("xpired") || text.contains("not valid yet") || text.contains("NotValidYet") {
        "look at the dates of its certificate, and at the clock of this board: `date`".to_owned()
    } else if text.contains("UnknownIssuer") || text.contains("invalid peer certificate") {
        "its certificate is of nobody that this program trusts: give the authority's with --tls-ca FILE"
            .to_owned()
    } else if text.contains("CertificateRequired") || text.contains("BadCertificate") {
        "it wants to know who you are: give --tls-cert FILE and --tls-key FILE".to_owned()
    } else {
        "does the daemon serve TLS there? without it the endpoint begins with http://".to_owned()
    })
}

fn of_refusal(refusal: &Refusal) -> Option<String> {
    shorter_context(refusal)
        .or_else(|| refusal.reason.as_deref().and_then(of_reason).map(str::to_owned))
        .or_else(|| of_code(refusal))
}

/// A model that does not fit may with a shorter context.
fn shorter_context(refusal: &Refusal) -> Option<String> {
    let never_fits = refusal.reason.as_deref() == Some(reason::NEVER_FITS);
    let largest = refusal.numbers.get("largest_context_tokens").filter(|tokens| *tokens != "0");
    let tokens = largest.filter(|_| never_fits)?;
    let name = refusal.numbers.get("model").map_or("NAME", String::as_str);
    Some(format!("it fits with a shorter context: try `hearth load {name} --ctx {tokens}`"))
}

/// The daemon's own reasons, as `daemon/src/rpc/status.rs` has them.
fn of_reason(name: &str) -> Option<&'static str> {
    Some(match name {
        reason::MODEL_NOT_FOUND => {
            "`hearth models` lists what is here, `hearth import FILE` brings a model in"
        }
        reason::AMBIGUOUS_DIGEST => "`hearth models` lists the names, which are never ambiguous",
        reason::NEVER_FITS => {
            "take a smaller model or quantization, or give the daemon more: `hearth plan NAME` shows what it takes, \
             `hearth status` the budget"
        }
        reason::MEMORY_FULL | reason::NO_MEMORY => {
            "`hearth plan NAME` says what must go, `hearth unload NAME` frees it, --wait 1m waits for room"
        }
        reason::MEMORY_PRESSURE => {
            "other programs need the memory: `hearth status` shows the pressure, --wait 1m waits for better times"
        }
        reason::QUEUE_FULL | reason::MODEL_CHANGING | reason::DRAINING | reason::INSPECTION_TIMEOUT => {
            "--wait 1m keeps trying for a minute"
        }
        reason::MODEL_QUARANTINED => {
            "`hearth models NAME` says why, `hearth load NAME` gives it another chance"
        }
        reason::ENGINE_LOST => "ask again: the model is loaded anew",
        reason::MODEL_UNLOADED => "somebody took it out of memory: ask again and it is loaded anew",
        reason::BAD_MODEL => {
            "the file may be damaged: get it again and compare it with `hearth import --sha256`"
        }
        reason::DIGEST_MISMATCH => "the file is damaged or another one than you meant: get it again",
        reason::SIZE_MISMATCH => "it changed while it was sent: import it again",
        reason::MODEL_IN_MEMORY => "`hearth unload NAME` takes it out of memory",
        reason::PROMPT_TOO_LONG => {
            "say less, begin anew (/clear), or give the model a longer context in the daemon's configuration"
        }
        reason::UNSUPPORTED => "`hearth models NAME` shows what it can do",
        reason::DEADLINE => "give it more time with --deadline",
        reason::READER_STALLED => "the answer was not read for too long: ask again",
        reason::REPLY_STALLED => {
            "a tool took too long: ask again, or raise reply_wait in the daemon's configuration"
        }
        reason::SENDER_STALLED => {
            "the file came too slowly: import it again, or put it on the board and use --server-path"
        }
        reason::DISK_FULL => "`hearth rm NAME` frees room, `hearth status` shows how much there is",
        reason::PATH_NOT_ALLOWED => {
            "without --server-path the file is sent; import_dirs of the daemon allows more paths"
        }
        reason::SOURCE_UNREADABLE => {
            "the daemon's user must be able to read it; without --server-path the file is sent"
        }
        reason::NAME_NEEDED => {
            "give a token in HEARTH_TOKEN or with --token-file FILE, or a certificate with --tls-cert"
        }
        reason::UNKNOWN_TOKEN => {
            "is HEARTH_TOKEN, or the file of --token-file, the one that this daemon gave out?"
        }
        reason::BUILD_MISMATCH | reason::ENGINE_NOT_STARTED => {
            "is its installation whole? the daemon's log says more: journalctl -u hearthd"
        }
        reason::ENGINE_FAILED | reason::ENGINE_PROTOCOL | reason::DISK_FAILED | reason::INTERNAL => {
            "that is a fault of the daemon, whose log says more: journalctl -u hearthd"
        }
        _ => return None,
    })
}

/// For reasons that a newer daemon gives.
fn of_code(refusal: &Refusal) -> Option<String> {
    match refusal.code {
        Code::Unauthenticated => Some(
            "give a token in HEARTH_TOKEN or with --token-file FILE, or a certificate with --tls-cert"
                .to_owned(),
        ),
        Code::PermissionDenied => Some(match refusal.numbers.get("role") {
            Some(role) => {
                format!("this takes the role `{role}`, which your user, token or certificate does not have")
            }
            None => "this takes a role that your user, token or certificate does not have".to_owned(),
        }),
        Code::Unimplemented => {
            Some("the daemon is older than this program: `hearth status` shows its version".to_owned())
        }
        Code::ResourceExhausted | Code::Unavailable if refusal.is_retryable() => {
            Some("--wait 1m keeps trying for a minute".to_owned())
        }
        Code::Internal => of_reason(reason::INTERNAL).map(str::to_owned),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: Code, reason: Option<&str>) -> Failure {
        let refusal = Refusal {
            code,
            reason: reason.map(str::to_owned),
            message: "no".to_owned(),
            numbers: Default::default(),
            fields: Vec::new(),
            quotas: Vec::new(),
            retry_after: None,
        };
        Failure::Call(Error::Refused(Box::new(refusal)))
    }

    fn unreachable(endpoint: Endpoint, kind: io::ErrorKind) -> Failure {
        Failure::Call(Error::Unreachable { endpoint, source: kind.into() })
    }

    fn says(failure: &Failure, word: &str) {
        assert!(of(failure).is_some_and(|hint| hint.contains(word)), "{failure:?}: {:?}", of(failure));
    }

    #[test]
    fn a_missing_daemon_comes_with_the_way_to_start_it() {
        let missing = |endpoint| unreachable(endpoint, io::ErrorKind::NotFound);
        says(&missing(Endpoint::default()), "systemctl start hearthd");
        says(&missing(Endpoint::default()), "hearthd serve --listen unix:/run/hearth/hearth.sock");
        says(&missing(Endpoint::Unix("/x.sock".into())), "`hearthd serve --listen unix:/x.sock`");
        says(&missing(Endpoint::Http { host: "board".to_owned(), port: 7450 }), "--listen tcp:board:7450");
    }

    #[test]
    fn a_forbidden_socket_names_the_group() {
        says(&unreachable(Endpoint::default(), io::ErrorKind::PermissionDenied), "group");
    }

    #[test]
    fn reasons_come_before_codes() {
        says(&refused(Code::NotFound, Some("MODEL_NOT_FOUND")), "hearth models");
        says(&refused(Code::PermissionDenied, Some("PATH_NOT_ALLOWED")), "import_dirs");
        says(&refused(Code::PermissionDenied, Some("SOMETHING_NEW")), "role");
        says(&refused(Code::Unauthenticated, None), "HEARTH_TOKEN");
    }

    #[test]
    fn a_model_that_never_fits_comes_with_the_context_that_does() {
        let never = |numbers: &[(&str, &str)]| {
            let mut refusal = Refusal {
                code: Code::FailedPrecondition,
                reason: Some(reason::NEVER_FITS.to_owned()),
                message: "no".to_owned(),
                numbers: Default::default(),
                fields: Vec::new(),
                quotas: Vec::new(),
                retry_after: None,
            };
            refusal
                .numbers
                .extend(numbers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
            Failure::Call(Error::Refused(Box::new(refusal)))
        };
        says(&never(&[("largest_context_tokens", "4096")]), "`hearth load NAME --ctx 4096`");
        says(&never(&[("largest_context_tokens", "512"), ("model", "m:q4")]), "`hearth load m:q4 --ctx 512`");
        says(&never(&[("largest_context_tokens", "0")]), "smaller model");
        says(&never(&[]), "smaller model");
    }

    #[test]
    fn every_reason_of_the_daemon_is_known_or_says_it_itself() {
        let source = include_str!("../../../daemon/src/rpc/status.rs");
        let table = source.split("#[cfg(test)]").next().unwrap_or_default();
        for piece in table.split("Row::new(Code::").skip(1) {
            let reason = piece.split('"').nth(1).expect("a row names its reason");
            let says_it_itself = ["INVALID_FIELD", "CANCELLED"].contains(&reason);
            let known = of_reason(reason).is_some()
                || piece.starts_with("PermissionDenied")
                || piece.starts_with("Unauthenticated");
            assert!(known || says_it_itself, "no hint for {reason}");
        }
    }
}
