//! Sizes as qemu-img takes and prints them: binary suffixes K, M, G, T, P, E.

use crate::units::Bytes;

const SUFFIXES: [(char, u32); 6] = [('K', 10), ('M', 20), ('G', 30), ('T', 40), ('P', 50), ('E', 60)];

/// What [`parse`] takes, in words.
pub(super) const ACCEPTED: &str =
    "a number with an optional suffix K, M, G, T, P or E (powers of 1024; KiB and KB are K), such as 64M or 1.5G";

/// Reads "64M", "1.5G", "16GiB" or "1048576": a number and at most one suffix, in either case, all of which are binary
/// as they are for qemu-img. A fraction is of a unit, not of a byte.
pub(super) fn parse(text: &str) -> Result<Bytes, String> {
    let wrong = || format!("'{text}' is not a size: expected {ACCEPTED}");
    let number = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let is_byte = matches!(&text[number.len()..], "" | "B" | "b");
    // The parser also takes exponents, spaces and underscores, which mean something else or nothing to qemu-img.
    if !number.chars().all(|one| one.is_ascii_digit() || one == '.' && !is_byte) {
        return Err(wrong());
    }
    match parse_size::Config::new().with_binary().parse_size(text) {
        Ok(bytes) if i64::try_from(bytes).is_ok() => Ok(Bytes(bytes)),
        Ok(_) | Err(parse_size::Error::PosOverflow) => Err(format!("'{text}' is too large: expected less than 8E")),
        Err(_) => Err(wrong()),
    }
}

/// "64 MiB" where that is exact, "1.5 GiB (1610612736 bytes)" where a fraction says more, bytes otherwise.
pub(super) fn show(bytes: Bytes) -> String {
    let unit = SUFFIXES.iter().rev().find(|(_, shift)| bytes.0 >= 1 << shift);
    match unit {
        None => format!("{bytes} bytes"),
        Some((letter, shift)) if bytes.0.is_multiple_of(1 << shift) => format!("{} {letter}iB", bytes.0 >> shift),
        Some((letter, shift)) => {
            let scaled = bytes.0 as f64 / (1u64 << shift) as f64;
            format!("{} {letter}iB ({bytes} bytes)", (scaled * 1000.0).round() / 1000.0)
        }
    }
}

/// "64 MiB", "1.54 GiB": three digits of the largest unit that fits.
pub(super) fn brief(bytes: Bytes) -> String {
    let unit = SUFFIXES.iter().rev().find(|(_, shift)| bytes.0 >= 1 << shift);
    let Some((letter, shift)) = unit else { return format!("{bytes} B") };
    let scaled = bytes.0 as f64 / (1u64 << shift) as f64;
    let digits = if bytes.is_multiple_of(1 << shift) || scaled >= 100.0 { 0 } else { 1 + usize::from(scaled < 10.0) };
    // What rounding left without a meaning goes: 1.50 is 1.5.
    let number = format!("{scaled:.digits$}");
    let number = if digits > 0 { number.trim_end_matches('0').trim_end_matches('.') } else { &number };
    format!("{number} {letter}iB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_numbers_with_a_binary_suffix() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("4k", 4096),
            ("64M", 64 << 20),
            ("64m", 64 << 20),
            ("16T", 16 << 40),
            ("7b", 7),
            ("67108864B", 64 << 20),
            ("1.5G", 3 << 29),
            ("0.5T", 1 << 39),
            ("0.3K", 307),
            ("16GiB", 16 << 30),
            ("256MB", 256 << 20),
            ("10Ki", 10240),
            ("7.999999999999E", 0x7fff_ffff_ffee_6866),
        ] {
            assert_eq!(parse(text), Ok(Bytes(bytes)), "{text}");
        }
        for text in [
            "",
            "M",
            ".M",
            "1.5",
            "1.5B",
            "1.2.3M",
            "64 M",
            " 64M",
            "-1",
            "0x10",
            "64X",
            "64iM",
            "1e3",
            "1e3M",
            "1_000",
            "9E9",
            "8E",
            "16E",
            "99999999999999999999",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_print_in_the_largest_unit_that_fits() {
        for (bytes, text) in [(0, "0 bytes"), (512, "512 bytes"), (4096, "4 KiB"), (64 << 20, "64 MiB")] {
            assert_eq!(show(Bytes(bytes)), text);
        }
        assert_eq!(show(Bytes(3 << 29)), "1.5 GiB (1610612736 bytes)");
    }

    #[test]
    fn brief_sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1 << 20, "1 MiB"),
            (3 << 29, "1.5 GiB"),
            (1_650_000_000, "1.54 GiB"),
            (27_500_000, "26.2 MiB"),
            (1023 << 19, "512 MiB"),
            (1024 << 20, "1 GiB"),
            (300_000, "293 KiB"),
            ((1 << 30) + 1, "1 GiB"),
        ] {
            assert_eq!(brief(Bytes(bytes)), text, "{bytes}");
        }
    }
}
