//! The lines of a file of settings as sysctl.d(5) has them: names, patterns, exclusions. Must not
//! know: what a machine has, profiles.

/// A line that says something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// `name = value`, also `-name = value`: it may fail.
    Set {
        /// The path below `/proc/sys`; it may be a pattern.
        path: String,
        value: String,
        may_fail: bool,
    },
    /// `-name`: no pattern sets it.
    Exclude(String),
    /// Nothing that either program can read; why.
    Odd(&'static str),
}

/// The lines that say something, each with its number from 1. systemd-sysctl and the sysctl of
/// procps read a line alike: a comment begins a line, and never stands behind a value.
pub(crate) fn lines(text: &str) -> Vec<(usize, Line)> {
    let numbered = text.lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
    numbered
        .filter(|(_, line)| !line.is_empty() && !line.starts_with(['#', ';']))
        .map(|(number, line)| (number, understand(line)))
        .collect()
}

fn understand(line: &str) -> Line {
    if line.starts_with('\u{feff}') {
        return Line::Odd("a byte order mark stands before the name: no program finds the setting");
    }
    let (may_fail, rest) = match line.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, line),
    };
    match rest.split_once('=') {
        Some((name, value)) => {
            Line::Set { path: path(name.trim()), value: value.trim().to_owned(), may_fail }
        }
        None if may_fail => Line::Exclude(path(rest.trim())),
        None => Line::Odd("it is no assignment"),
    }
}

/// Dots become slashes; where dots come first, a slash in a name stands for a dot.
pub(crate) fn path(name: &str) -> String {
    let slash = name.find('/').unwrap_or(usize::MAX);
    if name.find('.').is_none_or(|dot| dot > slash) {
        return name.to_owned();
    }
    let swapped = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    name.chars().map(swapped).collect()
}

/// Whether a path is a pattern, as glob(7) has them.
pub(crate) fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// Whether a pattern fits a path. No star goes beyond a slash.
pub(crate) fn fits(pattern: &str, path: &str) -> bool {
    let (mut patterns, mut paths) = (pattern.split('/'), path.split('/'));
    loop {
        match (patterns.next(), paths.next()) {
            (None, None) => return true,
            (Some(pattern), Some(part)) if part_fits(pattern.as_bytes(), part.as_bytes()) => {}
            _ => return false,
        }
    }
}

fn part_fits(pattern: &[u8], part: &[u8]) -> bool {
    match (pattern.split_first(), part.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => (0..=part.len()).any(|taken| part_fits(rest, &part[taken..])),
        (Some((b'?', rest)), Some((_, tail))) => part_fits(rest, tail),
        (Some((b'[', rest)), Some((byte, tail))) => {
            let Some(end) = rest.iter().skip(1).position(|it| *it == b']') else { return false };
            let (set, rest) = (&rest[..=end], &rest[end + 2..]);
            let (not, set) = match set.split_first() {
                Some((b'!' | b'^', set)) => (true, set),
                _ => (false, set),
            };
            let range = |it: &[u8]| it[1] == b'-' && (it[0]..=it[2]).contains(byte);
            let within = set.contains(byte) || set.windows(3).any(range);
            within != not && part_fits(rest, tail)
        }
        (Some((one, rest)), Some((byte, tail))) => one == byte && part_fits(rest, tail),
        _ => false,
    }
}

/// The comment that somebody has put behind a number, where it is a part of the value.
pub(crate) fn comment_behind(value: &str) -> Option<&str> {
    let place = [" #", " ;", "\t#", "\t;"].into_iter().filter_map(|it| value.find(it)).min()?;
    let number = |word: &str| word.trim_start_matches('-').chars().all(|c| c.is_ascii_digit());
    value[..place].split_whitespace().all(number).then(|| value[place..].trim())
}

/// Whether a text that is no profile is such a file.
pub(crate) fn looks_like_one(text: &str) -> bool {
    let lines = lines(text);
    let sets = |line: &Line| match line {
        Line::Set { path, .. } => path.contains('/') && !path.contains([' ', '(', '"']),
        _ => false,
    };
    lines.iter().any(|(_, line)| sets(line)) && !text.trim_start().starts_with('(')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_systemd_and_procps_read_them() {
        let set = |path: &str, value: &str, may_fail| Line::Set {
            path: path.to_owned(),
            value: value.to_owned(),
            may_fail,
        };
        let check = |text: &str, wanted: &[Line]| {
            let found: Vec<Line> = lines(text).into_iter().map(|(_, line)| line).collect();
            assert_eq!(found, wanted, "{text}");
        };
        check("# a\n ; b\n\n", &[]);
        check("net.core.somaxconn =1 ", &[set("net/core/somaxconn", "1", false)]);
        check("\tnet.ipv4.x =15\r\n", &[set("net/ipv4/x", "15", false)]);
        check("-net.x = 0", &[set("net/x", "0", true)]);
        check("-net.x", &[Line::Exclude("net/x".to_owned())]);
        check("net/ipv4/conf/e.1/f = 1", &[set("net/ipv4/conf/e.1/f", "1", false)]);
        check("net.ipv4.conf.e/1.f = 1", &[set("net/ipv4/conf/e.1/f", "1", false)]);
        check("net.x = 5 # five", &[set("net/x", "5 # five", false)]);
        check("kernel.core_pattern=|/bin/x =y", &[set("kernel/core_pattern", "|/bin/x =y", false)]);
        assert!(matches!(lines("\u{feff}net.x=1")[0].1, Line::Odd(why) if why.contains("mark")));
        assert!(matches!(lines("net.x 1")[0].1, Line::Odd(_)));
        assert_eq!(comment_behind("5 # five"), Some("# five"));
        assert_eq!(comment_behind("|/bin/x #y"), None);
        assert!(looks_like_one("# c\nnet.ipv4.tcp_sack = 1\n"));
        assert!(!looks_like_one("(name: \"x = y\")"));
    }

    #[test]
    fn patterns_fit_parts_of_paths() {
        for (pattern, path, wanted) in [
            ("net/ipv4/conf/*/rp_filter", "net/ipv4/conf/eth0.1/rp_filter", true),
            ("net/ipv4/conf/*/rp_filter", "net/ipv4/conf/all/x/rp_filter", false),
            ("net/*", "net/core/x", false),
            ("net/ipv4/tcp_*mem", "net/ipv4/tcp_rmem", true),
            ("net/ipv4/tcp_?mem", "net/ipv4/tcp_mem", false),
            ("net/ipv4/conf/eth[0-3]/x", "net/ipv4/conf/eth2/x", true),
            ("net/ipv4/conf/eth[!0-3]/x", "net/ipv4/conf/eth2/x", false),
            ("net/ipv4/conf/eth[", "net/ipv4/conf/eth[", false),
        ] {
            assert_eq!(fits(pattern, path), wanted, "{pattern} {path}");
        }
    }
}
