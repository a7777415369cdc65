//! TCP segments taken apart, so that they can be rewritten and forged.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpHeaders, PacketBuilder, TcpHeader, TcpOptionElement};

/// One IP packet with a TCP segment.
#[derive(Clone, Debug)]
pub struct Packet {
    ip: IpHeaders,
    /// Its checksum is made anew when the packet is written.
    pub tcp: TcpHeader,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Packet {
    /// Takes a packet apart; `None` if it is no TCP segment.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (ip, rest) = IpHeaders::from_slice(bytes).ok()?;
        if rest.ip_number != etherparse::IpNumber::TCP || rest.fragmented {
            return None;
        }
        let (tcp, payload) = TcpHeader::from_slice(rest.payload).ok()?;
        Some(Self { ip, tcp, payload: payload.to_vec() })
    }

    /// The packet as it travels, with right lengths and checksums.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let builder = PacketBuilder::ip(self.ip.clone()).tcp_header(self.tcp.clone());
        builder.write_to_vec(&mut bytes, &self.payload).expect("it was a packet before it was rewritten");
        bytes
    }

    /// Who sends it.
    pub fn source(&self) -> SocketAddr {
        SocketAddr::new(self.addresses().0, self.tcp.source_port)
    }

    /// Who is to receive it.
    pub fn destination(&self) -> SocketAddr {
        SocketAddr::new(self.addresses().1, self.tcp.destination_port)
    }

    /// The sequence number behind it.
    pub fn end(&self) -> u32 {
        let numbered = self.payload.len() as u32 + u32::from(self.tcp.syn) + u32::from(self.tcp.fin);
        self.tcp.sequence_number.wrapping_add(numbered)
    }

    /// The same with other bytes, somewhere else in the stream.
    #[must_use]
    pub fn with(mut self, sequence: u32, payload: &[u8]) -> Self {
        self.tcp.sequence_number = sequence;
        self.payload = payload.to_vec();
        self
    }

    /// Takes away the offer of selective acknowledgements, which hold sequence numbers in places of their own.
    pub(crate) fn refuse_selective_acknowledgements(&mut self) {
        let options: Vec<TcpOptionElement> = self
            .tcp
            .options_iterator()
            .filter_map(Result::ok)
            .map(|option| match option {
                TcpOptionElement::SelectiveAcknowledgementPermitted => TcpOptionElement::Noop,
                other => other,
            })
            .collect();
        self.tcp.set_options(&options).expect("there are no more than before");
    }

    fn addresses(&self) -> (IpAddr, IpAddr) {
        match &self.ip {
            IpHeaders::Ipv4(header, _) => (header.source.into(), header.destination.into()),
            IpHeaders::Ipv6(header, _) => (header.source.into(), header.destination.into()),
        }
    }
}
