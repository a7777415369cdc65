use std::time::Duration;

use proptest::prelude::*;

use super::Reassembler;
use crate::chunk::{Capture, Chunk, ConnectionKey, Direction, Origin, Segment, Source};
use crate::time::Nanos;

const CONNECTION: ConnectionKey = ConnectionKey { source: Source::Tcp, pid: 0, handle: 7, generation: 0 };

/// A segment as a test writes it down.
#[derive(Clone, Debug)]
struct Seen {
    when: u64,
    direction: Direction,
    sequence: u32,
    acknowledgement: u32,
    bytes: Vec<u8>,
    left_out: u32,
    begins_message: bool,
    follows_thinning: bool,
    fin: bool,
    rst: bool,
}

impl Seen {
    fn received(sequence: u32, bytes: &[u8]) -> Self {
        Self {
            when: 0,
            direction: Direction::Received,
            sequence,
            acknowledgement: 1,
            bytes: bytes.to_vec(),
            left_out: 0,
            begins_message: false,
            follows_thinning: false,
            fin: false,
            rst: false,
        }
    }

    fn sent(sequence: u32, bytes: &[u8]) -> Self {
        Self { direction: Direction::Sent, ..Self::received(sequence, bytes) }
    }

    fn at(self, when: u64) -> Self {
        Self { when, ..self }
    }

    fn acknowledging(self, acknowledgement: u32) -> Self {
        Self { acknowledgement, ..self }
    }

    fn begins(self) -> Self {
        Self { begins_message: true, ..self }
    }

    fn fin(self) -> Self {
        Self { fin: true, ..self }
    }

    fn rst(self) -> Self {
        Self { rst: true, ..self }
    }
}

/// What came out, one line per chunk: direction, low half of the offset, time, text; what it stands for beyond that; its end.
#[derive(Default)]
struct Out(Vec<String>);

impl Out {
    fn take(&mut self, chunk: &Chunk<'_>) {
        let text = String::from_utf8_lossy(chunk.bytes);
        let mut line = format!("{:?} {}@{} {text}", chunk.direction, chunk.offset as u32, chunk.when.0);
        if chunk.original_len > chunk.bytes.len() as u64 {
            line += &format!("+{}", chunk.original_len - chunk.bytes.len() as u64);
        }
        for (is_set, mark) in [(chunk.begins_message, " begins"), (chunk.ends_stream, " ends")] {
            line += if is_set { mark } else { "" };
        }
        self.0.push(line);
    }
}

