use proptest::prelude::*;

use super::Reassembler;
use super::piece::Held;
use super::received::{MAX_HELD_BYTES, MAX_HELD_PIECES, REFUSED_AFTER};
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
    capture: Capture,
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
            acknowledgement: 0,
            bytes: bytes.to_vec(),
            left_out: 0,
            begins_message: false,
            capture: Capture::Positive,
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

    /// The socket has taken all before this.
    fn taken(self, acknowledgement: u32) -> Self {
        Self { acknowledgement, ..self }
    }

    fn awaiting(self) -> Self {
        Self { capture: Capture::Awaiting, ..self }
    }

    fn begins(self) -> Self {
        Self { begins_message: true, ..self }
    }

    /// An acknowledgement of the socket's own, without bytes.
    fn mark(acknowledgement: u32) -> Self {
        Self::sent(7, b"").taken(acknowledgement)
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
        if chunk.original_len == 0 && !chunk.ends_stream {
            // It only says where the stream is.
            return;
        }
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
        capture: seen.capture,
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
        Seen::received(100, b"ab").taken(100).at(1).begins(),
        Seen::received(104, b"ef").taken(102).at(2),
        Seen::received(106, b"gh").taken(102).at(3).fin(),
        Seen::received(102, b"cd").taken(102).at(4),
        Seen::mark(109).at(5),
    ]);
    let expected = ["100@1 ab begins", "102@4 cd", "104@4 ef", "106@4 gh", "108@4  ends"];
    assert_eq!(out, expected.map(|line| format!("Received {line}")));
    assert_eq!(reassembler.desyncs(), 0);
}

#[test]
fn nothing_counts_before_it_is_taken() {
    let (out, _) = run(&[Seen::received(100, b"ab").taken(100), Seen::received(102, b"cd").taken(100)]);
    assert!(out.is_empty());
    let (out, _) = run(&[Seen::received(100, b"abcd").taken(100), Seen::mark(102), Seen::mark(104)]);
    assert_eq!(out, ["Received 100@0 ab", "Received 102@0 cd"]);
}

#[test]
fn where_nothing_says_what_is_taken_order_decides() {
    let (out, _) = run(&[Seen::received(100, b"ab"), Seen::received(104, b"ef").fin(), Seen::received(102, b"cd")]);
    assert_eq!(out, ["Received 100@0 ab", "Received 102@0 cd", "Received 104@0 ef", "Received 106@0  ends"]);
    let (out, _) =
        run(&[Seen::received(100, b"ab").taken(100).awaiting(), Seen::received(102, b"cd").taken(100).awaiting()]);
    assert_eq!(out, ["Received 100@0 ab", "Received 102@0 cd"], "a verdict cannot wait");
}

#[test]
fn repeated_bytes_count_once() {
    let (out, reassembler) = run(&[
        Seen::received(100, b"a").taken(100),
        Seen::received(103, b"d").taken(101),
        Seen::received(102, b"cdef").taken(101),
        Seen::received(105, b"fg").taken(101),
        Seen::received(101, b"bc").taken(101),
        Seen::received(101, b"bc").taken(107),
        Seen::received(99, b"?abcdefg").taken(107),
    ]);
    let expected = ["100@0 a", "101@0 b", "102@0 c", "103@0 d", "104@0 ef", "106@0 g"];
    assert_eq!(out, expected.map(|line| format!("Received {line}")));
    assert_eq!(reassembler.desyncs(), 0);
}

#[test]
fn what_was_not_taken_when_it_had_its_turn_gives_way() {
    // A broken segment, or a forged one: TCP still waits for its place when the genuine one comes.
    let (out, reassembler) = run(&[
        Seen::received(100, b"ab").taken(100),
        Seen::received(102, b"XYZ").taken(102).at(1),
        Seen::received(102, b"cd").taken(102).at(2),
        Seen::mark(104).at(3),
        Seen::received(104, b"ef").taken(104).at(4),
        Seen::mark(106).at(5),
    ]);
    assert_eq!(out, ["Received 100@0 ab", "Received 102@2 cd", "Received 104@4 ef"]);
    assert_eq!(reassembler.desyncs(), 1);
}

