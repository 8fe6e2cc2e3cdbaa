//! Properties of every session: replay = live, snapshot and tail = replay, and what is stored comes back the same.

use super::arbitrary::{continued, json, json_patch, live, narrow_limits, steps};
use hotset::formats::json::{self as json_text, Bounds};
use hotset::live::machine::{EventRecord, SessionMachine, decode_event};
use hotset::session::{Author, Command, Decision, Deltas, Event, MemberName, Operation, Role, Session, Timestamp};
use hotset::storage::{BadContent, Machine, RecordBody, Sections};
use proptest::prelude::*;
use std::io;
use std::sync::Arc;

/// A snapshot in memory.
#[derive(Default)]
pub(crate) struct Parts(pub(crate) Vec<([u8; 4], u16, Vec<u8>)>);

impl Sections for Parts {
    fn section(&mut self, tag: [u8; 4], schema: u16, body: &[u8]) -> io::Result<()> {
        self.0.push((tag, schema, body.to_vec()));
        Ok(())
    }
}

pub(crate) fn saved(machine: &SessionMachine) -> Parts {
    let mut parts = Parts::default();
    Machine::write_sections(machine, &mut parts).expect("memory takes everything");
    parts
}

pub(crate) fn loaded(parts: &Parts, of: &SessionMachine) -> Result<SessionMachine, BadContent> {
    let mut machine = SessionMachine::empty();
    for (tag, schema, body) in &parts.0 {
        machine.load_section(*tag, *schema, body)?;
    }
    machine.finish_load(Machine::seq(of), &Machine::summary(of))?;
    Ok(machine)
}

