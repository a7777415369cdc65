//! Finds the functions of Go's `crypto/tls` in a program, and where in them to put probes.
//!
//! Go programs carry a table of all their functions, which they need to print a stack: it is there in stripped programs,
//! too (`.gopclntab`; its layout is in Go's `debug/gosym/pclntab.go`). A goroutine's stack moves while a function runs, so a
//! return probe, which writes to the stack, would break the program: every `ret` of a function is probed in its place.
//! Nor is a function entered once per call: it begins with a look at whether the stack is large enough, and begins again
//! when that has grown. Behind that look it begins once; where twice does no harm, the jump that ends the look is probed,
//! which the kernel emulates.

use std::ops::Range;

use iced_x86::{Code as Opcode, Decoder, DecoderOptions, FlowControl, OpKind, Register};

use super::elf::Symbol;
use super::placement::{self, Code, Place, is_emulated};

/// The functions, with what each is probed for. The compiler knows the last two by their addresses only, so they are never
/// inlined; each connection runs one of them, once.
const FUNCTIONS: [(&[u8], Function); 5] = [
    (b"crypto/tls.(*Conn).Read\0", Function::Read),
    (b"crypto/tls.(*Conn).Write\0", Function::Write),
    (b"crypto/tls.(*Conn).Close\0", Function::Forget),
    (b"crypto/tls.(*Conn).clientHandshake\0", Function::Forget),
    (b"crypto/tls.(*Conn).serverHandshake\0", Function::Forget),
];

/// Beginnings of the table, by the version of Go from which on it has that layout.
const GO_1_2: u32 = 0xffff_fffb;
const GO_1_16: u32 = 0xffff_fffa;
const GO_1_18: u32 = 0xffff_fff0;
const GO_1_20: u32 = 0xffff_fff1;

/// At a multiple of it the table begins, from the beginning of what holds it.
const TABLE_ALIGNMENT: usize = 8;

/// Where the header's first number is; before it are the magic number, sizes and zeros.
const HEADER_BYTES: usize = 8;

/// Where a table tells the beginning of the code, if it does: the header's third number.
pub(super) const TEXT_AT: u64 = 24;

/// Where `runtime.moduledata` does (Go 1.26): behind a pointer, six slices, and three pointers.
pub(super) const MODULE_TEXT_AT: u64 = 176;

/// Size of a number in the table, which is a pointer's.
const WORD: usize = 8;

/// Most instructions up to the end of the look at the stack's size: it has three to five.
const MAX_LOOK: usize = 8;

/// Longest function that is looked through for its returns. `Read` has a kilobyte.
const MAX_FUNCTION_BYTES: u64 = 64 * 1024;

/// Most returns of a function: each is a place for a probe.
const MAX_RETURNS: usize = 24;

/// Most names that end in a wanted one: there may be a copy of the package under another name.
const MAX_NAMES: usize = 8;

/// What a function is probed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    Read,
    Write,
    /// What is remembered of the connection is not true any more.
    Forget,
}

/// Where in these bytes the table begins.
pub(super) fn find_table(bytes: &[u8]) -> Option<usize> {
    let begins = |at: &usize| Table::read(&bytes[*at..], 0).is_some();
    (0..bytes.len()).step_by(TABLE_ALIGNMENT).find(begins)
}

/// Whether the program has the functions: what it does not call is not linked. `None` where the table makes no sense.
pub(super) fn uses_tls(table: &[u8]) -> Option<bool> {
    let table = Table::read(table, 0)?;
    Some(FUNCTIONS.iter().any(|(name, _)| table.names(name).next().is_some()))
}

/// Whether the table says, at [`TEXT_AT`], where the program's code begins.
pub(super) fn tells_text(table: &[u8]) -> bool {
    let magic = table.first_chunk().map(|magic| u32::from_le_bytes(*magic));
    matches!(magic, Some(GO_1_18 | GO_1_20))
}

