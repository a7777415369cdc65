//! What programs have inside that were built in one piece with their TLS library, and then stripped: no name leads to the
//! library's functions.
//!
//! What the library says of itself in its messages names it. Its functions are then known by their code ([`SIGNATURES`]) or by
//! what they report ([`reports`]), if they are: each must be there exactly once, or none is taken. Nothing is guessed.

use std::collections::BTreeSet;
use std::io::{Read, Seek, SeekFrom};
use std::sync::LazyLock;

use memchr::memmem::{self, Finder};
use memchr::memrchr;

use super::elf::Symbol;
use super::reports;

/// See the head of the file.
const SIGNATURES: &str = include_str!("signatures.txt");

/// What BoringSSL calls one of its own files, to say where an error was met: the end, and what is in the name of the directory
/// before it, such as `vendor/boringssl/` or `third_party/boringssl-with-bazel/src/`. (Nowhere in hbpf is a slash between them.)
const BORINGSSL: &[u8] = b"ssl/ssl_lib.cc\0";
const BORINGSSL_DIRECTORY: &[u8] = b"boringssl";

/// Longest name of such a file.
const MAX_SOURCE_BYTES: usize = 128;

/// What begins the names of rustls' files, with its version.
const RUSTLS: &[u8] = b"/rustls-";

/// Longest version that is believed.
const MAX_VERSION_BYTES: usize = 24;

/// Most that is looked through of one file, once: the largest programs known have some 160 MiB of code and constants.
const MAX_SEARCHED_BYTES: u64 = 384 * 1024 * 1024;

/// How much is looked through at a time.
const CHUNK_BYTES: usize = 1024 * 1024;

/// By how much two chunks overlap: what is looked for is shorter.
const OVERLAP_BYTES: usize = 512;

/// Functions begin at a multiple of it.
const ALIGNMENT: u64 = 16;

/// A piece of the file that is mapped when the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) address: u64,
    pub(super) is_code: bool,
}

/// All such pieces of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pieces {
    pub(super) mapped: Vec<Piece>,
    /// Where it is written where functions begin (`.eh_frame_hdr`).
    pub(super) unwind: Option<Piece>,
}

/// What was found inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Inside {
    /// No TLS library that is known.
    Nothing,
    /// The functions of a library, by their addresses, and what the library is called.
    Functions(String, Vec<(Symbol, u64)>),
    /// A library that cannot be probed, and why.
    Unreadable(String),
}

/// Looks through the pieces of a program.
pub(super) fn look(file: &mut (impl Read + Seek), pieces: &Pieces) -> std::io::Result<Inside> {
    let mut left = MAX_SEARCHED_BYTES;
    let Pieces { mapped: pieces, unwind } = pieces;
    let said = said(file, pieces, &mut left)?;
    if said.has_boringssl {
        let mut matches = vec![Vec::new(); PATTERNS.len()];
        for piece in pieces.iter().filter(|piece| piece.is_code) {
            search(file, piece, &mut left, &mut |bytes, address| {
                for (pattern, matches) in PATTERNS.iter().zip(&mut matches) {
                    pattern.find(bytes, address, matches);
                }
            })?;
        }
        let found = LIBRARIES.iter().find_map(|library| Some((library.name, library.functions(&matches)?)));
        return Ok(match found {
            Some((name, functions)) => Inside::Functions(name.to_owned(), functions),
            None => Inside::Unreadable("BoringSSL is inside, and no signature of it matches this build".to_owned()),
        });
    }
    let Some(rustls) = said.rustls else { return Ok(Inside::Nothing) };
    if let Some(source) = said.aead_source
        && let Some(functions) = reports::functions(file, pieces, unwind.as_ref(), source, &mut left)?
    {
        return Ok(Inside::Functions(rustls, functions));
    }
    Ok(Inside::Unreadable(format!("{rustls} is inside, of which no function can be told by its code")))
}