#[test]
fn of_two_that_wait_for_their_turn_neither_counts() {
    let (out, reassembler) = run(&[
        Seen::received(100, b"ab").taken(100),
        Seen::received(104, b"ef").taken(102),
        Seen::received(104, b"EF").taken(102),
        Seen::received(102, b"cd").taken(102),
        Seen::mark(106),
    ]);
    assert_eq!(out, ["Received 100@0 ab", "Received 102@0 cd", "Received 104@0 +2"]);
    assert_eq!(reassembler.desyncs(), 1);
}

#[test]
fn sequence_numbers_wrap() {
    let start = u32::MAX - 1;
    let mut reassembler = Reassembler::new();
    let mut offsets = Vec::new();
    for (sequence, taken, bytes) in [(0, 0, &b"abc"[..]), (6, 3, b"ghi"), (3, 3, b"def"), (9, 9, b"")] {
        let (sequence, taken) = (start.wrapping_add(sequence), start.wrapping_add(taken));
        feed(&mut reassembler, &Seen::received(sequence, bytes).taken(taken), &mut |chunk| {
            offsets.extend((chunk.original_len > 0).then_some(chunk.offset))
        });
    }
    assert_eq!(offsets, [0x1_ffff_fffe, 0x2_0000_0001, 0x2_0000_0004]);
}

#[test]
fn a_long_stream_keeps_its_offset() {
    let mut reassembler = Reassembler::new();
    let (mut sequence, mut last) = (5_u32, 0);
    for _ in 0..20 {
        let seen = Seen { left_out: 1 << 30, ..Seen::received(sequence, b"").taken(sequence) };
        feed(&mut reassembler, &seen, &mut |chunk| last = chunk.offset + chunk.original_len);
        sequence = sequence.wrapping_add(1 << 30);
    }
    feed(&mut reassembler, &Seen::mark(sequence), &mut |chunk| last = chunk.offset + chunk.original_len);
    assert_eq!(last, (1 << 32) + 5 + 20 * (1 << 30));
}

#[test]
fn pieces_may_be_captured_in_part() {
    let (out, _) = run(&[
        Seen { left_out: 6, ..Seen::received(100, b"ab").taken(100) },
        Seen::received(104, b"efghij").taken(100),
        Seen { left_out: 1, ..Seen::received(110, b"k").taken(110) },
        Seen::mark(112),
    ]);
    assert_eq!(out, ["Received 100@0 ab+6", "Received 108@0 ij", "Received 110@0 k+1"]);
}

#[test]
fn a_beginning_is_taken_across_what_was_of_no_interest() {
    for jump in [1_000, 1 << 30, (1 << 31) + 5, u32::MAX - (64 << 20) - 100] {
        let sequence = 102_u32.wrapping_add(jump);
        let (out, _) = run(&[
            Seen::received(100, b"ab").taken(100).begins(),
            Seen::received(sequence, b"GET").taken(sequence).begins(),
            Seen::mark(sequence.wrapping_add(3)),
        ]);
        assert_eq!(out.last(), Some(&format!("Received {sequence}@0 GET begins")));
        let (out, _) = run(&[Seen::sent(100, b"ab").begins(), Seen::sent(sequence, b"GET").begins()]);
        assert_eq!(out[1..], [format!("Sent {sequence}@0 GET begins")]);
        let (out, _) = run(&[Seen::received(100, b"ab").begins(), Seen::received(sequence, b"GET").begins()]);
        assert_eq!(out[1..], [format!("Received {sequence}@0 GET begins")]);
    }
    let (out, _) = run(&[Seen::received(100, b"ab").begins(), Seen::received(100, b"ab").begins()]);
    assert_eq!(out.len(), 1, "a beginning sent again is no beginning");
}

#[test]
fn the_answer_behind_an_uninteresting_one_is_expected_by_the_request() {
    // A client's end: its second request acknowledges the first answer, which the kernel side left out.
    let new = 503 + (3_u32 << 30);
    let (out, _) = run(&[
        Seen::sent(10, b"GET").begins().taken(500),
        Seen::received(500, b"old").taken(500),
        Seen::sent(13, b"POST").begins().taken(new),
        Seen::received(new + 2, b"er").taken(new),
        Seen::received(new, b"ne").taken(new),
        Seen::mark(new + 4),
    ]);
    let (first, second) = (new, new + 2);
    assert_eq!(out[out.len() - 2..], [format!("Received {first}@0 ne"), format!("Received {second}@0 er")]);
}

