use std::io::Write;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use proptest::prelude::*;

use super::{BodyDecoder, BodyError, Coding, GapEffect};

/// Compresses `events`; with `flush`, ends a piece behind each of them.
fn compress(
    mut encoder: impl Write,
    events: &[&str],
    flush: bool,
    mut written: impl FnMut() -> Vec<u8>,
) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    for event in events {
        encoder.write_all(event.as_bytes()).unwrap();
        if flush {
            encoder.flush().unwrap();
            pieces.push(written());
        }
    }
    // Every encoder here ends its stream when it is dropped.
    drop(encoder);
    pieces.push(written());
    pieces
}

/// What an encoder has written, shared with the test.
#[derive(Clone, Default)]
struct Written(std::rc::Rc<std::cell::RefCell<Vec<u8>>>);

impl Written {
    fn take(&self) -> Vec<u8> {
        self.0.take()
    }
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The named way of compressing, which is not always that of its coding alone.
fn encode(way: &str, events: &[&str], flush: bool) -> Vec<Vec<u8>> {
    let sink = Written::default();
    let written = || sink.take();
    let level = Compression::default();
    match way {
        "gzip" => compress(GzEncoder::new(sink.clone(), level), events, flush, written),
        "zlib" => compress(ZlibEncoder::new(sink.clone(), level), events, flush, written),
        "deflate" => compress(DeflateEncoder::new(sink.clone(), level), events, flush, written),
        "brotli" => compress(brotli::CompressorWriter::new(sink.clone(), 4096, 4, 22), events, flush, written),
        "zstd" => {
            let encoder = ::zstd::stream::write::Encoder::new(sink.clone(), 3).unwrap().auto_finish();
            compress(encoder, events, flush, written)
        }
        _ => panic!("no such way"),
    }
}

const WAYS: [(&str, Coding); 7] = [
    ("gzip", Coding::Gzip),
    ("zlib", Coding::Deflate),
    ("deflate", Coding::Deflate),
    ("brotli", Coding::Brotli),
    ("zstd", Coding::Zstd),
    ("gzip", Coding::Identity),
    ("zstd", Coding::Identity),
];

const EVENTS: [&str; 4] = [
    "data: {\"choices\":[{\"delta\":{\"content\":\"Once\"}}]}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\" upon\"}}]}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n",
    "data: [DONE]\n\n",
];

fn decode(coding: Coding, pieces: &[&[u8]]) -> (Vec<u8>, Result<(), BodyError>) {
    let mut decoder = BodyDecoder::new(coding);
    let mut body = Vec::new();
    let mut out = |bytes: &[u8]| body.extend_from_slice(bytes);
    let result = pieces.iter().try_for_each(|piece| decoder.push(piece, &mut out)).and_then(|()| decoder.end(&mut out));
    (body, result)
}

#[test]
fn a_flushed_event_comes_out_with_its_last_byte() {
    for (way, coding) in WAYS {
        let mut decoder = BodyDecoder::new(coding);
        let mut body = Vec::new();
        for (index, piece) in encode(way, &EVENTS, true).iter().enumerate() {
            decoder.push(piece, &mut |bytes| body.extend_from_slice(bytes)).unwrap();
            let expected = EVENTS[..EVENTS.len().min(index + 1)].concat();
            assert_eq!(String::from_utf8_lossy(&body), expected, "{way} as {coding:?}, event {index}");
        }
        assert_eq!(decoder.end(&mut |_| ()), Ok(()), "{way}");
    }
}

#[test]
fn a_body_flushed_once_is_decoded_however_it_is_cut() {
    for (way, coding) in WAYS {
        let whole = encode(way, &EVENTS, false).concat();
        for size in [1, 2, 3, 7, whole.len()] {
            let pieces: Vec<&[u8]> = whole.chunks(size).collect();
            assert_eq!(decode(coding, &pieces), (EVENTS.concat().into_bytes(), Ok(())), "{way} by {size}");
        }
    }
}

#[test]
fn output_larger_than_the_buffer_comes_whole() {
    let text: String = (0..40_000).map(|number| format!("{number},")).collect();
    for (way, coding) in WAYS {
        let whole = encode(way, &[&text], false).concat();
        let (body, result) = decode(coding, &[&whole]);
        assert_eq!((body.len(), result), (text.len(), Ok(())), "{way}");
        assert!(body == text.as_bytes(), "{way}");
    }
}

#[test]
fn gzip_members_follow_one_another() {
    let mut bytes = encode("gzip", &EVENTS[..2], false).concat();
    // A header with extra field, name, comment and checksum, before an empty member.
    bytes.extend_from_slice(b"\x1f\x8b\x08\x1e\0\0\0\0\0\xff\x02\0xyname\0comment\0cc\x03\0\0\0\0\0\0\0\0\0");
    bytes.extend(encode("gzip", &EVENTS[2..], false).concat());
    bytes.extend_from_slice(&[0; 9]);
    let bytewise: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(decode(Coding::Gzip, &bytewise), (EVENTS.concat().into_bytes(), Ok(())));
    assert_eq!(decode(Coding::Gzip, &[&bytes]), (EVENTS.concat().into_bytes(), Ok(())));
}

#[test]
fn plain_bodies_pass_untouched() {
    for text in ["", "{", "(", "(\u{b5}", "{\"model\":\"m\"}", "\u{1f}"] {
        let bytewise: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(decode(Coding::Identity, &bytewise), (text.as_bytes().to_vec(), Ok(())));
    }
    let mut decoder = BodyDecoder::new(Coding::Identity);
    assert_eq!(decoder.gap(), GapEffect::PassThrough);
    let mut body = Vec::new();
    decoder.push(b"tail", &mut |bytes| body.extend_from_slice(bytes)).unwrap();
    assert_eq!(body, b"tail");
}

#[test]
fn a_gap_ends_a_compressed_body() {
    for (way, coding) in WAYS {
        let pieces = encode(way, &EVENTS, true);
        let mut decoder = BodyDecoder::new(coding);
        decoder.push(&pieces[0], &mut |_| ()).unwrap();
        assert_eq!(decoder.gap(), GapEffect::Undecodable);
        assert_eq!(decoder.push(&pieces[2], &mut |_| panic!("output behind a gap")), Err(BodyError::Gap));
        assert_eq!(decoder.end(&mut |_| ()), Err(BodyError::Gap));
    }
}

#[test]
fn what_is_no_body_of_its_coding_is_said_so() {
    assert_eq!(decode(Coding::Unknown, &[b"x"]).1, Err(BodyError::UnknownCoding));
    for (way, coding) in WAYS {
        let whole = encode(way, &EVENTS, false).concat();
        assert_eq!(decode(coding, &[&whole[..whole.len() / 2]]).1, Err(BodyError::Truncated), "{way}");
        assert_eq!(decode(coding, &[]), (Vec::new(), Ok(())));
    }
    // Not deflate: nearly anything is a beginning of that.
    for coding in [Coding::Gzip, Coding::Zstd] {
        assert_eq!(decode(coding, &[b"{\"model\":\"m\"}"]).1, Err(BodyError::Malformed(coding)));
    }
}

#[test]
fn bombs_are_cut_off() {
    let zeros = "\0".repeat(1 << 20);
    for (way, coding) in &WAYS[..5] {
        let bomb = encode(way, &[zeros.as_str(); 65], false).concat();
        let mut decoder = BodyDecoder::new(*coding);
        let (mut total, mut largest) = (0, 0);
        let result = decoder.push(&bomb, &mut |bytes| {
            total += bytes.len() as u64;
            largest = largest.max(bytes.len());
        });
        assert_eq!(result, Err(BodyError::TooLarge), "{way}");
        assert!(total <= BodyDecoder::MAX_OUTPUT && largest <= 16 * 1024, "{way}: {total}, {largest}");
    }
}

#[test]
fn a_zstd_window_beyond_the_limit_is_refused() {
    let sink = Written::default();
    let mut encoder = ::zstd::stream::write::Encoder::new(sink.clone(), 3).unwrap();
    encoder.window_log(24).unwrap();
    encoder.write_all(b"small").unwrap();
    encoder.flush().unwrap();
    assert_eq!(decode(Coding::Zstd, &[&sink.take()]).1, Err(BodyError::Malformed(Coding::Zstd)));
}

#[test]
fn names_of_codings() {
    for (name, coding) in [
        ("", Coding::Identity),
        ("GZIP", Coding::Gzip),
        ("x-gzip", Coding::Gzip),
        ("br", Coding::Brotli),
        ("zstd", Coding::Zstd),
        ("dcb", Coding::Unknown),
    ] {
        assert_eq!(Coding::from_name(name.as_bytes()), coding);
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_no_harm(
        way in 0..WAYS.len(),
        valid in 0..200_usize,
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..8),
    ) {
        let (name, coding) = WAYS[way];
        let whole = encode(name, &EVENTS, true).concat();
        let mut decoder = BodyDecoder::new(coding);
        let mut total = 0;
        let mut out = |bytes: &[u8]| total += bytes.len() as u64;
        let _ = decoder.push(&whole[..valid.min(whole.len())], &mut out);
        for piece in &pieces {
            let _ = decoder.push(piece, &mut out);
        }
        let _ = decoder.end(&mut out);
        prop_assert!(total <= BodyDecoder::MAX_OUTPUT);
    }
}
