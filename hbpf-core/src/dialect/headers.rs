//! What headers tell. Of their values only what is named here is kept.

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;

use crate::exchange::{RateLimit, ServiceTier};
use crate::http1::{RequestHead, ResponseHead};
use crate::label::Label;

/// Longest value of a header that is looked into. Ids, numbers and dates are shorter.
const VALUE_BYTES: usize = 128;

/// Headers that name the tier.
const TIERS: [&str; 2] = ["x-amzn-bedrock-service-tier", "x-gemini-service-tier"];

/// Anthropic's, of who has logged in with a subscription: how much is used of what five hours and seven days have.
const SUBSCRIPTION: [&str; 2] =
    ["anthropic-ratelimit-unified-5h-utilization", "anthropic-ratelimit-unified-7d-utilization"];

/// What a request's headers tell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RequestHeaderFacts {
    /// The trace id of a `traceparent` header, nothing else of it.
    pub trace_id: Option<Label>,
    /// Which try of one logical call this is, from 0, where the SDK says so.
    pub attempt: Option<u32>,
    /// The host asked for, without port.
    pub host: Option<Label>,
}

/// What an answer's headers tell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResponseHeaderFacts {
    /// The server's id of the request.
    pub request_id: Option<Label>,
    /// Quota.
    pub rate_limit: RateLimit,
    /// Who serves, as far as headers tell. A hint: use it where nothing better is known.
    pub provider: Option<Label>,
    /// The tier in which it was served (Bedrock, Gemini).
    pub tier: Option<ServiceTier>,
    /// US dollars that a gateway (LiteLLM) says that it has cost.
    pub cost_usd: Option<f64>,
    /// For how long the request has waited inside the server, in seconds (TGI).
    pub queue_seconds: Option<f64>,
}

/// Reads a request's headers.
pub fn request_facts(head: &RequestHead<'_>) -> RequestHeaderFacts {
    RequestHeaderFacts {
        trace_id: head.header("traceparent").and_then(trace_id),
        attempt: attempt(head),
        host: host(head),
    }
}

/// Which try it is: OpenAI's and Anthropic's SDKs count retries, AWS's tries.
fn attempt(head: &RequestHead<'_>) -> Option<u32> {
    let count = head.header("x-stainless-retry-count").and_then(number);
    let of_aws = || {
        let mut fields = text(head.header("amz-sdk-request")?)?.split(';');
        let tries: u64 = fields.find_map(|field| field.trim().strip_prefix("attempt="))?.parse().ok()?;
        tries.checked_sub(1)
    };
    u32::try_from(count.or_else(of_aws)?).ok()
}

/// Reads an answer's headers.
pub fn response_facts(head: &ResponseHead<'_>) -> ResponseHeaderFacts {
    let headers = Headers(head);
    ResponseHeaderFacts {
        request_id: headers.request_id(),
        rate_limit: headers.rate_limit(),
        provider: headers.provider().map(Label::new),
        tier: TIERS.iter().find_map(|name| ServiceTier::of(headers.text(name)?.as_bytes())),
        cost_usd: headers.text("x-litellm-response-cost").and_then(|text| text.parse().ok()).filter(is_amount),
        queue_seconds: headers.text("x-queue-time").and_then(seconds).map(|milliseconds| milliseconds / 1000.0),
    }
}

/// The `Host` header without its port, if it is a host's name or address.
pub(super) fn host(head: &RequestHead<'_>) -> Option<Label> {
    let value = text(head.header("host")?)?;
    let (host, port) = match value.strip_prefix('[') {
        Some(address) => address.split_once(']')?,
        None => value.find(':').map_or((value, ""), |colon| value.split_at(colon)),
    };
    // Else it may be a user's name and password that somebody has put before the host.
    let is_port =
        port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()));
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
    (is_port && !host.is_empty() && host.bytes().all(is_host)).then(|| Label::new(host))
}

