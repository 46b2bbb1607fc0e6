//! The page as one HTML file: its parts put together, nothing loaded from anywhere.

use serde_json::Value;

const HTML: &str = include_str!("page/page.html");
/// Colours and type of all pages.
pub(crate) const STYLE: &str = include_str!("page/page.css");
const CSS: [&str; 2] = [include_str!("page/vendor/uPlot.min.css"), STYLE];
/// Elements, numbers and words of all pages.
pub(crate) const FORMAT: &str = include_str!("page/format.js");
const SCRIPTS: [&str; 9] = [
    include_str!("page/vendor/uPlot.iife.min.js"),
    FORMAT,
    include_str!("page/run.js"),
    include_str!("page/plot.js"),
    include_str!("page/charts.js"),
    include_str!("page/heat.js"),
    include_str!("page/second.js"),
    include_str!("page/tables.js"),
    include_str!("page/main.js"),
];
const LIVE: &str = include_str!("page/live.js");

/// Of what is plotted with.
const LICENSE: &str = include_str!("page/vendor/LICENSE");

/// What is plotted with, for those who want to know.
const PLOTTED_WITH: &str = include_str!("page/vendor/VERSION");

/// A page.
pub(crate) struct Page<'a> {
    /// Its title.
    pub(crate) title: &'a str,
    /// What it shows, as JSON; `None` for the live page, which is told.
    pub(crate) content: Option<&'a str>,
}

/// Text between tags.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// JSON within a script element, which no text in it can end.
pub(crate) fn in_script(json: &str) -> String {
    json.replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

impl Page<'_> {
    /// The HTML.
    pub(crate) fn to_html(&self) -> String {
        let live = self.content.is_none();
        let scripts: Vec<&str> = SCRIPTS.into_iter().chain(live.then_some(LIVE)).collect();
        let content = self.content.map_or_else(|| "null".to_owned(), in_script);
        let mut out = String::with_capacity(content.len() + 200_000);
        let mut rest = HTML;
        for (mark, part) in [
            ("{{title}}", escaped(self.title)),
            ("{{css}}", CSS.join("\n")),
            ("{{mode}}", if live { "live" } else { "report" }.to_owned()),
            ("{{plotted}}", PLOTTED_WITH.lines().next().map_or_else(String::new, escaped)),
            ("{{content}}", content),
            ("{{scripts}}", format!("/*\n{LICENSE}*/\n{}", scripts.join("\n"))),
        ] {
            let (before, after) = rest.split_once(mark).unwrap_or((rest, ""));
            out += before;
            out += &part;
            rest = after;
        }
        out + rest
    }
}

/// A value for the page.
pub(crate) fn content(parts: &[(&str, &str)]) -> String {
    let parts: Vec<String> =
        parts.iter().map(|(name, json)| format!("{}:{json}", Value::from(*name))).collect();
    format!("{{{}}}", parts.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_a_colour_and_a_meaning() {
        let charts = include_str!("page/charts.js");
        let css = include_str!("page/page.css");
        let (_, table) = charts.split_once("const CAUSES = {").expect("a table");
        let (table, _) = table.split_once("\n};").expect("its end");
        let mut inks = std::collections::BTreeSet::new();
        for cause in attribution::Cause::ALL {
            let name = cause.name();
            let (_, entry) = table.split_once(&format!("    {name}: {{ ink: \"")).expect(name);
            let (ink, entry) = entry.split_once('"').expect("an ink");
            assert!(inks.insert(ink), "{name} looks like another cause");
            // In a light theme, in a dark one, and on paper.
            assert_eq!(css.matches(&format!("{ink}: #")).count(), 3, "{ink}");
            let (_, means) = entry.split_once("means: \"").expect("a meaning");
            assert!(means.find('"') > Some(10), "{name}");
        }
    }

    #[test]
    fn no_text_leaves_its_place() {
        let content = content(&[("text", &Value::from("</script><b>{{scripts}}").to_string())]);
        let html = Page { title: "a<b", content: Some(&content) }.to_html();
        assert!(html.contains("<title>a&lt;b</title>"));
        assert!(!html.contains("</script><b>"));
        assert_eq!(html.matches("</script>").count(), 2);
        assert!(!html.contains("http-equiv=\"refresh\"") && !html.contains("src=\"http"));
    }
}
