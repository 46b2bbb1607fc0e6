//! The four questions of a run and their answers, as its page begins: did it hold, why not, was it
//! sound, was the money right. Must not know: how a figure is worked out, how it is shown.

use serde::Serialize;

use crate::sentence::{State, Verdict, capital};
use analysis::summary::{PhaseSummary, Summary};
use record::Outcome;
use text::thousands;

/// So many phases are named in a sentence; the page has a box for each.
const MOST_NAMED: usize = 3;

/// What an answer means, for its colour; the answer says it in a word, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Tone {
    Good,
    Bad,
    /// Not known, or of no use.
    Void,
}

/// A question, its answer in a word or two, and in sentences.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Answer {
    question: &'static str,
    word: &'static str,
    tone: Tone,
    said: Vec<String>,
}

/// The answers for a run, in the order in which a reader asks.
pub(super) fn answers(summary: &Summary, verdicts: &[Verdict]) -> [Answer; 4] {
    [held(summary, verdicts), why(summary, verdicts), sound(summary), money(summary)]
}

/// Names in a sentence: `“a”`, `“a” and “b”`, `“a”, “b”, “c” and 4 more`. A phase may be called
/// `all` or `closed`, so they are quoted.
fn named(names: &[&str]) -> String {
    let (shown, more) = names.split_at(names.len().min(MOST_NAMED));
    let mut parts: Vec<String> = shown.iter().map(|name| format!("“{name}”")).collect();
    if !more.is_empty() {
        parts.push(format!("{} more", more.len()));
    }
    match parts.pop() {
        Some(last) if parts.is_empty() => last,
        Some(last) => format!("{} and {last}", parts.join(", ")),
        None => String::new(),
    }
}

/// One of two words, by how many there are.
fn by_count<'a>(count: usize, one: &'a str, many: &'a str) -> &'a str {
    if count == 1 { one } else { many }
}

fn in_state(verdicts: &[Verdict], state: State) -> Vec<&str> {
    let found = verdicts.iter().filter(|verdict| verdict.state == state);
    found.map(|verdict| verdict.phase.as_str()).collect()
}

/// How a run ended that did not end by itself.
fn ended(summary: &Summary) -> Option<String> {
    let ended = match summary.outcome {
        Outcome::Completed => return None,
        Outcome::Aborted => "The run was aborted by a condition of the experiment",
        Outcome::Interrupted => "The run was interrupted",
        Outcome::Incomplete => "The run was killed, or goes on",
    };
    let because = summary.outcome_because.as_ref();
    Some(because.map_or_else(|| format!("{ended}."), |why| format!("{ended}: {why}.")))
}

fn held(summary: &Summary, verdicts: &[Verdict]) -> Answer {
    let [held, failed, void, not_run] =
        [State::Held, State::DidNotHold, State::NotValid, State::NotRun]
            .map(|state| in_state(verdicts, state));
    let mut said: Vec<String> = ended(summary).into_iter().collect();
    if !failed.is_empty() {
        said.push(format!("{} did not hold.", named(&failed)));
    }
    if !void.is_empty() {
        let are = by_count(void.len(), "is not valid, so its", "are not valid, so their");
        said.push(format!("{} {are} figures are no verdict on the server.", named(&void)));
    }
    if !not_run.is_empty() {
        said.push(format!("{} never began.", named(&not_run)));
    }
    let all = held.len() == verdicts.len() && !verdicts.is_empty();
    if !held.is_empty() {
        let every = by_count(held.len(), "The only phase", "All phases");
        said.push(if all { format!("{every} held.") } else { format!("{} held.", named(&held)) });
    }
    // The phase that says most: the first that did not hold, or else the last with a load.
    let with_load = |verdict: &&Verdict| {
        let phase = summary.phases.iter().find(|phase| phase.name == verdict.phase);
        verdict.state != State::NotRun && phase.is_some_and(|phase| phase.shake.answered > 0)
    };
    let first = verdicts.iter().find(|verdict| verdict.state == State::DidNotHold);
    let telling = first.or_else(|| verdicts.iter().rfind(with_load));
    said.extend(telling.map(|verdict| format!("{}: {}", verdict.phase, verdict.held)));
    let (word, tone) = match (failed.is_empty(), all && ended(summary).is_none()) {
        (false, _) => ("No", Tone::Bad),
        (true, true) => ("Yes", Tone::Good),
        (true, false) => ("Not known", Tone::Void),
    };
    Answer { question: "Did it hold?", word, tone, said }
}

