//! What names a machine by its form: addresses of networks and of cards, ids of a boot, paths,
//! URLs. The same thing has the same stand-in all over a run. Must not know: files, fields.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use regex::{Captures, Regex};

/// In the order in which they are tried at a place. The character before a path is no part of it;
/// `3/4`, `answered/s` and the like are no paths, as nothing is before their slash that begins one.
static FORMS: LazyLock<Regex> = LazyLock::new(|| {
    let hex = "[0-9A-Fa-f]";
    let forms = [
        r#"(?<url>[A-Za-z][A-Za-z0-9+.-]*://[^ \t\r\n"'<>]+)"#.to_owned(),
        format!("(?<id>{hex}{{8}}-{hex}{{4}}-{hex}{{4}}-{hex}{{4}}-{hex}{{12}})"),
        format!("(?<mac>(?-u:\\b){hex}{{2}}(?:[:-]{hex}{{2}}){{5}}(?-u:\\b))"),
        r"(?<v4>(?-u:\b)[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?-u:\b))".to_owned(),
        format!("(?<v6>(?:{hex}{{0,4}}:){{2,7}}{hex}{{0,4}})"),
        r#"(?<path>(?:~|\.{1,2})?/[A-Za-z0-9_.@+~%-]+(?:/[A-Za-z0-9_.@+~%:-]*)*)"#.to_owned(),
        // A relative one, with a file at its end.
        r"(?<file>[A-Za-z0-9_.@+~-]+(?:/[A-Za-z0-9_.@+~-]+)*/[A-Za-z0-9_@+~-]+\.[A-Za-z0-9]+)"
            .to_owned(),
        format!("(?<card>(?:en|wl|ww)x{hex}{{12}}|br-{hex}{{12}}|veth{hex}{{7,8}})"),
        format!("(?<machine>(?-u:\\b){hex}{{32}}(?-u:\\b))"),
    ];
    Regex::new(&forms.join("|")).expect("a constant, which tests read")
});

/// What stands for what, by kind.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    /// By kind and text: how many of the kind were before.
    known: HashMap<(&'static str, String), usize>,
    counts: HashMap<&'static str, usize>,
}