fn encoded(event: &Event) -> Vec<u8> {
    let record = EventRecord(Arc::new(event.clone()));
    let mut body = Vec::new();
    record.encode(&mut body);
    assert!(body.len() <= 2 * record.size_hint(), "{} bytes, hinted {}", body.len(), record.size_hint());
    body
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn replay_gives_the_live_state(steps in steps(60)) {
        let (events, session) = live(&steps, &narrow_limits());
        let mut machine = SessionMachine::empty();
        for event in &events {
            machine.apply(event.seq, &encoded(event)).expect("it was stored");
        }
        prop_assert_eq!(machine.session(), &session);
    }

    #[test]
    fn snapshot_and_tail_give_the_live_state(steps in steps(60), cut in 0usize..60) {
        let (events, session) = live(&steps, &narrow_limits());
        let (head, tail) = events.split_at(cut.min(events.len()));
        let mut machine = SessionMachine::from(Session::new());
        for event in head {
            machine.apply(event.seq, &encoded(event)).expect("it was stored");
        }
        let mut machine = loaded(&saved(&machine), &machine).expect("it was saved");
        for event in tail {
            machine.apply(event.seq, &encoded(event)).expect("it was stored");
        }
        prop_assert_eq!(machine.session(), &session);
    }

    #[test]
    fn stored_events_come_back_the_same(steps in steps(20)) {
        let (events, _) = live(&steps, &narrow_limits());
        for event in events {
            prop_assert_eq!(decode_event(&encoded(&event)).expect("it was stored"), event);
        }
    }

    #[test]
    fn a_restore_leaves_nobody_online_and_nothing_locked(steps in steps(60)) {
        let (_, session) = live(&steps, &narrow_limits());
        let seq = session.seq() + 100;
        let mut machine = SessionMachine::from(session);
        let record = machine.restored(seq, Timestamp(1), "a file");
        let totals = machine.session().totals();
        prop_assert_eq!((totals.online, totals.locked, machine.session().seq()), (0, 0, seq));
        let mut body = Vec::new();
        record.encode(&mut body);
        prop_assert_eq!(decode_event(&body).expect("it was stored").seq, seq);
        prop_assert!(loaded(&saved(&machine), &machine).is_ok());
    }

    #[test]
    fn a_session_that_begins_anew_keeps_its_members_and_goes_on_counting(before in steps(60), after in steps(20)) {
        let (_, session) = live(&before, &narrow_limits());
        let (seq, members) = (session.seq(), session.members().cloned().collect::<Vec<_>>());
        let tasks: Vec<_> = session.tasks().map(|task| task.id.clone()).collect();
        let author = Author { name: MemberName::daemon(), role: Role::Admin };
        let operations = vec![Operation::SessionClear { archive: "a file".into() }];
        let decision = session.decide(&Command::Edit { op: None, operations }, &author, Timestamp(1), &narrow_limits());
        let Ok(Decision::New(event)) = decision else { panic!("{decision:?}") };
        prop_assert_eq!(decode_event(&encoded(&event)).expect("it was stored"), event.clone());
        let mut cleared = session;
        cleared.evolve(&event);
        let totals = cleared.totals();
        prop_assert_eq!((totals.nodes, totals.payload_bytes, totals.locked, totals.tasks), (0, 0, 0, 0));
        prop_assert_eq!((totals.messages, totals.chat_bytes, totals.settings, cleared.seq()), (0, 0, 0, seq + 1));
        prop_assert_eq!(cleared.members().cloned().collect::<Vec<_>>(), members);
        prop_assert!(tasks.iter().all(|id| cleared.task_was_removed(id)));
        let machine = SessionMachine::from(cleared.clone());
        let loaded = loaded(&saved(&machine), &machine).expect("it was saved");
        prop_assert_eq!(loaded.session(), &cleared);
        let events = continued(&mut cleared, &after, &narrow_limits());
        prop_assert!(events.iter().zip(seq + 2..).all(|(event, next)| event.seq == next));
    }

    #[test]
    fn limits_hold_whatever_is_asked(steps in steps(80)) {
        let limits = narrow_limits();
        let (_, session) = live(&steps, &limits);
        let totals = session.totals();
        prop_assert!(totals.nodes <= limits.nodes);
        prop_assert!(totals.payload_bytes <= limits.payload_bytes_total);
        prop_assert!(totals.tasks <= limits.tasks);
        prop_assert!(totals.messages <= limits.chat_messages);
        prop_assert!(totals.chat_bytes <= limits.chat_bytes || totals.messages == 1);
        prop_assert!(totals.online <= limits.members_online);
        prop_assert!(totals.members <= limits.members_remembered);
        prop_assert!(totals.clients <= limits.clients_remembered + limits.members_online);
        prop_assert!(totals.settings <= limits.settings);
        prop_assert!(session.settings().all(|setting| setting.value.len() as u64 <= limits.setting_bytes));
        prop_assert_eq!(totals.payload_bytes, session.nodes().map(|node| node.bytes()).sum::<u64>());
        for node in session.nodes() {
            let deltas: Vec<_> = node.payload.deltas().into_iter().flat_map(Deltas::iter).collect();
            let counted = node.payload.deltas().map_or(0, Deltas::bytes);
            prop_assert!(deltas.len() as u64 <= limits.deltas);
            prop_assert_eq!(counted, deltas.iter().map(|delta| delta.len()).sum::<usize>());
            prop_assert!(node.payload.len() as u64 <= limits.payload_bytes);
            let above = std::iter::successors(Some(node), |node| session.node(node.parent.as_ref()?));
            prop_assert!(above.count() as u64 <= limits.depth + 1);
        }
    }

    #[test]
    fn stored_garbage_is_refused_without_panic(body in prop::collection::vec(any::<u8>(), 0..200), tag in 0usize..8) {
        let tag = [*b"META", *b"NODE", *b"TASK", *b"CHAT", *b"USER", *b"OPID", *b"GONE", *b"CONF"][tag];
        drop(decode_event(&body));
        let mut machine = SessionMachine::empty();
        drop(machine.load_section(tag, 1, &body));
        drop(machine.finish_load(0, &machine.summary()));
    }

    #[test]
    fn patched_json_is_valid_and_bounded(target in json(), patch in json_patch(), merge in json()) {
        let bounds = Bounds { bytes: 60, depth: 3 };
        let patched = json_text::patch(target.as_bytes(), patch.as_bytes(), &bounds);
        let merged = json_text::merge(target.as_bytes(), merge.as_bytes(), &bounds);
        for result in [&patched, &merged].into_iter().flatten() {
            prop_assert!(result.len() <= bounds.bytes);
            prop_assert_eq!(json_text::valid(result, bounds.depth), Ok(()));
        }
        // What was accepted within narrow bounds gives the same within the widest, as replay needs.
        if patched.is_ok() {
            prop_assert_eq!(json_text::patch(target.as_bytes(), patch.as_bytes(), &Bounds::STORED), patched);
        }
        if merged.is_ok() {
            prop_assert_eq!(json_text::merge(target.as_bytes(), merge.as_bytes(), &Bounds::STORED), merged);
        }
    }
}
