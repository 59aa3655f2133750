//! What response headers say: when to try again, how much of a limit is left, which request it was.
//!
//! Every header is optional and none is trusted: what can't be read counts as absent.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName};

/// Above this a number is taken for garbage.
const MAX_NUMBER: f64 = 1e12;

/// How long the server asks to wait before the next attempt.
///
/// The first readable one of `retry-after-ms`, `retry-after` (seconds, or an HTTP date not before `now`) and
/// Together's `x-ratelimit-reset` (seconds). It may be hours: whether to wait that long is the caller's choice.
pub(crate) fn retry_hint(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    number(headers, "retry-after-ms")
        .and_then(|millis| seconds(millis / 1_000.0))
        .or_else(|| number(headers, "retry-after").and_then(seconds))
        .or_else(|| http_date(text(headers, "retry-after")?)?.duration_since(now).ok())
        .or_else(|| reset(headers))
}

/// Whether the server itself wants the request retried (`x-should-retry`), whatever its status.
pub(crate) fn should_retry(headers: &HeaderMap) -> Option<bool> {
    match text(headers, "x-should-retry")? {
        value if value.eq_ignore_ascii_case("true") => Some(true),
        value if value.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// The id under which the provider finds the request: `x-request-id`, else `x-together-traceid`, else `cf-ray`.
pub(crate) fn request_id(headers: &HeaderMap) -> Option<&str> {
    ["x-request-id", "x-together-traceid", "cf-ray"].into_iter().find_map(|name| text(headers, name))
}

/// The rate limits a response reported, each where the server sent it.
///
/// Limits hold per organization and model, and are counted per second. Together's newer documentation promises only
/// [`reset`](Self::reset), and that only with a 429.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct RateLimits {
    /// Requests (`x-ratelimit-limit`, `x-ratelimit-remaining`).
    pub requests: Option<Window>,
    /// Tokens (`x-tokenlimit-limit`, `x-tokenlimit-remaining`).
    pub tokens: Option<Window>,
    /// Requests, by the limit that follows recent use (`x-ratelimit-limit-dynamic`, `x-ratelimit-remaining-dynamic`).
    pub requests_dynamic: Option<Window>,
    /// Tokens, by the limit that follows recent use (`x-tokenlimit-limit-dynamic`, `x-tokenlimit-remaining-dynamic`).
    pub tokens_dynamic: Option<Window>,
    /// Time until there is room again (`x-ratelimit-reset`).
    pub reset: Option<Duration>,
}

/// One limit: how much it allows and how much of that is left. Neither is negative.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Window {
    /// What is allowed per second.
    pub limit: Option<f64>,
    /// What is left.
    pub remaining: Option<f64>,
}

impl RateLimits {
    /// Reads the headers; `None` when there is not one about limits.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let about_limits =
            |name: &HeaderName| ["x-ratelimit", "x-tokenlimit"].iter().any(|start| name.as_str().starts_with(start));
        // Most responses have none: one look at the names instead of nine look-ups.
        if !headers.keys().any(about_limits) {
            return None;
        }
        let limits = Self {
            requests: Window::read(headers, "x-ratelimit-limit", "x-ratelimit-remaining"),
            tokens: Window::read(headers, "x-tokenlimit-limit", "x-tokenlimit-remaining"),
            requests_dynamic: Window::read(headers, "x-ratelimit-limit-dynamic", "x-ratelimit-remaining-dynamic"),
            tokens_dynamic: Window::read(headers, "x-tokenlimit-limit-dynamic", "x-tokenlimit-remaining-dynamic"),
            reset: reset(headers),
        };
        (limits != Self::default()).then_some(limits)
    }
}

impl Window {
    fn read(headers: &HeaderMap, limit: &str, remaining: &str) -> Option<Self> {
        let window = Self { limit: number(headers, limit), remaining: number(headers, remaining) };
        (window != Self::default()).then_some(window)
    }
}

fn reset(headers: &HeaderMap) -> Option<Duration> {
    number(headers, "x-ratelimit-reset").and_then(seconds)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    Some(headers.get(name)?.to_str().ok()?.trim()).filter(|value| !value.is_empty())
}

fn number(headers: &HeaderMap, name: &str) -> Option<f64> {
    let number: f64 = text(headers, name)?.parse().ok()?;
    // The range keeps out NaN and the infinities; `abs` turns a negative zero into zero.
    (0.0..=MAX_NUMBER).contains(&number).then_some(number.abs())
}

fn seconds(number: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(number).ok()
}

