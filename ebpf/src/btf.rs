//! A small reader of BTF, the kernel's description of its own types.
//!
//! Owns: field offsets, enumerators and the arguments of tracepoints by name. The loader of aya
//! reads BTF too, but keeps it to itself, and the one crate for it is LGPL.

use std::{collections::BTreeMap, fs, io, path::Path};

/// Where the kernel puts its BTF.
pub(crate) const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;

const KIND_PTR: u32 = 2;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_TYPE_TAG: u32 = 18;
const KIND_ENUM64: u32 = 19;

/// Anonymous structs and unions lie at most this deep; `sock_common` has three.
const MAX_DEPTH: u32 = 8;

/// Why a type or field was not found.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}; a kernel with CONFIG_DEBUG_INFO_BTF has it")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The file is something else.
    #[error("{0} is not BTF")]
    NotBtf(String),
    /// No such type.
    #[error("the kernel has no struct {0}")]
    NoType(String),
    /// No such field.
    #[error("the kernel has no field {0}.{1}")]
    NoField(String, String),
}

/// A field of a struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    /// Where it begins, in bits from the beginning of the struct.
    pub(crate) bit_offset: u32,
    /// Its width in bits if it is a bit field, else 0.
    pub(crate) bits: u32,
    /// Its type.
    type_id: u32,
}

impl Field {
    /// Where it begins, in bytes; for a bit field, the byte that its first bit lies in.
    pub(crate) const fn byte(self) -> u32 {
        self.bit_offset / 8
    }
}

/// The types of a kernel.
pub(crate) struct Btf {
    data: Vec<u8>,
    /// Where each type begins, by number; number 0 is `void`.
    types: Vec<usize>,
    strings: usize,
}

impl Btf {
    /// Reads the running kernel's types.
    ///
    /// # Errors
    /// When the kernel has no BTF, or the file is damaged.
    pub(crate) fn of_kernel() -> Result<Self, BtfError> {
        Self::read(Path::new(VMLINUX))
    }

    /// Reads the types in a file.
    ///
    /// # Errors
    /// When it cannot be read or is not BTF.
    pub(crate) fn read(path: &Path) -> Result<Self, BtfError> {
        let name = path.display().to_string();
        let data =
            fs::read(path).map_err(|source| BtfError::Unreadable { path: name.clone(), source })?;
        Self::parse(data).ok_or(BtfError::NotBtf(name))
    }

