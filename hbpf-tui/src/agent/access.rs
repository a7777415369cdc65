//! Who may ask an agent.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::pem;

/// Fewer are guessed.
const MIN_TOKEN: usize = 16;
const MAX_TOKEN: usize = 1024;

/// A secret that who asks has to know; only its digest is kept.
#[derive(Clone)]
pub(super) struct Token([u8; 32]);

impl Token {
    /// The one in a file.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = String::from_utf8(pem::read(path)?).ok().context("is no text");
        let token = text.and_then(|text| Self::parse(&text).map_err(anyhow::Error::msg));
        token.with_context(|| path.display().to_string())
    }

    /// What a file has, but for white space around it.
    ///
    /// # Errors
    ///
    /// Says what a token is, if this is none.
    fn parse(text: &str) -> Result<Self, String> {
        let token = text.trim();
        let is_token =
            token.bytes().all(|byte| byte.is_ascii_graphic()) && (MIN_TOKEN..=MAX_TOKEN).contains(&token.len());
        if !is_token {
            return Err(format!(
                "a token has {MIN_TOKEN} to {MAX_TOKEN} characters without spaces, such as `openssl rand -hex 32` prints"
            ));
        }
        Ok(Self(Sha256::digest(token).into()))
    }

    /// Whether an `Authorization` header has it. Digests are compared, so that time tells nothing of the token.
    pub(super) fn is_in(&self, authorization: Option<&[u8]>) -> bool {
        const SCHEME: &[u8] = b"bearer ";
        let Some((scheme, token)) = authorization.and_then(|header| header.split_at_checked(SCHEME.len())) else {
            return false;
        };
        scheme.eq_ignore_ascii_case(SCHEME) && Sha256::digest(token.trim_ascii())[..] == self.0
    }
}

/// Names by which a listener may be called. A page in somebody's browser that has made its own name point here cannot ask.
#[derive(Clone, Debug)]
pub(super) struct Hosts {
    address: SocketAddr,
    names: Vec<String>,
}

impl Hosts {
    pub(super) fn new(address: SocketAddr, names: &[String]) -> Self {
        Self { address, names: names.iter().map(|name| name.to_ascii_lowercase()).collect() }
    }

    /// Whether a `Host` header names it.
    pub(super) fn have(&self, header: Option<&[u8]>) -> bool {
        let Some(header) = header.and_then(|header| std::str::from_utf8(header).ok()) else { return false };
        let host = without_port(header);
        if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            // Nobody's name leads to an address that is asked for as such.
            return self.address.ip().is_unspecified() || address == self.address.ip() || address.is_loopback();
        }
        let host = host.to_ascii_lowercase();
        host == "localhost" || self.names.contains(&host)
    }
}

fn without_port(header: &str) -> &str {
    match header.rsplit_once(':') {
        Some((host, port))
            if port.bytes().all(|byte| byte.is_ascii_digit()) && (!host.contains(':') || host.ends_with(']')) =>
        {
            host
        }
        _ => header,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_by_all_of_it() {
        let token = Token::parse(" 0123456789abcdef\n").unwrap();
        for header in ["Bearer 0123456789abcdef", "bearer  0123456789abcdef "] {
            assert!(token.is_in(Some(header.as_bytes())), "{header}");
        }
        for header in
            ["", "Bearer ", "Bearer 0123456789abcde", "Basic 0123456789abcdef", "Bearer 0123456789abcdeg", "Bear"]
        {
            assert!(!token.is_in(Some(header.as_bytes())), "{header}");
        }
        assert!(!token.is_in(None));
        for wrong in ["", "short", "0123456789 abcdef", &"x".repeat(2000)] {
            assert!(Token::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_that_were_not_given_are_none_of_ours() {
        let hosts = Hosts::new("10.0.0.5:9464".parse().unwrap(), &["Node-1.example".to_owned()]);
        for header in ["10.0.0.5:9464", "localhost", "localhost:1", "node-1.example:9464", "127.0.0.1", "[::1]:9464"] {
            assert!(hosts.have(Some(header.as_bytes())), "{header}");
        }
        for header in
            ["", "evil.example", "10.0.0.6:9464", "node-1.example.evil", "[::2]", "localhost.evil:1", "\u{ff}"]
        {
            assert!(!hosts.have(Some(header.as_bytes())), "{header}");
        }
        assert!(!hosts.have(None) && !hosts.have(Some(b"\xff")));
        let anywhere = Hosts::new("0.0.0.0:1".parse().unwrap(), &[]);
        assert!(anywhere.have(Some(b"10.1.2.3:1")) && !anywhere.have(Some(b"evil.example")));
    }
}
