//! Failures of servers, classified by whether another attempt may help.

use std::error::Error as StdError;
use std::io;

use tonic::{Code, Status};

use super::RemoteError;

/// Reason why a server did not give the expected answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The server or the connection is gone: another server may answer now, and this one later.
    #[error("{0}")]
    Away(String),
    /// The server has no room at the moment: another server may have, and this one later.
    #[error("{0}")]
    Busy(String),
    /// The server no longer has the stream open, or no longer has the shared memory.
    #[error("the stream was closed")]
    Closed,
    /// The server cannot make this batch, now or later; another server may.
    #[error(transparent)]
    Unable(RemoteError),
    /// The server refuses this client, and would refuse it again; another server may not.
    #[error(transparent)]
    Lost(RemoteError),
    /// No other attempt would help.
    #[error(transparent)]
    Fatal(RemoteError),
}

impl Failure {
    /// Failure that a status sent by a server means.
    pub(super) fn of(url: &str, status: &Status) -> Self {
        let text = with_advice(url, describe(status));
        let is_invalid = status.code() == Code::InvalidArgument;
        let refused = |text| RemoteError::Refused { url: url.to_owned(), reason: text, is_invalid };
        match status.code() {
            Code::NotFound => Self::Closed,
            Code::InvalidArgument | Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented => {
                Self::Lost(refused(text))
            }
            Code::ResourceExhausted | Code::FailedPrecondition => Self::Busy(text),
            Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded => Self::Away(text),
            // A corrupt chunk, a batch larger than the client's memory at the server, a bug of the server.
            _ => Self::Unable(refused(text)),
        }
    }

    /// Failure that an error means if it occurs while the connection is made, or while its first request is answered.
    /// Later errors mean that the connection broke.
    pub(super) fn of_connecting(url: &str, error: &(dyn StdError + 'static)) -> Self {
        let text = with_advice(url, chain(error));
        if heals(error) {
            Self::Away(text)
        } else {
            Self::Lost(RemoteError::Refused { url: url.to_owned(), reason: text, is_invalid: false })
        }
    }
}

/// A text with advice, if there is some.
fn with_advice(url: &str, text: String) -> String {
    match advice(url, &text) {
        Some(advice) => format!("{text}; {advice}"),
        None => text,
    }
}

/// Statuses that a proxy gives for the server behind it.
const OF_PROXIES: [&str; 6] = ["code 401", "code 403", "code 429", "code 502", "code 503", "code 504"];

/// Likely mistake in a URL or in certificates, which the text of an error shows but does not name.
fn advice(url: &str, text: &str) -> Option<&'static str> {
    if text.contains("UnknownIssuer") {
        Some(
            "no certificate known here has signed the server's; name the file of its authority's (--tls-ca of \
             hiend-shard, --loader-ca of hiend-train, `ca` in Python)",
        )
    } else if text.contains("CaUsedAsEndEntity") {
        Some("the server's certificate is that of an authority; give the server one with basicConstraints=CA:FALSE")
    } else if text.contains("grpc-status header missing") && !OF_PROXIES.iter().any(|status| text.contains(status)) {
        // An answer that is HTTP but not gRPC.
        Some(
            "this address is not that of a hiend-serve; expected the URL that it prints as `serving`, not that of its --metrics-listen",
        )
    } else if text.contains("SUN_LEN") {
        Some("the path of a Unix socket has at most 107 bytes, 104 with shared memory, which appends `.fd`")
    // The first bytes of an answer, taken for a record of TLS or a frame of HTTP/2.
    } else if url.starts_with("https://") && text.contains("InvalidContentType") {
        Some("the URL of a server without TLS begins with http://")
    } else if url.starts_with("http://") && text.contains("frame with invalid size") {
        Some("the URL of a server with TLS begins with https://, and the server must be a hiend-serve")
    } else {
        None
    }
}

/// Returns `true` if the same server may accept a later connection.
fn heals(error: &(dyn StdError + 'static)) -> bool {
    causes(error).all(|cause| {
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            return io_heals(error);
        }
        if let Some(error) = cause.downcast_ref::<h2::Error>() {
            return h2_heals(error);
        }
        // The type of the error is private, so its text is compared.
        !cause.to_string().starts_with("HTTP/2 was not negotiated")
    })
}

fn io_heals(error: &io::Error) -> bool {
    // TLS reports a certificate that is not trusted and a server without TLS as invalid data. A socket file that does not
    // exist heals: its server has not started yet.
    use io::ErrorKind::{InvalidData, InvalidInput, PermissionDenied, Unsupported};
    !matches!(error.kind(), InvalidData | InvalidInput | PermissionDenied | Unsupported)
}

/// Returns `false` if one side does not understand the protocol of the other.
fn h2_heals(error: &h2::Error) -> bool {
    if let Some(error) = error.get_io() {
        return io_heals(error);
    }
    let broken = [
        h2::Reason::PROTOCOL_ERROR,
        h2::Reason::FRAME_SIZE_ERROR,
        h2::Reason::COMPRESSION_ERROR,
        h2::Reason::INADEQUATE_SECURITY,
        h2::Reason::HTTP_1_1_REQUIRED,
    ];
    error.reason().is_none_or(|reason| !broken.contains(&reason))
}