    fn parse(data: Vec<u8>) -> Option<Self> {
        let magic = u16::from_ne_bytes(data.get(..2)?.try_into().ok()?);
        if magic != MAGIC {
            return None;
        }
        let word = |at: usize| -> Option<usize> {
            let bytes = data.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_ne_bytes(bytes) as usize)
        };
        let header = word(4)?;
        let mut at = header + word(8)?;
        let end = at + word(12)?;
        let strings = header + word(16)?;
        if end > data.len() || strings > data.len() {
            return None;
        }
        // `void` has no record.
        let mut types = vec![usize::MAX];
        while at < end {
            types.push(at);
            let info = word(at + 4)? as u32;
            at += 12 + extra_bytes(info);
        }
        Some(Self { data, types, strings })
    }

    fn word(&self, at: usize) -> u32 {
        self.data
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u32::from_ne_bytes)
    }

    fn string(&self, offset: u32) -> &str {
        let bytes = self.data.get(self.strings + offset as usize..).unwrap_or_default();
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(0);
        std::str::from_utf8(&bytes[..end]).unwrap_or("")
    }

    /// (where it begins, kind, number of members, whether members hold bit fields)
    fn type_at(&self, id: u32) -> Option<(usize, u32, u32, bool)> {
        let at = *self.types.get(id as usize).filter(|at| **at != usize::MAX)?;
        let info = self.word(at + 4);
        Some((at, kind(info), info & 0xffff, info >> 31 != 0))
    }

    fn find(&self, name: &str, kinds: &[u32]) -> Option<u32> {
        (1..self.types.len() as u32).find(|id| {
            self.type_at(*id).is_some_and(|(at, kind, members, _)| {
                // A struct without members is only a declaration.
                kinds.contains(&kind)
                    && (members > 0 || kind == KIND_TYPEDEF)
                    && self.string(self.word(at)) == name
            })
        })
    }

    /// Follows names and qualifiers to the type itself.
    fn resolve(&self, mut id: u32) -> u32 {
        while let Some((at, kind, ..)) = self.type_at(id) {
            match kind {
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG => {
                    id = self.word(at + 8);
                }
                _ => break,
            }
        }
        id
    }

    /// A field by its path (`"msg_iter.count"`); anonymous structs and unions are looked through.
    ///
    /// # Errors
    /// When the kernel has no such struct or field.
    pub(crate) fn field(&self, name: &str, path: &str) -> Result<Field, BtfError> {
        let mut id = self
            .find(name, &[KIND_STRUCT, KIND_UNION])
            .ok_or_else(|| BtfError::NoType(name.to_owned()))?;
        let mut found = Field { bit_offset: 0, bits: 0, type_id: id };
        for part in path.split('.') {
            let member = self
                .member(self.resolve(id), part, 0)
                .ok_or_else(|| BtfError::NoField(name.to_owned(), path.to_owned()))?;
            found = Field { bit_offset: found.bit_offset + member.bit_offset, ..member };
            id = member.type_id;
        }
        Ok(found)
    }

    fn member(&self, id: u32, name: &str, depth: u32) -> Option<Field> {
        let (at, kind, members, has_bit_fields) = self.type_at(id)?;
        if !matches!(kind, KIND_STRUCT | KIND_UNION) || depth > MAX_DEPTH {
            return None;
        }
        (0..members as usize).find_map(|number| {
            let member = at + 12 + 12 * number;
            let type_id = self.word(member + 4);
            let raw = self.word(member + 8);
            let (bit_offset, bits) =
                if has_bit_fields { (raw & 0x00ff_ffff, raw >> 24) } else { (raw, 0) };
            match self.string(self.word(member)) {
                "" => self
                    .member(self.resolve(type_id), name, depth + 1)
                    .map(|inner| Field { bit_offset: bit_offset + inner.bit_offset, ..inner }),
                own if own == name => Some(Field { bit_offset, bits, type_id }),
                _ => None,
            }
        })
    }

    /// The enumerators of an enum, by value.
    pub(crate) fn enumerators(&self, name: &str) -> Option<BTreeMap<u32, String>> {
        let id = self.find(name, &[KIND_ENUM, KIND_ENUM64])?;
        let (at, kind, members, _) = self.type_at(id)?;
        let width = if kind == KIND_ENUM { 8 } else { 12 };
        Some(
            (0..members as usize)
                .map(|number| {
                    let member = at + 12 + width * number;
                    (self.word(member + 4), self.string(self.word(member)).to_owned())
                })
                .collect(),
        )
    }

    /// How many arguments a tracepoint has; `None` if the kernel has no such tracepoint.
    pub(crate) fn tracepoint_arguments(&self, tracepoint: &str) -> Option<u32> {
        let id = self.find(&format!("btf_trace_{tracepoint}"), &[KIND_TYPEDEF])?;
        let (at, kind, ..) = self.type_at(self.resolve(id))?;
        if kind != KIND_PTR {
            return None;
        }
        let (_, kind, members, _) = self.type_at(self.resolve(self.word(at + 8)))?;
        // The first one is the tracer's own.
        (kind == KIND_FUNC_PROTO).then(|| members.saturating_sub(1))
    }
}

const fn kind(info: u32) -> u32 {
    info >> 24 & 0x1f
}

/// Bytes of a type's record after its first twelve.
const fn extra_bytes(info: u32) -> usize {
    let members = (info & 0xffff) as usize;
    match kind(info) {
        1 | 14 | 17 => 4,
        3 => 12,
        KIND_STRUCT | KIND_UNION | 15 | KIND_ENUM64 => 12 * members,
        KIND_ENUM | KIND_FUNC_PROTO => 8 * members,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_files_are_refused() {
        for data in [&b""[..], b"\x9f\xeb", b"\x9f\xeb\x01\x00\xff\xff\xff\x7f", b"ELF and more"] {
            assert!(Btf::parse(data.to_vec()).is_none(), "{data:?}");
        }
    }

    #[test]
    fn fields_of_this_kernel_are_where_they_must_be() {
        let btf = Btf::of_kernel();
        if !needs::can("btf", btf.is_ok()) {
            return;
        }
        let Ok(btf) = btf else { unreachable!("the kernel has it") };
        // The first fields of a socket have not moved for twenty years.
        assert_eq!(btf.field("sock_common", "skc_daddr").map(Field::byte).ok(), Some(0));
        assert_eq!(btf.field("sock_common", "skc_rcv_saddr").map(Field::byte).ok(), Some(4));
        assert_eq!(btf.field("sock_common", "skc_dport").map(Field::byte).ok(), Some(12));
        assert_eq!(btf.field("sock_common", "skc_num").map(Field::byte).ok(), Some(14));
        let state = btf.field("inet_connection_sock", "icsk_ca_state").expect("a bit field");
        assert_eq!(state.bits, 5);
        assert!(btf.field("msghdr", "msg_iter.count").is_ok());
        assert!(matches!(btf.field("sock", "no_such"), Err(BtfError::NoField(..))));
        assert!(matches!(btf.field("no_such", "x"), Err(BtfError::NoType(_))));
        assert_eq!(btf.tracepoint_arguments("sched_wakeup"), Some(1));
        assert_eq!(btf.tracepoint_arguments("no_such"), None);
    }
}
