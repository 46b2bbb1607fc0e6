//! From where on a phase counts as measured, and something is to blame.

use serde::{Deserialize, Serialize};

use crate::values::Share;

fn share(share: f64) -> Share {
    Share::try_from(share).unwrap_or_else(|_| unreachable!("a constant in range"))
}

/// From where on something is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AttributionSpec {
    /// Requests that take less are never slow, whatever the 99th percentile, in microseconds.
    pub slow_us: u32,
    /// A phase with a smaller share of such requests, and no second off, is quiet.
    pub quiet_share: Share,
    /// A second is off when its answers differ from what was due by more than this share.
    pub off_share: Share,
}

impl Default for AttributionSpec {
    fn default() -> Self {
        Self { slow_us: 1000, quiet_share: share(0.001), off_share: share(0.01) }
    }
}

/// When a phase counts as measured. A load that was not what was asked for measures nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, try_from = "UncheckedValidity")]
pub struct Validity {
    /// A send that left more than this behind its instant was late, in microseconds.
    pub late_us: u32,
    /// The share of late sends that is still acceptable.
    pub late_share: Share,
    /// The share of the connections that must be there.
    pub connections_share: Share,
    /// The share of its time that the busiest client thread may be running or waiting for a CPU.
    pub client_busy_share: Share,
    /// Why these differ from the defaults; printed beside them.
    pub because: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct UncheckedValidity {
    late_us: u32,
    late_share: Share,
    connections_share: Share,
    client_busy_share: Share,
    because: String,
}

impl Default for UncheckedValidity {
    fn default() -> Self {
        Self {
            late_us: 1000,
            late_share: share(0.001),
            connections_share: share(1.0),
            client_busy_share: share(0.95),
            because: String::new(),
        }
    }
}

impl Default for Validity {
    fn default() -> Self {
        UncheckedValidity::default().checked()
    }
}

impl UncheckedValidity {
    fn checked(self) -> Validity {
        Validity {
            late_us: self.late_us,
            late_share: self.late_share,
            connections_share: self.connections_share,
            client_busy_share: self.client_busy_share,
            because: self.because,
        }
    }
}

impl TryFrom<UncheckedValidity> for Validity {
    type Error = String;

    fn try_from(unchecked: UncheckedValidity) -> Result<Self, String> {
        let strict = UncheckedValidity::default();
        let looser = unchecked.late_us > strict.late_us
            || unchecked.late_share > strict.late_share
            || unchecked.connections_share < strict.connections_share
            || unchecked.client_busy_share > strict.client_busy_share;
        if looser && unchecked.because.trim().is_empty() {
            return Err("validity is looser than the defaults: say why in `because`".to_owned());
        }
        Ok(unchecked.checked())
    }
}
