//! Values of settings: when two texts mean the same, and what at least and at most mean. Must not
//! know: where values come from.

use serde::{Deserialize, Serialize};

/// How a setting writes its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Format {
    /// Words between spaces or tabs; numbers decimal, hexadecimal (0x) or octal (0), as the kernel
    /// reads them.
    Words,
    /// A set of CPUs: hexadecimal, groups of 32 bits with commas between them.
    Mask,
    /// All choices, and the one that is taken in brackets.
    Choice,
    /// A set of numbers: single ones and ranges with commas between them. The kernel prints
    /// neighbours as a range (lib/bitmap.c), and nothing for the empty set.
    Ranges,
}

/// How a sysctl writes its value (net/ipv4/sysctl_net_ipv4.c, kernel/watchdog.c,
/// net/core/sysctl_net_core.c).
pub(crate) fn format_of_sysctl(path: &str) -> Format {
    match path {
        "net/ipv4/ip_local_reserved_ports" | "kernel/watchdog_cpumask" => Format::Ranges,
        "net/core/flow_limit_cpu_bitmap" | "net/core/rps_default_mask" => Format::Mask,
        _ => Format::Words,
    }
}

/// How a value is meant. Of a set at least is with all of these, and at most is with no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Relation {
    /// This one.
    Exactly,
    /// Not less, word by word.
    AtLeast,
    /// Not more, word by word.
    AtMost,
}

/// What the kernel makes of a number that is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rounding {
    /// It is taken as it is.
    #[default]
    None,
    /// The next power of two.
    PowerOfTwo,
}

fn number(word: &str) -> Option<i128> {
    let (negative, digits) = match word.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, word),
    };
    let hex = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let size = match hex {
        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
        None if digits.len() > 1 && digits.starts_with('0') => {
            u64::from_str_radix(digits, 8).ok()?
        }
        None => digits.parse().ok().filter(|_| digits.starts_with(|c: char| c.is_ascii_digit()))?,
    };
    Some(if negative { -i128::from(size) } else { i128::from(size) })
}

/// The one way to write a value: spaces, tabs, hexadecimal and leading zeros do not count.
pub(crate) fn normal(format: Format, text: &str) -> String {
    match format {
        Format::Words => {
            let word = |word: &str| number(word).map_or(word.to_owned(), |it| it.to_string());
            text.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
        }
        Format::Mask => {
            let digits: String = text.trim().chars().filter(|c| *c != ',').collect();
            let digits = digits.trim_start_matches("0x").trim_start_matches('0');
            if digits.is_empty() { "0".to_owned() } else { digits.to_ascii_lowercase() }
        }
        Format::Ranges => ranges(text).unwrap_or_else(|| text.trim().to_owned()),
        Format::Choice => {
            let taken = text
                .split_whitespace()
                .find_map(|word| Some(word.strip_prefix('[')?.strip_suffix(']')?.to_owned()));
            taken.unwrap_or_else(|| text.trim().to_owned())
        }
    }
}

/// A set with its neighbours joined, as the kernel prints it; `None` for what is no set.
fn ranges(text: &str) -> Option<String> {
    Some(printed(&spans(text)?))
}

/// A set of numbers by its spans: the first and the last of each.
type Spans = Vec<(u32, u32)>;

fn spans(text: &str) -> Option<Spans> {
    let mut parts = Vec::new();
    for part in text.split(|c: char| c == ',' || c.is_whitespace()).filter(|it| !it.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if first > last {
            return None;
        }
        parts.push((first, last));
    }
    parts.sort_unstable();
    let mut joined: Vec<(u32, u32)> = Vec::new();
    for (first, last) in parts {
        match joined.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = (*end).max(last),
            _ => joined.push((first, last)),
        }
    }
    Some(joined)
}

fn printed(spans: &Spans) -> String {
    let part = |(first, last): &(u32, u32)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    spans.iter().map(part).collect::<Vec<_>>().join(",")
}

/// The numbers of two sets: those of either, or those of both.
fn combined(relation: Relation, one: &str, other: &str) -> Option<String> {
    if relation == Relation::AtLeast {
        return ranges(&format!("{one},{other}"));
    }
    let (one, other) = (spans(one)?, spans(other)?);
    let pairs = one.iter().flat_map(|one| other.iter().map(move |other| (one, other)));
    let both = pairs.map(|(one, other)| (one.0.max(other.0), one.1.min(other.1)));
    Some(printed(&both.filter(|(first, last)| first <= last).collect()))
}

