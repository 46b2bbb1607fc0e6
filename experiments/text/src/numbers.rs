//! Counts, sizes and durations as people read them.

/// `1234567` as `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `10485760` as `10.0 MiB`.
pub fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit < units.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// Microseconds as milliseconds with so many decimals: with two, `1234` as `1.23`.
pub fn milliseconds(us: u64, decimals: usize) -> String {
    format!("{:.decimals$}", us as f64 / 1000.0)
}

/// Seconds in minutes: `425` as `7 min 05 s`.
pub fn minutes(seconds: u64) -> String {
    format!("{} min {:02} s", seconds / 60, seconds % 60)
}

/// Seconds in the largest unit that fits: `7300` as `2 h`.
pub fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        let cases = [
            (thousands(0), "0"),
            (thousands(999), "999"),
            (thousands(1_234_567), "1,234,567"),
            (bytes(1023), "1023 B"),
            (bytes(1536), "1.5 KiB"),
            (bytes(24 << 30), "24.0 GiB"),
            (milliseconds(1234, 2), "1.23"),
            (milliseconds(870, 1), "0.9"),
            (minutes(425), "7 min 05 s"),
            (minutes(59), "0 min 59 s"),
            (age(59), "59 s"),
            (age(60), "1 min"),
            (age(7300), "2 h"),
            (age(200_000), "2 d"),
        ];
        for (written, expected) in cases {
            assert_eq!(written, expected);
        }
    }
}
