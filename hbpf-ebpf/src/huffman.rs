//! The code in which HTTP/2 writes strings (RFC 7541, appendix B), as far as paths need it.

/// What the next eight bits of a string begin with: the length of a code in the upper byte, what it stands for in the lower. 0
/// where the code is longer: such characters are not in paths, but for the question mark that ends one.
pub const SYMBOLS: [u16; 256] = {
    let mut table = [0; 256];
    fill(&mut table, 5, 0x00, b"012aceiost");
    fill(&mut table, 6, 0x14, b" %-./3456789=A_bdfghlmnpru");
    fill(&mut table, 7, 0x5c, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz");
    fill(&mut table, 8, 0xf8, b"&*,;XZ");
    table
};

/// Enters symbols whose codes have so many bits and follow each other from `first` on.
const fn fill(table: &mut [u16; 256], bits: u32, first: usize, symbols: &[u8]) {
    let mut at = 0;
    while at < symbols.len() {
        let mut rest = 0;
        while rest < 1 << (8 - bits) {
            table[((first + at) << (8 - bits)) + rest] = (bits as u16) << 8 | symbols[at] as u16;
            rest += 1;
        }
        at += 1;
    }
}