/// The trace id of a W3C trace context: `version-trace-parent-flags` in lower-case hexadecimal.
fn trace_id(value: &[u8]) -> Option<Label> {
    let value = text(value)?;
    let mut fields = value.split('-');
    let (version, trace) = (fields.next()?, fields.next()?);
    let (parent, flags) = (fields.next()?, fields.next()?);
    let is_hex = |field: &str, length| {
        field.len() == length && field.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_well_formed = is_hex(version, 2) && is_hex(trace, 32) && is_hex(parent, 16) && is_hex(flags, 2);
    // Version ff is forbidden; a later version than 00 may add fields; an id of zeros is none.
    let is_valid = version != "ff" && (version != "00" || fields.next().is_none());
    let is_id = trace.bytes().any(|byte| byte != b'0') && parent.bytes().any(|byte| byte != b'0');
    (is_well_formed && is_valid && is_id).then(|| Label::new(trace))
}

struct Headers<'a>(&'a ResponseHead<'a>);

impl<'a> Headers<'a> {
    fn has(&self, name: &str) -> bool {
        self.0.header(name).is_some()
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        text(self.0.header(name)?)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.0.header(name).and_then(number)
    }

    fn request_id(&self) -> Option<Label> {
        let names = ["x-request-id", "request-id", "x-amzn-requestid", "apim-request-id"];
        let id = names.iter().find_map(|name| self.text(name))?;
        (!id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic())).then(|| Label::new(id))
    }

    fn rate_limit(&self) -> RateLimit {
        let now = self.text("date").and_then(http_date);
        let openai_reset = ["requests", "tokens"]
            .into_iter()
            .filter_map(|of| go_duration(self.text(&format!("x-ratelimit-reset-{of}"))?));
        let anthropic_reset = ["requests", "tokens", "input-tokens", "output-tokens"]
            .into_iter()
            .filter_map(|of| seconds_until(self.text(&format!("anthropic-ratelimit-{of}-reset"))?, now));
        let subscription_reset =
            self.text("anthropic-ratelimit-unified-reset").and_then(|value| seconds_until(value, now));
        RateLimit {
            remaining_requests: self
                .number("x-ratelimit-remaining-requests")
                .or_else(|| self.number("anthropic-ratelimit-requests-remaining")),
            remaining_tokens: self
                .number("x-ratelimit-remaining-tokens")
                .or_else(|| self.number("anthropic-ratelimit-tokens-remaining"))
                .or_else(|| self.number("anthropic-ratelimit-input-tokens-remaining")),
            remaining_fraction: SUBSCRIPTION.iter().filter_map(|name| self.left_of(name)).reduce(f64::min),
            // The quota is whole when its last part is. Of a subscription's the one is told that is used up first.
            reset_seconds: openai_reset.chain(anthropic_reset).chain(subscription_reset).reduce(f64::max),
            retry_after_seconds: self.retry_after(now),
        }
    }

    /// What is left of a quota of which the header says how much is used, from 0 to 1.
    fn left_of(&self, name: &str) -> Option<f64> {
        let used: f64 = self.text(name)?.parse().ok()?;
        used.is_finite().then(|| (1.0 - used).clamp(0.0, 1.0))
    }

    /// The finer one first: both may be there.
    fn retry_after(&self, now: Option<Timestamp>) -> Option<f64> {
        if let Some(milliseconds) = self.text("retry-after-ms").and_then(seconds) {
            return Some(milliseconds / 1000.0);
        }
        let value = self.text("retry-after")?;
        seconds(value).or_else(|| Some(http_date(value)?.duration_since(now?).as_secs_f64().max(0.0)))
    }

    /// From the outermost to the innermost: a gateway passes on headers of what is behind it.
    fn provider(&self) -> Option<&'static str> {
        let is_server = |name: &str| self.text("server").is_some_and(|server| server.eq_ignore_ascii_case(name));
        let starts = |name: &str, start: &str| self.text(name).is_some_and(|value| value.starts_with(start));
        if self.has("x-litellm-call-id") || self.has("x-litellm-version") {
            Some("litellm")
        } else if self.has("x-generation-id") {
            Some("openrouter")
        } else if self.has("apim-request-id") || self.has("x-ms-region") {
            Some("azure.ai.openai")
        } else if is_server("llama.cpp") {
            Some("llama.cpp")
        } else if self.has("x-compute-type") || self.has("x-inference-time") {
            Some("tgi")
        } else if self.has("anthropic-organization-id")
            || self.has("anthropic-ratelimit-requests-remaining")
            || starts("request-id", "req_")
        {
            Some("anthropic")
        } else if ["openai-organization", "openai-version", "openai-processing-ms"].iter().any(|name| self.has(name)) {
            Some("openai")
        } else {
            None
        }
    }
}

fn is_amount(value: &f64) -> bool {
    value.is_finite() && *value >= 0.0
}

fn text(value: &[u8]) -> Option<&str> {
    if value.len() > VALUE_BYTES {
        return None;
    }
    std::str::from_utf8(value).ok().map(str::trim)
}

fn number(value: &[u8]) -> Option<u64> {
    text(value)?.parse().ok()
}

/// A plain number of seconds (or milliseconds): not negative, not absurd.
fn seconds(value: &str) -> Option<f64> {
    let is_plain = value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    value.parse().ok().filter(|_| is_plain)
}

fn http_date(value: &str) -> Option<Timestamp> {
    static PARSER: DateTimeParser = DateTimeParser::new();
    PARSER.parse_timestamp(value).ok()
}

/// Seconds from the answer's own date to a time, as RFC 3339 has it or in seconds since 1970; unknown without a date, since the
/// clocks may differ.
fn seconds_until(value: &str, now: Option<Timestamp>) -> Option<f64> {
    let since_1970 = || Timestamp::from_second(value.parse().ok()?).ok();
    let then: Timestamp = value.parse().ok().or_else(since_1970)?;
    Some(then.duration_since(now?).as_secs_f64().max(0.0))
}

/// A duration as Go prints it: `6m0s`, `8.64s`, `132ms`, `1h2m3s`. A bare number is seconds.
fn go_duration(value: &str) -> Option<f64> {
    if let Some(plain) = seconds(value) {
        return Some(plain);
    }
    let mut total = 0.0;
    let mut rest = value;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (amount, after) = rest.split_at(digits);
        let unit_len = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        let scale = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        total += amount.parse::<f64>().ok()? * scale;
        rest = after;
    }
    (!value.is_empty()).then_some(total)
}