#[test]
fn what_was_sent_is_in_order() {
    let (out, _) = run(&[Seen::sent(10, b"ab").begins(), Seen::sent(20_000, b"yz").fin(), Seen::sent(10, b"ab")]);
    assert_eq!(out, ["Sent 10@0 ab begins", "Sent 20000@0 yz", "Sent 20002@0  ends"]);
    let (out, _) = run(&[Seen::sent(10, b"ab"), Seen::sent(11, b"bc"), Seen::sent(13, b"").rst()]);
    assert_eq!(out, ["Sent 10@0 ab", "Sent 12@0 c", "Sent 13@0  ends"]);
}

#[test]
fn a_hole_ends_when_it_is_taken() {
    // A server's end: part of the request was lost to us, and the answer shows that it had come.
    let (out, _) = run(&[
        Seen::received(10, b"ab").taken(10).at(1),
        Seen::received(20, b"yz").taken(12).at(2),
        Seen::sent(500, b"ok").at(9).taken(22),
    ]);
    assert_eq!(out, ["Received 10@1 ab", "Received 20@2 yz", "Sent 500@9 ok"]);
}

#[test]
fn what_is_never_taken_is_forgotten() {
    let (out, mut reassembler) = run(&[
        Seen::received(10, b"ab").taken(10),
        Seen::received(20, b"POST /").taken(12).at(5),
        Seen::received(30, b"").taken(12).at(5).fin(),
    ]);
    assert_eq!(out, ["Received 10@0 ab"]);
    let limit = Reassembler::MAX_AGE.as_nanos() as u64;
    reassembler.tick(Nanos(4 + limit));
    assert_eq!((reassembler.held(), reassembler.desyncs()), ((6, 1), 0));
    reassembler.tick(Nanos(5 + limit));
    assert_eq!((reassembler.held(), reassembler.desyncs()), ((0, 0), 1));
    let mut out = Out::default();
    feed(&mut reassembler, &Seen::received(12, b"cd").taken(12), &mut |chunk| out.take(&chunk));
    feed(&mut reassembler, &Seen::mark(40), &mut |chunk| out.take(&chunk));
    assert_eq!(out.0, ["Received 12@0 cd"]);
}

#[test]
fn what_fills_a_hole_has_room_whatever_waits_behind_it() {
    let waiting = MAX_HELD_PIECES as u32 + 100;
    let mut seen: Vec<Seen> = (0..waiting).map(|index| Seen::received(12 + 2 * index, b"cd").taken(10)).collect();
    seen.push(Seen::received(10, b"ab").taken(10));
    // One more, before it is taken.
    seen.push(Seen::received(12 + 2 * waiting, b"cd").taken(10));
    seen.push(Seen::mark(12 + 2 * waiting));
    let (out, reassembler) = run(&seen);
    assert_eq!(out[..2], ["Received 10@0 ab", "Received 12@0 cd"]);
    // There was no room for the last hundred.
    assert_eq!((out.len(), reassembler.desyncs()), (1 + MAX_HELD_PIECES, 100));
}

#[test]
fn what_is_held_is_bounded_and_given_back() {
    let mut reassembler = Reassembler::new();
    let bound = 3 * MAX_HELD_BYTES + 4 * MAX_HELD_PIECES * size_of::<Held>();
    let mut most = 0;
    let mut push = |reassembler: &mut Reassembler, seen: Seen| {
        feed(reassembler, &seen, &mut |_| {});
        most = most.max(reassembler.memory());
    };
    // Behind a hole: a megabyte in large pieces, the same again with other bytes, and twice as many tiny ones as there is room for.
    for (byte, when) in [(b'x', 0), (b'y', 1), (b'z', 2)] {
        for index in 0..16 {
            push(&mut reassembler, Seen::received(1000 + 65_000 * index, &[byte; 65_000]).taken(10).at(when));
        }
    }
    for index in 0..2 * MAX_HELD_PIECES as u32 {
        push(&mut reassembler, Seen::received(20 + 2 * index, b"t").taken(10).at(3));
    }
    push(&mut reassembler, Seen::received(10, &[b'h'; 20_000]).taken(10).at(4));
    assert!((MAX_HELD_BYTES..=bound).contains(&most), "{most} of {bound}");
    feed(&mut reassembler, &Seen::mark(2_000_000), &mut |_| {});
    assert!(reassembler.memory() < 64 * size_of::<Held>(), "{}", reassembler.memory());
}

