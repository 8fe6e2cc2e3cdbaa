//! A small journal on a simulated disk, and an oracle that knows what was promised.

use crate::session::{SessionName, Timestamp};
use crate::storage::journal::{Control, Item, Lineage, Report, Request, ScanError, Settings, Start, Writer, scan};
use crate::storage::vfs::{SimDisk, Vfs};
use crate::storage::{Branch, Durable, Early, Record, RecordBody, Run, Trouble};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

pub(super) const LINEAGE: Lineage = Lineage(0xfeed);

pub(super) struct Body(pub(super) Vec<u8>);

impl RecordBody for Body {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
    fn size_hint(&self) -> usize {
        self.0.len()
    }
    fn encode_around(&self, early: &[Arc<Early>], out: &mut Vec<u8>) -> Option<Vec<(usize, usize)>> {
        let (mut places, mut from) = (Vec::new(), 0);
        for (index, early) in early.iter().enumerate() {
            let at = self.0.windows(early.bytes().len()).position(|bytes| *bytes == early.bytes()[..])?;
            out.extend_from_slice(&self.0[from..at]);
            places.push((out.len(), index));
            from = at + early.bytes().len();
        }
        out.extend_from_slice(&self.0[from..]);
        Some(places)
    }
}

pub(super) fn session(name: &str) -> SessionName {
    SessionName::new(name).unwrap()
}

/// The body of a record, as it must always come back.
pub(super) fn body(name: &str, seq: u64, len: usize) -> Vec<u8> {
    let mut out = format!("{name}/{seq}:").into_bytes();
    let mut x = seq.wrapping_mul(0x9e37_79b9) ^ name.len() as u64;
    while out.len() < len {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        out.push(x.to_le_bytes()[6]);
    }
    out
}

pub(super) fn record(name: &str, seq: u64, len: usize) -> Record {
    Record::new(seq, Arc::new(Body(body(name, seq, len))))
}

/// The body of this record but for its ends, in two parts.
pub(super) fn early_parts(name: &str, seq: u64, len: usize) -> Vec<Arc<Early>> {
    let body = body(name, seq, len);
    let part = |from: usize, to: usize| Arc::new(Early::new(body[from..to].to_vec().into()));
    vec![part(100, len / 2), part(len / 2, len - 100)]
}

pub(super) fn run(n: u128) -> Control {
    Control::Run { run: Run(n), epoch: 1, at: Timestamp(0) }
}

/// Small segments, nothing in the background, nothing by the clock.
pub(super) fn small() -> Settings {
    Settings {
        segment_bytes: 64 << 10,
        chunk_bytes: 2 << 10,
        group_bytes: 8 << 10,
        seal_after: None,
        sync_spacing: Duration::ZERO,
        probe_every: Duration::from_millis(20),
        background_spare: false,
    }
}

/// What a scan visited, by session.
pub(super) type Seen = BTreeMap<String, Vec<(u64, Vec<u8>)>>;

pub(super) fn read(vfs: &dyn Vfs, after: &[(&str, u64)]) -> Result<(Report, Seen), ScanError> {
    let after = after.iter().map(|(name, seq)| (session(name), *seq)).collect();
    let mut seen = Seen::new();
    let report = scan(vfs, &Request { lineage: Some(LINEAGE), after, only: None }, &mut |item| {
        if let Item::Record { session, seq, body, .. } = item {
            seen.entry(session.as_str().into()).or_default().push((seq, body.to_vec()));
        }
        ControlFlow::Continue(())
    })?;
    Ok((report, seen))
}

pub(super) fn seqs(seen: &Seen, name: &str) -> Vec<u64> {
    seen.get(name).iter().flat_map(|records| records.iter().map(|(seq, _)| *seq)).collect()
}

/// Where the writer begins on this disk, as recovery finds it.
pub(super) fn start(disk: &SimDisk) -> Start {
    let (report, _) = read(disk, &[]).unwrap();
    report.start.unwrap_or_else(|| {
        assert!(report.segments.is_empty(), "{:?}", report.verdict);
        Start::fresh(LINEAGE, report.positions)
    })
}

pub(super) fn open(disk: &SimDisk, settings: Settings, epoch: u64) -> Writer {
    Writer::open(Arc::new(disk.clone()), settings, start(disk), epoch).unwrap()
}

/// Remembers what was promised, and lets tests wait for it.
#[derive(Default)]
pub(super) struct Ear {
    heard: Mutex<Heard>,
    changed: Condvar,
}

#[derive(Default, Clone)]
pub(super) struct Heard {
    pub(super) durable: u64,
    pub(super) troubles: Vec<Option<Trouble>>,
}

impl Durable for Ear {
    fn durable(&self, seq: u64) {
        let mut heard = self.heard.lock().unwrap();
        assert!(seq > heard.durable, "durable {seq} after {}", heard.durable);
        heard.durable = seq;
        self.changed.notify_all();
    }
    fn trouble(&self, trouble: Option<Trouble>) {
        self.heard.lock().unwrap().troubles.push(trouble);
        self.changed.notify_all();
    }
}

impl Ear {
    pub(super) fn on(writer: &Writer, name: &str) -> Arc<Self> {
        let ear = Arc::new(Self::default());
        writer.listen(&session(name), Arc::clone(&ear) as Arc<dyn Durable>);
        ear
    }

    pub(super) fn heard(&self) -> Heard {
        self.heard.lock().unwrap().clone()
    }

    /// Waits up to ten seconds.
    pub(super) fn wait(&self, until: impl Fn(&Heard) -> bool) -> Heard {
        let heard = self.heard.lock().unwrap();
        let (heard, timeout) =
            self.changed.wait_timeout_while(heard, Duration::from_secs(10), |heard| !until(heard)).unwrap();
        assert!(!timeout.timed_out(), "waited in vain: {} {:?}", heard.durable, heard.troubles);
        heard.clone()
    }
}

pub(super) const BRANCH: Branch = Branch(1);

pub(super) fn long() -> bool {
    std::env::var_os("HOTSET_LONG").is_some()
}