/// The phase whose slow requests are asked about: one that did not hold before one that is not
/// valid, and of these the one whose slow requests took most.
fn asked<'a>(summary: &'a Summary, verdicts: &[Verdict]) -> Option<&'a PhaseSummary> {
    let rank = |phase: &PhaseSummary| {
        let state = verdicts.iter().find(|it| it.phase == phase.name).map(|it| it.state);
        match state {
            Some(State::DidNotHold) => 2,
            Some(State::NotValid) => 1,
            _ => 0,
        }
    };
    let told = summary.phases.iter().filter(|phase| phase.attribution.verdict.is_some());
    // Of equals the first.
    told.rev().max_by_key(|phase| {
        let tail = &phase.attribution.tail;
        let each = tail.requests.unwrap_or(0).max(1);
        (rank(phase), tail.excess_us.unwrap_or(0) / each)
    })
}

fn why(summary: &Summary, verdicts: &[Verdict]) -> Answer {
    let question = "Why not?";
    let held = verdicts.iter().all(|verdict| verdict.state == State::Held);
    let failed = verdicts.iter().any(|verdict| verdict.state == State::DidNotHold);
    let loaded = summary.phases.iter().any(|phase| phase.shake.offered > 0);
    if let Some(phase) = asked(summary, verdicts) {
        let verdict = phase.attribution.verdict.as_deref().unwrap_or_default();
        let mut said = vec![format!("{}: {verdict}.", phase.name)];
        said.extend(phase.attribution.unanswered.as_ref().map(|why| format!("{why}.")));
        let word = if held { "It held; what was slow" } else { "The verdict" };
        let tone = match (held, failed) {
            (true, _) => Tone::Good,
            (false, true) => Tone::Bad,
            (false, false) => Tone::Void,
        };
        return Answer { question, word, tone, said };
    }
    let because = summary.missing.get("phases.attribution").filter(|_| loaded);
    let (word, tone, said) = match because {
        Some(why) => ("Not known", Tone::Void, format!("No probes looked why: {why}.")),
        None if !loaded => ("Nothing was asked", Tone::Void, "No shake was due.".to_owned()),
        None if held => {
            ("It held", Tone::Good, "No request was slow enough to ask why.".to_owned())
        }
        None => ("Not known", Tone::Void, "No phase has a verdict on slow requests.".to_owned()),
    };
    Answer { question, word, tone, said: vec![said] }
}

fn sound(summary: &Summary) -> Answer {
    let question = "Was it sound?";
    let phases: Vec<&PhaseSummary> =
        summary.phases.iter().filter(|phase| phase.seconds.is_some()).collect();
    let void: Vec<&str> = names(&phases, |phase| !phase.valid);
    let mut said = Vec::new();
    let (word, tone) = if phases.is_empty() {
        said.push("No phase began.".to_owned());
        ("Not known", Tone::Void)
    } else if void.is_empty() {
        said.push(
            by_count(phases.len(), "The phase is valid.", "All phases are valid.").to_owned(),
        );
        ("Yes", Tone::Good)
    } else {
        said.push(format!("{} {} not valid.", named(&void), by_count(void.len(), "is", "are")));
        let reasons: Vec<(&str, &String)> = phases
            .iter()
            .flat_map(|phase| phase.invalid_because.iter().map(|why| (phase.name.as_str(), why)))
            .collect();
        said.extend(reasons.first().map(|(phase, why)| format!("{phase}: {why}.")));
        let more = reasons.len().saturating_sub(1);
        if more > 0 {
            let stand = by_count(more, "reason stands", "reasons stand");
            said.push(format!("{more} more {stand} below."));
        }
        ("No", Tone::Bad)
    };
    let of_tail =
        names(&phases, |phase| phase.valid && phase.percentiles_valid.p999 == Some(false));
    if !of_tail.is_empty() {
        said.push(format!("p99.9 of {} is not: the clients were late.", named(&of_tail)));
    }
    if !summary.validity.because.is_empty() {
        said.push("Thresholds are looser than by default.".to_owned());
    }
    Answer { question, word, tone, said }
}

fn names<'a>(phases: &[&'a PhaseSummary], which: impl Fn(&PhaseSummary) -> bool) -> Vec<&'a str> {
    phases.iter().filter(|phase| which(phase)).map(|phase| phase.name.as_str()).collect()
}

