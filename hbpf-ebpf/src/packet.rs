//! The headers of an IP packet that carries TCP.

use core::{
    arch::asm,
    mem::{MaybeUninit, offset_of},
};

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes};
use hbpf_ebpf::flags;

use crate::number::forgotten;

/// `ETH_P_IP` in network order, as the context has it.
const ETHERTYPE_IPV4: u32 = 0x0800_u16.to_be() as u32;

const IPV6_HEADER_BYTES: u32 = 40;

/// Where the sender's address is in the header; the receiver's follows.
const IPV4_SOURCE_AT: u32 = 12;
const IPV6_SOURCE_AT: u32 = 8;

const PROTOCOL_TCP: u8 = 6;

/// IPv6 extension headers that may stand before TCP: hop-by-hop, routing, destination options.
const EXTENSIONS: [u8; 3] = [0, 43, 60];

/// More extension headers than that are not followed; none at all is usual.
const MOST_EXTENSIONS: u32 = 4;

// Where the flags are in their byte.
const FIN_BIT: u16 = 0;
const SYN_BIT: u16 = 1;
const RST_BIT: u16 = 2;

/// What is needed of the headers.
pub struct Headers {
    /// Of the first byte of payload.
    pub sequence: u32,
    pub acknowledgement: u32,
    pub payload_at: u32,
    pub payload_len: u32,
    /// [`flags::FIN`] and [`flags::RST`].
    pub ends: u16,
    /// The sender's port.
    pub source_port: u16,
    /// Whether the packet opens a connection.
    pub is_syn: bool,
}

impl Headers {
    /// None for what is not TCP, or not the whole of its headers.
    #[inline(always)]
    pub fn read(skb: *mut __sk_buff) -> Option<Self> {
        let tcp_at = if is_ipv4(skb) { behind_ipv4(skb)? } else { behind_ipv6(skb)? };
        let [ports, sequence, acknowledgement, rest, _] = words::<5>(skb, tcp_at)?;
        // How the headers add up matters to nothing that follows, and the verifier need not follow each way.
        let payload_at = forgotten(tcp_at + (rest >> 28) * 4, sequence.into());
        // SAFETY: the context is a packet. Its own length counts: that in the IP header is 0 for very big ones.
        let payload_len = unsafe { (*skb).len }.checked_sub(payload_at)?;
        let bits = (rest >> 16 & 0xff) as u16;
        // A SYN takes a sequence number itself; data may follow it (fast open).
        let syn = u32::from(bits >> SYN_BIT & 1);
        Some(Self {
            sequence: sequence.wrapping_add(syn),
            acknowledgement,
            payload_at,
            payload_len,
            ends: (bits >> FIN_BIT & 1) * flags::FIN | (bits >> RST_BIT & 1) * flags::RST,
            source_port: (ports >> 16) as u16,
            is_syn: syn != 0,
        })
    }
}

/// Whether the packet is IPv4. One to an IPv6 socket may be, too.
#[inline(always)]
pub fn is_ipv4(skb: *mut __sk_buff) -> bool {
    // SAFETY: the context is a packet.
    unsafe { (*skb).protocol == ETHERTYPE_IPV4 }
}

/// The 32-bit field of the context at byte `AT`.
///
/// The verifier wants a context's fields addressed from its beginning; the compiler would share one address for the
/// words of an array, or load from one of two.
#[inline(always)]
pub fn field<const AT: usize, C>(context: *mut C) -> u32 {
    let word: u64;
    // SAFETY: a load from the context, which the verifier checks.
    unsafe {
        asm!("{word} = *(u32 *)({context} + {at})", word = out(reg) word, context = in(reg) context, at = const AT)
    };
    word as u32
}

/// Port of the packet's socket on this side.
#[inline(always)]
pub fn local_port(skb: *mut __sk_buff) -> u16 {
    field::<{ offset_of!(__sk_buff, local_port) }, _>(skb) as u16
}

/// Addresses and ports of a packet's socket. IPv4 addresses are in the first word.
pub struct Ends {
    /// 4 or 6, as the packet is: an IPv6 socket that serves IPv4 has an IPv4 address too.
    pub family: u8,
    pub local_address: [u32; 4],
    pub remote_address: [u32; 4],
    pub local_port: u16,
    pub remote_port: u16,
}

