//! A flame graph as one SVG file: nothing to load, no script, every frame with a tooltip.
//!
//! A frame lies on its caller, as wide as its share of the samples. Of two runs of the same
//! program a function has the same colour, and callees lie in the order of their names, so that
//! two graphs can be compared by eye.

use std::fmt::Write;

use super::fold::{Frame, Kind, Node, Stacks};
use text::thousands;

/// Width of the picture.
const WIDTH: f64 = 1200.0;
/// Space to its edges.
const MARGIN: f64 = 10.0;
/// Width of all samples.
const INNER: f64 = WIDTH - 2.0 * MARGIN;
/// Height of a frame, with the line that parts it from the next.
const ROW: f64 = 17.0;
/// Height of a line of the heading.
const LINE: f64 = 18.0;
/// Width of a character of the monospaced font at 11 px; the widest in use have 0.602 em.
const CHARACTER: f64 = 6.63;
/// Narrower frames are not drawn: they can be neither seen nor pointed at. Up to 11,800 samples
/// there are none.
const NARROWEST: f64 = 0.1;

/// Kinds as the legend explains them, with hue and saturation of their colour.
const KINDS: [(Kind, &str, u16, u8); 6] = [
    (Kind::Kernel, "kernel", 18, 85),
    (Kind::Program, "program", 48, 85),
    (Kind::Runtime, "shard runtime", 200, 60),
    (Kind::Library, "libraries", 130, 40),
    (Kind::Thread, "thread", 240, 10),
    (Kind::Unknown, "without a name", 0, 0),
];

/// What stands above a graph.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heading {
    /// Of what it is.
    pub title: String,
    /// More about it, a line each.
    pub lines: Vec<String>,
}

/// Text as it may stand in XML: with what is not allowed there at all replaced.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for it in text.chars() {
        match it {
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '&' => out += "&amp;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            it if it.is_control() || matches!(it, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            it => out.push(it),
        }
    }
    out
}

/// The colour of a kind, a little lighter or darker by the name (FNV-1a, so that it stays the same
/// in every build).
fn colour(frame: &Frame) -> String {
    let hash = frame.name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    shade(frame.kind, hash)
}

fn shade(kind: Kind, hash: u64) -> String {
    let (_, _, hue, saturation) =
        KINDS.iter().find(|(it, ..)| *it == kind).copied().unwrap_or(KINDS[5]);
    let (turn, light) = (hash % 17, 62 + hash / 17 % 14);
    format!("hsl({},{saturation}%,{light}%)", u64::from(hue) + turn)
}

/// A function's name without types and with only the last module: `Logic::shake` for
/// `<lab_server::logic::Logic<T> as shard::Handler>::shake`.
fn short(name: &str) -> String {
    let whole = match name.strip_prefix('<').and_then(|rest| rest.split_once(" as ")) {
        Some((this, rest)) => {
            format!("{this}::{}", rest.rsplit_once(">::").map_or(rest, |(_, method)| method))
        }
        None => name.to_owned(),
    };
    let mut depth = 0_u32;
    let mut bare = String::new();
    for it in whole.chars() {
        match it {
            '<' => depth += 1,
            '>' => depth = depth.saturating_sub(1),
            it if depth == 0 => bare.push(it),
            _ => {}
        }
    }
    let parts: Vec<&str> =
        bare.split("::").filter(|part| !part.is_empty() && !part.starts_with("{{")).collect();
    let closure = if bare.ends_with("}}") { "{closure}" } else { "" };
    format!("{}{closure}", parts[parts.len().saturating_sub(2)..].join("::"))
}

/// As much of a name as fits into a width; nothing rather than fewer than three characters.
fn label(name: &str, width: f64) -> Option<String> {
    let room = ((width - 6.0) / CHARACTER).floor().max(0.0) as usize;
    if room < 3 {
        return None;
    }
    if name.chars().count() <= room {
        return Some(name.to_owned());
    }
    let name = short(name);
    if name.chars().count() <= room {
        return Some(name);
    }
    Some(name.chars().take(room - 1).chain(['…']).collect())
}

/// The part of all samples.
fn percent(count: u64, all: u64) -> f64 {
    count as f64 * 100.0 / all.max(1) as f64
}