fn money(summary: &Summary) -> Answer {
    let question = "Was the money right?";
    let books = &summary.ledger;
    let because = || {
        let why = books.because.as_ref().or_else(|| summary.missing.get("ledger"));
        why.map_or_else(
            || "The books were not closed.".to_owned(),
            |why| capital(format!("{why}.")),
        )
    };
    let (word, tone, first) = match books.balanced {
        Some(true) => {
            let every = "The books balance: every share and every cent is somewhere, and once.";
            ("Yes", Tone::Good, every.to_owned())
        }
        Some(false) => ("No", Tone::Bad, format!("The books do not balance. {}", because())),
        None => ("Not known", Tone::Void, because()),
    };
    let mut said = vec![first];
    said.extend(books.created.map(|created| {
        let (whole, cents) = (created.amount / 100, created.amount % 100);
        let count = thousands(created.count);
        let shares = if created.count == 1 { "share was" } else { "shares were" };
        format!("{count} {shares} created, worth {}.{cents:02}.", thousands(whole))
    }));
    said.extend(books.double_grants.map(|count| match count {
        0 => "None was given twice.".to_owned(),
        1 => "1 packet was given to two users.".to_owned(),
        count => format!("{} packets were given to two users.", thousands(count)),
    }));
    Answer { question, word, tone, said }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run with phases that held and phases that are not valid.
    fn recorded() -> Summary {
        let text = include_str!("../../tests/recorded/expected/first/summary.json");
        serde_json::from_str(text).expect("a summary")
    }

    fn told(summary: &Summary) -> [Answer; 4] {
        answers(summary, &crate::sentence::verdicts(summary, 0.01))
    }

    fn words(summary: &Summary) -> [(&'static str, Tone); 4] {
        told(summary).map(|answer| (answer.word, answer.tone))
    }

    #[test]
    fn names_are_counted_beyond_a_few() {
        for (names, said) in [
            (&["a"][..], "“a”"),
            (&["a", "b"], "“a” and “b”"),
            (&["a", "b", "c"], "“a”, “b” and “c”"),
            (&["a", "b", "c", "d", "e"], "“a”, “b”, “c” and 2 more"),
        ] {
            assert_eq!(named(names), said);
        }
    }

    #[test]
    fn phases_that_are_not_valid_leave_the_first_question_open() {
        let summary = recorded();
        let [held, why, sound, money] = told(&summary);
        assert_eq!((held.word, held.tone), ("Not known", Tone::Void));
        assert!(held.said[0].starts_with("“open” and “all” are not valid"), "{:?}", held.said);
        assert!(held.said[1].starts_with("“connect” and “closed” held."), "{:?}", held.said);
        assert_eq!((why.word, why.tone), ("The verdict", Tone::Void));
        assert!(why.said[0].contains("client_runqueue"), "{:?}", why.said);
        assert_eq!((sound.word, sound.tone), ("No", Tone::Bad));
        assert!(sound.said[1].starts_with("open: p99 is not valid"), "{:?}", sound.said);
        assert_eq!((money.word, money.tone), ("Yes", Tone::Good));
        assert!(money.said[1].contains("created, worth"), "{:?}", money.said);
    }

    #[test]
    fn answers_follow_the_figures() {
        let mut summary = recorded();
        for phase in &mut summary.phases {
            phase.valid = true;
            phase.invalid_because.clear();
            phase.percentiles_valid.p99 = Some(true);
        }
        let good = [
            ("Yes", Tone::Good),
            ("It held; what was slow", Tone::Good),
            ("Yes", Tone::Good),
            ("Yes", Tone::Good),
        ];
        assert_eq!(words(&summary), good);

        // A phase that leaves shakes unanswered is what the verdict is about.
        let mut failed = summary.clone();
        failed.phases[3].shake.answered -= 1;
        failed.phases[3].shake.offered = failed.phases[3].shake.answered + 1;
        let [held, why, ..] = told(&failed);
        assert_eq!((held.word, held.tone), ("No", Tone::Bad));
        assert!(held.said[0].starts_with("“closed” did not hold"), "{:?}", held.said);
        assert_eq!((why.word, why.tone), ("The verdict", Tone::Bad));
        assert!(why.said[0].starts_with("closed: "), "{:?}", why.said);

        let mut killed = summary.clone();
        killed.outcome = Outcome::Incomplete;
        killed.ledger.balanced = None;
        killed.ledger.because = Some("a side has not closed its books".to_owned());
        assert_eq!(words(&killed)[0], ("Not known", Tone::Void));
        assert_eq!(words(&killed)[3], ("Not known", Tone::Void));

        let mut wrong = summary.clone();
        wrong.ledger.balanced = Some(false);
        wrong.ledger.double_grants = Some(2);
        let [.., money] = told(&wrong);
        assert_eq!((money.word, money.tone), ("No", Tone::Bad));
        assert!(money.said.contains(&"2 packets were given to two users.".to_owned()));

        let mut blind = summary;
        for phase in &mut blind.phases {
            phase.attribution.verdict = None;
        }
        assert_eq!(words(&blind)[1], ("It held", Tone::Good));
        blind.missing.insert("phases.attribution".to_owned(), "needs root".to_owned());
        assert_eq!(words(&blind)[1], ("Not known", Tone::Void));
        blind.phases.clear();
        let nothing = [
            ("Not known", Tone::Void),
            ("Nothing was asked", Tone::Void),
            ("Not known", Tone::Void),
            ("Yes", Tone::Good),
        ];
        assert_eq!(words(&blind), nothing);
    }
}
