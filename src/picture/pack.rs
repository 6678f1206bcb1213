//! Cells as few bytes: numbers of seven bits a byte, the low ones first, and in base 64 for the page.
//!
//! A row is how much was written at the beginning, then its cells: columns on from the cell before, the change of what is written,
//! a byte that says which counts follow, these counts, and what belongs to them; and a 0. What is written is in sectors and one more, 0
//! where it is not known. `cells.js` reads the same.

use super::cell::{COUNTS, Column, Count, Line};
use crate::units::Bytes;

/// Packs the cells of all rows.
pub fn lines(lines: &[Line]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in lines {
        let mut before = sectors(line.begin);
        number(before, &mut out);
        let mut next = 0;
        for cell in &line.cells {
            number(u64::from(cell.column - next + 1), &mut out);
            next = cell.column + 1;
            let written = sectors(cell.written);
            signed(written, before, &mut out);
            before = written;
            let present = (0..COUNTS).filter(|at| cell.counts[*at] > 0).fold(0, |bits, at| bits | 1 << at);
            out.push(present);
            for count in cell.counts.into_iter().filter(|count| *count > 0) {
                number(count.into(), &mut out);
            }
            if cell.counts[Count::Writes as usize] > 0 {
                number(Bytes(cell.bytes).to_sector().0, &mut out);
            }
            if cell.counts[Count::Refused as usize] > 0 {
                out.push(cell.reason);
            }
        }
        out.push(0);
    }
    out
}

/// Packs what happened in each column: four numbers for each.
pub fn columns(columns: &[Column]) -> Vec<u8> {
    let mut out = Vec::new();
    for column in columns {
        for count in [column.changes, column.others, column.refused, column.flushes] {
            number(count.into(), &mut out);
        }
    }
    out
}

fn sectors(written: Option<u64>) -> u64 {
    written.map_or(0, |written| Bytes(written).to_sector().0 + 1)
}

fn number(mut value: u64, out: &mut Vec<u8>) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The difference of two numbers: its sign is the lowest bit.
fn signed(value: u64, before: u64, out: &mut Vec<u8>) {
    let (less, by) = (value < before, value.abs_diff(before));
    number(by << 1 | u64::from(less), out);
}

/// Writes bytes in base 64 (RFC 4648).
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0u32, |bits, at| bits << 8 | u32::from(group.get(at).copied().unwrap_or(0)));
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at) & 0x3f) as usize];
            text.push(if at > group.len() { '=' } else { char::from(digit) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        // RFC 4648, 10.
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn a_number_has_seven_bits_in_a_byte_and_says_whether_more_follow() {
        for (value, bytes) in [(0, &[0][..]), (127, &[127]), (128, &[0x80, 1]), (300, &[0xac, 2])] {
            let mut out = Vec::new();
            number(value, &mut out);
            assert_eq!(out, bytes, "{value}");
        }
    }
}
