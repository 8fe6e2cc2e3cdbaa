//! Generated sessions: data directories with a scene of any size, made through the session core and the snapshot writer.

use super::chance::Chance;
use super::report::{Report, Row};
use crate::live::machine::SessionMachine;
use crate::ops::{clock, random};
use crate::session::{Change, Event, MemberName, NodeId, NodePut, Payload, Session, SessionName, Timestamp};
use crate::storage::snapshot::{self, Header, Purpose, SnapshotId};
use crate::storage::vfs::{RealVfs, Vfs};
use crate::storage::{Branch, Machine, Run};
use bytes::Bytes;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// How large nodes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum NodeSize {
    /// About 290 bytes each.
    Small,
    /// 1.5 to 5 KB, and one in 10,000 (at least one) of 14 MB, as in real Blender scenes.
    Real,
}

/// Options of `hotset bench generate`.
#[derive(Debug, Clone, clap::Args)]
pub struct GenerateArgs {
    /// How many nodes: 1,000 to 1,000,000
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=2_000_000))]
    pub nodes: u64,
    /// How large they are
    #[arg(long, value_enum, default_value_t = NodeSize::Small)]
    pub size: NodeSize,
    /// The data directory to make; must not exist or be empty
    #[arg(long)]
    pub out: std::path::PathBuf,
    /// The same seed makes the same scene
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// One in this many real-sized nodes is large.
const LARGE_EVERY: u64 = 10_000;
/// Bytes of a large node's payload.
const LARGE_BYTES: usize = 14_000_000;
/// Nodes below one group.
const GROUP: u64 = 100;
/// Nodes put by one event.
const NODES_PER_EVENT: u64 = 1_000;

/// What was written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Generated {
    /// Bytes of all payloads.
    pub(super) payload_bytes: u64,
    /// Bytes of the snapshot file.
    pub(super) file_bytes: u64,
}

/// Makes the directory and reports its size.
pub(super) fn command(args: &GenerateArgs, report: &mut Report) -> io::Result<()> {
    let since = clock::instant();
    let Generated { payload_bytes, file_bytes } = generate(args)?;
    let row = Row::new("generate").with("nodes", args.nodes).with("payload_bytes", payload_bytes);
    let row = row.with("file_bytes", file_bytes).with("bytes_per_node", file_bytes / args.nodes.max(1));
    report.print(row.with_figure("seconds", since.elapsed().as_secs_f64()))
}

/// Makes a data directory whose default session has such a scene.
pub(super) fn generate(args: &GenerateArgs) -> io::Result<Generated> {
    fs::create_dir_all(&args.out)?;
    if fs::read_dir(&args.out)?.next().is_some() {
        return Err(io::Error::other(format!("{} is not empty", args.out.display())));
    }
    let session = scene(args.nodes, args.size, args.seed);
    let payload_bytes = session.totals().payload_bytes;
    let machine = SessionMachine::from(session);
    let vfs = RealVfs::new(args.out.clone());
    let now = Timestamp(clock::now_ms());
    let header = Header {
        lineage: random::u128(),
        branch: Branch(random::u128()),
        epoch: 1,
        id: SnapshotId(random::u128()),
        parent: SnapshotId::NONE,
        seq: Machine::seq(&machine),
        created: now,
        at: now,
        summary: Machine::summary(&machine),
        purpose: Purpose::Current,
        session: SessionName::default_session(),
        writer: format!("hotset {} bench generate", env!("CARGO_PKG_VERSION")),
        reasons: vec!["generated".to_owned()],
        runs: vec![(Run(random::u128()), 1)],
    };
    let written = snapshot::write(&vfs, Path::new("session_snapshot.bin"), &header, &machine);
    let written = written.map_err(|error| io::Error::other(error.to_string()))?;
    vfs.sync_dir(Path::new(""))?;
    Ok(Generated { payload_bytes, file_bytes: written.bytes })
}