/// Where to probe the functions, given the address at which the program's code begins; `None` unless reading and writing can
/// both be probed.
pub(super) fn places(table: &[u8], text: u64, code: &dyn Code) -> Option<Vec<Place>> {
    // Elsewhere the instructions would have to be read, too.
    if cfg!(not(target_arch = "x86_64")) {
        return None;
    }
    let mut places = Vec::new();
    for (function, within) in Table::read(table, text)?.functions() {
        let Look { arguments, jump, begin } = Look::read(code, &within)?;
        let is_in_registers = arguments == Arguments::InRegisters;
        let mut add = |symbol, address| {
            let emulated = placement::decode(code, address).is_some_and(|instruction| is_emulated(&instruction));
            places.push(Place { symbol, offset: code.offset(address)?, internal: false, emulated });
            Some(())
        };
        match function {
            Function::Write if is_in_registers => add(Symbol::GoWrite, begin)?,
            Function::Write => add(Symbol::GoWriteOnStack, begin)?,
            Function::Forget if is_in_registers => add(Symbol::GoForget, jump)?,
            Function::Forget => add(Symbol::GoForgetOnStack, jump)?,
            Function::Read => {
                if is_in_registers {
                    add(Symbol::GoRead, jump)?;
                }
                let symbol = if is_in_registers { Symbol::GoReadReturn } else { Symbol::GoReadReturnOnStack };
                for address in returns(code, &within)? {
                    add(symbol, address)?;
                }
            }
        }
    }
    let has = |symbols: [Symbol; 2]| places.iter().any(|place| symbols.contains(&place.symbol));
    let is_whole =
        has([Symbol::GoWrite, Symbol::GoWriteOnStack]) && has([Symbol::GoReadReturn, Symbol::GoReadReturnOnStack]);
    places.sort_unstable();
    places.dedup();
    is_whole.then_some(places)
}

/// A program's table of functions.
struct Table<'a> {
    names: &'a [u8],
    /// Addresses of functions with the places of what is known of each.
    functions: &'a [u8],
    /// What those places count from.
    base: &'a [u8],
    count: usize,
    /// Size of a number in `functions`.
    word: usize,
    /// What addresses in `functions` count from.
    text: u64,
}

impl<'a> Table<'a> {
    fn read(table: &'a [u8], text: u64) -> Option<Self> {
        let word = |number: usize| word(table, HEADER_BYTES + number * WORD);
        let from = |number: usize| table.get(usize::try_from(word(number)?).ok()?..);
        if usize::from(*table.get(HEADER_BYTES - 1)?) != WORD {
            return None;
        }
        let count = usize::try_from(word(0)?).ok()?;
        let table = match u32::from_le_bytes(*table.first_chunk()?) {
            GO_1_2 => {
                let functions = &table[HEADER_BYTES + WORD..];
                Self { names: table, functions, base: table, count, word: WORD, text: 0 }
            }
            GO_1_16 => Self { names: from(2)?, functions: from(6)?, base: from(6)?, count, word: WORD, text: 0 },
            GO_1_18 | GO_1_20 => Self { names: from(3)?, functions: from(7)?, base: from(7)?, count, word: 4, text },
            _ => return None,
        };
        // So many there must be, and the end of the last.
        (table.count < table.functions.len() / (2 * table.word)).then_some(table)
    }

    /// Those that are probed, with where each is.
    fn functions(&self) -> Vec<(Function, Range<u64>)> {
        let named = |(name, function)| self.names(name).map(move |at| (at, function));
        let wanted: Vec<(u32, Function)> = FUNCTIONS.into_iter().flat_map(named).collect();
        let functions = (0..self.count).filter_map(|number| {
            let name = self.name_of(number)?;
            let (_, function) = wanted.iter().find(|(wanted, _)| *wanted == name)?;
            Some((*function, self.address(number)?..self.address(number + 1)?))
        });
        // No name stands for two functions, whatever the table says.
        functions.take(FUNCTIONS.len()).collect()
    }

