//! ELF files that lie.

use std::fs::File;
use std::io::{Cursor, Write};

use super::Symbol;
use super::elf::{Inspection, Refusal, inspect};

/// Where things lie in the file that [`elf`] makes.
const SECTIONS_AT: usize = 64 + 56;
const NAMES_AT: usize = SECTIONS_AT + 3 * 64;
const NAMES: &[u8] = b"\0SSL_read\0SSL_write\0";
const SYMBOLS_AT: usize = NAMES_AT + 24;
const CODE_AT: usize = SYMBOLS_AT + 3 * 24;
const CODE_BYTES: usize = 64;
const FILE_BYTES: usize = CODE_AT + CODE_BYTES;
/// Of the code in memory.
const ADDRESS: u64 = 0x1000;

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// The smallest library with the two functions that are needed: one segment, dynamic symbols and their names.
fn elf() -> Vec<u8> {
    let mut file = vec![0; FILE_BYTES];
    put(&mut file, 0, b"\x7fELF\x02\x01\x01");
    let machine: u16 = if cfg!(target_arch = "x86_64") { 62 } else { 183 };
    put(&mut file, 16, &3u16.to_le_bytes());
    put(&mut file, 18, &machine.to_le_bytes());
    put(&mut file, 20, &1u32.to_le_bytes());
    put(&mut file, 32, &64u64.to_le_bytes());
    put(&mut file, 40, &(SECTIONS_AT as u64).to_le_bytes());
    for (at, value) in [(52, 64u16), (54, 56), (56, 1), (58, 64), (60, 3), (62, 2)] {
        put(&mut file, at, &value.to_le_bytes());
    }
    // PT_LOAD, to be read and executed.
    put(&mut file, 64, &1u32.to_le_bytes());
    put(&mut file, 68, &5u32.to_le_bytes());
    for (at, value) in [(8, CODE_AT as u64), (16, ADDRESS), (32, CODE_BYTES as u64), (40, CODE_BYTES as u64)] {
        put(&mut file, 64 + at, &value.to_le_bytes());
    }
    // SHT_DYNSYM with its names in section 2, which is SHT_STRTAB.
    section(&mut file, 1, 11, SYMBOLS_AT as u64, 3 * 24, 2);
    section(&mut file, 2, 3, NAMES_AT as u64, NAMES.len() as u64, 0);
    put(&mut file, NAMES_AT, NAMES);
    symbol(&mut file, 1, 1, ADDRESS + 8);
    symbol(&mut file, 2, 10, ADDRESS + 16);
    file
}

fn section(file: &mut [u8], number: usize, kind: u32, offset: u64, size: u64, link: u32) {
    let at = SECTIONS_AT + number * 64;
    put(file, at + 4, &kind.to_le_bytes());
    put(file, at + 24, &offset.to_le_bytes());
    put(file, at + 32, &size.to_le_bytes());
    put(file, at + 40, &link.to_le_bytes());
    put(file, at + 56, &24u64.to_le_bytes());
}

fn symbol(file: &mut [u8], number: usize, name: u32, value: u64) {
    let at = SYMBOLS_AT + number * 24;
    put(file, at, &name.to_le_bytes());
    // A global function, in some section.
    put(file, at + 4, &[0x12, 0, 1, 0]);
    put(file, at + 8, &value.to_le_bytes());
}

fn look(file: &[u8]) -> Result<Inspection, Refusal> {
    inspect(Cursor::new(file), file.len() as u64)
}

fn places(file: &[u8]) -> Option<Vec<(Symbol, u64)>> {
    look(file).ok().map(|found| found.symbols)
}

fn is_within_code(places: &[(Symbol, u64)], file: &[u8]) -> bool {
    places.iter().all(|(_, offset)| *offset < file.len() as u64)
}

#[test]
fn the_truth_is_found() {
    let code = CODE_AT as u64;
    assert_eq!(places(&elf()), Some(vec![(Symbol::SslRead, code + 8), (Symbol::SslWrite, code + 16)]));
}

#[test]
fn a_file_cut_at_any_byte_gives_nothing_behind_its_end() {
    let whole = elf();
    for length in 0..whole.len() {
        let cut = &whole[..length];
        assert!(places(cut).is_none_or(|found| is_within_code(&found, cut)), "{length}");
        // And one that shrinks after its size was asked for.
        assert!(inspect(Cursor::new(cut), whole.len() as u64).is_ok() || length < CODE_AT, "{length}");
    }
}

#[test]
fn any_byte_or_word_may_be_another() {
    let whole = elf();
    let extreme = [0, 1, 0x7f, 0x80, 0xff];
    for at in 0..whole.len() {
        for length in [1, 2, 4, 8] {
            for value in extreme {
                let mut file = whole.clone();
                let end = (at + length).min(file.len());
                file[at..end].fill(value);
                assert!(places(&file).is_none_or(|found| is_within_code(&found, &file)), "{length} at {at}: {value}");
            }
        }
    }
}

#[test]
fn tables_that_lead_elsewhere_give_nothing() {
    let is_nothing = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut file = elf();
        change(&mut file);
        places(&file).is_none_or(|found| found.is_empty())
    };
    assert!(is_nothing(&|file| section(file, 1, 11, u64::MAX - 8, 72, 2)), "symbols behind everything");
    assert!(is_nothing(&|file| section(file, 1, 11, SYMBOLS_AT as u64, 4 << 30, 2)), "4 GiB of them");
    assert!(is_nothing(&|file| section(file, 1, 11, SYMBOLS_AT as u64, 72, 99)), "names in no section");
    assert!(is_nothing(&|file| section(file, 1, 11, SYMBOLS_AT as u64, 72, 1)), "names that are symbols");
    assert!(is_nothing(&|file| section(file, 2, 3, NAMES_AT as u64, 18, 0)), "a name without an end");
    assert!(is_nothing(&|file| symbol(file, 1, u32::MAX, ADDRESS)), "a name behind the names");
    for outside in [0, ADDRESS - 1, ADDRESS + CODE_BYTES as u64, u64::MAX] {
        assert!(is_nothing(&|file| symbol(file, 1, 1, outside)), "code at {outside:x}");
    }
    assert!(is_nothing(&|file| put(file, 68, &4u32.to_le_bytes())), "a segment that is not executed");
    assert!(is_nothing(&|file| put(file, 64 + 8, &u64::MAX.to_le_bytes())), "a segment behind everything");
    assert!(is_nothing(&|file| put(file, 60, &0u16.to_le_bytes())), "sections counted in a section");
}

#[test]
fn other_classes_orders_and_machines_are_refused() {
    for (at, value) in [(4, 1), (5, 2), (18, 40), (4, 0), (5, 0)] {
        let mut file = elf();
        file[at] = value;
        assert_eq!(look(&file).err(), Some(Refusal::OtherMachine), "{value} at {at}");
    }
}

#[test]
fn millions_of_symbols_are_too_much_or_gone_through_once() {
    // In a hole, so that they take no disk.
    for (symbols, fits) in [(2_000_000u64, true), (20_000_000, false)] {
        let mut header = elf();
        section(&mut header, 1, 11, SYMBOLS_AT as u64, symbols * 24, 2);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&header).unwrap();
        let size = SYMBOLS_AT as u64 + symbols * 24;
        File::set_len(&file, size).unwrap();
        let found = inspect(&file, size);
        assert_eq!(found.as_ref().err(), (!fits).then_some(&Refusal::Malformed));
        assert!(found.is_err() || found.unwrap().symbols.len() == 2);
    }
}
