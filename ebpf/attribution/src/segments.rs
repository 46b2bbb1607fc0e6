//! The segments of a request by name, and figures for each of them.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What is measured of a request, and of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Segment {
    /// From the intended instant of every shake that was due to its answer; of one that could not
    /// start, to the moment its user was served. Without either it counts as its timeout.
    Latency,
    /// The same of those that were sent and whose connection did not go away.
    LatencySent,
    /// Those of `Latency` that are a bound: no answer came in time, so it would be this or more.
    LatencyAtLeast,
    /// From the intended instant to the send.
    SendLag,
    /// On the way, both ways: (T5 − T1) − (T4 − T2).
    Network,
    /// From ready to received, at the server: T3 − T2.
    ServerWait,
    /// From received to answered, at the server: T4 − T3.
    ServerService,
    /// From ready to received, at the client: T6 − T5.
    ClientReceiveLag,
    /// From the intended instant of a push, on the server's clock, to its arrival: meaningful where
    /// both run on one machine.
    Push,
}

impl Segment {
    /// All of them.
    pub const ALL: [Segment; 9] = [
        Segment::Latency,
        Segment::LatencySent,
        Segment::LatencyAtLeast,
        Segment::SendLag,
        Segment::Network,
        Segment::ServerWait,
        Segment::ServerService,
        Segment::ClientReceiveLag,
        Segment::Push,
    ];

    /// Its name in files.
    pub const fn name(self) -> &'static str {
        match self {
            Segment::Latency => "latency",
            Segment::LatencySent => "latency_sent",
            Segment::LatencyAtLeast => "latency_at_least",
            Segment::SendLag => "send_lag",
            Segment::Network => "network",
            Segment::ServerWait => "server_wait",
            Segment::ServerService => "server_service",
            Segment::ClientReceiveLag => "client_receive_lag",
            Segment::Push => "push",
        }
    }
}

/// The segments of a request from T1 to T6, by the difference of instants: negative where clocks
/// or the kernel's order disagree. The first segment, T1 − T0, takes the client's own T0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Segments {
    /// (T5 − T1) − (T4 − T2)
    pub network_ns: i64,
    /// T3 − T2
    pub server_wait_ns: i64,
    /// T4 − T3
    pub server_service_ns: i64,
    /// T6 − T5
    pub client_receive_lag_ns: i64,
}

/// A figure for each of the four segments that the kernel's instants make. In files an array in
/// the order of the fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerSegment<T> {
    /// [`Segment::Network`]
    pub network: T,
    /// [`Segment::ServerWait`]
    pub server_wait: T,
    /// [`Segment::ServerService`]
    pub server_service: T,
    /// [`Segment::ClientReceiveLag`]
    pub client_receive_lag: T,
}

impl<T> PerSegment<T> {
    /// What `change` makes of each figure.
    #[must_use]
    pub fn map<U>(self, mut change: impl FnMut(T) -> U) -> PerSegment<U> {
        PerSegment {
            network: change(self.network),
            server_wait: change(self.server_wait),
            server_service: change(self.server_service),
            client_receive_lag: change(self.client_receive_lag),
        }
    }

    /// Each segment with its figure.
    pub fn named(self) -> [(Segment, T); 4] {
        [
            (Segment::Network, self.network),
            (Segment::ServerWait, self.server_wait),
            (Segment::ServerService, self.server_service),
            (Segment::ClientReceiveLag, self.client_receive_lag),
        ]
    }
}

impl<T: Serialize> Serialize for PerSegment<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { network, server_wait, server_service, client_receive_lag } = self;
        [network, server_wait, server_service, client_receive_lag].serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for PerSegment<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let [network, server_wait, server_service, client_receive_lag] =
            <[T; 4]>::deserialize(deserializer)?;
        Ok(Self { network, server_wait, server_service, client_receive_lag })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_an_array_in_files() {
        let figures =
            PerSegment { network: 1, server_wait: 2, server_service: 3, client_receive_lag: 4 };
        let text = serde_json::to_string(&figures).expect("JSON");
        assert_eq!(text, "[1,2,3,4]");
        assert_eq!(serde_json::from_str::<PerSegment<i32>>(&text).expect("the same"), figures);
        for segment in Segment::ALL {
            assert_eq!(serde_json::to_value(segment).expect("JSON"), segment.name());
        }
    }
}