#[test]
fn of_many_that_contradict_each_other_all_are_missing() {
    let mut seen: Vec<Seen> = (0..1000).map(|index| Seen::received(12 + index, b"x").taken(10)).collect();
    // Each of these contradicts a stretch of those.
    seen.extend((0..20).map(|index| Seen::received(12 + 50 * index, &[b'y'; 50]).taken(10).at(1)));
    seen.push(Seen::received(10, b"ab").taken(10).at(2));
    seen.push(Seen::mark(1012));
    let (out, _) = run(&seen);
    assert_eq!(out[0], "Received 10@2 ab");
    assert!(out.len() > 1 && out[1..].iter().all(|line| !line.contains('x') && !line.contains('y')), "{out:?}");
}

#[test]
fn a_segment_from_elsewhere_is_counted_only() {
    for sequence in [10 + (17 << 20), 10 + (1 << 30), 10_u32.wrapping_sub(17 << 20), 10_u32.wrapping_sub(1 << 31)] {
        let (out, reassembler) = run(&[
            Seen::received(10, b"ab").taken(10),
            Seen::received(sequence, b"bogus").taken(12),
            Seen::received(sequence, b"").taken(12).fin(),
            Seen::received(sequence, b"").taken(12).rst(),
            Seen::received(12, b"cd").taken(12),
            Seen::mark(14),
        ]);
        assert_eq!(out, ["Received 10@0 ab", "Received 12@0 cd"]);
        assert_eq!((reassembler.desyncs(), reassembler.held()), (3, (0, 0)));
    }
}

#[test]
fn a_reset_is_believed_at_its_place_only() {
    let reset = |sequence| {
        let (out, reassembler) = run(&[
            Seen::received(10, b"ab").taken(10),
            Seen::received(14, b"ef").taken(12),
            Seen::received(sequence, b"").at(2).taken(12).rst(),
        ]);
        (out[1..].to_vec(), reassembler.desyncs())
    };
    for sequence in [11, 12] {
        assert_eq!(reset(sequence).0.last().map(|line| line.ends_with(" ends")), Some(true), "{sequence}");
    }
    for sequence in [5, 10, 16, 17, 100_000] {
        assert_eq!(reset(sequence), (Vec::new(), 1), "{sequence}");
    }
}

#[test]
fn ends_without_bytes() {
    let (out, _) = run(&[
        Seen::received(10, b"ab").taken(10),
        Seen::received(14, b"").taken(12).at(2).fin(),
        Seen::received(12, b"cd").taken(12).at(3),
        Seen::mark(15),
    ]);
    assert_eq!(out, ["Received 10@0 ab", "Received 12@3 cd", "Received 14@3  ends"]);
    let (out, _) = run(&[Seen::received(10, b"").at(1).fin()]);
    assert_eq!(out, ["Received 10@1  ends"]);
    let (out, _) = run(&[Seen::received(10, b"").taken(10).fin(), Seen::received(12, b"?").taken(10)]);
    assert!(out.is_empty(), "an end that is not taken is none");
}

#[test]
fn no_number_of_forged_segments_is_believed() {
    let forged = (0..300).map(|at| Seen::received(12 + 4 * at, b"fake").taken(12));
    let genuine = [Seen::received(12, b"cdef").taken(12).at(1), Seen::mark(16).at(1)];
    let segments: Vec<_> = [Seen::received(10, b"ab").taken(10)].into_iter().chain(forged).chain(genuine).collect();
    let (out, _) = run(&segments);
    assert!(out.iter().all(|line| !line.contains("fake")), "{out:?}");
}