impl Patterns {
    /// A text without what names a machine by its form.
    pub(super) fn replace(&mut self, text: &str) -> String {
        // Nothing of what is sought is shorter, or has none of these: samples are mostly numbers
        // and short words.
        let may = |c: char| matches!(c, '.' | ':' | '/' | '-' | '~');
        let long = text.len() >= 32 || text.contains("nx") || text.contains("lx");
        if text.len() < 2 || !(text.contains(may) || long || text.starts_with("veth")) {
            return text.to_owned();
        }
        let replaced = FORMS.replace_all(text, |found: &Captures<'_>| {
            let whole = &found[0];
            let start = found.get(0).map_or(0, |it| it.start());
            let before = text[..start].chars().next_back();
            self.stand_in(found, whole, before).unwrap_or_else(|| whole.to_owned())
        });
        replaced.into_owned()
    }

    fn number(&mut self, kind: &'static str, text: &str) -> usize {
        let count = self.counts.entry(kind).or_default();
        *self.known.entry((kind, text.to_owned())).or_insert_with(|| {
            *count += 1;
            *count
        })
    }

    /// `None` where it names no machine.
    fn stand_in(
        &mut self,
        found: &Captures<'_>,
        whole: &str,
        before: Option<char>,
    ) -> Option<String> {
        let is = |name| found.name(name).is_some();
        if is("url") {
            return Some(format!("[url {}]", self.number("url", whole)));
        }
        if is("id") {
            let number = self.number("id", &whole.to_lowercase());
            return Some(format!("00000000-0000-4000-8000-{number:012x}"));
        }
        if is("mac") {
            // RFC 7042: for documents.
            let number = self.number("mac", &whole.to_lowercase().replace('-', ":"));
            return Some(format!("00:00:5e:00:53:{:02x}", number % 256));
        }
        if is("v4") {
            return self.v4(whole.parse().ok()?);
        }
        if is("v6") {
            return self.v6(whole.trim_end_matches(':'), whole);
        }
        if is("card") {
            return Some(format!("nic-x{}", self.number("card", whole)));
        }
        if is("machine") {
            return Some(format!("{:032x}", self.number("machine", whole)));
        }
        self.path(whole, before)
    }

    /// Of a loopback, or any: of no machine. Others become addresses for benchmarks (RFC 2544).
    fn v4(&mut self, address: Ipv4Addr) -> Option<String> {
        if address.is_loopback() || address.is_unspecified() || address.is_broadcast() {
            return None;
        }
        let number = self.number("v4", &address.to_string()) as u32;
        let base = u32::from(Ipv4Addr::new(198, 18, 0, 0));
        Some(Ipv4Addr::from(base + number % (1 << 17)).to_string())
    }

    /// Others become addresses for documents (RFC 3849). Times such as 12:34:56 are none.
    fn v6(&mut self, text: &str, whole: &str) -> Option<String> {
        let address: Ipv6Addr = text.parse().or_else(|_| whole.parse()).ok()?;
        if address.is_loopback() || address.is_unspecified() {
            return None;
        }
        let number = self.number("v6", &address.to_string());
        let rest = if whole.parse::<Ipv6Addr>().is_ok() { "" } else { ":" };
        Some(format!("2001:db8::{number:x}{rest}"))
    }

    /// A path keeps the name of a file of a run at its end; those of the kernel's own files stay.
    fn path(&mut self, whole: &str, before: Option<char>) -> Option<String> {
        let within_a_word = before.is_some_and(|c| c.is_ascii_alphanumeric() || c == ')');
        if within_a_word && whole.starts_with('/') && !whole[1..].contains('/') {
            return None;
        }
        // The end of a sentence, or what a number of a line follows.
        let path = whole.trim_end_matches(['.', ':']);
        let rest = &whole[path.len()..];
        if path.starts_with("/proc/") || path == "/dev/net/tun" {
            return None;
        }
        let name = path.rsplit('/').next().unwrap_or_default();
        let of_run = crate::contents::kind(name) != crate::contents::Kind::Other;
        if of_run {
            return Some(format!("{name}{rest}"));
        }
        Some(format!("/path-{}{rest}", self.number("path", path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_a_machine_by_its_form_has_a_stand_in() {
        for (text, expected) in [
            ("10.1.2.3:4000 and 10.1.2.3", "198.18.0.1:4000 and 198.18.0.1"),
            ("10.1.2.3 and 10.1.2.4", "198.18.0.1 and 198.18.0.2"),
            ("127.0.0.1:80, 0.0.0.0", "127.0.0.1:80, 0.0.0.0"),
            ("fe80::1ff:fe23:4567:890a", "2001:db8::1"),
            ("[2a01:4f8::2]:443", "[2001:db8::1]:443"),
            ("::1 at 12:34:56", "::1 at 12:34:56"),
            ("52:54:00:ab:cd:ef", "00:00:5e:00:53:01"),
            ("enx525400abcdef: lost", "nic-x1: lost"),
            (
                "boot CEA5C8AE-2809-4ff3-82ca-cf744f673dbe",
                "boot 00000000-0000-4000-8000-000000000001",
            ),
            ("nats://me:pw@nats.example:4222 is gone", "[url 1] is gone"),
            ("/home/kim/runs/x: no", "/path-1: no"),
            ("in /home/kim.", "in /path-1."),
            ("(~/runs)", "(/path-1)"),
            ("results/kim/samples.jsonl:7: cut", "samples.jsonl:7: cut"),
            ("runs/of/kim/my.ron", "/path-1"),
            ("/user.slice/user-1000.slice/a.scope", "/path-1"),
            ("/proc/net/snmp and 7 answered/s", "/proc/net/snmp and 7 answered/s"),
            ("CPU µs/request, 3/4, and/or", "CPU µs/request, 3/4, and/or"),
            ("6.18.44-amd64", "6.18.44-amd64"),
            ("net.ipv4.tcp_rmem=4096 131072", "net.ipv4.tcp_rmem=4096 131072"),
            ("0123456789abcdef0123456789abcdef", "00000000000000000000000000000001"),
        ] {
            assert_eq!(Patterns::default().replace(text), expected);
        }
        let mut patterns = Patterns::default();
        let first = patterns.replace("/home/kim");
        assert_ne!(patterns.replace("/home/lee"), first);
        assert_eq!(patterns.replace("/home/kim"), first, "the same all over");
    }
}