/// Reads `Sun, 06 Nov 1994 08:49:37 GMT`, the date format of HTTP. The weekday is not checked.
fn http_date(date: &str) -> Option<SystemTime> {
    let mut parts = date.split(' ').skip(1);
    let day = digits(parts.next()?, 2)?;
    let month = parts.next()?;
    let year = digits(parts.next()?, 4)?;
    let mut time = parts.next()?.split(':');
    let (hour, minute, second) = (digits(time.next()?, 2)?, digits(time.next()?, 2)?, digits(time.next()?, 2)?);
    let complete = parts.next() == Some("GMT") && parts.next().is_none() && time.next().is_none();
    // A leap second is second 60.
    if !complete || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let seconds = ((days_since_epoch(year, month, day)? * 24 + hour) * 60 + minute) * 60 + second;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

fn digits(text: &str, length: usize) -> Option<u64> {
    let valid = text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit());
    valid.then(|| text.parse().ok()).flatten()
}

fn days_since_epoch(year: u64, month: &str, day: u64) -> Option<u64> {
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let february = if is_leap(year) { 29 } else { 28 };
    let months = [
        ("Jan", 31),
        ("Feb", february),
        ("Mar", 31),
        ("Apr", 30),
        ("May", 31),
        ("Jun", 30),
        ("Jul", 31),
        ("Aug", 31),
        ("Sep", 30),
        ("Oct", 31),
        ("Nov", 30),
        ("Dec", 31),
    ];
    let index = months.iter().position(|(name, _)| *name == month)?;
    let (earlier, rest) = months.split_at(index);
    if year < 1970 || day == 0 || day > rest.first()?.1 {
        return None;
    }
    let years: u64 = (1970..year).map(|year| if is_leap(year) { 366 } else { 365 }).sum();
    Some(years + earlier.iter().map(|(_, days)| days).sum::<u64>() + day - 1)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    const NAMES: [&str; 14] = [
        "retry-after-ms",
        "retry-after",
        "x-ratelimit-reset",
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
        "x-tokenlimit-limit",
        "x-tokenlimit-remaining",
        "x-ratelimit-limit-dynamic",
        "x-ratelimit-remaining-dynamic",
        "x-tokenlimit-limit-dynamic",
        "x-tokenlimit-remaining-dynamic",
        "x-should-retry",
        "x-request-id",
        "cf-ray",
    ];

    /// Sun, 06 Nov 1994 08:49:37 GMT
    const NOVEMBER_1994: u64 = 784_111_777;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn headers(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
        let pairs = pairs.iter();
        pairs.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap())).collect()
    }

    fn hint(pairs: &[(&'static str, &str)]) -> Option<f64> {
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        retry_hint(&headers(&pairs), at(NOVEMBER_1994)).map(|hint| hint.as_secs_f64())
    }

    #[test]
    fn the_most_precise_readable_hint_wins() {
        let (millis, after, reset) = (("retry-after-ms", "1500"), ("retry-after", "7.5"), ("x-ratelimit-reset", "9"));
        assert_eq!(hint(&[reset, after, millis]), Some(1.5));
        assert_eq!(hint(&[reset, after]), Some(7.5));
        assert_eq!(hint(&[reset]), Some(9.0));
        assert_eq!(hint(&[("retry-after-ms", "soon"), ("retry-after", "-1"), reset]), Some(9.0));
        assert_eq!(hint(&[("retry-after", "86400")]), Some(86_400.0));
        assert_eq!(hint(&[]), None);
    }

    #[test]
    fn a_number_that_makes_no_sense_is_no_hint() {
        for value in ["", "-1", "-0.001", "NaN", "inf", "-inf", "infinity", "1e13", "1e400", "1 s", "0x10", "é", "1,5"]
        {
            for name in ["retry-after-ms", "retry-after", "x-ratelimit-reset"] {
                assert_eq!(hint(&[(name, value)]), None, "{name}: {value}");
            }
        }
        assert_eq!(hint(&[("retry-after", " 0 ")]), Some(0.0));
        assert_eq!(hint(&[("retry-after", "1e12")]), Some(1e12));
    }

    #[test]
    fn a_date_is_the_wait_until_then() {
        let date = |value| hint(&[("retry-after", value)]);
        assert_eq!(date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(0.0));
        assert_eq!(date("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60.0));
        assert_eq!(date("Sun, 06 Nov 1994 08:49:36 GMT"), None, "a date in the past says nothing");
        for garbage in [
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "Sun, 6 Nov 2094 08:49:37 GMT",
            "Sun, 06 Nov 2094 08:49:37 UTC",
            "Sun, 06 Nov 2094 08:49:37 GMT GMT",
            "Sun, 06 Nov 2094 24:49:37 GMT",
            "Sun, 06 Nov 2094 08:60:37 GMT",
            "Sun, 06 Nov 2094 08:49:61 GMT",
            "Sun, 06 Nov 2094 08:49:37:00 GMT",
            "Sun, 06 Nov 2094 08:49 GMT",
            "Sun, 31 Nov 2094 08:49:37 GMT",
            "Sun, 00 Nov 2094 08:49:37 GMT",
            "Sun, 06 nov 2094 08:49:37 GMT",
            "Sun, +6 Nov 2094 08:49:37 GMT",
        ] {
            assert_eq!(date(garbage), None, "{garbage}");
        }
    }

    #[test]
    fn dates_count_leap_years_as_the_calendar_does() {
        for (date, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Tue, 29 Feb 2000 00:00:00 GMT", 951_782_400),
            ("Thu, 31 Dec 2026 23:59:59 GMT", 1_798_761_599),
            ("Mon, 01 Mar 2100 00:00:00 GMT", 4_107_542_400),
            ("Fri, 31 Dec 9999 23:59:59 GMT", 253_402_300_799),
        ] {
            assert_eq!(http_date(date), Some(at(seconds)), "{date}");
        }
        assert_eq!(http_date("Mon, 29 Feb 2100 00:00:00 GMT"), None);
        assert_eq!(http_date("Wed, 31 Dec 1969 23:59:59 GMT"), None);
    }

    #[test]
    fn the_servers_wish_is_read_only_when_it_is_clear() {
        for (value, expected) in [("true", Some(true)), ("False", Some(false)), ("1", None), ("", None)] {
            assert_eq!(should_retry(&headers(&[("x-should-retry", value.as_bytes())])), expected, "{value}");
        }
        assert_eq!(should_retry(&HeaderMap::new()), None);
    }

    #[test]
    fn the_request_id_falls_back_to_the_trace_and_the_edge() {
        let all: [(_, &[u8]); 3] = [("x-request-id", b"r"), ("x-together-traceid", b"t"), ("cf-ray", b"c")];
        for (skipped, expected) in [(0, Some("r")), (1, Some("t")), (2, Some("c")), (3, None)] {
            assert_eq!(request_id(&headers(&all[skipped..])), expected);
        }
        assert_eq!(request_id(&headers(&[("x-request-id", b"\xFF"), ("cf-ray", b"c")])), Some("c"));
        assert_eq!(request_id(&headers(&[("x-request-id", b""), ("cf-ray", b"c")])), Some("c"));
    }

    #[test]
    fn limits_are_read_each_from_its_own_header() {
        let pairs: Vec<_> = NAMES[2..11].iter().zip(["1", "2", "3", "4", "5", "6", "7", "8", "9.5"]).collect();
        let pairs: Vec<_> = pairs.into_iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        let window = |limit, remaining| Some(Window { limit: Some(limit), remaining: Some(remaining) });
        let expected = RateLimits {
            requests: window(2.0, 3.0),
            tokens: window(4.0, 5.0),
            requests_dynamic: window(6.0, 7.0),
            tokens_dynamic: window(8.0, 9.5),
            reset: Some(Duration::from_secs(1)),
        };
        assert_eq!(RateLimits::from_headers(&headers(&pairs)), Some(expected));
        assert_eq!(RateLimits::from_headers(&headers(&[("x-tokenlimit-limit", b"many"), ("retry-after", b"1")])), None);
        let partial = RateLimits::from_headers(&headers(&[("x-ratelimit-remaining", b"0")])).unwrap();
        assert_eq!(partial.requests, Some(Window { limit: None, remaining: Some(0.0) }));
    }

    fn value() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            any::<f64>().prop_map(|number| number.to_string().into_bytes()),
            "[A-Z][a-z]{2}, [0-9]{2} (Jan|Feb|Dec) [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT"
                .prop_map(String::into_bytes),
            vec(any::<u8>().prop_filter("valid in a header", |byte| *byte >= 32 && *byte != 127), 0..40),
            select(vec!["true", "-0", "1e-400", "nan", "9e99", "-1"]).prop_map(|text| text.as_bytes().to_vec()),
        ]
    }

    proptest! {
        #[test]
        fn nothing_panics_and_nothing_is_negative(pairs in vec((select(NAMES.to_vec()), value()), 0..14), now: u32) {
            let pairs: Vec<_> = pairs.iter().map(|(name, value)| (*name, value.as_slice())).collect();
            let headers = headers(&pairs);
            let _ = (retry_hint(&headers, at(now.into())), should_retry(&headers), request_id(&headers));
            let limits = RateLimits::from_headers(&headers).unwrap_or_default();
            for window in [limits.requests, limits.tokens, limits.requests_dynamic, limits.tokens_dynamic] {
                let window = window.unwrap_or_default();
                for number in [window.limit, window.remaining].into_iter().flatten() {
                    prop_assert!(number.is_sign_positive() && number <= MAX_NUMBER);
                }
            }
        }
    }
}
