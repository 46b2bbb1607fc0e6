//! The profiles that the program carries.

/// Name and text of each.
pub const EMBEDDED: [(&str, &str); 4] = [
    ("million-sockets", include_str!("../../profiles/million-sockets.ron")),
    ("low-latency", include_str!("../../profiles/low-latency.ron")),
    ("throughput", include_str!("../../profiles/throughput.ron")),
    ("prototype", include_str!("../../profiles/prototype.ron")),
];

/// Their names.
pub fn names() -> impl Iterator<Item = &'static str> {
    EMBEDDED.iter().map(|(name, _)| *name)
}

pub(super) fn text(name: &str) -> Option<&'static str> {
    EMBEDDED.iter().find(|(it, _)| *it == name).map(|(_, text)| *text)
}
