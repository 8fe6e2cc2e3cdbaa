//! The opcodes: cuts a pickle into instructions and checks all that can be checked without a stack.

use super::policy::{Limits, Pickler, Policy};
use super::violation::{Reason, Violation, escape};

/// One instruction. Only those that some policy can allow have a form here.
#[derive(Debug, Clone, Copy)]
pub(super) enum Op<'a> {
    Stop,
    Mark,
    Pop,
    PopMark,
    Dup,
    None,
    Bool(bool),
    Int(i64),
    Long(&'a [u8]),
    Float(f64),
    Text(&'a str),
    Bytes(&'a [u8]),
    EmptyList,
    Append,
    Appends,
    EmptyDict,
    SetItem,
    SetItems,
    EmptySet,
    AddItems,
    FrozenSet,
    TupleOfMark,
    TupleOf(u8),
    Put(u32),
    Get(u32),
    Memoize,
    StackGlobal,
    NewObject,
    Reduce,
    Build,
    PersistentId,
    Proto(u8),
    Frame(u64),
}

/// An instruction and where it stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step<'a> {
    pub op: Op<'a>,
    pub code: u8,
    /// Where it begins.
    pub start: usize,
    /// Where the next one begins.
    pub end: usize,
}

impl Step<'_> {
    pub(super) fn violation(&self, reason: Reason) -> Violation {
        Violation { opcode: name(self.code), offset: self.start as u64, name: None, reason }
    }
}

/// Walks over a pickle.
pub(super) struct Opcodes<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where the current frame ends; 0 outside of frames.
    frame_end: usize,
    pub protocol: u8,
    pub count: u64,
    pickler: Pickler,
    limits: Limits,
}

impl<'a> Opcodes<'a> {
    pub(super) fn new(bytes: &'a [u8], policy: &Policy) -> Self {
        Self { bytes, at: 0, frame_end: 0, protocol: 1, count: 0, pickler: policy.pickler, limits: policy.limits }
    }

