//! The server name in a TLS ClientHello (RFC 8446, 4.1.2; RFC 6066, 3): what a connection that cannot be read goes to.

use crate::label::Label;

/// Type of a record of the handshake, and of the message that begins one.
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;

/// Type of the extension, and of the only kind of name that there is.
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// The versions and the random number of the message.
const FIXED_BYTES: usize = 2 + 32;

/// Longest host name (RFC 1035).
const MAX_NAME_BYTES: usize = 253;

/// The name of the server in what was seen of a client's first record; `None` where there is none, or where it lies beyond.
/// Where the client encrypts the real name (ECH), it is that of whoever serves for the real one.
pub fn server_name(bytes: &[u8]) -> Option<Label> {
    let mut record = Input(bytes);
    (record.number::<1>()? == u32::from(HANDSHAKE)).then_some(())?;
    record.take(2)?;
    let len = record.number::<2>()?;
    let mut message = record.up_to(len);
    (message.number::<1>()? == u32::from(CLIENT_HELLO)).then_some(())?;
    let len = message.number::<3>()?;
    let mut hello = message.up_to(len);
    hello.take(FIXED_BYTES)?;
    let session = hello.number::<1>()?;
    hello.take(session as usize)?;
    let suites = hello.number::<2>()?;
    hello.take(suites as usize)?;
    let compression = hello.number::<1>()?;
    hello.take(compression as usize)?;
    let len = hello.number::<2>()?;
    let mut extensions = hello.up_to(len);
    // Each is four bytes long at the least.
    loop {
        let kind = extensions.number::<2>()?;
        let len = extensions.number::<2>()?;
        if kind != u32::from(SERVER_NAME) {
            extensions.take(len as usize)?;
            continue;
        }
        let mut list = extensions.up_to(len);
        list.take(2)?;
        (list.number::<1>()? == u32::from(HOST_NAME)).then_some(())?;
        let len = list.number::<2>()?;
        let name = list.take(len as usize)?;
        return is_host_name(name).then(|| Label::new(&String::from_utf8_lossy(name).to_ascii_lowercase()));
    }
}

/// Whether it is a name that a server can have: anybody may send anything.
fn is_host_name(name: &[u8]) -> bool {
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.iter().all(is_allowed)
}

/// Bytes that are left of something.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number of so many bytes, the most significant first.
    fn number<const N: usize>(&mut self) -> Option<u32> {
        Some(self.take(N)?.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
    }

    /// What is there of something of this length.
    fn up_to(&self, len: u32) -> Input<'a> {
        Input(&self.0[..self.0.len().min(len as usize)])
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A ClientHello with these extensions.
    pub(crate) fn hello(extensions: &[(u16, &[u8])]) -> Vec<u8> {
        let extension =
            |(kind, body): &(u16, &[u8])| [&kind.to_be_bytes()[..], &(body.len() as u16).to_be_bytes(), body].concat();
        let extensions: Vec<u8> = extensions.iter().flat_map(extension).collect();
        let session = [&[32][..], &[7; 32]].concat();
        let suites = [0, 4, 0x13, 1, 0x13, 2, 1, 0];
        let len = (extensions.len() as u16).to_be_bytes();
        let body = [&[3, 3][..], &[9; 32], &session, &suites, &len, &extensions].concat();
        let message = [&[1, 0][..], &(body.len() as u16).to_be_bytes(), &body].concat();
        [&[22, 3, 1][..], &(message.len() as u16).to_be_bytes(), &message].concat()
    }

    /// The extension that names a server.
    pub(crate) fn named(name: &[u8]) -> Vec<u8> {
        let len = name.len() as u16;
        [&(len + 3).to_be_bytes()[..], &[0], &len.to_be_bytes(), name].concat()
    }

    fn found(bytes: &[u8]) -> Option<String> {
        server_name(bytes).map(|name| name.as_str().to_owned())
    }

    #[test]
    fn the_name_is_found_wherever_it_stands() {
        let name = named(b"API.openai.com");
        let key_share = vec![0x51; 1216];
        for extensions in [
            vec![(0_u16, &name[..])],
            vec![(43, &[2, 3, 4][..]), (51, &key_share), (0, &name), (16, b"\x00\x03\x02h2")],
        ] {
            assert_eq!(found(&hello(&extensions)).as_deref(), Some("api.openai.com"));
        }
    }

    #[test]
    fn what_is_cut_or_no_name_gives_none() {
        let whole = hello(&[(43, &[2, 3, 4]), (0, &named(b"api.openai.com"))]);
        for len in 0..whole.len() {
            assert_eq!(found(&whole[..len]), None, "{len}");
        }
        for name in [&b""[..], b"a\x1b[2J", b"a b", &[b'a'; 254], "ü".as_bytes()] {
            assert_eq!(found(&hello(&[(0, &named(name))])), None, "{name:?}");
        }
        assert_eq!(found(&hello(&[])), None);
        assert_eq!(found(b"GET / HTTP/1.1\r\n\r\n"), None);
    }

    #[test]
    fn lengths_that_lie_do_no_harm() {
        let whole = hello(&[(43, &[2, 3, 4]), (0, &named(b"api.openai.com"))]);
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = whole.clone();
                changed[at] = value;
                let name = found(&changed);
                assert!(name.is_none_or(|name| name.len() <= MAX_NAME_BYTES));
            }
        }
    }
}
