//! Sentences in lines of a width. Must not know: what a terminal is.

/// A text in lines of so many characters at most, but for words that are longer. Lines after the
/// first begin with so many blanks.
pub fn wrapped(text: &str, width: usize, indent: usize) -> String {
    let (mut out, mut line) = (String::new(), String::new());
    let first = text.len() - text.trim_start().len();
    line += &text[..first];
    let mut any = false;
    for word in text.split_whitespace() {
        let len = line.chars().count() + usize::from(any) + word.chars().count();
        if any && len > width {
            out += line.trim_end();
            out.push('\n');
            line = " ".repeat(indent);
            any = false;
        }
        if any {
            line.push(' ');
        }
        line += word;
        any = true;
    }
    out += line.trim_end();
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_long_as_they_may_be() {
        for (text, width, expected) in [
            ("a b c", 80, "a b c\n"),
            ("  one two three", 9, "  one two\n    three\n"),
            ("a verylongword b", 6, "a\n    verylongword\n    b\n"),
            ("µµ µµ µµ", 5, "µµ µµ\n    µµ\n"),
            ("", 5, "\n"),
        ] {
            assert_eq!(wrapped(text, width, 4), expected, "{text}");
        }
    }
}
