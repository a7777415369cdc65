//! What both sides have agreed on beyond the protocol itself (RFC 6455, 9.1, and RFC 7692).

/// What an answer's `Sec-WebSocket-Extensions` say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// Messages may be compressed (`permessage-deflate`).
    pub deflate: Option<Deflate>,
}

/// Parameters of `permessage-deflate`. Windows may be smaller than the largest; one of that reads them all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deflate {
    /// Each message of the client can be decompressed without those before it.
    pub client_no_context_takeover: bool,
    /// Likewise of the server.
    pub server_no_context_takeover: bool,
}

impl Extensions {
    /// From the values of all lines of the header.
    pub fn parse<'a>(values: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut agreed = Self::default();
        for extension in values.flat_map(|value| value.split(|byte| *byte == b',')) {
            let mut parts = extension.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            if parts.next().is_some_and(|name| name.eq_ignore_ascii_case(b"permessage-deflate")) {
                let mut deflate = Deflate::default();
                for parameter in parts {
                    deflate.client_no_context_takeover |= parameter.eq_ignore_ascii_case(b"client_no_context_takeover");
                    deflate.server_no_context_takeover |= parameter.eq_ignore_ascii_case(b"server_no_context_takeover");
                }
                // Of several the first has been agreed on (RFC 7692, 5).
                agreed.deflate.get_or_insert(deflate);
            }
        }
        agreed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_servers() {
        let deflate =
            |client, server| Some(Deflate { client_no_context_takeover: client, server_no_context_takeover: server });
        let cases: &[(&[&str], Option<Deflate>)] = &[
            (&[], None),
            (&[""], None),
            (&["permessage-deflate"], deflate(false, false)),
            (&["permessage-deflate; server_max_window_bits=12; client_max_window_bits=\"12\""], deflate(false, false)),
            (&["Permessage-Deflate;server_no_context_takeover ; client_no_context_takeover"], deflate(true, true)),
            (&["x-other; a=b, permessage-deflate; server_no_context_takeover"], deflate(false, true)),
            (&["x-other", "permessage-deflate; client_no_context_takeover"], deflate(true, false)),
            (&["permessage-deflate, permessage-deflate; client_no_context_takeover"], deflate(false, false)),
            (&["permessage-bzip2; permessage-deflate"], None),
        ];
        for (values, expected) in cases {
            let found = Extensions::parse(values.iter().map(|value| value.as_bytes()));
            assert_eq!(found.deflate, *expected, "{values:?}");
        }
    }
}