impl Ends {
    /// As the socket has them.
    #[inline(always)]
    pub fn of_socket(skb: *mut __sk_buff) -> Self {
        const LOCAL_V4: usize = offset_of!(__sk_buff, local_ip4);
        const LOCAL: usize = offset_of!(__sk_buff, local_ip6);
        const REMOTE_V4: usize = offset_of!(__sk_buff, remote_ip4);
        const REMOTE: usize = offset_of!(__sk_buff, remote_ip6);
        const REMOTE_PORT: usize = offset_of!(__sk_buff, remote_port);
        let local_port = local_port(skb);
        // This port, unlike the local one, is in network order and in the upper half.
        let remote_port = u32::from_be(field::<REMOTE_PORT, _>(skb)) as u16;
        if is_ipv4(skb) {
            let local_address = [field::<LOCAL_V4, _>(skb), 0, 0, 0];
            let remote_address = [field::<REMOTE_V4, _>(skb), 0, 0, 0];
            Self { family: 4, local_address, remote_address, local_port, remote_port }
        } else {
            let local_address = [
                field::<LOCAL, _>(skb),
                field::<{ LOCAL + 4 }, _>(skb),
                field::<{ LOCAL + 8 }, _>(skb),
                field::<{ LOCAL + 12 }, _>(skb),
            ];
            let remote_address = [
                field::<REMOTE, _>(skb),
                field::<{ REMOTE + 4 }, _>(skb),
                field::<{ REMOTE + 8 }, _>(skb),
                field::<{ REMOTE + 12 }, _>(skb),
            ];
            Self { family: 6, local_address, remote_address, local_port, remote_port }
        }
    }

    /// As a received packet has them, from the sender's port; its socket serves many connections.
    #[inline(always)]
    pub fn of_received_packet(skb: *mut __sk_buff, remote_port: u16) -> Self {
        let family = if is_ipv4(skb) { 4 } else { 6 };
        let mut ends =
            Self { family, local_address: [0; 4], remote_address: [0; 4], local_port: local_port(skb), remote_port };
        let (local, remote) = (ends.local_address.as_mut_ptr().cast(), ends.remote_address.as_mut_ptr().cast());
        if family == 4 {
            load::<4>(skb, IPV4_SOURCE_AT, remote);
            load::<4>(skb, IPV4_SOURCE_AT + 4, local);
        } else {
            load::<16>(skb, IPV6_SOURCE_AT, remote);
            load::<16>(skb, IPV6_SOURCE_AT + 16, local);
        }
        ends
    }
}

/// The sender's address, or as much of its end as an IPv4 address has.
#[inline(always)]
pub fn source_address(skb: *mut __sk_buff) -> Option<u32> {
    let mut word = 0_u32;
    let at = if is_ipv4(skb) { IPV4_SOURCE_AT } else { IPV6_SOURCE_AT + 12 };
    load::<4>(skb, at, (&raw mut word).cast()).then_some(word)
}

/// Copies `N` bytes of the packet, which begins with the IP header.
#[inline(always)]
pub fn load<const N: usize>(skb: *mut __sk_buff, at: u32, to: *mut u8) -> bool {
    // SAFETY: the helper checks the packet's end; the caller has room for N bytes.
    unsafe { bpf_skb_load_bytes(skb.cast(), at, to.cast(), N as u32) == 0 }
}

/// `N` words of a header. (To begin with zeros would be a call for every packet, which writes them byte by byte.)
#[inline(always)]
fn words<const N: usize>(skb: *mut __sk_buff, at: u32) -> Option<[u32; N]> {
    let mut words = MaybeUninit::<[u32; N]>::uninit();
    // SAFETY: the helper checks the packet's end; there is room for so many words.
    let copied = unsafe { bpf_skb_load_bytes(skb.cast(), at, words.as_mut_ptr().cast(), 4 * N as u32) == 0 };
    // SAFETY: the helper has written all of them.
    copied.then(|| unsafe { words.assume_init() }.map(u32::from_be))
}

#[inline(always)]
fn behind_ipv4(skb: *mut __sk_buff) -> Option<u32> {
    let [length, fragment, protocol] = words::<3>(skb, 0)?;
    // A fragment other than the first has no TCP header.
    if protocol >> 16 & 0xff != PROTOCOL_TCP.into() || fragment & 0x1fff != 0 {
        return None;
    }
    Some((length >> 24 & 0x0f) * 4)
}

#[inline(always)]
fn behind_ipv6(skb: *mut __sk_buff) -> Option<u32> {
    let mut next = 0_u8;
    if !load::<1>(skb, 6, &raw mut next) {
        return None;
    }
    let mut at = IPV6_HEADER_BYTES;
    for _ in 0..MOST_EXTENSIONS {
        if !EXTENSIONS.contains(&next) {
            break;
        }
        let mut extension = [0_u8; 2];
        if !load::<2>(skb, at, extension.as_mut_ptr()) {
            return None;
        }
        next = extension[0];
        at += (u32::from(extension[1]) + 1) * 8;
    }
    (next == PROTOCOL_TCP).then_some(at)
}