    /// The next instruction that concerns the stack or the memo. After `Stop` there is none.
    pub(super) fn next(&mut self) -> Result<Step<'a>, Violation> {
        loop {
            let start = self.at;
            let Some(&code) = self.bytes.get(start) else {
                return Err(Violation { opcode: "end", offset: start as u64, name: None, reason: Reason::NoStop });
            };
            let refuse = |reason| Violation { opcode: name(code), offset: start as u64, name: None, reason };
            self.count += 1;
            if self.count > self.limits.opcodes {
                return Err(refuse(Reason::Limit { what: "opcodes", max: self.limits.opcodes }));
            }
            self.at += 1;
            let op = self.decode(code).map_err(|reason| Violation { name: self.asked_for(code), ..refuse(reason) })?;
            if start < self.frame_end && self.at > self.frame_end {
                return Err(refuse(Reason::Frame));
            }
            if self.mark_out(op, start).map_err(refuse)? {
                return Ok(Step { op, code, start, end: self.at });
            }
        }
    }

    /// Handles what says how the pickle is laid out; whether the instruction concerns the stack or the memo.
    fn mark_out(&mut self, op: Op<'_>, start: usize) -> Result<bool, Reason> {
        if let Op::Proto(protocol) = op {
            if start != 0 {
                return Err(Reason::Protocol(protocol));
            }
            self.protocol = protocol;
            return Ok(false);
        }
        if let Op::Frame(len) = op {
            if start < self.frame_end {
                return Err(Reason::Frame);
            }
            self.begin_frame(len)?;
            return Ok(false);
        }
        if let Op::Stop = op {
            // It may declare none.
            self.check_protocol(self.protocol)?;
            self.check_end()?;
        }
        Ok(true)
    }

    fn begin_frame(&mut self, len: u64) -> Result<(), Reason> {
        let left = self.bytes.len() - self.at;
        let len = usize::try_from(len).ok().filter(|len| (1..=left).contains(len)).ok_or(Reason::Frame)?;
        self.frame_end = self.at + len;
        Ok(())
    }

    fn check_end(&self) -> Result<(), Reason> {
        let count = (self.bytes.len() - self.at) as u64;
        if count > 0 {
            return Err(Reason::TrailingBytes { count });
        }
        if self.frame_end > self.at { Err(Reason::Frame) } else { Ok(()) }
    }

    fn decode(&mut self, code: u8) -> Result<Op<'a>, Reason> {
        if self.pickler == Pickler::CPython4 && matches!(code, b'0' | b'1' | b'2' | b'q' | b'r') {
            return Err(Reason::ForbiddenOpcode);
        }
        let needed = protocol_of(code);
        if needed > self.protocol && code != PROTO {
            return Err(Reason::NewerOpcode(needed));
        }
        Ok(match code {
            b'.' => Op::Stop,
            b'(' => Op::Mark,
            b'0' => Op::Pop,
            b'1' => Op::PopMark,
            b'2' => Op::Dup,
            b'N' => Op::None,
            0x88 => Op::Bool(true),
            0x89 => Op::Bool(false),
            b'K' => Op::Int(i64::from(self.array::<1>()?[0])),
            b'M' => Op::Int(i64::from(u16::from_le_bytes(self.array()?))),
            b'J' => Op::Int(i64::from(i32::from_le_bytes(self.array()?))),
            0x8a => Op::Long(self.long1()?),
            0x8b => Op::Long(self.long4()?),
            b'G' => Op::Float(f64::from_be_bytes(self.array()?)),
            0x8c => Op::Text(self.text::<1>()?),
            b'X' => Op::Text(self.text::<4>()?),
            0x8d => Op::Text(self.text::<8>()?),
            b'C' => Op::Bytes(self.string::<1>()?),
            b'B' => Op::Bytes(self.string::<4>()?),
            0x8e => Op::Bytes(self.string::<8>()?),
            b']' => Op::EmptyList,
            b'a' => Op::Append,
            b'e' => Op::Appends,
            b'}' => Op::EmptyDict,
            b's' => Op::SetItem,
            b'u' => Op::SetItems,
            0x8f => Op::EmptySet,
            0x90 => Op::AddItems,
            0x91 => Op::FrozenSet,
            b't' => Op::TupleOfMark,
            b')' => Op::TupleOf(0),
            0x85..=0x87 => Op::TupleOf(code - 0x84),
            b'q' => Op::Put(u32::from(self.array::<1>()?[0])),
            b'r' => Op::Put(u32::from_le_bytes(self.array()?)),
            b'h' => Op::Get(u32::from(self.array::<1>()?[0])),
            b'j' => Op::Get(u32::from_le_bytes(self.array()?)),
            0x94 => Op::Memoize,
            0x93 => Op::StackGlobal,
            0x81 => Op::NewObject,
            b'R' => Op::Reduce,
            b'b' => Op::Build,
            b'Q' => Op::PersistentId,
            PROTO => Op::Proto(self.protocol()?),
            0x95 => Op::Frame(u64::from_le_bytes(self.array()?)),
            _ if name(code) == UNKNOWN => return Err(Reason::UnknownOpcode),
            _ => return Err(Reason::ForbiddenOpcode),
        })
    }

    fn protocol(&mut self) -> Result<u8, Reason> {
        let [protocol] = self.array()?;
        if !(2..=5).contains(&protocol) {
            return Err(Reason::Protocol(protocol));
        }
        self.check_protocol(protocol)?;
        Ok(protocol)
    }

    fn check_protocol(&self, protocol: u8) -> Result<(), Reason> {
        match self.pickler {
            Pickler::CPython4 if protocol != 4 => Err(Reason::Protocol(protocol)),
            Pickler::CPython4 | Pickler::Any => Ok(()),
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Reason> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..len).ok_or(Reason::Truncated)?;
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Reason> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn long1(&mut self) -> Result<&'a [u8], Reason> {
        let [len] = self.array()?;
        self.take(usize::from(len))
    }

    fn long4(&mut self) -> Result<&'a [u8], Reason> {
        let len = usize::try_from(i32::from_le_bytes(self.array()?)).map_err(|_| Reason::BadLength)?;
        let max = self.limits.integer_bytes;
        if len > max {
            return Err(Reason::Limit { what: "bytes in an integer", max: max as u64 });
        }
        self.take(len)
    }

    /// A length of `N` bytes, and so many bytes.
    fn string<const N: usize>(&mut self) -> Result<&'a [u8], Reason> {
        let mut len = [0; 8];
        len[..N].copy_from_slice(&self.array::<N>()?);
        let len = u64::from_le_bytes(len);
        let max = self.limits.string_bytes;
        let len = usize::try_from(len).ok().filter(|len| *len <= max);
        self.take(len.ok_or(Reason::Limit { what: "bytes in a text or bytes value", max: max as u64 })?)
    }

    fn text<const N: usize>(&mut self) -> Result<&'a str, Reason> {
        std::str::from_utf8(self.string::<N>()?).map_err(|_| Reason::BadUtf8)
    }

    /// What a refused opcode with a name in its argument asked for: for the audit, not for deciding.
    fn asked_for(&self, code: u8) -> Option<String> {
        let lines = match code {
            b'c' | b'i' => 2,
            b'P' => 1,
            _ => return None,
        };
        let parts: Vec<&[u8]> = self.bytes[self.at..].splitn(lines + 1, |byte| *byte == b'\n').take(lines).collect();
        Some(escape(&parts))
    }
}

