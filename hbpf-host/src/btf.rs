//! Where the kernel's structs have their fields, from the types that it describes (BTF).
//!
//! aya relocates what a C compiler marks; rustc marks nothing, so what a program needs is looked up here and given to it
//! as a constant. The format is that of the kernel's `Documentation/bpf/btf.rst`.

use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported};
use hbpf_ebpf::RequestLayout;

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const HEADER_BYTES: u32 = 24;
const TYPE_BYTES: usize = 12;
const MEMBER_BYTES: usize = 12;

/// Kinds of types, by their numbers.
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
/// Names and qualifiers of another type: typedef, volatile, const, restrict, and a tag.
const OTHERS: [u32; 5] = [8, 9, 10, 11, 18];
const LAST_KIND: u32 = 19;

/// For each kind how many bytes follow the type: some in all cases, some for each of its members.
const FOLLOWING: [(usize, usize); LAST_KIND as usize + 1] = [
    (0, 0),
    (4, 0),
    (0, 0),
    (12, 0),
    (0, MEMBER_BYTES),
    (0, MEMBER_BYTES),
    (0, 8),
    (0, 0),
    (0, 0),
    (0, 0),
    (0, 0),
    (0, 0),
    (0, 0),
    (0, 8),
    (4, 0),
    (0, 12),
    (0, 0),
    (4, 0),
    (0, 0),
    (0, 12),
];

/// How deep members without names are looked for within each other: what is met lies in two. In a broken file they may lie in
/// themselves.
const NESTED: usize = 4;

/// What the programs have to know of the kernel's structs. `None` is what it does not describe.
#[derive(Clone, Copy, Debug, Default)]
pub struct Places {
    /// Where `struct sock` says that a process is at work with the socket: what
    /// [`SOCKET_OWNED_AT`](hbpf_ebpf::SOCKET_OWNED_AT) is to be. `None`, too, where the kernel does not let a program at a packet
    /// look there, or ask which process is running (before Linux 6.10).
    pub socket_owned_at: Option<u32>,
    /// Where `struct task_struct` has the number of its process: what [`TASK_TGID_AT`](hbpf_ebpf::TASK_TGID_AT) is to be.
    pub task_tgid_at: Option<u32>,
    /// Where the kernel has what is wanted of a request to a block device.
    pub request: Option<RequestLayout>,
}

impl Places {
    /// As this kernel describes them; its description has some megabytes.
    pub fn read() -> Self {
        let bytes = std::fs::read(VMLINUX).unwrap_or_default();
        let Some(types) = Types::parse(&bytes) else { return Self::default() };
        let is_open = |helper| is_helper_supported(ProgramType::CgroupSkb, helper).unwrap_or(false);
        let may_ask = is_open(BpfHelper::BPF_FUNC_get_current_pid_tgid) && is_open(BpfHelper::BPF_FUNC_skc_to_tcp_sock);
        Self {
            socket_owned_at: may_ask.then(|| types.offset_of("sock", &["sk_lock", "owned"])).flatten(),
            task_tgid_at: types.offset_of("task_struct", &["tgid"]),
            request: request_layout(&types),
        }
    }
}

fn request_layout(types: &Types<'_>) -> Option<RequestLayout> {
    Some(RequestLayout {
        bytes: types.offset_of("request", &["__data_len"])?,
        flags: types.offset_of("request", &["cmd_flags"])?,
        queue: types.offset_of("request", &["q"])?,
        disk: types.offset_of("request_queue", &["disk"])?,
        major: types.offset_of("gendisk", &["major"])?,
        minor: types.offset_of("gendisk", &["first_minor"])?,
    })
}

/// The types of a BTF blob in the byte order of this machine.
struct Types<'a> {
    /// The section of types, and where in it each begins; the first has the number 1.
    section: &'a [u8],
    places: Vec<u32>,
    strings: &'a [u8],
}

#[derive(Clone, Copy)]
struct Type {
    name: u32,
    kind: u32,
    members: usize,
    /// Struct: whether the offsets of its members hold the widths of bit fields.
    has_bit_fields: bool,
    /// Of those that stand for another type: which.
    target: u32,
    /// Where what follows it begins.
    body: usize,
}

