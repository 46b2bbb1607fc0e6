//! Which addresses an agent may be told to load: a list of its own, that no message changes.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::str::FromStr;

/// A server, a network or a port of either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    network: u32,
    bits: u32,
    port: Option<u16>,
}

impl Target {
    const fn network(network: [u8; 4], bits: u32) -> Self {
        Self { network: u32::from_be_bytes(network), bits, port: None }
    }

    fn admits(self, to: SocketAddrV4) -> bool {
        let mask = u32::MAX.checked_shl(32 - self.bits).unwrap_or(0);
        let inside = u32::from(*to.ip()) & mask == self.network & mask;
        inside && self.port.is_none_or(|port| port == to.port())
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no ADDRESS[/BITS][:PORT], such as 10.0.0.0/24:9000");
        let (network, port) = match text.split_once(':') {
            Some((network, port)) => (network, Some(port.parse().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let (address, bits) = match network.split_once('/') {
            Some((address, bits)) => (address, bits.parse().map_err(|_| wrong())?),
            None => (network, 32),
        };
        let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
        if bits > 32 {
            return Err(wrong());
        }
        Ok(Self { network: u32::from(address), bits, port })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.network), self.bits)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Without a list of its own an agent loads nobody outside: loopback and private networks
/// (RFC 1918), and addresses of a link (RFC 3927).
const PRIVATE: [Target; 5] = [
    Target::network([127, 0, 0, 0], 8),
    Target::network([10, 0, 0, 0], 8),
    Target::network([172, 16, 0, 0], 12),
    Target::network([192, 168, 0, 0], 16),
    Target::network([169, 254, 0, 0], 16),
];

/// The list of an agent.
#[derive(Clone, Debug)]
pub(crate) struct Targets(Vec<Target>);

impl Targets {
    /// These, or [`PRIVATE`] when there are none.
    pub(crate) fn new(given: &[Target]) -> Self {
        Self(if given.is_empty() { PRIVATE.to_vec() } else { given.to_vec() })
    }

    /// Whether an address may be loaded.
    ///
    /// # Errors
    /// A sentence for people.
    pub(crate) fn check(&self, to: SocketAddrV4) -> Result<(), String> {
        if self.0.iter().any(|target| target.admits(to)) {
            return Ok(());
        }
        let list: Vec<String> = self.0.iter().map(Target::to_string).collect();
        Err(format!(
            "this agent may not load {to}: it may load {}, and lab agent --allow-target {} would \
             allow it",
            list.join(", "),
            to.ip()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_on_the_list_may_be_loaded() {
        let cases = [
            (&[][..], "127.0.0.1:1", true),
            (&[], "10.91.0.10:5", true),
            (&[], "172.31.255.255:5", true),
            (&[], "172.32.0.0:5", false),
            (&[], "192.0.2.1:80", false),
            (&[], "8.8.8.8:53", false),
            (&["10.0.0.2"], "10.0.0.2:7", true),
            (&["10.0.0.2"], "10.0.0.3:7", false),
            (&["10.0.0.2"], "127.0.0.1:7", false),
            (&["10.0.0.2:7"], "10.0.0.2:7", true),
            (&["10.0.0.2:7"], "10.0.0.2:8", false),
            (&["10.0.0.9/24"], "10.0.0.255:8", true),
            (&["10.0.0.9/24"], "10.0.1.0:8", false),
            (&["10.0.0.9/24:8", "192.0.2.1"], "192.0.2.1:80", true),
            (&["0.0.0.0/0"], "8.8.8.8:53", true),
        ];
        for (list, to, allowed) in cases {
            let list: Vec<Target> = list.iter().map(|it| it.parse().expect("a target")).collect();
            let to: SocketAddrV4 = to.parse().expect("an address");
            let checked = Targets::new(&list).check(to);
            assert_eq!(checked.is_ok(), allowed, "{list:?} {to}");
            if let Err(why) = checked {
                assert!(why.contains(&to.to_string()) && why.contains("--allow-target"), "{why}");
            }
        }
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for text in ["", "x", "10.0.0.0/33", "10.0.0.1:", "10.0.0.1:65536", "10.0.0/8", "::1"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