/// A picture being drawn.
struct Drawing {
    out: String,
    all: u64,
    /// The lower edge of the outermost frames.
    floor: f64,
    too_narrow: u64,
}

impl Drawing {
    fn text(&mut self, x: f64, y: f64, class: &str, text: &str) {
        let text = escaped(text);
        // Writing to a string cannot fail.
        let _ =
            writeln!(self.out, "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{text}</text>");
    }

    /// What a frame called: beside each other, `before` samples from the left.
    fn callees(&mut self, node: &Node, before: u64, depth: usize) {
        let mut before = before;
        for (frame, callee) in &node.callees {
            self.frame(frame, callee, before, depth);
            before += callee.count;
        }
    }

    fn frame(&mut self, frame: &Frame, node: &Node, before: u64, depth: usize) {
        let scale = INNER / self.all.max(1) as f64;
        let width = node.count as f64 * scale;
        if width < NARROWEST {
            self.too_narrow += 1;
            return;
        }
        let (x, y) = (MARGIN + before as f64 * scale, self.floor - (depth + 1) as f64 * ROW);
        let what = match frame {
            Frame { kind: Kind::Kernel, .. } => ", kernel",
            Frame { inlined: true, .. } => ", inlined",
            _ => "",
        };
        let _ = write!(
            self.out,
            "<g><title>{} ({} samples, {:.2}%{what})</title>\
             <rect x=\"{x:.3}\" y=\"{y:.1}\" width=\"{width:.3}\" height=\"{:.1}\" fill=\"{}\"/>",
            escaped(&frame.name),
            thousands(node.count),
            percent(node.count, self.all),
            ROW - 1.0,
            colour(frame),
        );
        if let Some(label) = label(&frame.name, width) {
            self.text(x + 3.0, y + 12.0, "f", &label);
        }
        self.out += "</g>\n";
        self.callees(node, before, depth + 1);
    }

    fn legend(&mut self, y: f64) {
        let mut x = MARGIN;
        for (kind, name, ..) in KINDS {
            let colour = shade(kind, 0);
            let _ = writeln!(
                self.out,
                "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>",
                y - 10.0
            );
            self.text(x + 17.0, y, "h", name);
            x += 40.0 + name.len() as f64 * 7.5;
        }
    }
}

