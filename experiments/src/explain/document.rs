//! A page of `docs/` as entries: a paragraph that begins with bold names, or a row of a table.

use std::fmt;

/// Columns of what is printed.
const WIDTH: usize = 80;

/// A page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Document {
    pub(super) name: &'static str,
    pub(super) text: &'static str,
}

/// What a page says of names.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) names: Vec<String>,
    /// The page, and the headings above.
    place: String,
    /// As they are read, without marks.
    paragraphs: Vec<String>,
    /// Words between backquotes behind the names.
    mentioned: Vec<String>,
}

impl Entry {
    /// Whether it is about this name; the last part of a path is enough.
    pub(super) fn is_named(&self, name: &str) -> bool {
        self.names.iter().any(|own| {
            let before = own.strip_suffix(name);
            before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
        })
    }

    /// Whether it is about something within what has this name.
    pub(super) fn is_within(&self, name: &str) -> bool {
        self.names.iter().any(|own| own.split('.').rev().skip(1).any(|part| part == name))
    }

    /// Whether it says this name of something else.
    pub(super) fn mentions(&self, name: &str) -> bool {
        self.mentioned.iter().any(|own| own == name)
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.names.is_empty() {
            writeln!(f, "{}", self.place)?;
        } else {
            writeln!(f, "{} ({})", self.names.join(", "), self.place)?;
        }
        for paragraph in &self.paragraphs {
            let mut line = String::from(" ");
            for word in paragraph.split_whitespace() {
                if line.chars().count() + 1 + word.chars().count() > WIDTH && line != " " {
                    writeln!(f, "{line}")?;
                    line = String::from(" ");
                }
                line.push(' ');
                line.push_str(word);
            }
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

impl Document {
    /// All that it says of names, in its order.
    pub(super) fn entries(&self) -> Vec<Entry> {
        let mut headings: Vec<String> = Vec::new();
        let mut entries = Vec::new();
        for block in self.text.split("\n\n") {
            let block = block.trim();
            // The first heading is the page's own name.
            let depth = block.bytes().take_while(|byte| *byte == b'#').count();
            if depth > 0 {
                headings.truncate(depth.saturating_sub(2));
                if depth > 1 {
                    headings.push(without_marks(block.trim_start_matches('#')));
                }
                continue;
            }
            let place = [&[self.name.to_owned()], &headings[..]].concat().join(", ");
            if block.starts_with('|') {
                entries.extend(rows(block, &place));
            } else if block.starts_with("**`") {
                entries.extend(paragraph(block, place));
            } else if !block.starts_with("```") {
                entries.extend(block.split("\n- ").map(|words| prose(words, &place)));
            }
        }
        entries
    }
}

/// `**`name`, `name`: what it is.** The rest.`
fn paragraph(block: &str, place: String) -> Option<Entry> {
    let (head, rest) = block.strip_prefix("**")?.split_once("**")?;
    Some(Entry {
        names: between_backquotes(head),
        place,
        paragraphs: vec![without_marks(block)],
        mentioned: words_between_backquotes(rest),
    })
}

/// What has no name of its own: it may mention others.
fn prose(words: &str, place: &str) -> Entry {
    Entry {
        names: Vec::new(),
        place: place.to_owned(),
        paragraphs: vec![without_marks(words.trim_start_matches("- "))],
        mentioned: words_between_backquotes(words),
    }
}

fn rows(block: &str, place: &str) -> Vec<Entry> {
    let mut lines = block.lines().map(cells);
    let heads = lines.next().unwrap_or_default();
    let entry = |cells: Vec<String>| {
        let (first, rest) = cells.split_first()?;
        let labelled = heads.iter().skip(1).zip(rest).filter(|(_, cell)| !cell.is_empty());
        let paragraphs = labelled.map(|(head, cell)| {
            let head = without_marks(head);
            let colon = if head.is_empty() { "" } else { ": " };
            format!("{head}{colon}{}", without_marks(cell))
        });
        Some(Entry {
            names: names(first),
            place: place.to_owned(),
            paragraphs: paragraphs.collect(),
            mentioned: rest.iter().flat_map(|cell| words_between_backquotes(cell)).collect(),
        })
    };
    // The second line is the rule below the heads.
    lines.skip(1).filter_map(entry).filter(|entry| !entry.names.is_empty()).collect()
}

fn cells(line: &str) -> Vec<String> {
    let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
    inner.split('|').map(|cell| cell.trim().to_owned()).collect()
}

/// The names in the first cell of a row. Behind `shake.offered`, `sent` is `shake.sent`; behind
/// `cpu_us_per_request.server`, so is `.client`. Of a command only its own words are its name.
fn names(cell: &str) -> Vec<String> {
    let marked = between_backquotes(cell);
    if marked.is_empty() {
        let plain = without_marks(cell);
        let short = plain.split(" (").next().unwrap_or_default();
        return short.split(", ").map(str::to_owned).filter(|name| !name.is_empty()).collect();
    }
    let (path, command) = match marked[0].strip_prefix("lab ") {
        Some(command) => ("", command_words(command)),
        None => (marked[0].rsplit_once('.').map_or("", |(path, _)| path), String::new()),
    };
    // Further words of a command stand in the place of its last one.
    let group = command.split_once(' ').map_or("", |(group, _)| group);
    let name = |(place, name): (usize, &String)| {
        if let Some(words) = name.strip_prefix("lab ") {
            command_words(words)
        } else if !command.is_empty() {
            format!("{group} {}", command_words(name)).trim().to_owned()
        } else if let (false, Some(last)) = (path.is_empty(), name.strip_prefix('.')) {
            format!("{path}.{last}")
        } else if place > 0 && !path.is_empty() && !name.contains('.') {
            format!("{path}.{name}")
        } else {
            name.clone()
        }
    };
    marked.iter().enumerate().map(name).collect()
}

/// `tune check P` as `tune check`.
fn command_words(text: &str) -> String {
    let own = |word: &&str| word.starts_with(|first: char| first.is_ascii_lowercase());
    text.split_whitespace().take_while(own).collect::<Vec<_>>().join(" ")
}

fn between_backquotes(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Of `{cpu, user_us}` both names.
fn words_between_backquotes(text: &str) -> Vec<String> {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || "_.-".contains(letter);
    let marked = between_backquotes(text);
    let names = marked.iter().flat_map(|it| it.split(move |letter| !is_name(letter)));
    names.map(|name| name.trim_matches('.').to_owned()).filter(|name| !name.is_empty()).collect()
}

/// Text without marks for bold, code and links.
fn without_marks(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    // `[words](address)` is its words.
    while let Some((before, behind)) = rest.split_once("](") {
        let (before, words) = before.rsplit_once('[').unwrap_or(("", before));
        out.extend([before, words]);
        rest = behind.split_once(')').map_or("", |(_, after)| after);
    }
    out.push_str(rest);
    out.replace('`', "").replace("**", "").trim().to_owned()
}