fn feed(reassembler: &mut Reassembler, seen: &Seen, out: &mut dyn FnMut(Chunk<'_>)) {
    let origin = Origin::default();
    let segment = Segment {
        when: Nanos(seen.when),
        connection: CONNECTION,
        origin: &origin,
        direction: seen.direction,
        sequence: seen.sequence,
        acknowledgement: seen.acknowledgement,
        original_len: seen.bytes.len() as u32 + seen.left_out,
        bytes: &seen.bytes,
        message: 1,
        begins_message: seen.begins_message,
        capture: Capture::Positive,
        follows_thinning: seen.follows_thinning,
        fin: seen.fin,
        rst: seen.rst,
    };
    reassembler.push(&segment, out);
}

fn run(segments: &[Seen]) -> (Vec<String>, Reassembler) {
    let mut reassembler = Reassembler::new();
    let mut out = Out::default();
    for seen in segments {
        feed(&mut reassembler, seen, &mut |chunk| out.take(&chunk));
    }
    (out.0, reassembler)
}

#[test]
fn order_is_restored_and_times_are_those_of_delivery() {
    let (out, reassembler) = run(&[
        Seen::received(100, b"ab").at(1).begins(),
        Seen::received(104, b"ef").at(2),
        Seen::received(106, b"gh").at(3).fin(),
        Seen::received(102, b"cd").at(4),
    ]);
    assert_eq!(out, ["Received 100@1 ab begins", "Received 102@4 cd", "Received 104@4 ef", "Received 106@4 gh ends"]);
    assert_eq!(reassembler.desyncs(), 0);
}

#[test]
fn first_byte_seen_wins() {
    let (out, reassembler) = run(&[
        Seen::received(100, b"ab"),
        Seen::received(104, b"EF"),
        Seen::received(100, b"abcdefgh"),
        Seen::received(101, b"bcd"),
    ]);
    assert_eq!(out, ["Received 100@0 ab", "Received 102@0 cd", "Received 104@0 EF", "Received 106@0 gh"]);
    assert_eq!(reassembler.desyncs(), 1, "the overlap differs");
    let (out, reassembler) = run(&[
        Seen::received(100, b"a"),
        Seen::received(103, b"d"),
        Seen::received(102, b"cdef"),
        Seen::received(105, b"fg"),
        Seen::received(101, b"bc"),
    ]);
    assert_eq!(
        out,
        [
            "Received 100@0 a",
            "Received 101@0 b",
            "Received 102@0 c",
            "Received 103@0 d",
            "Received 104@0 ef",
            "Received 106@0 g"
        ]
    );
    assert_eq!(reassembler.desyncs(), 0);
}

#[test]
fn sequence_numbers_wrap() {
    let start = u32::MAX - 1;
    let mut reassembler = Reassembler::new();
    let mut offsets = Vec::new();
    for (sequence, bytes) in [(start, b"abc"), (start.wrapping_add(6), b"ghi"), (start.wrapping_add(3), b"def")] {
        feed(&mut reassembler, &Seen::received(sequence, bytes), &mut |chunk| offsets.push(chunk.offset));
    }
    assert_eq!(offsets, [0x1_ffff_fffe, 0x2_0000_0001, 0x2_0000_0004]);
}

#[test]
fn a_long_stream_keeps_its_offset() {
    let mut reassembler = Reassembler::new();
    let (mut sequence, mut last) = (5_u32, 0);
    for _ in 0..20 {
        let seen = Seen { left_out: 1 << 30, ..Seen::received(sequence, b"") };
        feed(&mut reassembler, &seen, &mut |chunk| last = chunk.offset + chunk.original_len);
        sequence = sequence.wrapping_add(1 << 30);
    }
    assert_eq!(last, (1 << 32) + 5 + 20 * (1 << 30));
}

#[test]
fn pieces_may_be_captured_in_part() {
    let (out, _) = run(&[
        Seen { left_out: 6, ..Seen::received(100, b"ab") },
        Seen::received(104, b"efghij"),
        Seen { left_out: 1, ..Seen::received(110, b"k") },
        Seen { left_out: 1, ..Seen::received(112, b"m").fin() },
    ]);
    assert_eq!(out, ["Received 100@0 ab+6", "Received 108@0 ij", "Received 110@0 k+1", "Received 112@0 m+1 ends"]);
}

#[test]
fn a_beginning_is_taken_across_what_was_of_no_interest() {
    for jump in [1_000, 1 << 30, (1 << 31) + 5, u32::MAX - (64 << 20) - 100] {
        let sequence = 102_u32.wrapping_add(jump);
        let (out, _) = run(&[Seen::received(100, b"ab").begins(), Seen::received(sequence, b"GET").begins()]);
        assert_eq!(out[1..], [format!("Received {sequence}@0 GET begins")]);
    }
    let (out, _) = run(&[Seen::received(100, b"ab").begins(), Seen::received(100, b"ab").begins()]);
    assert_eq!(out.len(), 1, "a beginning sent again is no beginning");
}

#[test]
fn the_answer_behind_an_uninteresting_one_is_expected_by_the_request() {
    // A client's end: its second request acknowledges the first answer, which the kernel side left out.
    let gigabytes = 3_u32 << 30;
    let (out, _) = run(&[
        Seen::sent(10, b"GET").begins().acknowledging(500),
        Seen::received(500, b"old").acknowledging(13),
        Seen::sent(13, b"POST").begins().acknowledging(503 + gigabytes),
        Seen::received(503 + gigabytes, b"new").acknowledging(17),
    ]);
    assert_eq!(out[3], format!("Received {}@0 new", 503 + gigabytes));
}

#[test]
fn what_was_sent_is_in_order() {
    let (out, _) = run(&[Seen::sent(10, b"ab").begins(), Seen::sent(20_000, b"yz").fin(), Seen::sent(10, b"ab")]);
    assert_eq!(out, ["Sent 10@0 ab begins", "Sent 20000@0 yz ends"]);
}

#[test]
fn thinning_is_no_hole_to_wait_for() {
    let tail = Seen { follows_thinning: true, ..Seen::received(20_000, b"yz") };
    let (out, _) = run(&[Seen::received(10, b"ab").begins(), tail]);
    assert_eq!(out, ["Received 10@0 ab begins", "Received 20000@0 yz"]);
}

#[test]
fn a_hole_ends_when_it_is_acknowledged() {
    // A server's end: part of the request was lost to us, and the answer shows that it had come.
    let (out, _) = run(&[
        Seen::received(10, b"ab").at(1),
        Seen::received(20, b"yz").at(2),
        Seen::sent(500, b"ok").at(9).acknowledging(22),
    ]);
    assert_eq!(out, ["Received 10@1 ab", "Received 20@2 yz", "Sent 500@9 ok"]);
}

#[test]
fn a_hole_ends_when_it_is_too_old() {
    let (out, mut reassembler) =
        run(&[Seen::received(10, b"ab"), Seen::received(20, b"yz").at(5), Seen::received(22, b"!").at(9)]);
    assert_eq!(out.len(), 1);
    let mut out = Out::default();
    let limit = Reassembler::MAX_AGE.as_nanos() as u64;
    reassembler.tick(Nanos(4 + limit), &mut |chunk| out.take(&chunk));
    assert_eq!(out.0.len(), 0);
    reassembler.tick(Nanos(5 + limit), &mut |chunk| out.take(&chunk));
    assert_eq!(out.0, ["Received 20@5 yz", "Received 22@9 !"]);
}

#[test]
fn an_injected_segment_far_ahead_is_dropped() {
    let second = Duration::from_secs(1).as_nanos() as u64;
    let (out, reassembler) = run(&[
        Seen::received(10, b"ab"),
        // Its acknowledgement is as false as its position.
        Seen::received(10 + (1 << 30), b"bogus").at(1).acknowledging(1 << 29),
        Seen::received(12, b"cd").at(2),
        Seen::received(14, b"ef").at(2 + second),
    ]);
    assert_eq!(out, ["Received 10@0 ab".into(), "Received 12@2 cd".into(), format!("Received 14@{} ef", 2 + second)]);
    assert_eq!(reassembler.desyncs(), 1);
}

#[test]
fn a_stream_that_goes_on_far_ahead_is_followed_in_the_end() {
    let (_, mut reassembler) = run(&[Seen::received(10, b"ab"), Seen::received(10 + (1 << 30), b"cd").at(1)]);
    let mut out = Out::default();
    reassembler.tick(Nanos(1).after(Reassembler::MAX_AGE), &mut |chunk| out.take(&chunk));
    assert_eq!(out.0, ["Received 1073741834@1 cd"]);
}

#[test]
fn ends_without_bytes() {
    let (out, _) =
        run(&[Seen::received(10, b"ab"), Seen::received(14, b"").at(2).fin(), Seen::received(12, b"cd").at(3)]);
    assert_eq!(out, ["Received 10@0 ab", "Received 12@3 cd ends"]);
    let (out, _) =
        run(&[Seen::received(10, b"ab"), Seen::received(12, b"").at(2).fin(), Seen::received(12, b"").at(3).fin()]);
    assert_eq!(out, ["Received 10@0 ab", "Received 12@2  ends"]);
    let (out, _) = run(&[Seen::received(10, b"ab"), Seen::received(14, b"ef"), Seen::received(16, b"").at(2).rst()]);
    assert_eq!(out, ["Received 10@0 ab", "Received 14@0 ef", "Received 16@2  ends"]);
    let (out, _) = run(&[Seen::received(10, b"").at(1).fin()]);
    assert_eq!(out, ["Received 10@1  ends"]);
}

#[test]
fn a_mark_without_an_acknowledgement_acknowledges_nothing() {
    let start = u32::MAX - 10;
    let (out, _) = run(&[
        Seen::received(start, b"ab"),
        Seen::received(start + 4, b"ef").at(1),
        Seen::sent(7, b"").at(2).fin().acknowledging(0),
        Seen::received(start + 2, b"cd").at(3),
    ]);
    let expected = [(start, "@0 ab"), (7, "@2  ends"), (start + 2, "@3 cd"), (start + 4, "@3 ef")];
    let way = |sequence| if sequence == 7 { "Sent" } else { "Received" };
    assert_eq!(out, expected.map(|(sequence, rest)| format!("{} {sequence}{rest}", way(sequence))));
}

#[test]
fn a_reset_from_elsewhere_is_counted_only() {
    for sequence in [5, 12 + (1 << 30)] {
        let (out, reassembler) = run(&[Seen::received(10, b"ab"), Seen::received(sequence, b"").rst()]);
        assert_eq!((out.len(), reassembler.desyncs()), (1, 1));
    }
}

#[test]
fn close_gives_all_that_is_held() {
    let (out, mut reassembler) =
        run(&[Seen::received(10, b"ab"), Seen::received(20, b"yz"), Seen::received(30, b"").fin()]);
    assert_eq!(out.len(), 1);
    let mut out = Out::default();
    reassembler.close(Nanos(9), &mut |chunk| out.take(&chunk));
    assert_eq!(out.0, ["Received 20@0 yz", "Received 30@0  ends"]);
}

#[test]
fn the_first_answer_may_come_out_of_order() {
    let (out, _) = run(&[
        Seen::sent(10, b"GET").begins().acknowledging(500),
        Seen::received(502, b"cd").acknowledging(13),
        Seen::received(500, b"ab").acknowledging(13),
    ]);
    assert_eq!(out[1..], ["Received 500@0 ab", "Received 502@0 cd"]);
}

/// A stream cut into segments.
fn segments(start: u32, sizes: &[usize]) -> (Vec<u8>, Vec<Seen>) {
    let stream: Vec<u8> = (0..sizes.iter().sum()).map(|index: usize| (index * 7 + index / 251) as u8).collect();
    let mut from = 0;
    let pieces = sizes.iter().map(|size| {
        let seen = Seen::received(start.wrapping_add(from as u32), &stream[from..from + size]);
        from += size;
        seen
    });
    let pieces = pieces.collect();
    (stream, pieces)
}

proptest! {
    #[test]
    fn any_order_gives_the_same_stream(
        start in any::<u32>(),
        sizes in prop::collection::vec(1..2_000_usize, 2..60),
        keys in prop::collection::vec((0..16_usize, 0..3_usize, any::<u16>()), 60),
    ) {
        let (stream, pieces) = segments(start, &sizes);
        // Each segment is late by up to 16 places and comes up to three times, the last time with a neighbour's bytes.
        let mut arrivals: Vec<(usize, Seen)> = Vec::new();
        for (index, (piece, (late, again, width))) in pieces.iter().zip(&keys).enumerate() {
            let late = if index == 0 { 0 } else { late + 1 };
            arrivals.push((index + late, piece.clone()));
            for copy in 1..=*again {
                let from = piece.sequence.wrapping_sub(start) as usize;
                let to = (from + piece.bytes.len() + usize::from(*width) % 500).min(stream.len());
                arrivals.push((index + late + 5 * copy, Seen::received(piece.sequence, &stream[from..to])));
            }
        }
        arrivals.sort_by_key(|(place, _)| *place);
        let mut reassembler = Reassembler::new();
        let mut out = Vec::new();
        let mut expected = (1 << 32) + u64::from(start);
        for (_, seen) in &arrivals {
            feed(&mut reassembler, seen, &mut |chunk| {
                assert_eq!(chunk.offset, expected);
                assert_eq!(chunk.original_len, chunk.bytes.len() as u64);
                expected += chunk.original_len;
                out.extend_from_slice(chunk.bytes);
            });
        }
        prop_assert_eq!(out, stream);
        prop_assert_eq!(reassembler.desyncs(), 0);
    }

    /// Whatever comes, nothing panics, chunks do not overlap, times do not go back, and memory stays bounded.
    #[test]
    fn anything_may_come(
        arrivals in prop::collection::vec(
            (any::<[bool; 5]>(), prop_oneof![0..100_000_u32, any::<u32>()], any::<u32>(), 0..5_000_usize, 0..50_000_u32, 0..100_000_000_u64),
            0..300,
        ),
    ) {
        let mut reassembler = Reassembler::new();
        let (mut next, mut last) = ([0, 0], [Nanos(0), Nanos(0)]);
        let mut when = 0;
        let mut check = |chunk: Chunk<'_>| {
            let way = chunk.direction.index();
            assert!(chunk.offset >= next[way] && chunk.when >= last[way]);
            assert!(chunk.bytes.len() as u64 <= chunk.original_len);
            next[way] = chunk.offset + chunk.original_len;
            last[way] = chunk.when;
        };
        for ([sent, begins_message, follows_thinning, fin, rst], sequence, acknowledgement, length, left_out, pause) in arrivals {
            when += pause;
            let seen = Seen {
                when,
                direction: if sent { Direction::Sent } else { Direction::Received },
                acknowledgement,
                left_out,
                begins_message: begins_message && sequence % 4 == 0,
                follows_thinning,
                fin: fin && rst && sequence % 16 == 0,
                rst: rst && sequence % 32 == 1,
                ..Seen::received(sequence, &vec![b'x'; length])
            };
            feed(&mut reassembler, &seen, &mut check);
            let (bytes, pieces) = reassembler.held();
            prop_assert!(bytes <= 256 * 1024 && pieces <= 64);
        }
        reassembler.close(Nanos(when), &mut check);
        prop_assert_eq!(reassembler.held(), (0, 0));
    }
}
