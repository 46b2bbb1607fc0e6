//! The names that a run has of machines, people and cards, and what stands for them. Must not know:
//! which file a text is from.

use std::collections::BTreeMap;

use serde_json::Value;

/// Words that many machines and accounts are called by: they name none.
const GENERAL: [&str; 18] = [
    "admin",
    "agent",
    "client",
    "clients",
    "coordinator",
    "host",
    "hosts",
    "lab",
    "local",
    "localhost",
    "machine",
    "nobody",
    "node",
    "root",
    "server",
    "server-1",
    "test",
    "user",
];

/// Cards that are called so on every machine: by the kernel, or by the lab.
const USUAL_CARDS: [&str; 7] = ["dummy", "eth", "ifb", "lab", "lo", "tun", "wlan"];

/// The names of a run.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Hosts, in the order in which the run names them.
    hosts: BTreeMap<String, String>,
    /// What is replaced as a word wherever it stands, the longest first.
    words: Vec<(String, String)>,
    cards: usize,
    people: usize,
}

impl Names {
    /// A host, by what a run calls it.
    pub(super) fn host(&mut self, name: &str) -> String {
        if let Some(stand_in) = self.hosts.get(name) {
            return stand_in.clone();
        }
        let stand_in = format!("host-{}", self.hosts.len() + 1);
        self.hosts.insert(name.to_owned(), stand_in.clone());
        self.word(name, stand_in.clone());
        stand_in
    }

    /// What stands for a host that is known.
    pub(super) fn known_host(&self, name: &str) -> Option<&str> {
        self.hosts.get(name).map(String::as_str)
    }

    /// Somebody who has an account.
    pub(super) fn person(&mut self, name: &str) {
        self.people += 1;
        let stand_in = format!("user-{}", self.people);
        self.word(name, stand_in);
    }

    fn card(&mut self, name: &str) {
        let kind = name.trim_end_matches(|c: char| c.is_ascii_digit());
        if !USUAL_CARDS.contains(&kind) {
            self.cards += 1;
            self.word(name, format!("nic-{}", self.cards));
        }
    }

    fn word(&mut self, word: &str, stand_in: String) {
        let digits = word.contains(|c: char| c.is_ascii_digit());
        let telling = word.chars().count() >= 3 || (word.chars().count() == 2 && digits);
        let known = self.words.iter().any(|(known, _)| known == word);
        if telling && !known && !GENERAL.contains(&word.to_lowercase().as_str()) {
            self.words.push((word.to_owned(), stand_in));
            self.words.sort_by_key(|(word, _)| std::cmp::Reverse(word.len()));
        }
    }

    /// Gathers the names of a manifest.
    pub(super) fn of_manifest(&mut self, manifest: &Value) {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        for machine in list(&manifest["hosts"]) {
            text(&machine["host"]).map(|name| self.host(&name));
            for card in list(&machine["nics"]) {
                text(&card).iter().for_each(|name| self.card(name));
            }
        }
        for program in [&manifest["server"]].into_iter().chain(&list(&manifest["clients"])) {
            text(&program["host"]).map(|name| self.host(&name));
        }
        let fleet = &manifest["experiment"]["hosts"]["Fleet"];
        for machine in [&fleet["server"]].into_iter().chain(&list(&fleet["clients"])) {
            text(&machine["name"]).map(|name| self.host(&name));
        }
        let privileges = &manifest["privileges"];
        let by_host = privileges["by_host"].as_object();
        for of in [privileges].into_iter().chain(by_host.into_iter().flat_map(|it| it.values())) {
            text(&of["user"]).iter().for_each(|name| self.person(name));
        }
        for of in ["probes", "privileges"] {
            let by_host = manifest[of]["by_host"].as_object();
            by_host.into_iter().flat_map(|it| it.keys()).for_each(|name| drop(self.host(name)));
        }
    }

    /// Gathers the names of a line of samples, slow requests or events.
    pub(super) fn of_row(&mut self, row: &Value) {
        if let Some(name) = row["host"].as_str() {
            self.host(name);
        }
        if let Some(name) = row["nic"].as_str() {
            self.card(name);
        }
        let by_host = row["hosts"].as_object();
        by_host.into_iter().flat_map(|it| it.keys()).for_each(|name| drop(self.host(name)));
    }

    /// A text without these names, each of them a word of it. What follows a host's name as its
    /// domain goes with it.
    pub(super) fn replace(&self, text: &str) -> String {
        let mut out = text.to_owned();
        for (word, stand_in) in &self.words {
            if out.contains(word.as_str()) {
                out = replace_word(&out, word, stand_in);
            }
        }
        out
    }
}

fn replace_word(text: &str, word: &str, stand_in: &str) -> String {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(word) {
        let before = rest[..at].chars().next_back().or_else(|| out.chars().next_back());
        let mut after = &rest[at + word.len()..];
        out += &rest[..at];
        if before.is_some_and(part) || after.chars().next().is_some_and(part) {
            out += word;
        } else {
            out += stand_in;
            while let Some(domain) = after.strip_prefix('.') {
                let end = domain.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
                let end = end.unwrap_or(domain.len());
                if end == 0 {
                    break;
                }
                after = &domain[end..];
            }
        }
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_replaced_as_words() {
        let mut names = Names::default();
        names.of_manifest(&json!({
            "hosts": [{ "host": "web1", "nics": ["lo", "eth0", "uplink"] }, { "host": "server" }],
            "server": { "host": "c1" }, "clients": [null],
            "experiment": { "hosts": { "Fleet": { "server": { "name": "s" } } } },
            "privileges": { "by_host": { "web1": { "user": "kim" }, "db": { "user": "root" } } },
        }));
        names.of_row(&json!({ "host": "far", "nic": "enp3s0", "hosts": { "late": 1 } }));
        for (text, expected) in [
            ("web1: lost", "host-1: lost"),
            ("web10 and web1.corp.example. And kim's", "web10 and host-1. And user-1's"),
            ("the server s and c1", "the server s and host-3"),
            ("uplink is down, eth0 is not", "nic-1 is down, eth0 is not"),
            ("enp3s0", "nic-2"),
            ("kimono", "kimono"),
            ("late-far", "host-6-host-5"),
        ] {
            let expected = match text {
                "late-far" => format!("{}-{}", names.host("late"), names.host("far")),
                _ => expected.to_owned(),
            };
            assert_eq!(names.replace(text), expected);
        }
        assert_eq!(names.known_host("server"), Some("host-2"), "by its field, not as a word");
        assert_eq!(names.known_host("s").map(|it| it.starts_with("host-")), Some(true));
        assert_eq!(names.known_host("kim"), None);
    }
}
