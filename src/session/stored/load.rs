//! Loading: takes a snapshot's parts in order, and gives the session they make if it keeps its invariants.

use super::{BadStored, ClientOpsV1, MemberV1, MessageV1, MetaV1, NodeV1, RemovedTaskV1, SettingV1, TaskV1, bad};
use crate::session::applied::ClientOps;
use crate::session::limits::{OPS_REMEMBERED, REMOVED_TASKS_REMEMBERED};
use crate::session::{ChatMessage, ClientId, Member, Node, NodeId, Session, Task, TaskId};
use std::sync::Arc;

/// A session while its parts are coming in.
#[derive(Debug, Clone, Default)]
pub struct Loading {
    meta: Option<MetaV1>,
    session: Session,
    /// Nodes that hang below another: that one's id, their own, and their place among all nodes.
    hanging: Vec<(NodeId, NodeId, usize)>,
    newest: Option<NodeId>,
}

impl Loading {
    /// Takes the first part.
    pub fn meta(&mut self, meta: MetaV1) -> Result<(), BadStored> {
        if self.meta.replace(meta).is_some() {
            return Err(bad("two sections of metadata"));
        }
        self.session.seq = meta.seq;
        self.session.chat.forgotten = meta.messages_forgotten;
        Ok(())
    }

    /// Takes nodes; every node's id must be greater than that of the node before it.
    pub fn nodes(&mut self, nodes: Vec<NodeV1>) -> Result<(), BadStored> {
        self.after_meta()?;
        for node in nodes {
            let node = Node::try_from(node)?;
            if self.newest.as_ref().is_some_and(|newest| *newest >= node.id) {
                return Err(bad(format!("node {:?} is out of order", node.id)));
            }
            self.known(node.revision, "a node's revision")?;
            check_deltas(&node)?;
            if let Some(parent) = &node.parent {
                self.hanging.push((parent.clone(), node.id.clone(), self.session.scene.nodes.len()));
            }
            self.newest = Some(node.id.clone());
            self.session.scene.insert(Arc::new(node));
        }
        Ok(())
    }

    /// Takes tasks.
    pub fn tasks(&mut self, tasks: Vec<TaskV1>) -> Result<(), BadStored> {
        self.after_meta()?;
        for task in tasks {
            let task = Task::try_from(task)?;
            self.known(task.revision, "a task's revision")?;
            self.session.tasks.by_id.insert(task.id.clone(), Arc::new(task));
        }
        Ok(())
    }

    /// Takes tasks that were removed lately.
    pub fn removed_tasks(&mut self, removed: Vec<RemovedTaskV1>) -> Result<(), BadStored> {
        self.after_meta()?;
        for RemovedTaskV1 { id, seq } in removed {
            let id = TaskId::from_shared(id)?;
            self.known(seq, "a removed task's seq")?;
            let tasks = &mut self.session.tasks;
            if tasks.by_id.contains_key(&id) || tasks.removed.contains_key(&id) {
                return Err(bad(format!("task {id:?} was removed, and is there as well")));
            }
            if tasks.removed.len() >= REMOVED_TASKS_REMEMBERED {
                return Err(bad("too many removed tasks"));
            }
            tasks.remember_removal(id, seq);
        }
        Ok(())
    }

    /// Takes settings.
    pub fn settings(&mut self, settings: Vec<SettingV1>) -> Result<(), BadStored> {
        self.after_meta()?;
        for SettingV1 { key, value } in settings {
            if self.session.setting(&key).is_some() {
                return Err(bad(format!("setting {key:?} is there twice")));
            }
            self.session.settings.set(&key, Some(&value));
        }
        Ok(())
    }

    /// Takes chat messages, oldest first.
    pub fn messages(&mut self, messages: Vec<MessageV1>) -> Result<(), BadStored> {
        self.after_meta()?;
        for message in messages {
            let message = ChatMessage::try_from(message)?;
            self.known(message.seq, "a message's seq")?;
            self.session.chat.push(Arc::new(message));
        }
        Ok(())
    }

    /// Takes members.
    pub fn members(&mut self, members: Vec<MemberV1>) -> Result<(), BadStored> {
        self.after_meta()?;
        for member in members {
            let member = Member::try_from(member)?;
            self.known(member.seen_seq, "a member's seq")?;
            self.session.members.insert(Arc::new(member));
        }
        Ok(())
    }

    /// Takes applied operations.
    pub fn operations(&mut self, clients: Vec<ClientOpsV1>) -> Result<(), BadStored> {
        self.after_meta()?;
        for client in clients {
            self.known(client.last, "an operation's seq")?;
            if client.ops.len() > OPS_REMEMBERED {
                return Err(bad("too many operations of one client"));
            }
            let ops = ClientOps { ops: client.ops.into_iter().collect(), last: client.last };
            self.session.applied.insert(ClientId(client.client), ops);
        }
        Ok(())
    }

