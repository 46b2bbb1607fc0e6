//! Names that messages carry, read where they arrive: from there on they are safe as parts of
//! subjects, streams and file names.

use serde::{Deserialize, Serialize};

/// The longest name of a run: 40 letters of its experiment, its second, and eight digits by chance.
const LONGEST_RUN: usize = 80;

/// The longest name of an agent.
const LONGEST_AGENT: usize = 64;

/// Letters, digits, `-` and `_`: no dot, no slash, no wildcard.
fn is_name(name: &str, longest: usize) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    !name.is_empty() && name.len() <= longest && name.bytes().all(good)
}

/// The name of a run among agents. Whoever has one may build a path or a subject of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunName(String);

impl RunName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for RunName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        if is_name(&name, LONGEST_RUN) {
            return Ok(Self(name));
        }
        let shown: String = name.chars().take(LONGEST_RUN).collect();
        Err(format!("{shown:?} is no name of a run: 1 to {LONGEST_RUN} letters, digits, - and _"))
    }
}

impl From<RunName> for String {
    fn from(name: RunName) -> String {
        name.0
    }
}

impl std::fmt::Display for RunName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

/// Whether an agent may be named so.
///
/// # Errors
/// A sentence for people.
pub(crate) fn check_agent(name: &str) -> Result<(), String> {
    if is_name(name, LONGEST_AGENT) {
        return Ok(());
    }
    let shown: String = name.chars().take(LONGEST_AGENT).collect();
    Err(format!("{shown:?} is no name of an agent: 1 to {LONGEST_AGENT} letters, digits, - and _"))
}

/// Reads the name of an agent.
///
/// # Errors
/// As [`check_agent`].
pub(crate) fn agent<'de, D: serde::Deserializer<'de>>(read: D) -> Result<String, D::Error> {
    let name = String::deserialize(read)?;
    check_agent(&name).map_err(serde::de::Error::custom)?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts() -> impl Strategy<Value = String> {
        prop_oneof![any::<String>(), "[a-z0-9_./*> \\-]{0,12}", "[A-Za-z0-9_-]{1,80}"]
    }

    proptest! {
        #[test]
        fn a_name_of_an_agent_is_one_part_of_a_subject(text in texts()) {
            let plain = |it: char| it.is_ascii_alphanumeric() || it == '-' || it == '_';
            let good = (1..=LONGEST_AGENT).contains(&text.len()) && text.chars().all(plain);
            prop_assert_eq!(check_agent(&text).is_ok(), good, "{:?}", text);
        }
    }
}
