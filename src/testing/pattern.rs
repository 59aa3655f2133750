//! Which requests are meant: `POST /v1/batches/*/cancel`.

use std::iter::zip;

/// Whether a pattern is of this request. A pattern may leave the method out; its `*` stands for one segment.
pub(super) fn fits(pattern: &str, request: &str) -> bool {
    let ((wanted, pattern), (method, path)) = (split(pattern), split(request));
    let methods_agree = wanted.is_none() || method.is_none() || wanted == method;
    let same_length = pattern.split('/').count() == path.split('/').count();
    methods_agree && same_length && zip(pattern.split('/'), path.split('/')).all(|(a, b)| a == "*" || a == b)
}

/// The method, where there is one, and the path.
fn split(text: &str) -> (Option<&str>, &str) {
    text.split_once(' ').map_or((None, text), |(method, path)| (Some(method), path))
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn a_star_is_one_segment_and_a_method_may_be_left_out() {
        assert!(fits("POST /v1/batches/*/cancel", "POST /v1/batches/b1/cancel"));
        assert!(fits("/v1/batches/*", "GET /v1/batches/b1") && fits("GET /v1/models", "/v1/models"));
        assert!(!fits("GET /v1/batches/*", "POST /v1/batches/b1"));
        assert!(!fits("/v1/batches/*", "POST /v1/batches/b1/cancel") && !fits("*", "/v1/batches"));
    }
}
