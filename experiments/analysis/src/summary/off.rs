//! Seconds that were off: those whose answers differ from what was due by more than a share.

/// The seconds of a phase whose answers were off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecondsOff {
    /// Each of them.
    pub off: Vec<u64>,
    /// How many seconds were looked at.
    pub of: usize,
}

impl SecondsOff {
    /// Looks at seconds, each with the shakes that were due in it and the answers that came. A
    /// second in which none was due is not off: there is nothing to differ from.
    pub fn count(seconds: impl IntoIterator<Item = (u64, u64, u64)>, off_share: f64) -> Self {
        let mut counted = Self::default();
        for (t, due, answered) in seconds {
            counted.of += 1;
            if due > 0 && answered.abs_diff(due) as f64 > off_share * due as f64 {
                counted.off.push(t);
            }
        }
        counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_off_beyond_the_share() {
        let seconds = [(4, 100, 100), (5, 100, 94), (6, 100, 105), (7, 0, 3), (8, 100, 106)];
        let off = SecondsOff::count(seconds, 0.05);
        assert_eq!(off, SecondsOff { off: vec![5, 8], of: 5 });
    }
}
