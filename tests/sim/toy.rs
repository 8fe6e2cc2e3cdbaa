//! A machine whose state is the list of what happened: nothing can be lost, doubled or swapped without showing.

use hotset::session::Timestamp;
use hotset::storage::{BadContent, Machine, Record, RecordBody, Sections, Summary};
use std::io;
use std::sync::Arc;

/// Entries in one section.
const PER_SECTION: usize = 3;

/// The list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Toy {
    pub(crate) entries: imbl::Vector<(u64, Arc<[u8]>)>,
}

impl Toy {
    /// The texts of all entries, restores included.
    pub(crate) fn texts(&self) -> Vec<String> {
        self.entries.iter().map(|(_, text)| String::from_utf8_lossy(text).into_owned()).collect()
    }

    /// Adds the next entry and returns its record.
    pub(crate) fn push(&mut self, text: &[u8]) -> Record {
        let seq = self.seq() + 1;
        let body: Arc<[u8]> = text.into();
        self.entries.push_back((seq, Arc::clone(&body)));
        Record::new(seq, Arc::new(Text(body)))
    }
}

/// A record of the toy.
pub(crate) struct Text(pub Arc<[u8]>);

impl RecordBody for Text {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
    fn size_hint(&self) -> usize {
        self.0.len()
    }
}

impl Machine for Toy {
    fn empty() -> Self {
        Self::default()
    }

    fn load_section(&mut self, tag: [u8; 4], schema: u16, body: &[u8]) -> Result<(), BadContent> {
        if (tag, schema) != (*b"LIST", 1) {
            return Err(BadContent(format!("section {}", tag.escape_ascii())));
        }
        let mut rest = body;
        while !rest.is_empty() {
            let (head, tail) = rest.split_at_checked(12).ok_or_else(|| BadContent("short entry".into()))?;
            let seq = u64::from_le_bytes(head[..8].try_into().unwrap());
            let len = u32::from_le_bytes(head[8..].try_into().unwrap()) as usize;
            let (text, tail) = tail.split_at_checked(len).ok_or_else(|| BadContent("short text".into()))?;
            self.entries.push_back((seq, text.into()));
            rest = tail;
        }
        Ok(())
    }

    /// Trusts storage to compare.
    fn finish_load(&mut self, _seq: u64, _summary: &Summary) -> Result<(), BadContent> {
        Ok(())
    }

    fn write_sections(&self, out: &mut dyn Sections) -> io::Result<()> {
        let entries: Vec<_> = self.entries.iter().collect();
        for part in entries.chunks(PER_SECTION) {
            let mut body = Vec::new();
            for (seq, text) in part {
                body.extend_from_slice(&seq.to_le_bytes());
                body.extend_from_slice(&u32::try_from(text.len()).unwrap().to_le_bytes());
                body.extend_from_slice(text);
            }
            out.section(*b"LIST", 1, &body)?;
        }
        Ok(())
    }

    fn apply(&mut self, seq: u64, body: &[u8]) -> Result<(), BadContent> {
        if seq != self.seq() + 1 {
            return Err(BadContent(format!("{seq} after {}", self.seq())));
        }
        self.entries.push_back((seq, body.into()));
        Ok(())
    }

    fn seq(&self) -> u64 {
        self.entries.last().map_or(0, |(seq, _)| *seq)
    }

    fn summary(&self) -> Summary {
        Summary { users: 1, nodes: self.entries.len() as u64, tasks: 0, messages: 0 }
    }

    fn restored(&mut self, seq: u64, _at: Timestamp, source: &str) -> Arc<dyn RecordBody> {
        let text: Arc<[u8]> = format!("restored from {source}").into_bytes().into();
        self.entries.push_back((seq, Arc::clone(&text)));
        Arc::new(Text(text))
    }

    fn answers_for(&mut self, _left: &Self) {}
}
