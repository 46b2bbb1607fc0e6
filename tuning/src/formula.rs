//! Values as profiles write them: text with formulas over the machine in braces, such as
//! `{pages / 8} {pages / 6}`. Must not know: settings.

use std::fmt::Write;
use std::iter::Peekable;
use std::str::Chars;

use serde::{Deserialize, Serialize};

use crate::facts::Facts;

/// Parentheses and calls within each other.
const DEEPEST: usize = 20;

/// A value: text, and formulas within it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Template {
    source: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Formula(Formula),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Formula {
    Number(u64),
    Fact(Fact),
    Call(Function, Vec<Formula>),
    Binary(Box<Formula>, char, Box<Formula>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fact {
    Memory,
    Pages,
    Cores,
}

const FACTS: [(&str, Fact); 3] =
    [("memory", Fact::Memory), ("pages", Fact::Pages), ("cores", Fact::Cores)];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    Min,
    Max,
    /// The next power of two.
    Pow2,
}

/// Name, function, and how many arguments it takes.
const FUNCTIONS: [(&str, Function, usize); 3] =
    [("min", Function::Min, 2), ("max", Function::Max, 2), ("pow2", Function::Pow2, 1)];

impl TryFrom<String> for Template {
    type Error = String;

    fn try_from(source: String) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = source.as_str();
        while let Some((before, after)) = rest.split_once('{') {
            let (inside, tail) = after
                .split_once('}')
                .ok_or_else(|| format!("'{{' without '}}' in \"{source}\""))?;
            let formula = Formula::parse(inside)
                .map_err(|reason| format!("formula {{{inside}}}: {reason}"))?;
            parts.extend([Part::Literal(before.to_owned()), Part::Formula(formula)]);
            rest = tail;
        }
        parts.push(Part::Literal(rest.to_owned()));
        parts.retain(|part| !matches!(part, Part::Literal(text) if text.is_empty()));
        // No text at all is a value: an empty set. Blanks are a mistake.
        if !source.is_empty() && source.trim().is_empty() {
            return Err("an empty value".to_owned());
        }
        Ok(Self { source, parts })
    }
}

impl From<Template> for String {
    fn from(text: Template) -> Self {
        text.source
    }
}

impl Template {
    /// As it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it is the same on every machine.
    pub(crate) fn is_fixed(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Literal(_)))
    }

    /// What it is on a machine.
    ///
    /// # Errors
    /// A formula that comes to no number, in a sentence.
    pub fn on(&self, facts: &Facts) -> Result<String, String> {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(text) => out += text,
                Part::Formula(formula) => {
                    let value = formula.value(facts).map_err(|reason| {
                        format!("\"{}\" comes to no number: {reason}", self.source)
                    })?;
                    write!(out, "{value}").map_err(|error| error.to_string())?;
                }
            }
        }
        Ok(out)
    }

    /// As a word of a POSIX shell in double quotes, with `$memory`, `$pages`, `$cores` and
    /// functions of the same names.
    pub(crate) fn to_shell(&self) -> String {
        let mut out = String::from("\"");
        for part in &self.parts {
            match part {
                Part::Literal(text) => {
                    for c in text.chars() {
                        if matches!(c, '"' | '$' | '`' | '\\') {
                            out.push('\\');
                        }
                        out.push(c);
                    }
                }
                Part::Formula(formula) => {
                    // Spaces: three parentheses in a row are not arithmetic to every shell.
                    out += &format!("$(( {} ))", formula.to_shell());
                }
            }
        }
        out.push('"');
        out
    }
}

impl Formula {
    fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { rest: text.chars().peekable(), depth: 0 };
        let formula = parser.sum()?;
        match parser.peek() {
            None => Ok(formula),
            Some(c) => Err(format!("'{c}' was not expected")),
        }
    }

    fn value(&self, facts: &Facts) -> Result<u64, String> {
        let too_large = || "it is too large".to_owned();
        match self {
            Formula::Number(number) => Ok(*number),
            Formula::Fact(Fact::Memory) => Ok(facts.memory),
            Formula::Fact(Fact::Pages) => Ok(facts.memory / facts.page),
            Formula::Fact(Fact::Cores) => Ok(facts.cpus.len() as u64),
            Formula::Call(function, arguments) => {
                let values: Vec<u64> =
                    arguments.iter().map(|it| it.value(facts)).collect::<Result<_, _>>()?;
                match function {
                    Function::Min => Ok(values.into_iter().min().unwrap_or(0)),
                    Function::Max => Ok(values.into_iter().max().unwrap_or(0)),
                    Function::Pow2 => values[0].checked_next_power_of_two().ok_or_else(too_large),
                }
            }
            Formula::Binary(left, operator, right) => {
                let (left, right) = (left.value(facts)?, right.value(facts)?);
                match operator {
                    '+' => left.checked_add(right).ok_or_else(too_large),
                    '-' => left.checked_sub(right).ok_or_else(|| "it is negative".to_owned()),
                    '*' => left.checked_mul(right).ok_or_else(too_large),
                    _ => left.checked_div(right).ok_or_else(|| "division by zero".to_owned()),
                }
            }
        }
    }

    fn to_shell(&self) -> String {
        match self {
            Formula::Number(number) => number.to_string(),
            Formula::Fact(fact) => {
                let name = FACTS.iter().find(|(_, it)| it == fact).map_or("", |(name, _)| name);
                name.to_owned()
            }
            Formula::Call(function, arguments) => {
                let known = FUNCTIONS.iter().find(|(_, it, _)| it == function);
                let name = known.map_or("", |(name, _, _)| name);
                let arguments: Vec<String> =
                    arguments.iter().map(|it| format!("$(( {} ))", it.to_shell())).collect();
                format!("$({name} {})", arguments.join(" "))
            }
            Formula::Binary(left, operator, right) => {
                format!("({} {operator} {})", left.to_shell(), right.to_shell())
            }
        }
    }
}

