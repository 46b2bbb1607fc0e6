//! Names of addresses: the kernel's from `/proc/kallsyms`, a program's from the symbols and line
//! tables of the files that were mapped there.
//!
//! Files are opened while the process runs, and names are looked up when there is time: the
//! process may have ended by then, or its file may have been replaced.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{Input, Symbolized, Symbolizer};
use ebpf::Symbols as KernelSymbols;

use super::fold::{Frame, Kind};
use super::made::MadeCode;

/// Device and inode of a file.
type FileId = (u64, u64);

/// A range of addresses with code in it.
#[derive(Clone, Debug)]
struct Mapping {
    start: u64,
    end: u64,
    /// Where it begins in its file.
    offset: u64,
    /// The file's name, or what the kernel calls it.
    name: String,
    file: Option<(FileId, Arc<File>)>,
}

/// Where the code of a process lies.
#[derive(Clone, Debug, Default)]
pub struct CodeMap {
    mappings: Vec<Mapping>,
    /// The file of the program itself.
    program: Option<FileId>,
    /// Code that the program made itself, and says the names of.
    made: MadeCode,
}

/// A line of `/proc/PID/maps` that is about code.
fn parse(line: &str) -> Option<(Mapping, &str, &str)> {
    let mut fields = line.splitn(6, ' ');
    let range = fields.next()?;
    let permissions = fields.next()?;
    let offset = u64::from_str_radix(fields.next()?, 16).ok()?;
    let path = fields.nth(2).unwrap_or_default().trim_start();
    let (start, end) = range.split_once('-')?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    let name = match path.rsplit_once('/') {
        Some((_, name)) => name,
        None if path.is_empty() => "anonymous",
        None => path.trim_matches(['[', ']']),
    };
    let mapping =
        Mapping { start: hex(start)?, end: hex(end)?, offset, name: name.to_owned(), file: None };
    permissions.contains('x').then_some((mapping, range, path))
}

impl CodeMap {
    /// Looks where the code of a process lies now; what was known before stays known, since stacks
    /// of that time are still to be named.
    ///
    /// # Errors
    /// When the process has ended, or may not be looked at.
    pub fn look(&mut self, pid: u32) -> io::Result<()> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
        for (mut mapping, range, path) in text.lines().filter_map(parse) {
            let known = |it: &Mapping| {
                (it.start, it.end, it.offset) == (mapping.start, mapping.end, mapping.offset)
                    && it.name == mapping.name
            };
            if self.mappings.iter().any(known) {
                continue;
            }
            // By its mapping also when it was deleted or lies in a container.
            let ways =
                [format!("/proc/{pid}/map_files/{range}"), format!("/proc/{pid}/root{path}")];
            if path.starts_with('/') {
                mapping.file = ways.iter().find_map(|way| self.open(way));
            }
            self.mappings.push(mapping);
        }
        let program = std::fs::metadata(format!("/proc/{pid}/exe"));
        self.program = program.ok().map(|it| (it.dev(), it.ino())).or(self.program);
        self.made.look(pid);
        Ok(())
    }

    /// Whether there is code at an address.
    pub(crate) fn has(&self, address: u64) -> bool {
        self.at(address).is_some() || self.made.name(address).is_some()
    }

    fn open(&self, path: &str) -> Option<(FileId, Arc<File>)> {
        let about = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
        let id = (about.dev(), about.ino());
        let known = self.mappings.iter().filter_map(|it| it.file.as_ref());
        if let Some(known) = known.clone().find(|(known, _)| *known == id) {
            return Some(known.clone());
        }
        Some((id, Arc::new(File::open(path).ok()?)))
    }

    /// The mapping of an address: of several that were there one after the other, the last.
    fn at(&self, address: u64) -> Option<&Mapping> {
        self.mappings.iter().rev().find(|it| (it.start..it.end).contains(&address))
    }
}

/// Finds names, and remembers them.
pub struct Symboliser {
    kernel: KernelSymbols,
    files: Symbolizer,
    /// Frames at a place of a file, outermost first.
    known: HashMap<(FileId, u64), Rc<[Frame]>>,
    /// Files whose names were looked up: open, so that no other file gets their number.
    open: HashMap<FileId, Arc<File>>,
}

impl Default for Symboliser {
    fn default() -> Self {
        let files = Symbolizer::builder().enable_auto_reload(false).build();
        Self {
            kernel: KernelSymbols::default(),
            files,
            known: HashMap::new(),
            open: HashMap::new(),
        }
    }
}

impl Symboliser {
    /// Whether kernel functions have no names here, since the kernel hides its addresses.
    pub(crate) fn kernel_is_hidden(&self) -> bool {
        self.kernel.are_hidden()
    }

    /// The function of the kernel at an address.
    pub fn kernel(&self, address: u64) -> Frame {
        match self.kernel.find(address) {
            Some(name) => Frame::new(name, Kind::Kernel),
            None => Frame::new(format!("[kernel+{address:#x}]"), Kind::Kernel),
        }
    }

