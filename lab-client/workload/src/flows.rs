//! From which address and port each user connects.
//!
//! A user always comes from the same address and port, bound explicitly. The kernel would look for
//! a free port itself, but looks at one half of the range first: once that half is used up, each
//! connect searches 32,000 ports in vain, and a million connections never come about.

use std::net::{Ipv4Addr, SocketAddrV4};

use serde::{Deserialize, Serialize};

/// Ports of the range that stay free for flows whose own port is taken by another program.
const SPARE_PORTS: u16 = 256;

/// The articles' number of client machines, and the least number of addresses on this one.
const ARTICLE_SOURCES: u32 = 17;

/// The most loopback addresses: with fewer than 66 ports each, a million users need more, and are
/// told so.
const MOST_SOURCES: u32 = 1 << 14;

/// The addresses and ports that users come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    /// The addresses.
    pub sources: Vec<Ipv4Addr>,
    /// The first port.
    pub first_port: u16,
    /// The last port.
    pub last_port: u16,
    /// A port that no user comes from, the server's: the ends of a connection between equal ports
    /// cannot be told apart by port. 0 for none.
    #[serde(default)]
    pub but: u16,
}

/// Why users do not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{users} users need {needed} source addresses with ports {first} to {last}, and there are \
     {given}: give more sources, or widen net.ipv4.ip_local_port_range"
)]
pub struct TooFewPorts {
    users: u32,
    needed: u32,
    given: usize,
    first: u16,
    last: u16,
}

/// How many users one address can carry.
fn ports_per_source(first_port: u16, last_port: u16) -> u32 {
    u32::from(last_port.saturating_sub(first_port).saturating_add(1).saturating_sub(SPARE_PORTS))
}

/// How many addresses users need with a range of ports.
pub fn sources_needed(users: u32, first_port: u16, last_port: u16) -> u32 {
    users.div_ceil(ports_per_source(first_port, last_port).max(1))
}

/// Loopback addresses for users: 17, or as many as the range of ports makes necessary.
/// 127.0.1.1 and on: 127.0.0.1 is where servers listen.
pub fn loopback_sources(users: u32, first_port: u16, last_port: u16) -> Vec<Ipv4Addr> {
    let needed = sources_needed(users, first_port, last_port);
    let needed = needed.clamp(ARTICLE_SOURCES, MOST_SOURCES);
    (0..needed).map(|source| Ipv4Addr::from(0x7f00_0101 + source)).collect()
}

impl Flows {
    /// Whether that many users fit.
    ///
    /// # Errors
    /// [`TooFewPorts`] with what would fit.
    pub fn check(&self, users: u32) -> Result<(), TooFewPorts> {
        let needed = sources_needed(users, self.first_port, self.last_port);
        if self.sources.len() < needed as usize {
            return Err(TooFewPorts {
                users,
                needed,
                given: self.sources.len(),
                first: self.first_port,
                last: self.last_port,
            });
        }
        Ok(())
    }

    /// Address and port of a user, by the user's number among those of this machine. `tries` counts
    /// the ports found taken: the own one first, then spare ones in turn.
    #[inline]
    pub fn of(&self, user: u32, tries: u32) -> SocketAddrV4 {
        let sources = self.sources.len() as u32;
        let source = self.sources[(user % sources) as usize];
        let place = user / sources;
        let port = match self.port(place, tries) {
            port if port == self.but => self.port(place, tries + 1),
            port => port,
        };
        SocketAddrV4::new(source, port)
    }

    fn port(&self, place: u32, tries: u32) -> u16 {
        let port = if tries == 0 {
            u32::from(self.first_port) + place
        } else {
            // Users whose ports are taken begin at different spare ones.
            u32::from(self.last_port) - (tries - 1 + place) % u32::from(SPARE_PORTS)
        };
        port as u16
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_user_has_a_flow_of_its_own() {
        let flows = Flows {
            sources: loopback_sources(100_000, 2_000, 8_000),
            first_port: 2_000,
            last_port: 8_000,
            but: 0,
        };
        assert_eq!(flows.check(100_000), Ok(()));
        let all: HashSet<_> = (0..100_000).map(|user| flows.of(user, 0)).collect();
        assert_eq!(all.len(), 100_000);
        assert!(all.iter().all(|flow| (2_000..8_000 - SPARE_PORTS).contains(&flow.port())));
        let spare: HashSet<_> = (1..=256).map(|tries| flows.of(5, tries)).collect();
        assert_eq!(spare.len(), 256);
        assert!(spare.is_disjoint(&all));
    }

    #[test]
    fn no_user_comes_from_the_servers_port() {
        for but in [2_017, 8_000, 7_990] {
            let sources = loopback_sources(17, 2_000, 8_000);
            let flows = Flows { sources, first_port: 2_000, last_port: 8_000, but };
            for tries in [0, 1, 11, 256, 257] {
                let all: HashSet<_> = (0..3_400).map(|user| flows.of(user, tries)).collect();
                assert!(all.iter().all(|flow| flow.port() != but), "{but} at {tries}");
                assert!(tries > 0 || all.len() == 3_400, "{but}");
            }
        }
    }

    #[test]
    fn seventeen_addresses_carry_a_million_with_all_ports_and_more_are_taken_when_needed() {
        assert_eq!(loopback_sources(1_000_000, 1_024, 65_535).len(), 17);
        assert_eq!(loopback_sources(1_000_000, 32_768, 60_999).len(), 36);
        assert_eq!(loopback_sources(10, 32_768, 60_999).len(), 17);
        let one = Flows {
            sources: vec![Ipv4Addr::LOCALHOST],
            first_port: 32_768,
            last_port: 60_999,
            but: 0,
        };
        let error = one.check(60_000).expect_err("too many").to_string();
        assert!(error.contains("60000 users need 3 source addresses"), "{error}");
        let none = Flows { first_port: 9, last_port: 3, ..one };
        assert!(none.check(10).is_err());
    }
}