    /// The session, if all parts came and fit together.
    pub fn finish(mut self) -> Result<Session, BadStored> {
        self.hang_all()?;
        let Self { meta, session, .. } = self;
        let meta = meta.ok_or_else(|| bad("no section of metadata"))?;
        if MetaV1::from(&session) != meta || session.chat.ids.len() as u64 != meta.messages {
            return Err(bad("the counts do not fit what was loaded"));
        }
        if session.members.online.len() + session.members.offline.len() != session.members.by_name.len() {
            return Err(bad("a member is there twice"));
        }
        if session.applied.silent.len() != session.applied.clients.len() {
            return Err(bad("two clients share a seq"));
        }
        let online = |name| session.members.get_online(name).is_some();
        match session.scene.locked.keys().find(|owner| !owner.is_daemon() && !online(owner)) {
            Some(owner) => Err(bad(format!("{owner:?} has locks, but is not online"))),
            None => Ok(session),
        }
    }

    fn after_meta(&self) -> Result<(), BadStored> {
        self.meta.map(drop).ok_or_else(|| bad("metadata must come first"))
    }

    fn known(&self, seq: u64, what: &str) -> Result<(), BadStored> {
        if seq > self.session.seq { Err(bad(format!("{what} is beyond the newest event"))) } else { Ok(()) }
    }

    /// Finds every parent, and makes sure that going up always ends.
    fn hang_all(&mut self) -> Result<(), BadStored> {
        // Nodes came sorted, so a stable sort by parent leaves siblings sorted.
        self.hanging.sort_by(|a, b| a.0.cmp(&b.0));
        let mut above = vec![usize::MAX; self.session.scene.nodes.len()];
        let mut nodes = self.session.scene.nodes.keys().enumerate().peekable();
        for (parent, child, place) in &self.hanging {
            while nodes.next_if(|(_, id)| *id < parent).is_some() {}
            match nodes.peek() {
                Some((index, id)) if *id == parent => above[*place] = *index,
                _ => return Err(bad(format!("{child:?} hangs below {parent:?}, which does not exist"))),
            }
        }
        if has_circle(&above) {
            return Err(bad("some nodes hang below themselves"));
        }
        let edges = std::mem::take(&mut self.hanging);
        self.session.scene.edges = edges.into_iter().map(|(parent, child, _)| (parent, Some(child))).collect();
        Ok(())
    }
}

/// Deltas came one after the other, and the newest cannot be newer than the node.
fn check_deltas(node: &Node) -> Result<(), BadStored> {
    let Some(deltas) = node.payload.deltas() else { return Ok(()) };
    let revisions = deltas.with_revisions().map(|delta| delta.revision).chain([node.revision]);
    if revisions.is_sorted() { Ok(()) } else { Err(bad(format!("the deltas of {:?} are out of order", node.id))) }
}