/// Which rustls is inside, if it says so.
pub(super) fn rustls(file: &mut (impl Read + Seek), pieces: &Pieces) -> std::io::Result<Option<String>> {
    Ok(said(file, &pieces.mapped, &mut { MAX_SEARCHED_BYTES })?.rustls)
}

/// What libraries say of themselves.
struct Said {
    has_boringssl: bool,
    /// Its name, with its version.
    rustls: Option<String>,
    /// Where aws-lc names the file of its AEAD functions; `None` where it does not, or in two places.
    aead_source: Option<u64>,
}

fn said(file: &mut (impl Read + Seek), pieces: &[Piece], left: &mut u64) -> std::io::Result<Said> {
    let (boringssl, rustls, aead) = (Finder::new(BORINGSSL), Finder::new(RUSTLS), Finder::new(reports::SOURCE));
    let mut said = Said { has_boringssl: false, rustls: None, aead_source: None };
    let mut sources = BTreeSet::new();
    for piece in pieces.iter().filter(|piece| !piece.is_code) {
        search(file, piece, left, &mut |bytes, address| {
            said.has_boringssl |= boringssl.find_iter(bytes).any(|at| is_in_boringssl(&bytes[..at]));
            let mut versions = rustls.find_iter(bytes).filter_map(|at| version(&bytes[at + RUSTLS.len()..]));
            said.rustls = said.rustls.take().or_else(|| versions.next().map(|version| format!("rustls {version}")));
            // The name begins behind the end of what is before it.
            let begins = aead.find_iter(bytes).filter_map(|at| Some(memrchr(0, &bytes[..at])? + 1));
            sources.extend(begins.map(|at| address.wrapping_add(at as u64)).take(2));
        })?;
    }
    said.aead_source = sources.first().copied().filter(|_| sources.len() == 1);
    Ok(said)
}

/// Whether what ends here is the name of a directory of BoringSSL.
fn is_in_boringssl(before: &[u8]) -> bool {
    let name = &before[before.len().saturating_sub(MAX_SOURCE_BYTES)..];
    let name = &name[memrchr(0, name).map_or(0, |end| end + 1)..];
    name.ends_with(b"/") && memmem::find(name, BORINGSSL_DIRECTORY).is_some()
}

/// Shows a piece of the file chunk by chunk, with the address of each. `left` is how much may be read yet.
pub(super) fn search(
    file: &mut (impl Read + Seek),
    piece: &Piece,
    left: &mut u64,
    look: &mut dyn FnMut(&[u8], u64),
) -> std::io::Result<()> {
    let len = piece.len.min(*left);
    *left -= len;
    file.seek(SeekFrom::Start(piece.offset))?;
    let mut file = file.take(len);
    let mut chunk = Vec::with_capacity(OVERLAP_BYTES + CHUNK_BYTES);
    let mut address = piece.address;
    loop {
        let read = file.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        look(&chunk, address);
        let passed = chunk.len().saturating_sub(OVERLAP_BYTES);
        chunk.drain(..passed);
        address = address.wrapping_add(passed as u64);
    }
}

/// The version at the beginning of these bytes: that of another crate, whose name begins the same, is none.
fn version(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().take(MAX_VERSION_BYTES).position(|byte| *byte == b'/')?;
    let version = std::str::from_utf8(&bytes[..end]).ok()?;
    let is_version = version.starts_with(|first: char| first.is_ascii_digit())
        && version.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+'));
    is_version.then_some(version)
}

/// One build of a library.
struct Signature {
    name: &'static str,
    /// Functions, with their places in [`PATTERNS`].
    functions: Vec<(Symbol, usize)>,
}

impl Signature {
    /// Where its functions are, if each was found once.
    fn functions(&self, matches: &[Vec<u64>]) -> Option<Vec<(Symbol, u64)>> {
        let the_one = |(symbol, pattern): &(Symbol, usize)| match matches[*pattern][..] {
            [address] => Some((*symbol, address)),
            _ => None,
        };
        self.functions.iter().map(the_one).collect()
    }
}