/// The CPUs of two masks, likewise.
fn combined_masks(relation: Relation, one: &str, other: &str) -> Option<String> {
    let digit = |text: &str, place: usize| {
        let at = text.len().checked_sub(place + 1);
        at.map_or(Some(0), |at| char::from(text.as_bytes()[at]).to_digit(16))
    };
    let places = (0..one.len().max(other.len())).rev();
    let digits = places.map(|place| {
        let (one, other) = (digit(one, place)?, digit(other, place)?);
        char::from_digit(if relation == Relation::AtLeast { one | other } else { one & other }, 16)
    });
    Some(normal(Format::Mask, &digits.collect::<Option<String>>()?))
}

fn numbers(text: &str) -> Option<Vec<i128>> {
    text.split(' ').map(number).collect()
}

/// What must be written so that a relation to `wanted` holds, `now` being there; `now` itself when
/// it holds already. Both are normal.
///
/// # Errors
/// Values that cannot be compared, in a sentence.
pub(crate) fn to_write(
    format: Format,
    relation: Relation,
    rounding: Rounding,
    now: &str,
    wanted: &str,
) -> Result<String, String> {
    let better: fn(i128, i128) -> i128 = match relation {
        Relation::Exactly => return rounded(rounding, wanted),
        Relation::AtLeast => i128::max,
        Relation::AtMost => i128::min,
    };
    let words = if relation == Relation::AtLeast { "at least" } else { "at most" };
    let set = match format {
        Format::Ranges => Some(combined(relation, now, wanted)),
        Format::Mask => Some(combined_masks(relation, now, wanted)),
        Format::Words | Format::Choice => None,
    };
    if let Some(set) = set {
        return set.ok_or_else(|| format!("'{wanted}' is no set, and cannot be {words}"));
    }
    let of = |text: &str| {
        numbers(text).ok_or_else(|| format!("'{text}' is no number, and cannot be {words}"))
    };
    let (has, wants) = (of(now)?, of(wanted)?);
    if has.len() != wants.len() {
        return Err(format!("it has {} numbers, and {words} '{wanted}' was given", has.len()));
    }
    let each = has.into_iter().zip(wants).map(|(has, wants)| better(has, wants).to_string());
    let text = each.collect::<Vec<_>>().join(" ");
    // A value that is there has been through the kernel already.
    if text == now { Ok(text) } else { rounded(rounding, &text) }
}

fn rounded(rounding: Rounding, text: &str) -> Result<String, String> {
    match rounding {
        Rounding::None => Ok(text.to_owned()),
        Rounding::PowerOfTwo => {
            let value = text.parse::<u64>().ok();
            // Nothing stays nothing.
            let next =
                value.and_then(|it| if it == 0 { Some(0) } else { it.checked_next_power_of_two() });
            next.map(|it| it.to_string()).ok_or_else(|| format!("'{text}' cannot be rounded"))
        }
    }
}

/// A set of CPUs as a normal mask.
pub(crate) fn mask(cpus: impl Iterator<Item = usize>) -> String {
    let mut nibbles: Vec<u8> = Vec::new();
    for cpu in cpus {
        let place = cpu / 4;
        if nibbles.len() <= place {
            nibbles.resize(place + 1, 0);
        }
        nibbles[place] |= 1 << (cpu % 4);
    }
    let digits: String = nibbles.iter().rev().map(|it| format!("{it:x}")).collect();
    normal(Format::Mask, &digits)
}

