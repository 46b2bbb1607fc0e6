//! What a mistaken name may have been meant to be, as the end of a sentence.

use std::path::Path;

use text::nearest;

/// There is no such name; which one is near, and all of them.
pub(crate) fn none_of<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.collect();
    let near = hint(nearest(name, known.iter().copied()));
    format!("there is no '{name}', only: {}{near}", known.join(", "))
}

/// The sentence of a reader of RON or JSON about a name that it does not know, and the nearest of
/// those that it expected: it has each between backquotes, the unknown one first.
pub(crate) fn added(sentence: String) -> String {
    let (told, expected) = match sentence.split_once("expected one of ") {
        Some((told, expected)) => (told, expected),
        None => return sentence,
    };
    let unknown = told.split('`').nth(1).unwrap_or_default();
    let near = hint(nearest(unknown, expected.split('`').skip(1).step_by(2)));
    format!("{sentence}{near}")
}

/// The experiment file in the same directory that may be meant.
pub(crate) fn of_file(file: &Path) -> String {
    let beside = file.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if file.exists() {
        return String::new();
    }
    let entries = std::fs::read_dir(beside).into_iter().flatten().filter_map(Result::ok);
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let names: Vec<String> = names.filter(|name| name.ends_with(".ron")).collect();
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let near = nearest(name, names.iter().map(String::as_str));
    let near = near.map(|near| file.with_file_name(near).display().to_string());
    near.map(|near| format!(" (did you mean {near}?)")).unwrap_or_default()
}

fn hint(near: Option<&str>) -> String {
    near.map(|near| format!("; did you mean {near}?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_of_ron_and_of_json_are_understood() {
        let ron = "Unexpected field named `second` in `X`, expected one of `name`, `seconds`, or \
                   `until` instead";
        assert_eq!(added(ron.to_owned()), format!("{ron}; did you mean seconds?"));
        let json = "unknown variant `Of`, expected one of `Auto`, `Off`, `Required`";
        assert_eq!(added(json.to_owned()), format!("{json}; did you mean Off?"));
        for other in ["invalid type: string", "unknown variant `Q`, expected one of `Auto`"] {
            assert_eq!(added(other.to_owned()), other);
        }
    }
}
