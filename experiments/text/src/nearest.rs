//! The known name that a mistaken one is nearest to.

/// How alike two names must be, from 0 to 1: as clap has it for flags and commands.
const ALIKE: f64 = 0.7;

/// The name among `known` that is most like `word`; `None` when none is like it.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let alike = |name: &str| strsim::jaro(&word, &name.to_lowercase());
    let candidates = known.into_iter().map(|name| (alike(name), name));
    let best = candidates.max_by(|(one, _), (other, _)| one.total_cmp(other))?;
    (best.0 > ALIKE).then_some(best.1)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn the_nearest_name_is_found_and_a_far_one_is_not() {
        let known = ["users", "seconds", "shake", "client_stopped", "server_stopped"];
        for (word, expected) in [
            ("userz", Some("users")),
            ("secnds", Some("seconds")),
            ("Shake", Some("shake")),
            ("client-stopped", Some("client_stopped")),
            ("qqq", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
    }
}