/// A mask as the kernel takes it: commas between groups of 32 bits.
pub(crate) fn grouped(mask: &str) -> String {
    let digits: Vec<char> = mask.chars().collect();
    let groups: Vec<String> = digits.rchunks(8).rev().map(|it| it.iter().collect()).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_mean_the_same() {
        for (format, text, expected) in [
            (Format::Words, "4096\t131072\t6291456\n", "4096 131072 6291456"),
            (Format::Words, "  0x10 -1 010 0", "16 -1 8 0"),
            (Format::Words, "cubic\n", "cubic"),
            (Format::Words, "99999999999999999999999", "99999999999999999999999"),
            (Format::Words, "+5 0x 08 -", "+5 0x 08 -"),
            (Format::Mask, "00000000,00000003\n", "3"),
            (Format::Mask, "0xFF", "ff"),
            (Format::Mask, "00", "0"),
            (Format::Choice, "always [madvise] never\n", "madvise"),
            (Format::Choice, "performance\n", "performance"),
            (Format::Ranges, "8080,8081,9148,30000-30010", "8080-8081,9148,30000-30010"),
            (Format::Ranges, "9,1-3 4, 7-8,2\n", "1-4,7-9"),
            (Format::Ranges, "\n", ""),
            (Format::Ranges, "3-1", "3-1"),
            (Format::Ranges, "4294967295,4294967294", "4294967294-4294967295"),
            (Format::Ranges, "http", "http"),
        ] {
            assert_eq!(normal(format, text), expected, "{text}");
            assert_eq!(normal(format, expected), expected, "twice: {text}");
        }
    }

    #[test]
    fn what_must_be_written() {
        use Relation::{AtLeast, AtMost, Exactly};
        let check = |relation, now, wanted, expected: Result<&str, &str>| match (
            to_write(Format::Words, relation, Rounding::None, now, wanted),
            expected,
        ) {
            (Ok(came), Ok(expected)) => assert_eq!(came, expected),
            (Err(reason), Err(words)) => assert!(reason.contains(words), "{reason}"),
            (came, expected) => panic!("{came:?}, not {expected:?}"),
        };
        check(Exactly, "bbr", "cubic", Ok("cubic"));
        check(AtLeast, "4096", "65535", Ok("65535"));
        check(AtLeast, "70000", "65535", Ok("70000"));
        check(AtLeast, "1 20 3", "10 2 30", Ok("10 20 30"));
        check(AtMost, "60", "15", Ok("15"));
        check(AtMost, "5", "15", Ok("5"));
        check(AtLeast, "bbr", "1", Err("no number"));
        check(AtLeast, "1 2 3", "1", Err("has 3 numbers"));
        let round =
            |now, wanted| to_write(Format::Words, AtLeast, Rounding::PowerOfTwo, now, wanted);
        assert_eq!(round("0", "132768").as_deref(), Ok("262144"));
        assert_eq!(round("300", "200").as_deref(), Ok("300"), "it is there");
    }

    #[test]
    fn at_least_of_a_set_is_with_all_of_these_and_at_most_with_no_others() {
        use Relation::{AtLeast, AtMost};
        let check = |format, relation, now: &str, wanted: &str, expected: &str| {
            let (now, wanted) = (normal(format, now), normal(format, wanted));
            let came = to_write(format, relation, Rounding::None, &now, &wanted);
            assert_eq!(came.as_deref(), Ok(expected), "{now:?} {relation:?} {wanted:?}");
        };
        let ranges = Format::Ranges;
        check(ranges, AtLeast, "8080-8081", "8080", "8080-8081");
        check(ranges, AtLeast, "8080-8081", "9148,8082", "8080-8082,9148");
        check(ranges, AtLeast, "", "9000-9002", "9000-9002");
        check(ranges, AtLeast, "1-5", "", "1-5");
        check(ranges, AtMost, "1-5,9", "4-9", "4-5,9");
        check(ranges, AtMost, "1-5,9", "6-7", "");
        check(Format::Mask, AtLeast, "00000000,0000000a", "1,00000005", "10000000f");
        check(Format::Mask, AtLeast, "f", "3", "f");
        check(Format::Mask, AtMost, "1,0000000f", "6", "6");
        let none = to_write(Format::Ranges, AtLeast, Rounding::None, "1-2", "http");
        assert!(none.is_err_and(|it| it.contains("'http' is no set")));
        let none = to_write(Format::Mask, AtLeast, Rounding::None, "3", "cpus");
        assert!(none.is_err_and(|it| it.contains("no set")));
    }

    #[test]
    fn masks() {
        assert_eq!(mask([0, 1].into_iter()), "3");
        assert_eq!(mask([33].into_iter()), "200000000");
        assert_eq!(mask(std::iter::empty()), "0");
        assert_eq!(grouped("200000000"), "2,00000000");
        assert_eq!(grouped("3"), "3");
    }
}
