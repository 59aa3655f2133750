//! What a provider's row says of a line: an answer, a failure that may pass, or one that will not.

use super::Row;

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The provider says that it is answered.
    Answered,
    /// Once more in the next round.
    Transient,
    /// Never again.
    Permanent,
    /// Nobody knows what the code means: once more, then never again.
    Unknown,
}

/// Codes that can never pass. `batch_client_error` is not one of them: under it the API says both.
const PERMANENT: [&str; 5] =
    ["invalid_model", "invalid_request", "invalid_request_error", "model_not_available", "context_length_exceeded"];

/// Words of failures that pass, whatever their code.
const PASSING: [&str; 9] = [
    "internal server error",
    "timeout",
    "timed out",
    "overloaded",
    "try again",
    "temporarily",
    "rate limit",
    "unavailable",
    "bad gateway",
];

/// Reads a row; `None` for one that belongs to no line.
pub(crate) fn verdict(row: &Row) -> Option<Verdict> {
    match row {
        Row::Answer { status: 200, .. } => Some(Verdict::Answered),
        Row::Answer { status, .. } => Some(of_status(*status)),
        Row::Error { code, message, .. } => Some(of_error(code, message)),
        Row::Malformed { .. } | Row::End { .. } => None,
    }
}

const fn of_status(status: u16) -> Verdict {
    match status {
        408 | 409 | 425 | 429 | 500.. => Verdict::Transient,
        400..=499 => Verdict::Permanent,
        _ => Verdict::Unknown,
    }
}

fn of_error(code: &str, message: &str) -> Verdict {
    if let Ok(status) = code.parse::<u16>()
        && (400..600).contains(&status)
    {
        return of_status(status);
    }
    let (code, message) = (code.to_ascii_lowercase(), message.to_ascii_lowercase());
    if code == "timeout" || PASSING.iter().any(|words| message.contains(words)) || says_server_error(&message) {
        return Verdict::Transient;
    }
    if code == "batch_client_error" || PERMANENT.contains(&&*code) {
        return Verdict::Permanent;
    }
    Verdict::Unknown
}

/// Whether a message names one of the statuses of servers that fail, or of rates that are exceeded.
fn says_server_error(message: &str) -> bool {
    let mut words = message.split(|letter: char| !letter.is_ascii_alphanumeric());
    words.any(|word| matches!(word, "408" | "429" | "500" | "502" | "503" | "504" | "520" | "524" | "529"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: &str, message: &str) -> Option<Verdict> {
        verdict(&Row::Error { custom_id: "1".into(), code: code.into(), message: message.into() })
    }

    #[test]
    fn one_code_says_both_and_its_message_tells_which() {
        let permanent = ["Maximum four stop sequences allowed", "Selected function was not found in the tools list"];
        for message in permanent {
            assert_eq!(error("batch_client_error", message), Some(Verdict::Permanent), "{message}");
        }
        for message in ["Internal server error", "Request timeout", "engine overloaded", "upstream said 503"] {
            assert_eq!(error("batch_client_error", message), Some(Verdict::Transient), "{message}");
        }
    }

    #[test]
    fn codes_are_read_as_they_were_seen() {
        assert_eq!(error("timeout", "Request timeout"), Some(Verdict::Transient));
        assert_eq!(error("invalid_model", "Invalid model specified"), Some(Verdict::Permanent));
        assert_eq!(error("429", "slow down"), Some(Verdict::Transient));
        assert_eq!(error("400", "bad"), Some(Verdict::Permanent));
        assert_eq!(error("quota_zone_7", "no"), Some(Verdict::Unknown));
        assert_eq!(error("", ""), Some(Verdict::Unknown));
    }

    #[test]
    fn an_http_status_is_read_as_such() {
        use Verdict::{Answered, Permanent, Transient, Unknown};

        let answer = |status| verdict(&Row::Answer { custom_id: "1".into(), status, body: "{}".into() });
        let verdicts = [200, 400, 404, 408, 422, 429, 500, 503, 302].map(answer).map(Option::unwrap);
        let expected = [Answered, Permanent, Permanent, Transient, Permanent, Transient, Transient, Transient, Unknown];
        assert_eq!(verdicts, expected);
        assert_eq!(verdict(&Row::Malformed { problem: "no JSON".into() }), None);
    }
}