impl<'a> Types<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
        let magic = u16::from_ne_bytes(*bytes.first_chunk()?);
        let header = word(4)?;
        if magic != MAGIC || header < HEADER_BYTES {
            return None;
        }
        let section = |offset: u32, length: u32| {
            let from = (header as usize).checked_add(offset as usize)?;
            bytes.get(from..from.checked_add(length as usize)?)
        };
        let mut types = Self {
            section: section(word(8)?, word(12)?)?,
            places: Vec::new(),
            strings: section(word(16)?, word(20)?)?,
        };
        let mut at = 0;
        while at < types.section.len() {
            let found = types.at(at)?;
            let (fixed, each) = *FOLLOWING.get(found.kind as usize)?;
            types.places.push(u32::try_from(at).ok()?);
            at = found.body + fixed + each * found.members;
        }
        Some(types)
    }

    fn word(&self, at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(*self.section.get(at..)?.first_chunk()?))
    }

    fn at(&self, at: usize) -> Option<Type> {
        let (name, info, target) = (self.word(at)?, self.word(at + 4)?, self.word(at + 8)?);
        Some(Type {
            name,
            kind: info >> 24 & 0x1f,
            members: info as usize & 0xffff,
            has_bit_fields: info >> 31 != 0,
            target,
            body: at + TYPE_BYTES,
        })
    }

    fn by_number(&self, number: u32) -> Option<Type> {
        self.at(*self.places.get(number.checked_sub(1)? as usize)? as usize)
    }

    fn is_named(&self, name: u32, expected: &str) -> bool {
        let rest = self.strings.get(name as usize..).and_then(|rest| rest.strip_prefix(expected.as_bytes()));
        rest.is_some_and(|rest| rest.first() == Some(&0))
    }

    /// The offset in bytes of a field within fields of a struct.
    fn offset_of(&self, name: &str, path: &[&str]) -> Option<u32> {
        let mut all = self.places.iter().filter_map(|at| self.at(*at as usize));
        let mut found = all.find(|found| found.kind == STRUCT && self.is_named(found.name, name))?;
        let mut offset = 0_u32;
        for field in path {
            let (within, target) = self.member(found, field, NESTED)?;
            offset = offset.checked_add(within)?;
            found = self.by_number(target)?;
        }
        Some(offset)
    }

    /// Where a struct or union has a field, in bytes, and of which type it is. The fields of a member without a name are its own.
    fn member(&self, found: Type, field: &str, nested: usize) -> Option<(u32, u32)> {
        let found = self.behind_names(found)?;
        if ![STRUCT, UNION].contains(&found.kind) {
            return None;
        }
        let mut members = (0..found.members).map(|index| found.body + index * MEMBER_BYTES);
        members.find_map(|at| {
            let (name, target, bits) = (self.word(at)?, self.word(at + 4)?, self.word(at + 8)?);
            let bits = if found.has_bit_fields { bits & 0x00ff_ffff } else { bits };
            if self.is_named(name, field) {
                return Some((bits / 8, target));
            }
            let nested = if self.is_named(name, "") { nested.checked_sub(1)? } else { return None };
            let (within, target) = self.member(self.by_number(target)?, field, nested)?;
            Some(((bits / 8).checked_add(within)?, target))
        })
    }

    /// What names and qualifiers stand before. They may stand for each other in a circle; so many in a row there are not.
    fn behind_names(&self, mut found: Type) -> Option<Type> {
        for _ in 0..8 {
            if OTHERS.contains(&found.kind) {
                found = self.by_number(found.target)?;
            }
        }
        Some(found)
    }
}

