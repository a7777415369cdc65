//! Heads of messages, and what their headers tell.

use hbpf_core::dialect::{request_facts, response_facts};
use hbpf_core::http1::{RequestHead, ResponseHead};
use hbpf_core::label::Label;

/// Bytes that are a head, or the beginning of one.
pub fn run(data: &[u8]) {
    if let Ok(Some((head, length))) = RequestHead::parse(data) {
        assert!(length <= data.len() && head.as_bytes() == &data[..length]);
        assert!(head.path().len() <= head.target.len().max(1));
        let facts = request_facts(&head);
        [facts.trace_id, facts.host].iter().flatten().for_each(check);
        head.expects_continue();
        head.content_coding();
        assert_eq!(head.fingerprint(), head.clone().fingerprint());
        assert!(
            RequestHead::parse(&data[..length - 1]).is_ok_and(|head| head.is_none()),
            "not complete before its end"
        );
    }
    if let Ok(Some((head, length))) = ResponseHead::parse(data) {
        assert!(length <= data.len());
        let facts = response_facts(&head);
        [facts.request_id, facts.provider].iter().flatten().for_each(check);
        let limit = facts.rate_limit;
        for seconds in [limit.reset_seconds, limit.retry_after_seconds].into_iter().flatten() {
            assert!(seconds.is_finite() && seconds >= 0.0, "{seconds}");
        }
        head.content_coding();
        assert!(head.is_chunked() || head.content_length().is_none_or(|length| length < u64::MAX) || length > 0);
    }
}

/// What no label may hold.
pub(crate) fn check(label: &Label) {
    assert!(label.as_str().chars().count() <= Label::MAX_CHARS);
    assert!(!label.as_str().chars().any(char::is_control));
}