    /// Where a name is, which ends with a zero, and where others end so: these are no function's, for what is known of
    /// functions leads to the beginnings of their names.
    fn names(&self, name: &'a [u8]) -> impl Iterator<Item = u32> + 'a {
        memchr::memmem::find_iter(self.names, name).take(MAX_NAMES).filter_map(|at| u32::try_from(at).ok())
    }

    fn entry(&self, number: usize, second: usize) -> Option<u64> {
        let at = (2 * number + second) * self.word;
        if self.word == WORD { word(self.functions, at) } else { half(self.functions, at).map(u64::from) }
    }

    fn address(&self, number: usize) -> Option<u64> {
        self.text.checked_add(self.entry(number, 0)?)
    }

    /// Where its name is.
    fn name_of(&self, number: usize) -> Option<u32> {
        let known = usize::try_from(self.entry(number, 1)?).ok()?;
        half(self.base, known.checked_add(self.word)?)
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Where a function's arguments are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arguments {
    /// In RAX, RBX, RCX ..., with the goroutine in R14 (Go's internal ABI, from 1.17 on).
    InRegisters,
    /// Above the return address, with the results behind them.
    OnStack,
}

/// A function's look at its stack. Up to its end nothing has changed that a probe looks at.
struct Look {
    /// By how it looks.
    arguments: Arguments,
    /// Where the jump is that it ends with.
    jump: u64,
    /// Where the function goes on once its stack is large enough.
    begin: u64,
}

impl Look {
    /// `None` where the function does not begin as Go's functions do.
    fn read(code: &dyn Code, within: &Range<u64>) -> Option<Self> {
        let mut address = within.start;
        let mut arguments = None;
        for _ in 0..MAX_LOOK {
            let instruction = placement::decode(code, address)?;
            match instruction.code() {
                // The lowest address that it needs.
                Opcode::Lea_r64_m if instruction.memory_base() == Register::RSP => {
                    let into = instruction.op0_register();
                    matches!(into, Register::R12 | Register::R13 | Register::RAX).then_some(())?;
                }
                // The goroutine's place in the thread's own memory, where the program's place is not fixed.
                Opcode::Mov_rm64_imm32 => (instruction.op0_register() == Register::RCX).then_some(())?,
                // The goroutine, from there.
                Opcode::Mov_r64_rm64 if instruction.segment_prefix() == Register::FS => {
                    (instruction.op0_register() == Register::RCX).then_some(())?;
                }
                Opcode::Cmp_r64_rm64 if instruction.op1_kind() == OpKind::Memory => {
                    arguments = match instruction.memory_base() {
                        Register::R14 => Some(Arguments::InRegisters),
                        Register::RCX => Some(Arguments::OnStack),
                        _ => return None,
                    };
                }
                Opcode::Jbe_rel8_64 | Opcode::Jbe_rel32_64 => {
                    let begin = instruction.next_ip();
                    let grows = within.contains(&instruction.near_branch_target()) && within.contains(&begin);
                    return arguments.filter(|_| grows).map(|arguments| Self { arguments, jump: address, begin });
                }
                _ => return None,
            }
            address = instruction.next_ip();
        }
        None
    }
}

/// Every place from which the function returns. Between a function's instructions is nothing else.
fn returns(code: &dyn Code, within: &Range<u64>) -> Option<Vec<u64>> {
    let len = within.end.checked_sub(within.start).filter(|len| *len <= MAX_FUNCTION_BYTES)?;
    let bytes = code.bytes(within.start, len).filter(|bytes| bytes.len() as u64 == len)?;
    let mut returns = Vec::new();
    for instruction in Decoder::with_ip(64, bytes, within.start, DecoderOptions::NONE).iter() {
        if instruction.is_invalid() {
            return None;
        }
        if instruction.flow_control() == FlowControl::Return {
            returns.push(instruction.ip());
        }
    }
    (1..=MAX_RETURNS).contains(&returns.len()).then_some(returns)
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    const TEXT: u64 = 0x40_1000;
    /// Room for each function.
    const ROOM: u64 = 0x40;

    /// `cmp 0x10(%r14),%rsp; jbe +0x0a; push %rbp; ret; nop; ret`, and at the jump's target `jmp` to the beginning.
    const IN_REGISTERS: &[u8] =
        &[0x49, 0x3b, 0x66, 0x10, 0x76, 0x0a, 0x55, 0xc3, 0x90, 0xc3, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xeb, 0xee];
    /// `lea -0x68(%rsp),%r12; cmp 0x10(%r14),%r12; jbe +0x0a; sub $8,%rsp; ret`
    const WITH_LARGE_FRAME: &[u8] = &[
        0x4c, 0x8d, 0x64, 0x24, 0x98, 0x4d, 0x3b, 0x66, 0x10, 0x76, 0x0a, 0x48, 0x83, 0xec, 0x08, 0xc3, 0xcc, 0xcc,
        0xcc, 0xcc, 0xcc, 0xeb, 0xe9,
    ];
    /// `mov %fs:-8,%rcx; cmp 0x10(%rcx),%rsp; jbe +3; sub $8,%rsp; ret`
    const ON_STACK: &[u8] = &[
        0x64, 0x48, 0x8b, 0x0c, 0x25, 0xf8, 0xff, 0xff, 0xff, 0x48, 0x3b, 0x61, 0x10, 0x76, 0x05, 0x48, 0x83, 0xec,
        0x08, 0xc3, 0xeb, 0xea,
    ];
    /// `mov $-8,%rcx; mov %fs:(%rcx),%rcx; cmp 0x10(%rcx),%rsp; jbe +5; sub $8,%rsp; ret`
    const ON_STACK_AT_NO_FIXED_PLACE: &[u8] = &[
        0x48, 0xc7, 0xc1, 0xf8, 0xff, 0xff, 0xff, 0x64, 0x48, 0x8b, 0x09, 0x48, 0x3b, 0x61, 0x10, 0x76, 0x05, 0x48,
        0x83, 0xec, 0x08, 0xc3, 0xeb, 0xe8,
    ];

    const NAMES: [&str; 4] = [
        "vendor/crypto/tls.(*Conn).Read",
        "crypto/tls.(*Conn).Read",
        "crypto/tls.(*Conn).Write",
        "crypto/tls.(*Conn).Close",
    ];

    struct Image(Vec<u8>);

    impl Image {
        fn new(functions: &[&[u8]]) -> Self {
            let function = |code: &&[u8]| [code, &vec![0xcc; ROOM as usize - code.len()][..]].concat();
            Self(functions.iter().flat_map(function).collect())
        }
    }

    impl Code for Image {
        fn bytes(&self, address: u64, len: u64) -> Option<&[u8]> {
            let from = self.offset(address)? as usize;
            Some(&self.0[from..self.0.len().min(from + len as usize)])
        }

        fn imported(&self, _slot: u64) -> Option<Symbol> {
            None
        }

        fn offset(&self, address: u64) -> Option<u64> {
            address.checked_sub(TEXT).filter(|offset| *offset < self.0.len() as u64)
        }
    }

    /// A table of the functions with these names, one behind the other.
    fn table(magic: u32, names: &[&str]) -> Vec<u8> {
        let word = if matches!(magic, GO_1_2 | GO_1_16) { 8 } else { 4 };
        let number = |value: usize| value.to_le_bytes()[..word].to_vec();
        let mut table = [&magic.to_le_bytes()[..], &[0, 0, 1, 8]].concat();
        table.extend((names.len() as u64).to_le_bytes());
        let text: Vec<u8> = names.iter().flat_map(|name| [name.as_bytes(), b"\0"].concat()).collect();
        let name_at = |index: usize| names[..index].iter().map(|name| name.len() + 1).sum::<usize>();
        let header_words = match magic {
            GO_1_2 => 0,
            GO_1_16 => 6,
            _ => 7,
        };
        let names_at = 16 + 8 * header_words;
        let functions_at = if magic == GO_1_2 { 16 } else { names_at + text.len() };
        let base = if magic == GO_1_2 { 0 } else { functions_at };
        let entries = (2 * names.len() + 1) * word;
        let first = if word == 8 { TEXT as usize } else { 0 };
        // What is known of each function stands behind the functions, and where names have no place of their own, they do last.
        let known_at = functions_at - base + entries;
        let shift = if magic == GO_1_2 { functions_at + entries + names.len() * (word + 4) } else { 0 };
        let mut rest = Vec::new();
        for index in 0..names.len() {
            rest.extend(number(first + index * ROOM as usize));
            rest.extend(number(known_at + index * (word + 4)));
        }
        rest.extend(number(first + names.len() * ROOM as usize));
        for index in 0..names.len() {
            rest.extend(number(first + index * ROOM as usize));
            rest.extend(((shift + name_at(index)) as u32).to_le_bytes());
        }
        if magic == GO_1_2 {
            return [table, rest, text].concat();
        }
        let mut header = vec![0_u64; header_words];
        // Behind the count: files, the code's beginning (1.18), then where names, files, lines and functions are.
        header[header_words - 5] = names_at as u64;
        header[header_words - 1] = functions_at as u64;
        table.extend(header.iter().flat_map(|value| value.to_le_bytes()));
        [table, text, rest].concat()
    }

    fn places_of(table: &[u8], functions: &[&[u8]]) -> Option<Vec<(Symbol, u64, bool)>> {
        let found = places(table, TEXT, &Image::new(functions))?;
        Some(found.into_iter().map(|place| (place.symbol, place.offset, place.emulated)).collect())
    }

    #[test]
    fn functions_are_found_in_every_layout_and_only_by_their_whole_name() {
        let code = [ON_STACK, IN_REGISTERS, WITH_LARGE_FRAME, IN_REGISTERS];
        for magic in [GO_1_2, GO_1_16, GO_1_18, GO_1_20] {
            let table = table(magic, &NAMES);
            assert_eq!(find_table(&[&[0; 64][..], &table].concat()), Some(64), "{magic:x}");
            assert_eq!(uses_tls(&table), Some(true), "{magic:x}");
            let expected = [
                (Symbol::GoRead, ROOM + 4, true),
                (Symbol::GoReadReturn, ROOM + 7, false),
                (Symbol::GoReadReturn, ROOM + 9, false),
                (Symbol::GoWrite, 2 * ROOM + 11, false),
                (Symbol::GoForget, 3 * ROOM + 4, true),
            ];
            assert_eq!(places_of(&table, &code).unwrap(), expected, "{magic:x}");
        }
    }

    #[test]
    fn arguments_on_the_stack_are_told_by_how_a_function_looks_at_it() {
        let table = table(GO_1_16, &NAMES);
        let expected = [
            (Symbol::GoReadReturnOnStack, ROOM + 19, false),
            (Symbol::GoWriteOnStack, 2 * ROOM + 15, false),
            (Symbol::GoForgetOnStack, 3 * ROOM + 13, true),
        ];
        assert_eq!(places_of(&table, &[ON_STACK; 4]).unwrap(), expected);
        let expected = expected.map(|(symbol, offset, emulated)| (symbol, offset + 2, emulated));
        assert_eq!(places_of(&table, &[ON_STACK_AT_NO_FIXED_PLACE; 4]).unwrap(), expected);
    }

    #[test]
    fn what_is_not_as_it_should_be_is_not_probed() {
        let whole = table(GO_1_20, &NAMES);
        let good = [IN_REGISTERS; 4];
        assert!(places_of(&whole, &good).is_some());
        let without_look: &[u8] = &[0x55, 0xc3];
        // The comparison is with another register's memory.
        let other_register: &[u8] = &[0x49, 0x3b, 0x67, 0x10, 0x76, 0x0a, 0x55, 0xc3];
        let without_return: &[u8] = &[0x49, 0x3b, 0x66, 0x10, 0x76, 0x0a, 0x55, 0x90];
        // A prefix that no instruction has.
        let junk: &[u8] = &[0x49, 0x3b, 0x66, 0x10, 0x76, 0x0a, 0x06, 0xc3];
        for odd in [without_look, other_register, without_return, junk] {
            assert_eq!(places_of(&whole, &[good[0], odd, good[2], good[3]]), None, "{odd:x?}");
        }
        assert_eq!(places(&whole, TEXT + 4, &Image::new(&good)), None, "the code begins elsewhere");
        assert_eq!(places_of(&table(GO_1_20, &NAMES[..2]), &good), None, "nothing writes");
        let other = table(GO_1_20, &["main.main", "runtime.text"]);
        assert_eq!(uses_tls(&other), Some(false));
        assert_eq!(places_of(&other, &good), None);
    }

    #[test]
    fn a_table_that_lies_does_no_harm() {
        let image = Image::new(&[IN_REGISTERS; 4]);
        for magic in [GO_1_2, GO_1_16, GO_1_18, GO_1_20] {
            let whole = table(magic, &NAMES);
            for len in 0..whole.len() {
                places(&whole[..len], TEXT, &image);
                find_table(&whole[..len]);
            }
            for at in 0..whole.len() {
                for value in [0, 1, 0x7f, 0xff] {
                    let mut changed = whole.clone();
                    changed[at] = value;
                    places(&changed, TEXT, &image);
                    places(&changed, u64::MAX, &image);
                    uses_tls(&changed);
                }
            }
        }
    }
}
