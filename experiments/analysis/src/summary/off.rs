//! Seconds that were off: those whose answers differ from what was due by more than a share.

/// The seconds that were off, of some with the shakes that were due in each and the answers that
/// came. A second in which none was due is not off: there is nothing to differ from.
pub(super) fn seconds_off(
    seconds: impl IntoIterator<Item = (u64, u64, u64)>,
    off_share: f64,
) -> Vec<u64> {
    let is_off = |(_, due, answered): &(u64, u64, u64)| {
        *due > 0 && answered.abs_diff(*due) as f64 > off_share * *due as f64
    };
    seconds.into_iter().filter(is_off).map(|(t, ..)| t).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_off_beyond_the_share() {
        let seconds = [(4, 100, 100), (5, 100, 94), (6, 100, 105), (7, 0, 3), (8, 100, 106)];
        assert_eq!(seconds_off(seconds, 0.05), [5, 8]);
    }
}