    /// The functions at an address of a program, outermost first: more than one where others were
    /// inlined there.
    pub fn user(&mut self, map: &CodeMap, address: u64) -> Rc<[Frame]> {
        let unknown = |module: &str, offset: u64| -> Rc<[Frame]> {
            Rc::new([Frame::new(format!("[{module}+{offset:#x}]"), Kind::Unknown)])
        };
        let Some(mapping) = map.at(address) else {
            return made(map, address).unwrap_or_else(|| unknown("unmapped", address));
        };
        let offset = address - mapping.start + mapping.offset;
        let nameless = || made(map, address).unwrap_or_else(|| unknown(&mapping.name, offset));
        let Some((id, file)) = &mapping.file else { return nameless() };
        if let Some(known) = self.known.get(&(*id, offset)) {
            return Rc::clone(known);
        }
        let file = self.open.entry(*id).or_insert_with(|| Arc::clone(file));
        let is_program = map.program == Some(*id);
        // Made code may lie in a file that is only memory.
        let Some(frames) = functions(&self.files, file, offset, is_program) else {
            return nameless();
        };
        self.known.insert((*id, offset), Rc::clone(&frames));
        frames
    }
}

/// The function at an address of code that the program made itself.
fn made(map: &CodeMap, address: u64) -> Option<Rc<[Frame]>> {
    Some(Rc::new([Frame::new(map.made.name(address)?, Kind::Program)]))
}

/// The functions at a place of a file.
fn functions(files: &Symbolizer, file: &File, offset: u64, program: bool) -> Option<Rc<[Frame]>> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let find = |debug_syms| {
        let elf = Elf { debug_syms, ..Elf::new(&path) };
        match files.symbolize_single(&Source::Elf(elf), Input::FileOffset(offset)) {
            Ok(Symbolized::Sym(symbol)) => Some(symbol),
            Ok(Symbolized::Unknown(_)) | Err(_) => None,
        }
    };
    // Line tables that cannot be read must not cost the name in the symbol table.
    let symbol = find(true).or_else(|| find(false))?;
    let kind = |name: &str| if program { Kind::of(name) } else { Kind::Library };
    let outer = Frame::new(symbol.name.as_ref(), kind(&symbol.name));
    let inlined = symbol
        .inlined
        .iter()
        .map(|it| Frame { inlined: true, ..Frame::new(it.name.as_ref(), kind(&it.name)) });
    Some(std::iter::once(outer).chain(inlined).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(never)]
    fn a_place_in_this_program() -> u64 {
        std::hint::black_box(a_place_in_this_program as fn() -> u64 as usize as u64)
    }

    #[test]
    fn lines_of_maps_are_read() {
        let line = "7f00-7f80 r-xp 00001000 08:01 42                 /usr/lib/a b.so (deleted)";
        let (mapping, range, path) = parse(line).expect("code");
        assert_eq!((mapping.start, mapping.end, mapping.offset), (0x7f00, 0x7f80, 0x1000));
        assert_eq!(
            (mapping.name.as_str(), range, path),
            ("a b.so", "7f00-7f80", "/usr/lib/a b.so")
        );
        for (line, name) in [
            ("7f00-7f80 r-xp 00000000 00:00 0                  [vdso]", "vdso"),
            ("7f00-7f80 rwxp 00000000 00:00 0 ", "anonymous"),
        ] {
            assert_eq!(parse(line).expect("code").0.name, name);
        }
        assert!(parse("7f00-7f80 rw-p 00000000 00:00 0").is_none());
        assert!(parse("nonsense").is_none());
    }

    #[test]
    fn functions_of_this_program_have_names() {
        let mut map = CodeMap::default();
        map.look(std::process::id()).expect("readable");
        let mut symbols = Symboliser::default();
        let frames = symbols.user(&map, a_place_in_this_program() + 1);
        assert!(frames[0].name.ends_with("::a_place_in_this_program"), "{frames:?}");
        let again = symbols.user(&map, a_place_in_this_program() + 1);
        assert!(Rc::ptr_eq(&frames, &again));
        assert_eq!(symbols.user(&map, 0x10)[0].name, "[unmapped+0x10]");
        assert!(map.look(u32::MAX).is_err());
    }

    #[test]
    fn what_has_no_name_has_a_place() {
        let mut map = CodeMap::default();
        let mapping = |start, name: &str| Mapping {
            start,
            end: start + 0x1000,
            offset: 0x40,
            name: name.to_owned(),
            file: None,
        };
        map.mappings = vec![mapping(0x1000, "old"), mapping(0x1000, "new"), mapping(0x4000, "c")];
        let mut symbols = Symboliser::default();
        assert_eq!(symbols.user(&map, 0x1010)[0].name, "[new+0x50]");
        assert_eq!(symbols.user(&map, 0x4001)[0].kind, Kind::Unknown);
        assert_eq!(symbols.kernel(3).name, "[kernel+0x3]");
    }
}
