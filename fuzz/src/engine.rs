//! Everything that can happen to a few connections, in any order.

use std::net::{IpAddr, Ipv4Addr};

use hbpf_core::chunk::{Capture, Chunk, Close, ConnectionKey, Direction, Origin, Pid, Segment, Source};
use hbpf_core::engine::Engine;
use hbpf_core::time::Nanos;

use crate::input::Input;
use crate::observe::Watch;

const CONNECTIONS: usize = 5;

/// The controls are what happens; the bytes of pieces come from the payload.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut host = Host::default();
    while let Some(operation) = input.control() {
        host.now += 1 + u64::from(input.byte()) * 1_000_000;
        host.act(operation, &mut input);
        host.watch.check(&host.engine);
    }
    host.finish();
}

#[derive(Default)]
struct Host {
    engine: Engine,
    watch: Watch,
    now: u64,
    connections: [Sides; CONNECTIONS],
}

#[derive(Clone, Copy, Default)]
struct Sides {
    /// Stream offsets, by direction.
    offsets: [u64; 2],
    message: u32,
    generation: u64,
}

/// TLS connections have even numbers; the last is standard input and output.
fn key(index: usize, generation: u64) -> ConnectionKey {
    let source = match index {
        4 => Source::Stdio,
        index if index.is_multiple_of(2) => Source::Tls,
        _ => Source::Tcp,
    };
    let pid = if source == Source::Tcp { 0 } else { 7 };
    ConnectionKey { source, pid, handle: index as u64, generation }
}

impl Host {
    fn act(&mut self, operation: u8, input: &mut Input<'_>) {
        let index = usize::from(operation) % CONNECTIONS;
        let key = key(index, self.connections[index].generation);
        let now = Nanos(self.now);
        match operation >> 2 & 15 {
            0 => {
                let how = match input.byte() % 4 {
                    0 => Close::Reset(Direction::Sent),
                    1 => Close::Reset(Direction::Received),
                    _ => Close::Released,
                };
                self.engine.close(key, how, now, &mut self.watch);
                self.connections[index] = Sides { generation: key.generation + 1, ..Sides::default() };
            }
            1 => {
                self.now += u64::from(input.number()) << 12;
                self.engine.tick(Nanos(self.now), &mut self.watch);
            }
            2 => self.engine.process_exited(Pid(7), now, &mut self.watch),
            3 => {
                if let Some(wanted) = self.watch.wanted.pop() {
                    self.engine.set_owner(wanted, (input.byte() > 9).then_some(Pid(9)), &mut self.watch);
                }
            }
            4 => self.engine.lose_sight(key.source, now, &mut self.watch),
            _ => self.piece(index, key, input),
        }
    }

    fn piece(&mut self, index: usize, key: ConnectionKey, input: &mut Input<'_>) {
        let flags = input.byte();
        let length = input.number() as usize % 2048;
        let bytes = input.take(length);
        let direction = if flags & 1 == 0 { Direction::Sent } else { Direction::Received };
        let sides = &mut self.connections[index];
        if flags & 2 != 0 {
            sides.message += 1;
        }
        if flags & 4 != 0 {
            sides.offsets[direction.index()] += u64::from(input.number());
        }
        let left_out = if flags & 8 == 0 { 0 } else { u64::from(input.byte()) };
        let origin = Origin {
            pid: Some(Pid(7)),
            owner_is_certain: flags & 16 == 0,
            local: Some((IpAddr::V4(Ipv4Addr::LOCALHOST), 8000)),
            ..Origin::default()
        };
        let offset = sides.offsets[direction.index()];
        let original_len = bytes.len() as u64 + left_out;
        sides.offsets[direction.index()] += original_len;
        let capture = if flags & 32 == 0 { Capture::Positive } else { Capture::Awaiting };
        let (message, begins_message) = (sides.message, flags & 2 != 0);
        let (follows_thinning, ends_stream) = (flags & 64 != 0, flags & 128 != 0);
        let (when, connection, origin) = (Nanos(self.now), key, &origin);
        if key.source != Source::Tcp {
            let chunk = Chunk {
                when,
                connection,
                origin,
                direction,
                offset,
                original_len,
                bytes,
                message,
                begins_message,
                capture,
                follows_thinning,
                ends_stream,
            };
            self.engine.chunk(&chunk, &mut self.watch);
        } else {
            let segment = Segment {
                when,
                connection,
                origin,
                direction,
                sequence: offset as u32,
                acknowledgement: sides.offsets[direction.opposite().index()] as u32,
                original_len: original_len as u32,
                bytes,
                message,
                begins_message,
                capture,
                follows_thinning,
                fin: ends_stream,
                rst: false,
            };
            self.engine.segment(&segment, &mut self.watch);
        }
    }

    fn finish(mut self) {
        for (index, sides) in self.connections.into_iter().enumerate() {
            let key = key(index, sides.generation);
            self.engine.close(key, Close::Released, Nanos(self.now), &mut self.watch);
        }
        self.engine.process_exited(Pid(7), Nanos(self.now), &mut self.watch);
        assert_eq!(self.engine.in_flight().count(), 0);
        // Owners that are never found.
        self.engine.tick(Nanos(self.now + 10_000_000_000), &mut self.watch);
        self.watch.check(&self.engine);
        self.watch.finish();
    }
}