/// Bytes of code, of which some may be anything.
#[derive(PartialEq, Eq)]
struct Pattern(Vec<Option<u8>>);

/// A pattern and its longest part of which every byte is known.
struct Searched {
    pattern: Pattern,
    known_at: usize,
    known: Finder<'static>,
}

static LIBRARIES: LazyLock<Vec<Signature>> = LazyLock::new(|| signatures().0);
static PATTERNS: LazyLock<Vec<Searched>> = LazyLock::new(|| signatures().1);

/// Reads [`SIGNATURES`], which a test has read before.
fn signatures() -> (Vec<Signature>, Vec<Searched>) {
    let (mut libraries, mut patterns) = (Vec::<Signature>::new(), Vec::<Searched>::new());
    for line in SIGNATURES.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (first, rest) = line.split_once(' ').expect("a line has two parts");
        if first == "library" {
            libraries.push(Signature { name: rest, functions: Vec::new() });
            continue;
        }
        let symbol = Symbol::ALL.into_iter().find(|symbol| symbol.name() == first).expect("a function that is probed");
        let byte = |text| if text == "??" { None } else { Some(u8::from_str_radix(text, 16).expect("a byte")) };
        let pattern = Pattern(rest.split(' ').map(byte).collect());
        let place = patterns.iter().position(|known| known.pattern == pattern).unwrap_or_else(|| {
            patterns.push(Searched::new(pattern));
            patterns.len() - 1
        });
        libraries.last_mut().expect("functions of a library").functions.push((symbol, place));
    }
    (libraries, patterns)
}

impl Searched {
    fn new(pattern: Pattern) -> Self {
        let known = pattern.0.split(Option::is_none).max_by_key(|part| part.len()).unwrap_or_default();
        let bytes: Vec<u8> = known.iter().flatten().copied().collect();
        let starts = pattern.0.windows(known.len()).position(|window| window == known);
        Self { known_at: starts.unwrap_or_default(), known: Finder::new(&bytes).into_owned(), pattern }
    }

    /// Adds where it is to `matches`, which what lies in two chunks is added to once.
    fn find(&self, bytes: &[u8], address: u64, matches: &mut Vec<u64>) {
        for at in self.known.find_iter(bytes) {
            let Some(begin) = at.checked_sub(self.known_at) else { continue };
            let address = address.wrapping_add(begin as u64);
            let is_it = bytes.get(begin..).is_some_and(|bytes| self.pattern.begins(bytes));
            // One is enough to know that there are too many.
            if is_it && address.is_multiple_of(ALIGNMENT) && matches.len() < 2 && !matches.contains(&address) {
                matches.push(address);
            }
        }
    }
}

