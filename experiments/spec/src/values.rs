//! Values of experiment files that are checked where they stand, so that an error has a line.

use serde::{Deserialize, Serialize};

/// Declares a number that is checked when it is read.
macro_rules! number {
    (
        $(#[doc = $doc:literal])+
        $name:ident = $inner:literal $type:ty, $expected:literal, $ok:expr
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
        #[serde(try_from = $inner, into = $inner)]
        pub struct $name($type);

        impl $name {
            /// The number.
            pub const fn get(self) -> $type {
                self.0
            }
        }

        impl TryFrom<$type> for $name {
            type Error = String;

            fn try_from(value: $type) -> Result<Self, String> {
                let ok: fn($type) -> bool = $ok;
                if ok(value) {
                    Ok(Self(value))
                } else {
                    Err(format!("{value} is not {}", $expected))
                }
            }
        }

        impl From<$name> for $type {
            fn from(value: $name) -> $type {
                value.0
            }
        }
    };
}

number! {
    /// A number of users.
    Users = "u32" u32, "a number of users: at least 1", |value| value > 0
}

number! {
    /// A duration in whole seconds.
    Seconds = "u64" u64, "a duration: between 1 and 604800 seconds (a week)",
    |value| (1..=604_800).contains(&value)
}

number! {
    /// A duration in seconds that need not be whole.
    Period = "f64" f64, "a period: between 0.001 and 86400 seconds (a day)",
    |value| (0.001..=86_400.0).contains(&value)
}

number! {
    /// So many a second.
    PerSecond = "f64" f64, "a rate: more than 0 and at most 10 million a second",
    |value| value > 0.0 && value <= 10_000_000.0
}

number! {
    /// So many whole things a second.
    WholePerSecond = "u32" u32, "a rate: between 1 and 1 million a second",
    |value| (1..=1_000_000).contains(&value)
}

number! {
    /// A part of a whole.
    Share = "f64" f64, "a share: between 0 and 1", |value| (0.0..=1.0).contains(&value)
}

number! {
    /// A duration in microseconds.
    Micros = "u32" u32, "a duration: between 1 and 10 million microseconds (10 s)",
    |value| (1..=10_000_000).contains(&value)
}

number! {
    /// A count of which there must be one.
    Count = "u32" u32, "a count: at least 1", |value| value > 0
}

impl Count {
    /// One.
    pub(crate) fn one() -> Self {
        Self(1)
    }

    /// A constant that is not 0.
    pub(crate) fn at_least_one(count: u32) -> Self {
        Self::try_from(count).unwrap_or_else(|_| unreachable!("a constant that is not 0"))
    }
}

/// The name of an experiment or a phase: part of file names and of tags.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        // "." and ".." are other files than this one's.
        let is_told = name.chars().any(|c| c.is_ascii_alphanumeric());
        if name.len() > 64 || !is_told || !name.chars().all(allowed) {
            return Err(format!(
                "\"{name}\" is not a name: 1 to 64 letters, digits, '-', '_' and '.', a letter or \
                 digit among them"
            ));
        }
        Ok(Self(name))
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0
    }
}