const PROTO: u8 = 0x80;
const UNKNOWN: &str = "unknown opcode";

/// The protocol that introduced an opcode.
fn protocol_of(code: u8) -> u8 {
    match code {
        0x80..=0x8b => 2,
        b'B' | b'C' => 3,
        0x8c..=0x95 => 4,
        0x96..=0x98 => 5,
        _ => 1,
    }
}

/// The name of an opcode.
fn name(code: u8) -> &'static str {
    NAMES.iter().find(|(known, _)| *known == code).map_or(UNKNOWN, |(_, name)| name)
}

/// All opcodes of protocols 0 to 5, as `pickletools` calls them.
const NAMES: [(u8, &str); 68] = [
    (b'I', "INT"),
    (b'J', "BININT"),
    (b'K', "BININT1"),
    (b'M', "BININT2"),
    (b'L', "LONG"),
    (0x8a, "LONG1"),
    (0x8b, "LONG4"),
    (b'S', "STRING"),
    (b'T', "BINSTRING"),
    (b'U', "SHORT_BINSTRING"),
    (b'B', "BINBYTES"),
    (b'C', "SHORT_BINBYTES"),
    (0x8e, "BINBYTES8"),
    (0x96, "BYTEARRAY8"),
    (0x97, "NEXT_BUFFER"),
    (0x98, "READONLY_BUFFER"),
    (b'N', "NONE"),
    (0x88, "NEWTRUE"),
    (0x89, "NEWFALSE"),
    (b'V', "UNICODE"),
    (0x8c, "SHORT_BINUNICODE"),
    (b'X', "BINUNICODE"),
    (0x8d, "BINUNICODE8"),
    (b'F', "FLOAT"),
    (b'G', "BINFLOAT"),
    (b']', "EMPTY_LIST"),
    (b'a', "APPEND"),
    (b'e', "APPENDS"),
    (b'l', "LIST"),
    (b')', "EMPTY_TUPLE"),
    (b't', "TUPLE"),
    (0x85, "TUPLE1"),
    (0x86, "TUPLE2"),
    (0x87, "TUPLE3"),
    (b'}', "EMPTY_DICT"),
    (b'd', "DICT"),
    (b's', "SETITEM"),
    (b'u', "SETITEMS"),
    (0x8f, "EMPTY_SET"),
    (0x90, "ADDITEMS"),
    (0x91, "FROZENSET"),
    (b'0', "POP"),
    (b'2', "DUP"),
    (b'(', "MARK"),
    (b'1', "POP_MARK"),
    (b'g', "GET"),
    (b'h', "BINGET"),
    (b'j', "LONG_BINGET"),
    (b'p', "PUT"),
    (b'q', "BINPUT"),
    (b'r', "LONG_BINPUT"),
    (0x94, "MEMOIZE"),
    (0x82, "EXT1"),
    (0x83, "EXT2"),
    (0x84, "EXT4"),
    (b'c', "GLOBAL"),
    (0x93, "STACK_GLOBAL"),
    (b'R', "REDUCE"),
    (b'b', "BUILD"),
    (b'i', "INST"),
    (b'o', "OBJ"),
    (0x81, "NEWOBJ"),
    (0x92, "NEWOBJ_EX"),
    (PROTO, "PROTO"),
    (b'.', "STOP"),
    (0x95, "FRAME"),
    (b'P', "PERSID"),
    (b'Q', "BINPERSID"),
];