/// An error and its causes, the first cause last.
fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// An error and its causes as one line, without repetitions.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = String::new();
    for cause in causes(error).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = if text.is_empty() { cause } else { format!("{text}: {cause}") };
        }
    }
    text
}

/// A status as one line.
pub(super) fn describe(status: &Status) -> String {
    let mut text = status.message().to_owned();
    if let Some(source) = status.source() {
        let cause = chain(source);
        if cause.contains(&text) {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    if text.is_empty() { status.code().description().to_lowercase() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_connections_heal_unless_the_sides_do_not_understand_each_other() {
        use io::ErrorKind::{
            BrokenPipe, ConnectionRefused, ConnectionReset, InvalidData, InvalidInput, NotFound, PermissionDenied,
            TimedOut, UnexpectedEof,
        };
        for kind in [ConnectionRefused, ConnectionReset, BrokenPipe, TimedOut, NotFound, UnexpectedEof] {
            assert!(heals(&io::Error::from(kind)), "{kind:?}");
        }
        for kind in [InvalidData, InvalidInput, PermissionDenied] {
            assert!(!heals(&io::Error::from(kind)), "{kind:?}");
        }
        for reason in [h2::Reason::NO_ERROR, h2::Reason::REFUSED_STREAM, h2::Reason::INTERNAL_ERROR] {
            assert!(heals(&h2::Error::from(reason)), "{reason:?}");
        }
        for reason in [h2::Reason::PROTOCOL_ERROR, h2::Reason::FRAME_SIZE_ERROR] {
            assert!(!heals(&h2::Error::from(reason)), "{reason:?}");
        }
    }

    #[test]
    fn a_status_and_its_cause_are_told_without_repetition() {
        let described = |message: &str, cause: &str| {
            let mut status = Status::unavailable(message);
            status.set_source(std::sync::Arc::new(io::Error::other(cause.to_owned())));
            describe(&status)
        };
        assert_eq!(
            described("connect error", "transport error: connect error: refused"),
            "transport error: connect error: refused"
        );
        assert_eq!(described("refused", "refused"), "refused");
        assert_eq!(described("", "refused"), "refused");
        assert_eq!(described("no batch", "refused"), "no batch: refused");
    }

    #[test]
    fn errors_that_do_not_name_the_mistake_have_advice() {
        let of_connecting = |url, text: &str| Failure::of_connecting(url, &io::Error::other(text)).to_string();
        for (url, text, expected) in [
            ("https://a:1", "invalid peer certificate: UnknownIssuer", "--tls-ca"),
            ("https://a:1", "invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))", "CA:FALSE"),
            ("https://a:1", "received corrupt message of type InvalidContentType", "http://"),
            ("http://a:1", "connection error detected: frame with invalid size", "https://"),
            ("unix:///a", "path must be shorter than SUN_LEN", "107 bytes"),
        ] {
            let found = of_connecting(url, text);
            assert!(found.starts_with(text) && found.contains(expected), "{found}");
        }
        assert_eq!(of_connecting("http://a:1", "connection refused"), "connection refused");
        let missing = "grpc-status header missing, mapped from HTTP status code 404";
        let failure = Failure::of("http://a:1", &Status::unimplemented(missing)).to_string();
        assert!(failure.contains(missing) && failure.contains("--metrics-listen"), "{failure}");
        // From a proxy, whose server restarts.
        let missing = "grpc-status header missing, mapped from HTTP status code 503";
        assert_eq!(Failure::of("http://a:1", &Status::unavailable(missing)).to_string(), missing);
    }

    #[test]
    fn statuses_are_tried_again_only_where_that_may_help() {
        let of = |code| Failure::of("http://a:1", &Status::new(code, "reason"));
        for code in [Code::Unavailable, Code::Cancelled, Code::DeadlineExceeded] {
            assert!(matches!(of(code), Failure::Away(_)), "{code:?}");
        }
        for code in [Code::Unauthenticated, Code::InvalidArgument, Code::Unimplemented] {
            assert!(matches!(of(code), Failure::Lost(_)), "{code:?}");
        }
        for code in [Code::DataLoss, Code::OutOfRange, Code::Internal, Code::Unknown] {
            assert!(matches!(of(code), Failure::Unable(_)), "{code:?}");
        }
        for code in [Code::InvalidArgument, Code::Unauthenticated, Code::Unimplemented] {
            let expected = code == Code::InvalidArgument;
            let failure = of(code);
            assert!(
                matches!(failure, Failure::Lost(RemoteError::Refused { is_invalid, .. }) if is_invalid == expected),
                "{code:?}"
            );
        }
        assert!(matches!(of(Code::ResourceExhausted), Failure::Busy(_)));
        assert!(matches!(of(Code::NotFound), Failure::Closed));
    }
}