#[test]
fn forged_ends_hide_nothing() {
    let forged = |sequence| Seen::received(sequence, b"").taken(12).fin();
    let (out, reassembler) = run(&[
        Seen::received(10, b"ab").taken(10),
        forged(13),
        forged(14),
        forged(20),
        Seen::received(12, b"cdef").taken(12),
        Seen::received(16, b"gh").taken(16).fin(),
        Seen::mark(19),
    ]);
    assert_eq!(out, ["Received 10@0 ab", "Received 12@0 cdef", "Received 16@0 gh", "Received 18@0  ends"]);
    assert_eq!(reassembler.desyncs(), 2, "those that the stream went past");
    // Nothing says what is taken, and the stream goes on.
    let (out, _) = run(&[Seen::received(10, b"ab"), Seen::received(14, b"").fin(), Seen::received(12, b"cdef")]);
    assert_eq!(out, ["Received 10@0 ab", "Received 12@0 cdef"]);
    let forged = (0..1000).map(|at| Seen::received(20 + at, b"").taken(12).fin());
    let (_, reassembler) = run(&[Seen::received(10, b"ab").taken(10)].into_iter().chain(forged).collect::<Vec<_>>());
    assert!(reassembler.memory() < 8 * 1024, "{}", reassembler.memory());
}

#[test]
fn of_pieces_that_come_together_the_one_counts_that_fits_what_is_taken() {
    let begin = || Seen::received(10, b"ab").taken(10);
    // Both wait for the socket.
    let pair = |one: &[u8], other: &[u8]| {
        let both = [begin(), Seen::received(12, one).taken(12).at(1), Seen::received(12, other).taken(12).at(2)];
        let (out, reassembler) =
            run(&[&both[..], &[Seen::received(16, b"gh").taken(12).at(3), Seen::mark(18)]].concat());
        assert!(reassembler.desyncs() > 0);
        out[1..].to_vec()
    };
    assert_eq!(pair(b"cdef", b"a longer one"), ["Received 12@1 cdef", "Received 16@3 gh"]);
    assert_eq!(pair(b"a longer one", b"cdef"), ["Received 12@2 cdef", "Received 16@3 gh"]);
    assert_eq!(pair(b"cdef", b"?"), ["Received 12@1 cdef", "Received 16@3 gh"]);
    assert_eq!(pair(b"?", b"cdef"), ["Received 12@2 cdef", "Received 16@3 gh"]);
    // Nobody can tell.
    assert_eq!(pair(b"cdef", b"fake"), ["Received 12@1 +4", "Received 16@3 gh"]);

    // One was refused long before the other came.
    let long = REFUSED_AFTER.as_nanos() as u64;
    let (out, _) = run(&[
        begin(),
        Seen::received(12, b"fake").taken(12),
        Seen::received(12, b"cdef").taken(12).at(long),
        Seen::mark(16).at(long),
    ]);
    assert_eq!(out[1..], [format!("Received 12@{long} cdef")]);
}

#[test]
fn a_mark_without_an_acknowledgement_acknowledges_nothing() {
    let start = u32::MAX - 10;
    let (out, _) = run(&[
        Seen::received(start, b"ab").taken(start),
        Seen::received(start + 4, b"ef").taken(start + 2).at(1),
        Seen::sent(7, b"").at(2).fin().taken(0),
        Seen::received(start + 2, b"cd").taken(start + 2).at(3),
        Seen::mark(start + 6).at(4),
    ]);
    let expected = [(start, "@0 ab"), (7, "@2  ends"), (start + 2, "@3 cd"), (start + 4, "@3 ef")];
    let way = |sequence| if sequence == 7 { "Sent" } else { "Received" };
    assert_eq!(out, expected.map(|(sequence, rest)| format!("{} {sequence}{rest}", way(sequence))));
}

#[test]
fn what_is_held_at_the_end_is_missing() {
    let (out, mut reassembler) = run(&[
        Seen::received(10, b"ab").taken(10),
        Seen::received(12, b"cd").taken(12),
        Seen::received(20, b"yz").taken(12),
    ]);
    assert_eq!(out.len(), 1);
    let mut out = Out::default();
    reassembler.close(&mut |chunk| out.take(&chunk));
    assert_eq!(out.0, ["Received 12@0 +2"]);
    assert_eq!(reassembler.desyncs(), 1);
}

