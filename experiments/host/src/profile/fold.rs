//! Stacks of names with counts: the tree of a flame graph, and the lines that other tools read.
//!
//! Must not know where names come from.

use std::collections::BTreeMap;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A program or a thread.
    Thread,
    /// A function of the program.
    Program,
    /// A function of what drives a shard.
    Runtime,
    /// A function of a library: Rust's own, libc, any other.
    Library,
    /// A function of the kernel.
    Kernel,
    /// A place without a name, or a stack that was lost.
    Unknown,
}

/// Crates that drive a shard: executor, sockets, readiness, timers, clocks.
const RUNTIME: [&str; 6] = ["shard", "platform", "glommio", "io_uring", "uring_sys", "scoped_tls"];
/// Rust's own crates, and those below all others, which are linked into the program's file.
const LIBRARIES: [&str; 8] =
    ["std", "core", "alloc", "compiler_builtins", "hashbrown", "rustix", "nix", "libc"];

impl Kind {
    /// What a function of the program's own file is, by its name.
    pub fn of(name: &str) -> Self {
        // `<shard::slots::Slots<T> as core::ops::Drop>::drop` belongs to the shard.
        let path = name.trim_start_matches(['<', '&', '*', '(']);
        let path = ["mut ", "dyn ", "const "]
            .iter()
            .fold(path, |path, word| path.strip_prefix(word).unwrap_or(path));
        let Some((first, _)) = path.split_once("::") else {
            // `main`, C code linked into it, and what the compiler adds.
            return if path.starts_with("__rust") { Self::Library } else { Self::Program };
        };
        if RUNTIME.contains(&first) {
            Self::Runtime
        } else if LIBRARIES.contains(&first) {
            Self::Library
        } else {
            Self::Program
        }
    }
}

/// A frame of a stack.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frame {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Whether it has no code of its own: its caller's contains it.
    pub inlined: bool,
}

impl Frame {
    /// A frame with code of its own.
    pub fn new(name: impl Into<String>, kind: Kind) -> Self {
        Self { name: name.into(), kind, inlined: false }
    }
}

/// Stacks, outermost frame first, and how often each was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stacks(BTreeMap<Vec<Frame>, u64>);

/// A frame with everything that it called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    /// Samples in it and in what it called.
    pub count: u64,
    /// What it called, by name.
    pub callees: BTreeMap<Frame, Node>,
}

impl Stacks {
    /// Adds samples of a stack.
    pub fn add(&mut self, stack: Vec<Frame>, count: u64) {
        *self.0.entry(stack).or_default() += count;
    }

    /// All samples.
    pub fn samples(&self) -> u64 {
        self.0.values().sum()
    }

    /// A line per stack, its frames parted by `;`, and its count: what flamegraph.pl, inferno and
    /// speedscope read. Kernel frames end in `_[k]` and inlined ones in `_[i]`, as those of
    /// stackcollapse-perf do.
    pub fn folded(&self) -> String {
        let mut text = String::new();
        for (stack, count) in &self.0 {
            for (place, frame) in stack.iter().enumerate() {
                if place > 0 {
                    text.push(';');
                }
                // `[u8; 4]` must not look like two frames, nor a name like two lines.
                text.extend(frame.name.chars().map(|it| match it {
                    ';' => ':',
                    it if it.is_control() => ' ',
                    it => it,
                }));
                text += match frame {
                    Frame { kind: Kind::Kernel, .. } => "_[k]",
                    Frame { inlined: true, .. } => "_[i]",
                    _ => "",
                };
            }
            text += &format!(" {count}\n");
        }
        text
    }

    /// The stacks as a tree.
    pub(crate) fn tree(&self) -> Node {
        let mut root = Node::default();
        for (stack, count) in &self.0 {
            root.count += count;
            let mut node = &mut root;
            for frame in stack {
                node = node.callees.entry(frame.clone()).or_default();
                node.count += count;
            }
        }
        root
    }
}

impl Node {
    /// How many frames lie above each other at most.
    pub(crate) fn depth(&self) -> usize {
        self.callees.values().map(|node| 1 + node.depth()).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(names: &[&str]) -> Vec<Frame> {
        names.iter().map(|name| Frame::new(*name, Kind::of(name))).collect()
    }

    #[test]
    fn equal_stacks_are_one_line_and_one_branch() {
        let mut stacks = Stacks::default();
        stacks.add(stack(&["t", "main", "a::b"]), 2);
        stacks.add(stack(&["t", "main", "a::b"]), 3);
        stacks.add(stack(&["t", "main"]), 1);
        stacks.add(stack(&["t", "main", "a::c"]), 4);
        assert_eq!(stacks.samples(), 10);
        assert_eq!(stacks.folded(), "t;main 1\nt;main;a::b 5\nt;main;a::c 4\n");
        let tree = stacks.tree();
        assert_eq!((tree.count, tree.depth()), (10, 3));
        let main = &tree.callees.values().next().expect("t").callees;
        let main = main.get(&Frame::new("main", Kind::Program)).expect("main");
        assert_eq!((main.count, main.callees.len()), (10, 2));
    }

    #[test]
    fn names_do_not_break_lines() {
        let mut stacks = Stacks::default();
        let inlined = Frame { inlined: true, ..Frame::new("b", Kind::Program) };
        let kernel = Frame::new("tcp_sendmsg", Kind::Kernel);
        stacks.add(vec![Frame::new("a::<[u8; 4]>\n", Kind::Program), inlined, kernel], 1);
        assert_eq!(stacks.folded(), "a::<[u8: 4]> ;b_[i];tcp_sendmsg_[k] 1\n");
        assert_eq!(Stacks::default().folded(), "");
    }

    #[test]
    fn kinds_are_told_by_the_crate() {
        for (name, kind) in [
            ("main", Kind::Program),
            ("__rust_try", Kind::Library),
            ("lab_server::logic::Logic::shake", Kind::Program),
            ("shard::drive::drive", Kind::Runtime),
            ("<shard::slots::Slots<T> as core::ops::drop::Drop>::drop", Kind::Runtime),
            ("<&mut glommio::Task<T> as core::future::Future>::poll", Kind::Runtime),
            ("core::ptr::drop_in_place<shard::Slots>", Kind::Library),
            ("rustix::event::epoll::wait", Kind::Library),
            ("sharded::a", Kind::Program),
        ] {
            assert_eq!(Kind::of(name), kind, "{name}");
        }
    }
}
