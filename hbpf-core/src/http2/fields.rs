//! Which fields of heads are read at all, and HTTP/2's table of common ones.

/// How much of a field's value is of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// All of it.
    Value,
    /// What stands before a query, which may hold keys.
    Path,
    /// That the field is there.
    Presence,
}

/// The fields that heads are read for. A connection's tables remember no others.
const READ: &[(&str, Use)] = &[
    (":authority", Use::Value),
    (":method", Use::Value),
    (":path", Use::Path),
    (":status", Use::Value),
    ("amz-sdk-request", Use::Value),
    ("anthropic-organization-id", Use::Presence),
    ("anthropic-ratelimit-input-tokens-remaining", Use::Value),
    ("anthropic-ratelimit-input-tokens-reset", Use::Value),
    ("anthropic-ratelimit-output-tokens-reset", Use::Value),
    ("anthropic-ratelimit-requests-remaining", Use::Value),
    ("anthropic-ratelimit-requests-reset", Use::Value),
    ("anthropic-ratelimit-tokens-remaining", Use::Value),
    ("anthropic-ratelimit-tokens-reset", Use::Value),
    ("anthropic-ratelimit-unified-5h-utilization", Use::Value),
    ("anthropic-ratelimit-unified-7d-utilization", Use::Value),
    ("anthropic-ratelimit-unified-reset", Use::Value),
    ("anthropic-version", Use::Presence),
    ("apim-request-id", Use::Value),
    ("content-encoding", Use::Value),
    ("content-length", Use::Value),
    ("content-type", Use::Value),
    ("date", Use::Value),
    ("expect", Use::Value),
    ("grpc-encoding", Use::Value),
    ("grpc-status", Use::Value),
    ("host", Use::Value),
    ("openai-organization", Use::Presence),
    ("openai-processing-ms", Use::Presence),
    ("openai-version", Use::Presence),
    ("request-id", Use::Value),
    ("retry-after", Use::Value),
    ("retry-after-ms", Use::Value),
    ("server", Use::Value),
    ("traceparent", Use::Value),
    ("transfer-encoding", Use::Value),
    ("x-amzn-bedrock-cache-read-input-token-count", Use::Value),
    ("x-amzn-bedrock-cache-write-input-token-count", Use::Value),
    ("x-amzn-bedrock-input-token-count", Use::Value),
    ("x-amzn-bedrock-output-token-count", Use::Value),
    ("x-amzn-bedrock-service-tier", Use::Value),
    ("x-amzn-errortype", Use::Value),
    ("x-amzn-requestid", Use::Value),
    ("x-compute-type", Use::Presence),
    ("x-gemini-service-tier", Use::Value),
    ("x-generated-tokens", Use::Value),
    ("x-generation-id", Use::Presence),
    ("x-inference-time", Use::Presence),
    ("x-litellm-call-id", Use::Presence),
    ("x-litellm-response-cost", Use::Value),
    ("x-litellm-version", Use::Presence),
    ("x-ms-region", Use::Presence),
    ("x-prompt-tokens", Use::Value),
    ("x-queue-time", Use::Value),
    ("x-ratelimit-remaining-requests", Use::Value),
    ("x-ratelimit-remaining-tokens", Use::Value),
    ("x-ratelimit-reset-requests", Use::Value),
    ("x-ratelimit-reset-tokens", Use::Value),
    ("x-request-id", Use::Value),
    ("x-stainless-retry-count", Use::Value),
];

/// The name of a field that is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Name(&'static (&'static str, Use));

impl Name {
    /// The name, if fields of that name are read. Names are in lower case in HTTP/2.
    pub(crate) fn of(name: &[u8]) -> Option<Self> {
        let at = READ.binary_search_by(|(known, _)| known.as_bytes().cmp(name)).ok()?;
        Some(Self(&READ[at]))
    }

    /// The name itself.
    pub(crate) fn as_str(self) -> &'static str {
        self.0.0
    }

    /// What of such a field's value is of use.
    pub(crate) fn readable_part(self, value: &[u8]) -> &[u8] {
        match self.0.1 {
            Use::Value => value,
            Use::Path => value.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default(),
            Use::Presence => b"",
        }
    }
}

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// RFC 7541, appendix A: the field of index 1 and those that follow.
pub(super) const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::{Name, READ, STATIC};

    #[test]
    fn names_are_found_and_nothing_else_is() {
        assert!(READ.is_sorted_by(|one, next| one.0 < next.0));
        for (name, _) in READ {
            assert_eq!(Name::of(name.as_bytes()).unwrap().as_str(), *name);
        }
        for secret in ["authorization", "cookie", "set-cookie", "x-api-key", "api-key", "x-goog-api-key", "Host", ""] {
            assert_eq!(Name::of(secret.as_bytes()), None, "{secret}");
        }
    }

    #[test]
    fn of_a_path_its_query_is_not_read() {
        let path = Name::of(b":path").unwrap();
        assert_eq!(path.readable_part(b"/v1/x?key=canary"), b"/v1/x");
        assert_eq!(Name::of(b"anthropic-organization-id").unwrap().readable_part(b"canary"), b"");
    }

    #[test]
    fn the_static_table_is_the_one_of_the_specification() {
        let mut encoder = httlib_hpack::Encoder::default();
        for (index, (name, value)) in STATIC.iter().enumerate() {
            let mut block = Vec::new();
            let field = (name.as_bytes().to_vec(), value.as_bytes().to_vec(), httlib_hpack::Encoder::BEST_FORMAT);
            encoder.encode(field, &mut block).unwrap();
            // Where the value is empty the encoder may spell it out behind the name's index.
            if !value.is_empty() {
                assert_eq!(block, [0x80 | (index as u8 + 1)], "{name}: {value}");
            }
        }
    }
}