const _: () = assert!(FOLLOWING[ARRAY as usize].0 == 12);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A blob of these types, with these strings behind the empty one.
    fn blob(types: &[u32], strings: &str) -> Vec<u8> {
        let strings = format!("\0{strings}");
        let length = 4 * types.len() as u32;
        let header = [u32::from(MAGIC) | 1 << 16, HEADER_BYTES, 0, length, length, strings.len() as u32];
        let words = header.iter().chain(types).flat_map(|word| word.to_ne_bytes());
        words.chain(strings.bytes()).collect()
    }

    /// `struct outer { int a; inner_t b; }`, `typedef struct { int c:3; int d; } inner_t`, an array and the int.
    fn example() -> Vec<u8> {
        let kind = |kind: u32, members: u32| kind << 24 | members;
        let types = [
            vec![1, kind(1, 0), 4, 32],
            vec![0, kind(ARRAY, 0), 0, 1, 1, 4],
            vec![5, kind(STRUCT, 2), 12, 11, 1, 0, 13, 4, 32],
            vec![15, kind(8, 0), 5],
            vec![0, 1 << 31 | kind(STRUCT, 2), 8, 23, 1, 3 << 24, 25, 1, 32],
        ];
        blob(&types.concat(), "int\0outer\0a\0b\0inner_t\0c\0d\0")
    }

    #[test]
    fn a_field_is_found_within_fields() {
        let example = example();
        let types = Types::parse(&example).unwrap();
        assert_eq!(types.offset_of("outer", &["a"]), Some(0));
        assert_eq!(types.offset_of("outer", &["b", "c"]), Some(4));
        assert_eq!(types.offset_of("outer", &["b", "d"]), Some(8));
        for (name, path) in [("oute", &["a"][..]), ("outer", &["c"]), ("outer", &["a", "c"]), ("int", &["a"])] {
            assert_eq!(types.offset_of(name, path), None, "{name} {path:?}");
        }
    }

    /// As `socket_lock_t` has been since Linux 7.3: `struct outer { int a; inner_t b; }`, `typedef struct { union { struct { int
    /// x; int c; }; int d; }; } inner_t`.
    #[test]
    fn fields_of_members_without_names_are_found() {
        let kind = |kind: u32, members: u32| kind << 24 | members;
        let types = [
            vec![1, kind(1, 0), 4, 32],
            vec![5, kind(STRUCT, 2), 12, 11, 1, 0, 13, 3, 32],
            vec![15, kind(8, 0), 4],
            vec![0, kind(STRUCT, 1), 8, 0, 5, 0],
            vec![0, kind(UNION, 2), 8, 0, 6, 0, 25, 1, 0],
            vec![0, kind(STRUCT, 2), 8, 27, 1, 0, 23, 1, 32],
        ];
        let strings = "int\0outer\0a\0b\0inner_t\0c\0d\0x\0";
        let bytes = blob(&types.concat(), strings);
        let offset = |path: &[&str]| Types::parse(&bytes).unwrap().offset_of("outer", path);
        assert_eq!((offset(&["b", "c"]), offset(&["b", "x"]), offset(&["b", "d"])), (Some(8), Some(4), Some(4)));
        assert_eq!((offset(&["c"]), offset(&["b", "e"])), (None, None));
    }

    #[test]
    fn members_without_names_in_a_circle_end() {
        let kind = |kind: u32, members: u32| kind << 24 | members;
        // Each has two that are itself.
        let types = [1, kind(STRUCT, 2), 12, 0, 1, 0, 0, 1, 32];
        let bytes = blob(&types, "outer\0");
        assert_eq!(Types::parse(&bytes).unwrap().offset_of("outer", &["a"]), None);
    }

    #[test]
    fn this_kernel_has_the_lock_of_a_socket() {
        let Ok(bytes) = std::fs::read(VMLINUX) else {
            eprintln!("skipped: this kernel does not describe its types");
            return;
        };
        let types = Types::parse(&bytes).expect("the kernel's own types");
        let whole = types.offset_of("sock", &["sk_lock"]).unwrap();
        assert!((whole..whole + 64).contains(&types.offset_of("sock", &["sk_lock", "owned"]).unwrap()));
    }

    proptest! {
        #[test]
        fn anything_may_be_in_the_file(at in 0..200_usize, byte: u8, length in 0..250_usize) {
            let mut bytes = example();
            let last = bytes.len() - 1;
            bytes[at.min(last)] = byte;
            bytes.truncate(length);
            if let Some(types) = Types::parse(&bytes) {
                types.offset_of("outer", &["b", "d"]);
            }
        }
    }
}