struct Parser<'a> {
    rest: Peekable<Chars<'a>>,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&mut self) -> Option<char> {
        while self.rest.next_if(|c| c.is_whitespace()).is_some() {}
        self.rest.peek().copied()
    }

    fn next_if(&mut self, any: &str) -> Option<char> {
        let c = self.peek()?;
        any.contains(c).then(|| self.rest.next()).flatten()
    }

    fn sum(&mut self) -> Result<Formula, String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(format!("more than {DEEPEST} parentheses within each other"));
        }
        let mut left = self.product()?;
        while let Some(operator) = self.next_if("+-") {
            left = Formula::Binary(Box::new(left), operator, Box::new(self.product()?));
        }
        self.depth -= 1;
        Ok(left)
    }

    fn product(&mut self) -> Result<Formula, String> {
        let mut left = self.factor()?;
        while let Some(operator) = self.next_if("*/") {
            left = Formula::Binary(Box::new(left), operator, Box::new(self.factor()?));
        }
        Ok(left)
    }

    fn factor(&mut self) -> Result<Formula, String> {
        if self.next_if("(").is_some() {
            let inside = self.sum()?;
            return self.close().map(|()| inside);
        }
        let mut word = String::new();
        self.peek();
        while let Some(c) = self.rest.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
            word.push(c);
        }
        if word.is_empty() {
            return match self.peek() {
                Some(c) => Err(format!("a number or a name was expected, not '{c}'")),
                None => Err("it ends too early".to_owned()),
            };
        }
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            let digits = word.replace('_', "");
            return digits.parse().map(Formula::Number).map_err(|_| format!("'{word}': no number"));
        }
        if let Some((_, fact)) = FACTS.iter().find(|(name, _)| *name == word) {
            return Ok(Formula::Fact(*fact));
        }
        self.call(&word)
    }

    fn call(&mut self, word: &str) -> Result<Formula, String> {
        let known = FUNCTIONS.iter().find(|(name, _, _)| *name == word);
        let (_, function, takes) = known.ok_or_else(|| {
            format!("there is no '{word}', only memory, pages, cores, min(), max() and pow2()")
        })?;
        if self.next_if("(").is_none() {
            return Err(format!("'(' was expected after {word}"));
        }
        let mut arguments = vec![self.sum()?];
        while self.next_if(",").is_some() {
            arguments.push(self.sum()?);
        }
        self.close()?;
        if arguments.len() != *takes {
            return Err(format!("{word} takes {takes}, not {}", arguments.len()));
        }
        Ok(Formula::Call(*function, arguments))
    }

    fn close(&mut self) -> Result<(), String> {
        self.next_if(")").map(|_| ()).ok_or_else(|| "')' is missing".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts { memory: 24 << 30, page: 4096, cpus: vec![0, 1], kernel: "6.18.1".to_owned() }
    }

    fn check(text: &str, expected: Result<&str, &str>) {
        let came = Template::try_from(text.to_owned()).and_then(|text| text.on(&facts()));
        match (came, expected) {
            (Ok(value), Ok(expected)) => assert_eq!(value, expected, "{text}"),
            (Err(reason), Err(words)) => assert!(reason.contains(words), "{text}: {reason}"),
            (came, expected) => panic!("{text}: {came:?}, not {expected:?}"),
        }
    }

    #[test]
    fn values_on_a_machine() {
        check("4096 131072 6291456", Ok("4096 131072 6291456"));
        check("cubic", Ok("cubic"));
        check("{pages / 8} {pages/6} { pages /4 }", Ok("786432 1048576 1572864"));
        check("{2 + 3 * 4 - 1}", Ok("13"));
        check("{(2 + 3) * 4}", Ok("20"));
        check("{min(memory / 1024, 1_000)}x{cores}", Ok("1000x2"));
        check("{pow2(max(5, cores))}", Ok("8"));
        check("{20 - 2 - 3}", Ok("15"));
        check("{1 / (cores - 2)}", Err("division by zero"));
        check("{cores - 3}", Err("negative"));
        check("{memory * memory}", Err("too large"));
        check("{pow2(18446744073709551615)}", Err("too large"));
        check("{memory", Err("without '}'"));
        check("{}", Err("ends too early"));
        check("{1 +}", Err("ends too early"));
        check("{1 2}", Err("'2' was not expected"));
        check("{memry}", Err("there is no 'memry'"));
        check("{min(1)}", Err("takes 2, not 1"));
        check("{pow2 3}", Err("'(' was expected"));
        check("{(1}", Err("')' is missing"));
        check("{1x}", Err("no number"));
        check("{*}", Err("not '*'"));
        check(" ", Err("empty"));
        check(&format!("{{{}1{}}}", "(".repeat(50), ")".repeat(50)), Err("within each other"));
    }

    #[test]
    fn as_a_word_of_a_shell() {
        let shell = |text: &str| Template::try_from(text.to_owned()).expect("valid").to_shell();
        assert_eq!(shell("a \"b\" $c"), "\"a \\\"b\\\" \\$c\"");
        assert_eq!(
            shell("{min(pages / 8, 7)} x"),
            "\"$(( $(min $(( (pages / 8) )) $(( 7 ))) )) x\""
        );
    }
}
