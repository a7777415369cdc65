//! Ciphertext on the wire, which says to which socket a context of [`crate::aead`] belongs.
//!
//! Eight bytes of it are as good as a name. They are compared at the beginning of a packet, where the first record of what was sent at once
//! is. Nobody looks at packets but for a while after a record has passed whose connection is not known.

use aya_ebpf::{
    helpers::generated::{bpf_get_socket_cookie, bpf_ktime_get_ns},
    macros::cgroup_skb,
    programs::SkBuffContext,
};

use crate::{
    aead::{BEGINNING, HEADER_BYTES},
    maps::{AEAD_RECEIVED, AEAD_SEEKING, AEAD_SENT, AEAD_SOCKETS},
    packet::{self, Headers},
};

/// What lets a packet pass, as every program here does.
const PASS: i32 = 1;

/// How long packets are looked at: an answer can be that long in coming.
const SEEKING_NS: u64 = 120_000_000_000;

/// Where ciphertext begins: behind a record's header, or (AES in TLS 1.2: RFC 5288, 3) behind a part of the nonce.
const CIPHERTEXT_AT: usize = HEADER_BYTES as usize;
const BEHIND_NONCE_AT: usize = CIPHERTEXT_AT + 8;
const LOOKED_AT: usize = BEHIND_NONCE_AT + 8;

/// Packets that a socket sends.
#[cgroup_skb]
pub fn aead_egress(ctx: SkBuffContext) -> i32 {
    let _ = sent(&ctx);
    PASS
}

/// Packets that a socket receives.
#[cgroup_skb]
pub fn aead_ingress(ctx: SkBuffContext) -> i32 {
    let _ = received(&ctx);
    PASS
}

/// Has packets looked at for a while.
#[inline(always)]
pub fn seek() {
    if let Some(until) = AEAD_SEEKING.get_ptr_mut(0) {
        // SAFETY: a word, written whole; the helper has no arguments.
        unsafe { *until = bpf_ktime_get_ns() + SEEKING_NS };
    }
}

#[inline(always)]
fn sent(ctx: &SkBuffContext) -> Option<()> {
    let (cookie, ciphertexts) = ciphertexts(ctx)?;
    for first in ciphertexts {
        // SAFETY: an entry that is replaced while it is read is about another record, and found out by the next.
        if let Some(sealer) = unsafe { AEAD_SENT.get(&first) } {
            // Failure means that there are too many: another record will tell.
            let _ = AEAD_SOCKETS.insert(&cookie, sealer, 0);
        }
    }
    Some(())
}

#[inline(always)]
fn received(ctx: &SkBuffContext) -> Option<()> {
    let (cookie, ciphertexts) = ciphertexts(ctx)?;
    for first in ciphertexts {
        // As above.
        let _ = AEAD_RECEIVED.insert(&first, &cookie, 0);
    }
    Some(())
}

/// The packet's socket, and the first bytes of ciphertext wherever it may begin; `None` where no record begins.
#[inline(always)]
fn ciphertexts(ctx: &SkBuffContext) -> Option<(u64, [u64; 2])> {
    // SAFETY: the helper has no arguments.
    if *AEAD_SEEKING.get(0)? < unsafe { bpf_ktime_get_ns() } {
        return None;
    }
    let skb = ctx.skb.skb;
    let headers = Headers::read(skb)?;
    let mut bytes = [0_u8; LOOKED_AT];
    if !packet::load::<LOOKED_AT>(skb, headers.payload_at, bytes.as_mut_ptr()) || bytes[..3] != BEGINNING {
        return None;
    }
    let word = |at: usize| bytes[at..].first_chunk().map(|word| u64::from_ne_bytes(*word));
    // SAFETY: the context of this kind of program is what the helper takes.
    let cookie = unsafe { bpf_get_socket_cookie(skb.cast()) };
    Some((cookie, [word(CIPHERTEXT_AT)?, word(BEHIND_NONCE_AT)?]))
}
