//! Which tuning profile a run has.

use serde::{Deserialize, Serialize};

/// The settings of the kernel that a run has: those of network namespaces in its own namespaces,
/// limits for its programs, and those of the machine with `lab run --tune-host`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TuningSpec {
    /// A profile of `lab tune list`, or a file.
    pub profile: String,
    /// Keys of settings that are left out.
    #[serde(default)]
    pub without: Vec<String>,
}
