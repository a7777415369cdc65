//! Whether a request is a model call.

use hbpf_core::dialect::{Extent, JUDGE_BYTES, Judgement, judge, target_patterns};
use hbpf_core::http1::RequestHead;

/// A request: its head, and as much of its body as there is.
pub fn run(data: &[u8]) {
    let Ok(Some((head, length))) = RequestHead::parse(data) else { return };
    let body = &data[length..];
    for extent in [Extent::Beginning, Extent::Cut, Extent::Whole] {
        let judgement = judge(&head, Some(11434), body, extent);
        let is_enough = extent != Extent::Beginning || body.len() >= JUDGE_BYTES;
        assert!(judgement != Judgement::NeedBody || !is_enough, "a decision is made");
        if let Judgement::ModelCall(call) | Judgement::ModelSocket(call) = &judgement {
            let is_socket = matches!(judgement, Judgement::ModelSocket(_));
            assert_eq!(head.method, if is_socket { "GET" } else { "POST" });
            let is_known = target_patterns().iter().any(|pattern| head.path().ends_with(pattern.as_bytes()));
            assert!(is_known || !call.known_target, "what the kernel side does not know is learned");
        }
    }
    // Once it is certain, more of the body changes nothing but the dialect.
    let early = judge(&head, None, &body[..body.len() / 2], Extent::Beginning);
    let late = judge(&head, None, body, Extent::Beginning);
    if early == Judgement::NotModel && body.len() / 2 < JUDGE_BYTES {
        assert!(!matches!(late, Judgement::ModelCall(_)), "no is no");
    }
}