/// Whether following `above` (each entry the place of the one above, or `usize::MAX`) ever comes back.
fn has_circle(above: &[usize]) -> bool {
    // 0 = not looked at; otherwise the walk that came through here first.
    let mut seen_by = vec![0; above.len()];
    for start in 0..above.len() {
        let walk = start + 1;
        let mut at = start;
        while at != usize::MAX && seen_by[at] == 0 {
            seen_by[at] = walk;
            at = above[at];
        }
        if at != usize::MAX && seen_by[at] == walk {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::stored::{DeltaV1, PayloadV1, RoleV1};
    use bytes::Bytes;

    fn node(id: &str, parent: Option<&str>) -> NodeV1 {
        NodeV1 {
            id: id.into(),
            kind: "thing".into(),
            name: "".into(),
            parent: parent.map(Into::into),
            order: None,
            owner: None,
            dependencies: Vec::new(),
            payload: PayloadV1::Json(Bytes::from_static(b"null")),
            revision: 1,
        }
    }

    fn meta(nodes: u64) -> MetaV1 {
        MetaV1 {
            seq: 1,
            nodes,
            payload_bytes: 4 * nodes,
            tasks: 0,
            messages: 0,
            messages_forgotten: 0,
            members: 0,
            online: 0,
            clients: 0,
        }
    }

    fn load(meta: MetaV1, nodes: Vec<NodeV1>) -> Result<Session, BadStored> {
        let mut loading = Loading::default();
        loading.meta(meta)?;
        loading.nodes(nodes)?;
        loading.finish()
    }

    fn why(result: Result<Session, BadStored>) -> String {
        result.expect_err("it should be refused").to_string()
    }

    #[test]
    fn children_are_found_again_wherever_their_parents_lie() {
        let nodes = vec![node("a", Some("m")), node("b", Some("z")), node("m", Some("z")), node("z", None)];
        let session = load(meta(4), nodes).expect("it fits");
        let id = |id: &str| NodeId::new(id).expect("an id");
        let children = |parent: &str| session.children(&id(parent)).map(NodeId::as_str).collect::<Vec<_>>();
        assert_eq!((children("z"), children("m"), children("a")), (vec!["b", "m"], vec!["a"], vec![]));
    }

    #[test]
    fn a_node_below_one_that_is_missing_is_refused() {
        assert!(why(load(meta(1), vec![node("a", Some("b"))])).contains("does not exist"));
        assert!(why(load(meta(1), vec![node("b", Some("a"))])).contains("does not exist"));
    }

    #[test]
    fn nodes_that_hang_below_themselves_are_refused() {
        let circle = vec![node("a", Some("c")), node("b", Some("a")), node("c", Some("b")), node("d", Some("a"))];
        assert!(why(load(meta(4), circle)).contains("below themselves"));
        assert!(why(load(meta(1), vec![node("a", Some("a"))])).contains("below themselves"));
    }

    #[test]
    fn counts_that_do_not_fit_are_refused() {
        assert!(why(load(meta(2), vec![node("a", None)])).contains("counts"));
        assert!(why(load(MetaV1 { payload_bytes: 5, ..meta(1) }, vec![node("a", None)])).contains("counts"));
        assert!(why(load(MetaV1 { members: 1, ..meta(0) }, Vec::new())).contains("counts"));
        assert_eq!(why(Loading::default().finish()), "no section of metadata");
    }

    #[test]
    fn nodes_out_of_order_or_twice_are_refused() {
        assert!(why(load(meta(2), vec![node("b", None), node("a", None)])).contains("order"));
        assert!(why(load(meta(2), vec![node("a", None), node("a", None)])).contains("order"));
    }

    #[test]
    fn a_revision_beyond_the_newest_event_is_refused() {
        assert!(why(load(meta(1), vec![NodeV1 { revision: 2, ..node("a", None) }])).contains("beyond"));
    }

    #[test]
    fn deltas_that_cannot_have_come_so_are_refused() {
        let grown = |revisions: &[u64], revision| {
            let delta = |revision: &u64| DeltaV1 { revision: *revision, data: Bytes::new() };
            let deltas: Vec<_> = revisions.iter().map(delta).collect();
            let payload = PayloadV1::Layered { media_type: "x/y".into(), base: Bytes::new(), deltas };
            let meta = MetaV1 { seq: 9, payload_bytes: 32 * revisions.len() as u64, ..meta(1) };
            load(meta, vec![NodeV1 { payload, revision, ..node("a", None) }])
        };
        assert!(grown(&[3, 3, 7], 8).is_ok());
        assert!(why(grown(&[3, 2], 8)).contains("out of order"));
        assert!(why(grown(&[3, 8], 7)).contains("out of order"));
        let bare = grown(&[], 8).expect("a base alone is as if it had been put so");
        assert!(bare.nodes().all(|node| matches!(node.payload, crate::session::Payload::Bytes { .. })));
    }

    #[test]
    fn removed_tasks_and_settings_that_cannot_be_are_refused() {
        let task = |id: &str, seq| RemovedTaskV1 { id: id.into(), seq };
        let removed = |tasks: Vec<RemovedTaskV1>| {
            let mut loading = Loading::default();
            loading.meta(meta(0))?;
            loading.removed_tasks(tasks)?;
            loading.finish()
        };
        assert!(removed(vec![task("a", 1), task("b", 1)]).is_ok());
        assert!(why(removed(vec![task("a", 1), task("a", 0)])).contains("is there as well"));
        assert!(why(removed(vec![task("a", 2)])).contains("beyond"));
        let many = (0..=REMOVED_TASKS_REMEMBERED).map(|n| task(&n.to_string(), 1)).collect();
        assert!(why(removed(many)).contains("too many"));
        let mut loading = Loading::default();
        loading.meta(meta(0)).expect("it comes first");
        let setting = || SettingV1 { key: "a".into(), value: Bytes::from_static(b"1") };
        assert!(loading.settings(vec![setting()]).is_ok());
        assert!(loading.settings(vec![setting()]).is_err());
    }

    #[test]
    fn a_text_that_is_no_identity_is_refused() {
        assert!(matches!(load(meta(1), vec![node("", None)]), Err(BadStored::Id(_))));
        assert!(matches!(load(meta(1), vec![node("a\n", None)]), Err(BadStored::Id(_))));
        let infinite = NodeV1 { order: Some(f64::INFINITY), ..node("a", None) };
        assert!(why(load(meta(1), vec![infinite])).contains("finite"));
    }

    #[test]
    fn locks_of_somebody_who_is_offline_are_refused() {
        let locked = || vec![NodeV1 { owner: Some("alice".into()), ..node("a", None) }];
        assert!(why(load(meta(1), locked())).contains("not online"));
        let member = |online| MemberV1 {
            name: "alice".into(),
            metadata: Bytes::from_static(b"{}"),
            online,
            seen: 0,
            seen_seq: 1,
        };
        let with = |member: MemberV1, online| {
            let mut loading = Loading::default();
            loading.meta(MetaV1 { members: 1, online, ..meta(1) })?;
            loading.nodes(locked())?;
            loading.members(vec![member])?;
            loading.finish()
        };
        assert!(why(with(member(None), 0)).contains("not online"));
        assert!(with(member(Some((1, RoleV1::Member))), 1).is_ok());
    }
}