/// A scene of groups with a hundred nodes each; the same for the same arguments.
pub(super) fn scene(nodes: u64, size: NodeSize, seed: u64) -> Session {
    let mut chance = Chance::new(seed);
    let mut session = Session::new();
    let author = MemberName::daemon();
    for first in (0..nodes).step_by(usize::try_from(NODES_PER_EVENT).expect("a thousand")) {
        let numbers = first..nodes.min(first + NODES_PER_EVENT);
        let changes = numbers.map(|number| Change::NodePut(node(number, size, &mut chance))).collect();
        let seq = session.seq() + 1;
        let at = Timestamp(clock::now_ms());
        session.evolve(&Event { seq, at, author: author.clone(), op: None, changes });
    }
    session
}

/// One node of the scene.
pub(super) fn node(number: u64, size: NodeSize, chance: &mut Chance) -> NodePut {
    let id = |number: u64| NodeId::new(format!("node-{number:07}")).expect("a short id without control characters");
    let group = number - number % GROUP;
    let payload = match size {
        NodeSize::Real if number % LARGE_EVERY == LARGE_EVERY.min(7) => {
            let data = Bytes::from(chance.bytes(LARGE_BYTES));
            Payload::Bytes { media_type: "application/octet-stream".into(), data }
        }
        NodeSize::Real => {
            let bytes = 1_500 + usize::try_from(chance.below(3_500)).expect("a few thousand");
            Payload::Json(json(chance, bytes))
        }
        NodeSize::Small => Payload::Json(json(chance, 220)),
    };
    NodePut {
        id: id(number),
        kind: if number == group { "group" } else { "mesh" }.into(),
        name: Arc::from(format!("Object.{number:06}")),
        parent: (number != group).then(|| id(group)),
        order: Some(f64::from(u32::try_from(number - group).expect("at most a hundred"))),
        dependencies: Vec::new(),
        payload,
        if_revision: None,
    }
}

/// A JSON object of this many bytes: what a scene mostly holds, names and coordinates.
fn json(chance: &mut Chance, bytes: usize) -> Bytes {
    let mut text = String::with_capacity(bytes + 32);
    text.push_str(r#"{"material":"Material.001","visible":true,"transform":["#);
    while text.len() + 16 < bytes {
        write!(text, "{:.6},", chance.share() * 20.0 - 10.0).expect("a string takes every write");
    }
    text.push_str("0.0]}");
    Bytes::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_directory_loads_as_the_scene_it_was_made_of() {
        let folder = tempfile::tempdir().unwrap();
        let args = GenerateArgs { nodes: 1_234, size: NodeSize::Small, out: folder.path().join("data"), seed: 3 };
        let generated = generate(&args).unwrap();
        let vfs = RealVfs::new(args.out.clone());
        let (machine, header) = load(&vfs);
        assert_eq!(header.summary.nodes, 1_234);
        assert_eq!(machine.into_session(), scene_like(&args));
        let per_node = generated.file_bytes / 1_234;
        assert!((240..340).contains(&per_node), "{per_node} bytes per node");
        assert!(generate(&args).is_err(), "the directory is not empty any more");
    }

    fn load(vfs: &RealVfs) -> (SessionMachine, Header) {
        let loaded = snapshot::load::<SessionMachine>(vfs, Path::new("session_snapshot.bin")).unwrap();
        (loaded.0, loaded.1.header)
    }

    fn scene_like(args: &GenerateArgs) -> Session {
        scene(args.nodes, args.size, args.seed)
    }

    #[test]
    fn payloads_are_valid_json_of_about_the_size_asked_for() {
        let mut chance = Chance::new(1);
        for bytes in [220, 1_500, 5_000] {
            let text = json(&mut chance, bytes);
            serde_json::from_slice::<serde_json::Value>(&text).unwrap();
            assert!(text.len().abs_diff(bytes) < 20, "{}", text.len());
        }
    }
}