/// A stream of which a byte tells where it is from.
fn stream(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index * 7 + index / 251) as u8).collect()
}

/// What TCP makes of segments: it takes what is next, keeps what is not yet, and the first one wins.
struct Tcp {
    start: u32,
    taken: usize,
    waiting: Vec<(usize, usize)>,
}

impl Tcp {
    fn acknowledgement(&self) -> u32 {
        self.start.wrapping_add(self.taken as u32)
    }

    fn receive(&mut self, from: usize, to: usize) {
        self.waiting.push((from, to));
        while let Some((_, to)) = self.waiting.iter().find(|(from, to)| (*from..*to).contains(&self.taken)).copied() {
            self.taken = to;
        }
    }
}

/// One segment on its way: how late it is, how often it comes, what becomes of it.
#[derive(Clone, Debug)]
struct Travel {
    late: usize,
    again: usize,
    /// How many bytes of the next segments the repetition has too.
    wider: usize,
    /// It comes broken before it comes whole.
    broken: bool,
    /// Its acknowledgement by the socket is seen.
    is_acknowledged: bool,
    /// The record of it does not reach us.
    is_lost_to_us: bool,
}

fn travel() -> impl Strategy<Value = Travel> {
    let chance = |percent: u32| prop::num::u32::ANY.prop_map(move |number| number % 100 < percent);
    (0..16_usize, 0..3_usize, 0..500_usize, chance(10), chance(60), chance(10)).prop_map(
        |(late, again, wider, broken, is_acknowledged, is_lost_to_us)| Travel {
            late,
            again,
            wider,
            broken,
            is_acknowledged,
            is_lost_to_us,
        },
    )
}

/// Sends a stream cut into segments through a reassembler, as they travel. Returns the stream and what came of it: each
/// byte, or that it is missing.
fn send(start: u32, sizes: &[usize], travels: &[Travel], loses: bool) -> (Vec<u8>, Vec<Option<u8>>, Reassembler) {
    let stream = stream(sizes.iter().sum());
    let mut arrivals: Vec<(usize, usize, usize, &Travel, bool)> = Vec::new();
    let mut from = 0;
    for (index, (size, travel)) in sizes.iter().zip(travels).enumerate() {
        let to = from + size;
        let at = index + if index == 0 { 0 } else { travel.late };
        if travel.broken {
            arrivals.push((at, from, to, travel, true));
        }
        arrivals.push((at + usize::from(travel.broken), from, to, travel, false));
        for copy in 1..=travel.again {
            arrivals.push((at + 5 * copy, from, (to + travel.wider).min(stream.len()), travel, false));
        }
        from = to;
    }
    arrivals.sort_by_key(|(at, ..)| *at);
    let mut reassembler = Reassembler::new();
    let mut tcp = Tcp { start, taken: 0, waiting: Vec::new() };
    let mut out = vec![None; stream.len()];
    let mut next = 0;
    let mut take = |chunk: Chunk<'_>| {
        let offset = (chunk.offset - (1 << 32) - u64::from(start)) as usize;
        assert!(offset >= next, "chunks do not overlap");
        next = offset + chunk.original_len as usize;
        for (index, byte) in chunk.bytes.iter().enumerate() {
            out[offset + index] = Some(*byte);
        }
    };
    for (_, from, to, travel, broken) in arrivals {
        let sequence = start.wrapping_add(from as u32);
        let mut seen = Seen::received(sequence, &stream[from..to]).taken(tcp.acknowledgement());
        if broken {
            seen.bytes[0] ^= 1;
        } else {
            tcp.receive(from, to);
        }
        if !(loses && travel.is_lost_to_us) {
            feed(&mut reassembler, &seen, &mut take);
        }
        if travel.is_acknowledged {
            feed(&mut reassembler, &Seen::mark(tcp.acknowledgement()), &mut take);
        }
    }
    assert_eq!(tcp.taken, stream.len());
    feed(&mut reassembler, &Seen::mark(tcp.acknowledgement()), &mut take);
    (stream, out, reassembler)
}

