//! Snapshots whose content was damaged before it was sealed: what is accepted is a whole session, and can be saved again.

use crate::campaign::{Chance, cases};
use crate::sealing::{self, BLOCK, Section};
use crate::sessions::{busy, stored};
use hotset::live::machine::{SessionMachine, decode_event};
use hotset::session::{SessionName, Timestamp};
use hotset::storage::snapshot::{self, Header, Purpose, SnapshotError, SnapshotId};
use hotset::storage::vfs::{Open, SimDisk, Vfs, read_all};
use hotset::storage::{Branch, Machine, Run};
use std::path::Path;

fn header(machine: &SessionMachine) -> Header {
    Header {
        lineage: 7,
        branch: Branch(8),
        epoch: 3,
        id: SnapshotId(9),
        parent: SnapshotId(4),
        seq: machine.seq(),
        created: Timestamp(1_736_695_945_123),
        at: Timestamp(1_736_695_945_000),
        summary: machine.summary(),
        purpose: Purpose::Current,
        session: SessionName::default_session(),
        writer: "hotset 0".into(),
        reasons: vec!["auto-save".into()],
        runs: vec![(Run(1), 1)],
    }
}

fn saved(machine: &SessionMachine, header: &Header) -> Vec<u8> {
    let disk = SimDisk::new();
    snapshot::write(&disk, Path::new("s"), header, machine).unwrap();
    read_all(&disk, Path::new("s"), 1 << 20).unwrap()
}

fn load(file: &[u8]) -> Result<(SessionMachine, Header), SnapshotError> {
    let disk = SimDisk::new();
    disk.open(Path::new("s"), Open::CreateNew).unwrap().write_at(0, &[file]).unwrap();
    let (machine, verified) = snapshot::load::<SessionMachine>(&disk, Path::new("s"))?;
    assert_eq!(snapshot::read_header(&disk, Path::new("s")).unwrap(), verified.header);
    Ok((machine, verified.header))
}

#[test]
fn a_file_sealed_as_the_documentation_says_is_the_file_that_is_written() {
    let machine = SessionMachine::from(busy().0);
    let file = saved(&machine, &header(&machine));
    assert!(sealing::snapshot(&file, &sealing::sections(&file)) == file);
}

/// Numbers of the header that a session must agree with, so that damage to the content gets past them.
fn copy_counts(header: &mut [u8], sections: &[Section], chance: &mut Chance) {
    // The state's own seq is the first number of its first section.
    if let Some(seq) = sections.first().and_then(|(_, _, body)| body.first()).filter(|_| chance.once_in(2)) {
        header[96] = *seq;
    }
}

/// What must not change. Texts and runs beyond what is ever written are read, and cut when they are written again.
fn identity(header: Header) -> Header {
    Header { writer: String::new(), reasons: Vec::new(), runs: Vec::new(), ..header }
}

fn damage(header: &mut [u8], sections: &mut Vec<Section>, bodies: &[&[u8]], chance: &mut Chance) {
    for _ in 0..=chance.below(3) {
        if sections.is_empty() {
            return;
        }
        let index = chance.below(sections.len());
        match chance.below(14) {
            0 => drop(sections.remove(index)),
            1 => {
                let other = chance.below(sections.len());
                sections.swap(index, other);
            }
            2 => {
                let copy = sections[index].clone();
                sections.push(copy);
            }
            3 => sections[index].0[chance.below(4)] = chance.byte(),
            4 => {
                let at = chance.below(BLOCK - 4);
                header[at] = chance.byte();
            }
            5 => {
                let at = 8 * chance.below(20);
                let number = chance.number(sealing::number(header, at, 8));
                header[at..at + 8].copy_from_slice(&number.to_le_bytes());
            }
            _ => chance.damage(&mut sections[index].2, bodies),
        }
    }
}

#[test]
fn a_snapshot_that_is_accepted_can_be_saved_again_and_is_the_same() {
    let machine = SessionMachine::from(busy().0);
    let file = saved(&machine, &header(&machine));
    let whole = sealing::sections(&file);
    cases("snapshot", |chance| {
        let (mut header, mut sections) = (file[..BLOCK].to_vec(), whole.clone());
        let bodies: Vec<&[u8]> = whole.iter().map(|(_, _, body)| &**body).collect();
        damage(&mut header, &mut sections, &bodies, chance);
        copy_counts(&mut header, &sections, chance);
        let Ok((accepted, header)) = load(&sealing::snapshot(&header, &sections)) else { return false };
        let again = saved(&accepted, &header);
        let (twice, same_header) = load(&again).expect("what was loaded and saved can be loaded");
        assert_eq!(identity(same_header), identity(header.clone()));
        assert_eq!(twice.session(), accepted.session());
        assert!(saved(&twice, &header) == again, "there is one form for one state");
        true
    });
}

#[test]
fn a_snapshot_damaged_after_it_was_sealed_is_never_accepted() {
    let machine = SessionMachine::from(busy().0);
    let file = saved(&machine, &header(&machine));
    cases("snapshot unsealed", |chance| {
        let mut damaged = file.clone();
        for _ in 0..=chance.below(3) {
            chance.damage(&mut damaged, &[&file[..64], &file[4096..4160]]);
        }
        assert!(damaged == file || load(&damaged).is_err());
        true
    });
}

#[test]
fn a_stored_event_that_is_accepted_is_stored_the_same_way_again() {
    let (_, events) = busy();
    let bodies: Vec<Vec<u8>> = events.iter().map(stored).collect();
    let pieces: Vec<&[u8]> = bodies.iter().map(|body| &**body).collect();
    cases("stored event", |chance| {
        let index = chance.below(bodies.len());
        let mut body = bodies[index].clone();
        for _ in 0..=chance.below(2) {
            chance.damage(&mut body, &pieces);
        }
        let Ok(event) = decode_event(&body) else { return false };
        assert_eq!(decode_event(&stored(&event)).unwrap(), event);
        // An event that fits no state, which only a foreign log can hold, must not bring anything down either.
        let mut machine = SessionMachine::empty();
        for earlier in &events[..index] {
            machine.apply(earlier.seq, &stored(earlier)).unwrap();
        }
        drop(machine.apply(event.seq, &body));
        drop(saved(&machine, &header(&machine)));
        true
    });
}