/// Draws stacks.
pub fn draw(stacks: &Stacks, heading: &Heading) -> String {
    let tree = stacks.tree();
    let rows = tree.depth().max(1);
    let top = MARGIN + LINE * (heading.lines.len() as f64 + 2.0) + 12.0;
    let floor = top + rows as f64 * ROW;
    let height = floor + LINE + MARGIN;
    let mut drawing = Drawing { out: String::new(), all: tree.count, floor, too_narrow: 0 };
    let _ = writeln!(
        drawing.out,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\">\n\
         <title>{}</title>\n\
         <style>text{{font-family:'DejaVu Sans Mono',Menlo,Consolas,monospace;fill:#111}}\
         .t{{font-size:15px;font-weight:bold}}.h{{font-size:12px}}\
         .f{{font-size:11px;pointer-events:none}}g:hover rect{{stroke:#111}}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>",
        escaped(&heading.title)
    );
    let mut y = MARGIN + 12.0;
    drawing.text(MARGIN, y, "t", &heading.title);
    for line in &heading.lines {
        y += LINE;
        drawing.text(MARGIN, y, "h", line);
    }
    drawing.legend(y + LINE);
    drawing.callees(&tree, 0, 0);
    if tree.count == 0 {
        drawing.text(MARGIN, floor - 4.0, "h", "no samples");
    }
    if drawing.too_narrow > 0 {
        let narrow = thousands(drawing.too_narrow);
        let text = format!("{narrow} frames are too narrow to draw; the folded file has them");
        drawing.text(MARGIN, floor + LINE, "h", &text);
    }
    drawing.out += "</svg>\n";
    drawing.out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(names: &[&str]) -> Vec<Frame> {
        names.iter().map(|name| Frame::new(*name, Kind::of(name))).collect()
    }

    fn drawn(stacks: &Stacks) -> String {
        draw(stacks, &Heading { title: "a & b".to_owned(), lines: vec!["<99 Hz>".to_owned()] })
    }

    /// Title, x, y and width of each frame.
    fn frames(svg: &str) -> Vec<(String, f64, f64, f64)> {
        let document = roxmltree::Document::parse(svg).expect("XML");
        let groups = document.descendants().filter(|node| node.has_tag_name("g"));
        groups
            .map(|group| {
                let child = |tag| group.children().find(|it| it.has_tag_name(tag));
                let title = child("title").and_then(|it| it.text()).expect("a title").to_owned();
                let rect = child("rect").expect("a rectangle");
                let number = |name| rect.attribute(name).expect("there").parse().expect("a number");
                (title, number("x"), number("y"), number("width"))
            })
            .collect()
    }

    #[test]
    fn widths_are_shares_and_add_up() {
        let mut stacks = Stacks::default();
        stacks.add(stack(&["t", "main", "a"]), 60);
        stacks.add(stack(&["t", "main", "b"]), 30);
        stacks.add(stack(&["u", "main"]), 10);
        let frames = frames(&drawn(&stacks));
        assert_eq!(frames.len(), 6);
        let width = |title: &str| {
            let found = frames.iter().find(|(it, ..)| it == title);
            found.unwrap_or_else(|| panic!("{title}: {frames:?}")).3
        };
        let near = |a: f64, b: f64| (a - b).abs() < 0.01;
        assert!(near(width("a (60 samples, 60.00%)"), INNER * 0.6));
        assert!(near(width("t (90 samples, 90.00%)") + width("u (10 samples, 10.00%)"), INNER));
        let inner = width("a (60 samples, 60.00%)") + width("b (30 samples, 30.00%)");
        assert!(near(inner, width("main (90 samples, 90.00%)")));
        // A callee lies on its caller, and within it.
        let (_, x, y, _) = frames[0];
        for (title, left, top, width) in &frames {
            assert!(*left >= MARGIN && left + width <= WIDTH - MARGIN + 0.01, "{title}");
            assert!(*top <= y && *left >= x, "{title}");
        }
    }

    #[test]
    fn any_name_makes_sound_xml() {
        let mut stacks = Stacks::default();
        let name = "<a::B<\"x\"> as C&D>::e'\u{1}\u{ffff}";
        stacks.add(stack(&["<t> & \"u\"", name]), 3);
        let svg = drawn(&stacks);
        let frames = frames(&svg);
        assert_eq!(frames[0].0, "<t> & \"u\" (3 samples, 100.00%)");
        assert!(frames[1].0.starts_with("<a::B<\"x\"> as C&D>::e'\u{fffd}\u{fffd}"), "{frames:?}");
        let document = roxmltree::Document::parse(&svg).expect("XML");
        let texts: Vec<_> = document.descendants().filter_map(|it| it.text()).collect();
        assert!(texts.contains(&"a & b") && texts.contains(&"<99 Hz>"), "{texts:?}");
        assert_eq!(svg, drawn(&stacks), "the same every time");
    }

    #[test]
    fn nothing_and_too_much_are_told() {
        let svg = drawn(&Stacks::default());
        assert!(frames(&svg).is_empty() && svg.contains("no samples"));
        let mut stacks = Stacks::default();
        stacks.add(stack(&["t", "seen"]), 100_000);
        stacks.add(stack(&["t", "unseen"]), 1);
        let svg = drawn(&stacks);
        assert_eq!(frames(&svg).len(), 2);
        assert!(svg.contains("1 frames are too narrow"));
    }

    #[test]
    fn labels_fit() {
        let name = "<lab_server::logic::Logic<T> as shard::Handler>::shake";
        for (name, width, expected) in [
            (name, 1000.0, Some(name)),
            (name, 100.0, Some("Logic::shake")),
            (name, 60.0, Some("Logic::…")),
            (name, 20.0, None),
            ("core::ptr::drop_in_place<alloc::vec::Vec<u8>>", 150.0, Some("ptr::drop_in_place")),
            ("shard::drive::drive::{{closure}}::{{closure}}", 200.0, Some("drive::drive{closure}")),
            ("tcp_sendmsg", 80.0, Some("tcp_sendmsg")),
            ("über", 0.0, None),
        ] {
            assert_eq!(label(name, width).as_deref(), expected, "{name} in {width}");
        }
    }
}
