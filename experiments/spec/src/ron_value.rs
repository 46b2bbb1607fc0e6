//! A value as an experiment's file writes it, as a tree of JSON: `Open(rate: Fixed(1))` becomes
//! `{"Open": {"rate": {"Fixed": 1}}}`. Must not know: which values an experiment has.

use serde_json::{Map, Value};

/// The tree of a text; `None` when it is no such value.
pub(crate) fn parse(text: &str) -> Option<Value> {
    let mut reader = Reader { rest: text, depth: 0 };
    let value = reader.value()?;
    reader.rest.trim().is_empty().then_some(value)
}

/// Values within values: an experiment has five.
const DEEPEST: usize = 32;

struct Reader<'a> {
    rest: &'a str,
    depth: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, token: char) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn word(&mut self) -> Option<&'a str> {
        self.rest = self.rest.trim_start();
        let end = self.rest.find(|c: char| !c.is_alphanumeric() && c != '_');
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        if !word.starts_with(|c: char| c.is_alphabetic() || c == '_') {
            return None;
        }
        self.rest = rest;
        Some(word)
    }

    fn value(&mut self) -> Option<Value> {
        self.depth += 1;
        let value = if self.depth > DEEPEST { None } else { self.any() };
        self.depth -= 1;
        value
    }

    fn any(&mut self) -> Option<Value> {
        if self.take('[') {
            return self.values(']').map(Value::Array);
        }
        if self.take('(') {
            return self.fields();
        }
        if self.rest.starts_with('"') {
            let mut texts = serde_json::Deserializer::from_str(self.rest).into_iter::<String>();
            let text = texts.next()?.ok()?;
            self.rest = &self.rest[texts.byte_offset()..];
            return Some(Value::String(text));
        }
        match self.word() {
            Some("true") => Some(Value::Bool(true)),
            Some("false") => Some(Value::Bool(false)),
            Some("None") => Some(Value::Null),
            Some("Some") => {
                let within = self.take('(').then(|| self.value())??;
                self.take(')').then_some(within)
            }
            Some(name) if self.take('(') => {
                let fields = self.fields()?;
                Some(Value::Object(Map::from_iter([(name.to_owned(), fields)])))
            }
            Some(name) => Some(Value::String(name.to_owned())),
            None => self.number(),
        }
    }

    fn number(&mut self) -> Option<Value> {
        let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '_');
        let end = self.rest.find(|c| !part(c)).unwrap_or(self.rest.len());
        let (number, rest) = self.rest.split_at(end);
        let value: Value = serde_json::from_str(&number.replace('_', "")).ok()?;
        self.rest = rest;
        value.is_number().then_some(value)
    }

    /// What stands in parentheses: named fields, one value, or several.
    fn fields(&mut self) -> Option<Value> {
        let before = self.rest;
        if self.word().is_some() && self.take(':') {
            self.rest = before;
            let mut fields = Map::new();
            while !self.take(')') {
                let name = self.word()?.to_owned();
                let value = self.take(':').then(|| self.value())??;
                fields.insert(name, value);
                if !self.take(',') && !self.rest.trim_start().starts_with(')') {
                    return None;
                }
            }
            return Some(Value::Object(fields));
        }
        self.rest = before;
        let mut values = self.values(')')?;
        Some(match values.len() {
            0 => Value::Object(Map::new()),
            1 => values.remove(0),
            _ => Value::Array(values),
        })
    }

    fn values(&mut self, end: char) -> Option<Vec<Value>> {
        let mut values = Vec::new();
        while !self.take(end) {
            values.push(self.value()?);
            if !self.take(',') && !self.rest.trim_start().starts_with(end) {
                return None;
            }
        }
        Some(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_become_trees() {
        for (text, json) in [
            ("Open(rate: Fixed(1))", r#"{"Open":{"rate":{"Fixed":1}}}"#),
            (
                "Ramp(from: 1, to: 50_000, seconds: 3,)",
                r#"{"Ramp":{"from":1,"to":50000,"seconds":3}}"#,
            ),
            ("Established", r#""Established""#),
            ("(rate: 50)", r#"{"rate":50}"#),
            (
                "[Hog(cpus: [0, 1], busy: 0.5), Stop]",
                r#"[{"Hog":{"cpus":[0,1],"busy":0.5}},"Stop"]"#,
            ),
            ("Some(Finished(\"a, (b\"))", r#"{"Finished":"a, (b"}"#),
            ("None", "null"),
            ("-1.5e3", "-1500.0"),
            ("Pair(1, true)", r#"{"Pair":[1,true]}"#),
        ] {
            let wanted: Value = serde_json::from_str(json).expect(json);
            assert_eq!(parse(text), Some(wanted), "{text}");
        }
        let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
        for text in
            ["", "Open(rate: Fixed(1)", "Open(rate)x", "in words", "(a: 1 b: 2)", "1x", &deep]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