impl Pattern {
    fn begins(&self, bytes: &[u8]) -> bool {
        self.0.len() <= bytes.len()
            && self.0.iter().zip(bytes).all(|(expected, byte)| expected.is_none_or(|expected| expected == *byte))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    const CODE_AT: u64 = 0x40_0000;

    /// A program of constants and code.
    fn look_at(constants: &[u8], code: &[u8]) -> Inside {
        let pieces = [
            Piece { offset: 0, len: constants.len() as u64, address: 0, is_code: false },
            Piece { offset: constants.len() as u64, len: code.len() as u64, address: CODE_AT, is_code: true },
        ];
        let pieces = Pieces { mapped: pieces.to_vec(), unwind: None };
        look(&mut Cursor::new([constants, code].concat()), &pieces).unwrap()
    }

    /// Code that fits a pattern.
    fn fitting(library: &Signature, symbol: Symbol) -> Vec<u8> {
        let (_, pattern) = library.functions.iter().find(|(other, _)| *other == symbol).unwrap();
        PATTERNS[*pattern].pattern.0.iter().map(|byte| byte.unwrap_or(0x5a)).collect()
    }

    /// Functions at these places, and nothing between them.
    fn code(functions: &[(usize, &[u8])]) -> Vec<u8> {
        let mut code = vec![0xcc; 3 * CHUNK_BYTES];
        for (at, function) in functions {
            code[*at..*at + function.len()].copy_from_slice(function);
        }
        code
    }

    #[test]
    fn every_library_has_functions_that_are_found_once_wherever_chunks_are_cut() {
        assert!(!LIBRARIES.is_empty());
        for library in LIBRARIES.iter() {
            let read = fitting(library, Symbol::SslRead);
            let write = fitting(library, Symbol::SslWrite);
            assert!(read.len() < OVERLAP_BYTES && write.len() < OVERLAP_BYTES);
            for at in [0, CHUNK_BYTES - 16, CHUNK_BYTES - OVERLAP_BYTES, 2 * CHUNK_BYTES - 64] {
                let code = code(&[(at, &read), (at + 1024, &write)]);
                let Inside::Functions(name, functions) = look_at(b"x/boringssl/ssl/ssl_lib.cc\0", &code) else {
                    panic!("{} at {at}", library.name);
                };
                let expected = [(Symbol::SslRead, CODE_AT + at as u64), (Symbol::SslWrite, CODE_AT + at as u64 + 1024)];
                assert_eq!(functions, expected, "{name}");
            }
        }
    }

    #[test]
    fn what_is_there_twice_or_in_half_or_at_an_odd_place_is_not_taken() {
        let library = &LIBRARIES[0];
        let (read, write) = (fitting(library, Symbol::SslRead), fitting(library, Symbol::SslWrite));
        let mut changed = read.clone();
        changed[0] ^= 1;
        for functions in [
            vec![(0, &read[..]), (1024, &write), (2048, &read)],
            vec![(0, &read), (CHUNK_BYTES + 1024, &write), (2048, &write)],
            vec![(0, &read)],
            vec![(8, &read), (1024, &write)],
            vec![(0, &changed), (1024, &write)],
            vec![],
        ] {
            let found = look_at(b"/boringssl-with-bazel/src/ssl/ssl_lib.cc\0", &code(&functions));
            assert!(matches!(&found, Inside::Unreadable(why) if why.contains("BoringSSL")), "{found:?}");
        }
        // Without a word of the library nobody looks for it.
        for said in [&b""[..], b"/boringssl\0openssl/ssl/ssl_lib.cc\0", b"/boringssl/ssl/ssl_lib.cc"] {
            assert_eq!(look_at(said, &code(&[(0, &read), (1024, &write)])), Inside::Nothing);
        }
    }

    #[test]
    fn rustls_says_its_version() {
        let rustls = |text: &str| look_at(text.as_bytes(), b"");
        let of = |version: &str| format!("rustls {version} is inside, of which no function can be told by its code");
        assert_eq!(rustls("/r/rustls-0.23.40/src/x.rs"), Inside::Unreadable(of("0.23.40")));
        assert_eq!(rustls("/rustls-webpki-0.103.1/src /rustls-0.21.0/"), Inside::Unreadable(of("0.21.0")));
        for other in
            ["/rustls-webpki-0.103.1/src", "/rustls-", "/rustls-0.23.4", "/rustls-0.2\u{1b}[2J/", "rustls-0.2/"]
        {
            assert_eq!(rustls(other), Inside::Nothing, "{other}");
        }
    }

    #[test]
    fn pieces_that_lie_do_no_harm() {
        for piece in [
            Piece { offset: u64::MAX, len: u64::MAX, address: u64::MAX, is_code: false },
            Piece { offset: 0, len: u64::MAX, address: u64::MAX - 8, is_code: true },
            Piece { offset: 0, len: 0, address: 0, is_code: false },
        ] {
            for said in
                [[BORINGSSL_DIRECTORY, b"/", BORINGSSL].concat(), [b"/rustls-0.23.1/\0x", reports::SOURCE].concat()]
            {
                let pieces = Pieces { mapped: vec![piece, piece], unwind: Some(piece) };
                let _ = look(&mut Cursor::new(said.repeat(3)), &pieces);
            }
        }
    }
}