proptest! {
    /// Any order within a window, any repetition, wherever it is cut: all of it comes out.
    #[test]
    fn any_order_gives_the_same_stream(
        start in any::<u32>(),
        sizes in prop::collection::vec(1..2_000_usize, 2..60),
        travels in prop::collection::vec(travel(), 60),
    ) {
        let travels: Vec<Travel> = travels.into_iter().map(|travel| Travel { broken: false, ..travel }).collect();
        let (stream, out, reassembler) = send(start, &sizes, &travels, false);
        prop_assert_eq!(out, stream.into_iter().map(Some).collect::<Vec<_>>());
        prop_assert_eq!((reassembler.desyncs(), reassembler.held()), (0, (0, 0)));
    }

    /// Segments that TCP refuses, and such as we never see: what comes out is right or missing, never wrong.
    #[test]
    fn what_comes_out_is_right_or_missing(
        // An acknowledgement of 0 says nothing: then the very first segment would be believed as it comes.
        start in 1..u32::MAX,
        sizes in prop::collection::vec(1..2_000_usize, 2..60),
        travels in prop::collection::vec(travel(), 60),
        loses in any::<bool>(),
    ) {
        // A broken copy would be believed if the whole one did not reach us: nothing contradicts it then.
        let travels: Vec<Travel> =
            travels.into_iter().map(|travel| Travel { broken: travel.broken && !loses, ..travel }).collect();
        let (stream, out, reassembler) = send(start, &sizes, &travels, loses);
        for (truth, seen) in stream.iter().zip(&out) {
            prop_assert!(seen.is_none_or(|seen| seen == *truth));
        }
        prop_assert_eq!(reassembler.held(), (0, 0));
    }

    /// A forged segment anywhere that TCP refuses changes nothing, but may leave a hole where it waited for its turn.
    #[test]
    fn forged_segments_are_not_believed(
        sizes in prop::collection::vec(1..2_000_usize, 2..40),
        forgeries in prop::collection::vec((0..40_usize, prop_oneof![-3_000..3_000_i64, any::<i64>()], 1..3_000_usize), 1..10),
    ) {
        let start = 4_000_000_000_u32;
        let stream = stream(sizes.iter().sum());
        let mut reassembler = Reassembler::new();
        let mut out = Vec::new();
        let mut take = |chunk: Chunk<'_>| {
            out.resize((chunk.offset - (1 << 32) - u64::from(start)) as usize, None);
            out.extend(chunk.bytes.iter().copied().map(Some));
        };
        let mut from = 0;
        for (index, size) in sizes.iter().enumerate() {
            let sequence = start.wrapping_add(from as u32);
            // The first record says where the stream is; before it there is nothing to be misled about.
            for (_, at, len) in forgeries.iter().filter(|(place, ..)| *place == index && index > 0) {
                let forged = Seen::received(sequence.wrapping_add(*at as u32), &vec![0xee; *len]).taken(sequence);
                feed(&mut reassembler, &forged, &mut take);
            }
            let genuine = Seen::received(sequence, &stream[from..from + size]).taken(sequence);
            feed(&mut reassembler, &genuine, &mut take);
            from += size;
        }
        feed(&mut reassembler, &Seen::mark(start.wrapping_add(from as u32)), &mut take);
        for (index, seen) in out.iter().enumerate() {
            prop_assert!(seen.is_none_or(|seen| Some(&seen) == stream.get(index)));
        }
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
                capture: if acknowledgement % 8 == 0 { Capture::Awaiting } else { Capture::Positive },
                left_out,
                begins_message: begins_message && sequence % 4 == 0,
                follows_thinning,
                fin: fin && rst && sequence % 16 == 0,
                rst: rst && sequence % 32 == 1,
                ..Seen::received(sequence, &vec![b'x'; length])
            };
            feed(&mut reassembler, &seen, &mut check);
            let (bytes, pieces) = reassembler.held();
            prop_assert!(bytes <= 2 * MAX_HELD_BYTES && pieces <= 2 * MAX_HELD_PIECES);
        }
        reassembler.close(&mut check);
        prop_assert_eq!(reassembler.held(), (0, 0));
    }
}
