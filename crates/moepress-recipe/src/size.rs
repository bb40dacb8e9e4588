//! Sizes in bytes as people write them.

const UNITS: [(&str, u64); 10] = [
    ("", 1),
    ("B", 1),
    ("kB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
    ("TB", 1_000_000_000_000),
    ("TiB", 1 << 40),
];

/// What a size looks like.
pub(crate) const EXPECTED: &str =
    "a size above 0 such as 4.2GiB, 3MB or 1048576 (units: kB, KiB, MB, MiB, GB, GiB, TB, TiB)";

/// Bytes above 0 in a size such as `4.2GiB`, for the command line.
///
/// # Errors
/// What such a size looks like.
pub fn size_in_bytes(text: &str) -> Result<u64, String> {
    bytes(text).filter(|&size| size > 0).ok_or_else(|| format!("must be {EXPECTED}"))
}

/// Bytes in `4.2GiB`, `3 MB` or `1048576`, rounded down; `None` when it is no such thing.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let number = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
    let (number, unit) = text.split_at(number);
    let unit = UNITS.iter().find(|(name, _)| *name == unit.trim_start_matches(' '))?.1;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    // Decimal places are exact: 18 digits times the largest unit fit in 128 bits.
    if (unit == 1 && number.contains('.'))
        || fraction.is_empty()
        || fraction.len() > 18
        || fraction.contains('.')
    {
        return None;
    }
    let whole = u128::from(whole.parse::<u64>().ok()?) * u128::from(unit);
    let part = fraction.parse::<u128>().ok()? * u128::from(unit) / 10u128.pow(fraction.len() as u32);
    u64::try_from(whole + part).ok()
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn reads_sizes() {
        for (text, want) in [
            ("1048576", 1_048_576),
            ("0", 0),
            ("3MB", 3_000_000),
            ("3 MB", 3_000_000),
            ("4.2GiB", 4_509_715_660),
            ("0.1kB", 100),
            ("1.5 TiB", 3 << 39),
            ("18446744073709551615B", u64::MAX),
        ] {
            assert_eq!(bytes(text), Some(want), "{text}");
        }
        for text in [
            "",
            "GiB",
            "4.2",
            "-1",
            "1e9",
            "4.GiB",
            ".5GiB",
            "1.2.3MB",
            "4 gb",
            "4GiBs",
            "٣MB",
            "99999999TiB",
        ] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
