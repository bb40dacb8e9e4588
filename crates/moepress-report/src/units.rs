//! Numbers as people read them: three digits that matter, thousands apart, MB = 10⁶ bytes.

/// Bytes in decimal units: `312 B`, `13.4 MB`.
pub(crate) fn bytes(n: u64) -> String {
    scaled(n, 1000.0, ["B", "kB", "MB", "GB", "TB"])
}

/// Bytes in binary units, as memory is counted: `118 MiB`.
pub(crate) fn memory(n: u64) -> String {
    scaled(n, 1024.0, ["B", "KiB", "MiB", "GiB", "TiB"])
}

fn scaled(n: u64, base: f64, units: [&str; 5]) -> String {
    let (mut value, mut unit) = (n as f64, 0);
    // What would print as four digits moves on to the next unit.
    while value >= base.min(999.5) && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    match unit {
        0 => format!("{n} {}", units[0]),
        _ => format!("{} {}", short(value), units[unit]),
    }
}

/// Three significant digits, never rounding away whole units: `0.123`, `28.0`, `1,204`.
pub(crate) fn short(value: f64) -> String {
    let size = value.abs();
    let digits = match size {
        _ if size == 0.0 => 0,
        _ if size < 0.9995 => 3,
        _ if size < 9.995 => 2,
        _ if size < 99.95 => 1,
        _ => 0,
    };
    fixed(value, digits)
}

/// A whole number: `1,234,567`.
pub(crate) fn count(n: u64) -> String {
    apart(&n.to_string())
}

/// So many digits after the point: `1,234.50`.
pub(crate) fn fixed(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    match text.split_once('.') {
        Some((whole, rest)) => format!("{}.{rest}", apart(whole)),
        None => apart(&text),
    }
}

fn apart(whole: &str) -> String {
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return whole.to_owned();
    }
    let mut out = sign.to_owned();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A fraction as percent: `91.2%`.
pub(crate) fn percent(fraction: f64) -> String {
    format!("{:.1}%", 100.0 * fraction)
}

/// A relative change: `+7.5%`, `-22.4%`; a dash when there was nothing to change.
pub(crate) fn change(before: f64, after: f64) -> String {
    let percent = 100.0 * (after - before) / before;
    match percent {
        _ if !percent.is_finite() => "-".to_owned(),
        _ if percent.abs() < 0.05 => "0.0%".to_owned(),
        _ => format!("{percent:+.1}%"),
    }
}

/// How many times `a` is `b`: `4.19`; a dash when `b` is nothing.
pub(crate) fn times(a: f64, b: f64) -> String {
    let ratio = a / b;
    if ratio.is_finite() { fixed(ratio, 2) } else { "-".to_owned() }
}

/// Wall time: `0.42 s`, `3 min 05 s`, `2 h 10 min`.
pub(crate) fn seconds(value: f64) -> String {
    let whole = value.round() as u64;
    match whole {
        0..60 => format!("{value:.2} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_exact_where_it_counts() {
        assert_eq!([0, 999, 1000, 13_389_312].map(bytes), ["0 B", "999 B", "1.00 kB", "13.4 MB"]);
        assert_eq!([999_499, 999_500, 61_064_245_248].map(bytes), ["999 kB", "1.00 MB", "61.1 GB"]);
        assert_eq!([1023, 1024, 123_731_968].map(memory), ["0.999 KiB", "1.00 KiB", "118 MiB"]);
        assert_eq!(
            [0.0, 0.0412, 9.994, 9.996, 28.04, 1204.4].map(short),
            ["0", "0.041", "9.99", "10.0", "28.0", "1,204"]
        );
        assert_eq!([7, 1234, 1_234_567].map(count), ["7", "1,234", "1,234,567"]);
        assert_eq!((fixed(-1234.5, 2), fixed(f64::NAN, 1)), ("-1,234.50".into(), "NaN".into()));
        assert_eq!(
            [change(28.0, 30.1), change(2.0, 1.0), change(1.0, 1.0), change(0.0, 1.0)],
            ["+7.5%", "-50.0%", "0.0%", "-"]
        );
        assert_eq!(
            [0.424, 59.4, 185.2, 7830.0].map(seconds),
            ["0.42 s", "59.40 s", "3 min 05 s", "2 h 10 min"]
        );
    }
}
