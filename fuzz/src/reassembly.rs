//! Segments of two streams, in any order: what comes out is the streams, or a hole in them.

use std::net::{IpAddr, Ipv4Addr};

use hbpf_core::chunk::{Capture, Chunk, ConnectionKey, Direction, Origin, Segment, Source};
use hbpf_core::reassembly::Reassembler;
use hbpf_core::time::Nanos;

use crate::input::Input;

/// The payload is the two streams, one half each. Controls: their first sequence numbers, then the segments.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let bases = [input.number(), input.number().wrapping_neg()];
    let streams = input.payload.split_at(input.payload.len() / 2);
    let mut net = Net {
        bases,
        streams: [streams.0, streams.1],
        ends: [0; 2],
        foreign: false,
        reassembler: Reassembler::new(),
        now: 0,
    };
    while let Some(operation) = input.control() {
        net.now += u64::from(input.byte()) * 10_000_000;
        if operation & 0x0f == 0 {
            let now = Nanos(net.now);
            net.act(|reassembler, _| reassembler.tick(now));
        } else {
            net.segment(operation, &mut input);
        }
    }
    net.act(|reassembler, out| reassembler.close(out));
}

struct Net<'a> {
    /// Sequence numbers of the first bytes, by direction.
    bases: [u32; 2],
    streams: [&'a [u8]; 2],
    /// Where what was handed over ends, by direction.
    ends: [u64; 2],
    /// A segment of somebody else was among them.
    foreign: bool,
    reassembler: Reassembler,
    now: u64,
}

impl Net<'_> {
    fn segment(&mut self, operation: u8, input: &mut Input<'_>) {
        let direction = if operation & 0x10 == 0 { Direction::Received } else { Direction::Sent };
        let (index, received) = (direction.index(), Direction::Received.index());
        let stream = self.streams[index];
        let start = input.number() as usize % (stream.len() + 1);
        let end = (start + input.number() as usize % 4096).min(stream.len());
        let left_out = if operation & 0x20 == 0 { 0 } else { usize::from(input.byte()) };
        let copied = &stream[start..end - left_out.min(end - start)];
        let acknowledged = input.number() as usize % (self.streams[received].len() + 1);
        let is_foreign = operation & 0x0f == 1;
        let shift = if is_foreign { input.number() } else { 0 };
        self.foreign |= is_foreign;
        let origin =
            Origin { local: Some((IpAddr::V4(Ipv4Addr::LOCALHOST), 80)), owner_is_certain: true, ..Origin::default() };
        let segment = Segment {
            when: Nanos(self.now),
            connection: ConnectionKey { source: Source::Tcp, pid: 0, handle: 1, generation: 0 },
            origin: &origin,
            direction,
            sequence: self.bases[index].wrapping_add(start as u32).wrapping_add(shift),
            acknowledgement: if operation & 0x40 == 0 {
                0
            } else {
                self.bases[received].wrapping_add(acknowledged as u32)
            },
            original_len: (end - start) as u32,
            bytes: copied,
            message: 1,
            begins_message: operation & 0x0f == 2,
            capture: Capture::Positive,
            follows_thinning: operation & 0x0f == 3,
            fin: operation & 0x80 != 0 && end == stream.len(),
            rst: operation & 0x0f == 4,
        };
        self.act(|reassembler, out| _ = reassembler.push(&segment, out));
    }

    fn act(&mut self, act: impl FnOnce(&mut Reassembler, &mut dyn FnMut(Chunk<'_>))) {
        let Self { bases, streams, ends, foreign, reassembler, .. } = self;
        act(reassembler, &mut |chunk| {
            let index = chunk.direction.index();
            assert!(chunk.offset >= ends[index], "in order, and nothing twice");
            assert!(chunk.bytes.len() as u64 <= chunk.original_len);
            ends[index] = chunk.offset + chunk.original_len;
            if !*foreign {
                let from = (chunk.offset as u32).wrapping_sub(bases[index]) as usize;
                assert!(chunk.bytes == &streams[index][from..from + chunk.bytes.len()], "the bytes of the stream");
            }
        });
    }
}
