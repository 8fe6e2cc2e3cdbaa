//! The stack, the memo and the containers of a pickle that is being scanned: tags in place of values.

use super::opcodes::Step;
use super::policy::{Policy, Use};
use super::violation::Reason;

/// Most entries that a memo index may lie beyond those in use: picklers number them without gaps, some from 1.
const MEMO_GAP_MAX: usize = 16;

/// A value on the stack or in the memo.
#[derive(Debug, Clone, Copy)]
pub(super) enum Slot {
    /// A memo entry that was never written.
    Vacant,
    None,
    /// Anything else that has no parts and may be a key.
    Scalar {
        size: u32,
    },
    /// A literal text: where it lies in the input.
    Text {
        at: u32,
        len: u32,
    },
    /// A class of the policy.
    Class(u16),
    /// An entry in the table of containers.
    Container(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    List,
    Dict,
    Set,
    FrozenSet,
    Tuple,
    Object(u16),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Container {
    pub(super) kind: Kind,
    /// Can still be changed: it has not been put anywhere.
    pub(super) open: bool,
    /// It is in the memo, so there may be more than one reference to it.
    pub(super) shared: bool,
    /// Could be a key.
    pub(super) hashable: bool,
    /// A dict whose keys are all texts, or the pair of `None` and such a dict.
    pub(super) attributes: bool,
    /// Arguments in a tuple.
    pub(super) len: u32,
    pub(super) depth: u32,
    pub(super) size: u64,
}

/// What a value adds to the container it is put into.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub(super) size: u64,
    pub(super) depth: u32,
    pub(super) hashable: bool,
}

/// Everything that opcodes without a class work on.
pub(super) struct Stack<'p> {
    policy: &'p Policy,
    values: Vec<Slot>,
    marks: Vec<usize>,
    memo: Vec<Slot>,
    pub(super) memo_used: usize,
    pub(super) containers: Vec<Container>,
    /// Places of containers that are gone.
    free: Vec<u32>,
    pub(super) deepest: u32,
    budget: u64,
}

impl<'p> Stack<'p> {
    pub(super) fn new(policy: &'p Policy, input_bytes: usize) -> Self {
        let limits = &policy.limits;
        let budget = (input_bytes as u64).saturating_mul(limits.expansion_factor);
        Self {
            policy,
            values: Vec::new(),
            marks: Vec::new(),
            memo: Vec::new(),
            memo_used: 0,
            containers: Vec::new(),
            free: Vec::new(),
            deepest: 0,
            budget: budget.saturating_add(limits.expansion_bytes),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty() && self.marks.is_empty()
    }

    pub(super) fn push(&mut self, slot: Slot) -> Result<(), Reason> {
        if self.values.len() >= self.policy.limits.stack {
            return Err(Reason::Limit { what: "values on the stack", max: self.policy.limits.stack as u64 });
        }
        self.values.push(slot);
        Ok(())
    }

    pub(super) fn push_text(&mut self, step: &Step<'_>, text: &str) -> Result<(), Reason> {
        let at = u32::try_from(step.end - text.len()).map_err(|_| Reason::Truncated)?;
        let len = u32::try_from(text.len()).map_err(|_| Reason::Truncated)?;
        self.push(Slot::Text { at, len })
    }

    pub(super) fn push_container(&mut self, kind: Kind) -> Result<(), Reason> {
        self.push_made(Container {
            kind,
            open: true,
            shared: false,
            hashable: false,
            attributes: kind == Kind::Dict,
            len: 0,
            depth: 1,
            size: 1,
        })
    }

    pub(super) fn push_made(&mut self, container: Container) -> Result<(), Reason> {
        self.check_size(&container)?;
        let index = if let Some(index) = self.free.pop() {
            self.containers[index as usize] = container;
            index
        } else {
            let index = u32::try_from(self.containers.len()).map_err(|_| Reason::Truncated)?;
            self.containers.push(container);
            index
        };
        self.push(Slot::Container(index))
    }

    fn check_size(&mut self, container: &Container) -> Result<(), Reason> {
        self.deepest = self.deepest.max(container.depth);
        let nesting = self.policy.limits.nesting;
        if container.depth > nesting {
            return Err(Reason::Limit { what: "containers inside each other", max: u64::from(nesting) });
        }
        if container.size > self.budget {
            return Err(Reason::Limit { what: "bytes after expanding shared references", max: self.budget });
        }
        Ok(())
    }

    /// Where the part of the stack begins that opcodes may reach.
    fn fence(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    pub(super) fn top(&self) -> Result<Slot, Reason> {
        let top = self.values.len().checked_sub(1).filter(|top| *top >= self.fence());
        Ok(self.values[top.ok_or(Reason::StackUnderflow)?])
    }

    pub(super) fn pop(&mut self) -> Result<Slot, Reason> {
        let top = self.top()?;
        self.values.pop();
        Ok(top)
    }

    pub(super) fn mark(&mut self) -> Result<(), Reason> {
        let max = u64::from(self.policy.limits.nesting);
        if self.marks.len() as u64 >= max {
            return Err(Reason::Limit { what: "open marks", max });
        }
        self.marks.push(self.values.len());
        Ok(())
    }

    /// Removes the last mark; returns how many values lie above it.
    pub(super) fn above_mark(&mut self) -> Result<usize, Reason> {
        let mark = self.marks.pop().ok_or(Reason::NoMark)?;
        Ok(self.values.len() - mark)
    }

    /// POP takes a mark if that is what lies on top.
    pub(super) fn discard(&mut self) -> Result<(), Reason> {
        if self.marks.last() == Some(&self.values.len()) {
            self.marks.pop();
            return Ok(());
        }
        let slot = self.pop()?;
        self.forget(slot);
        Ok(())
    }

    pub(super) fn discard_to_mark(&mut self) -> Result<(), Reason> {
        for _ in 0..self.above_mark()? {
            let slot = self.pop()?;
            self.forget(slot);
        }
        Ok(())
    }

    /// DUP. No pickler writes it, and a container that only the stack shares could not be kept track of cheaply.
    pub(super) fn duplicate(&mut self) -> Result<(), Reason> {
        let top = self.top()?;
        if matches!(top, Slot::Container(_)) {
            return Err(Reason::ForbiddenOpcode);
        }
        self.push(top)
    }

    /// Frees a container's place when its only reference has gone.
    fn forget(&mut self, slot: Slot) {
        if let Slot::Container(index) = slot
            && !self.containers[index as usize].shared
        {
            self.free.push(index);
        }
    }

    /// Uses a value as a part of another one: from now on it cannot change.
    pub(super) fn take_in(&mut self, slot: Slot) -> Result<Part, Reason> {
        Ok(match slot {
            Slot::Vacant => return Err(Reason::StackUnderflow),
            Slot::None => Part { size: 1, depth: 0, hashable: true },
            Slot::Scalar { size } => Part { size: u64::from(size), depth: 0, hashable: true },
            Slot::Text { len, .. } => Part { size: u64::from(len) + 2, depth: 0, hashable: true },
            Slot::Class(class) => match self.policy.classes[usize::from(class)].usage {
                Use::Reference => Part { size: 1, depth: 0, hashable: false },
                Use::NewObject { .. } | Use::EmptyMapping => {
                    return Err(Reason::Misuse("the class may not be used as a value"));
                }
            },
            Slot::Container(index) => {
                let container = &mut self.containers[index as usize];
                container.open = false;
                let part = Part { size: container.size, depth: container.depth, hashable: container.hashable };
                self.forget(slot);
                part
            }
        })
    }

    /// The open container below `count` values, if those are within reach.
    pub(super) fn target(&self, count: usize) -> Result<usize, Reason> {
        let below = self.values.len().checked_sub(count + 1).filter(|below| *below >= self.fence());
        let Slot::Container(index) = self.values[below.ok_or(Reason::StackUnderflow)?] else {
            return Err(Reason::WrongTarget);
        };
        Ok(index as usize)
    }

    fn open_container(&self, index: usize) -> Result<Container, Reason> {
        let container = self.containers[index];
        if container.open { Ok(container) } else { Err(Reason::ChangedAfterUse) }
    }

    /// Moves the top `count` values into a container; `keys` says which of them are keys.
    fn absorb(&mut self, into: &mut Container, count: usize, keys: fn(usize) -> bool) -> Result<(), Reason> {
        for (nth, place) in (self.values.len() - count..self.values.len()).enumerate() {
            let slot = self.values[place];
            let part = self.take_in(slot)?;
            if keys(nth) {
                if !part.hashable {
                    return Err(Reason::Unhashable);
                }
                into.attributes &= matches!(slot, Slot::Text { .. });
            }
            into.hashable &= part.hashable;
            into.size = into.size.saturating_add(part.size);
            into.depth = into.depth.max(part.depth + 1);
        }
        self.values.truncate(self.values.len() - count);
        self.check_size(into)
    }

    pub(super) fn fill(&mut self, target: usize, count: usize, keys: fn(usize) -> bool) -> Result<(), Reason> {
        let mut container = self.open_container(target)?;
        self.absorb(&mut container, count, keys)?;
        // Absorbing may have closed it: then it was put into itself.
        self.open_container(target)?;
        self.containers[target] = container;
        Ok(())
    }

    pub(super) fn append(&mut self, count: usize) -> Result<(), Reason> {
        let target = self.target(count)?;
        if self.containers[target].kind != Kind::List {
            return Err(Reason::WrongTarget);
        }
        self.fill(target, count, |_| false)
    }

    /// Whether the container below `count` values is the value at the bottom of the stack.
    pub(super) fn fills_bottom(&self, count: usize) -> bool {
        let bottom = if let Some(Slot::Container(index)) = self.values.first() { Some(*index as usize) } else { None };
        bottom.is_some() && self.target(count).ok() == bottom
    }

    /// Two neighbours on the stack, with so many pairs above them.
    pub(super) fn pair_from_top(&self, pairs_above: usize) -> [Slot; 2] {
        let at = |below: usize| self.values.len().checked_sub(below).and_then(|place| self.values.get(place));
        [2, 1].map(|nth| at(2 * pairs_above + nth).copied().unwrap_or(Slot::Vacant))
    }

    pub(super) fn is_dict(&self, slot: Slot) -> bool {
        matches!(slot, Slot::Container(index) if self.containers[index as usize].kind == Kind::Dict)
    }

    pub(super) fn set_items(&mut self, count: usize) -> Result<(), Reason> {
        let target = self.target(count)?;
        let mapping = match self.containers[target].kind {
            Kind::Dict => true,
            Kind::Object(class) => self.policy.classes[usize::from(class)].usage == Use::EmptyMapping,
            Kind::List | Kind::Set | Kind::FrozenSet | Kind::Tuple => false,
        };
        if !mapping {
            return Err(Reason::WrongTarget);
        }
        if !count.is_multiple_of(2) {
            return Err(Reason::OddItems);
        }
        self.fill(target, count, |nth| nth % 2 == 0)
    }

    pub(super) fn add_items(&mut self) -> Result<(), Reason> {
        let count = self.above_mark()?;
        let target = self.target(count)?;
        if self.containers[target].kind != Kind::Set {
            return Err(Reason::WrongTarget);
        }
        self.fill(target, count, |_| true)
    }

    /// Makes a tuple or frozen set of the top `count` values.
    pub(super) fn gather(&mut self, kind: Kind, count: usize) -> Result<(), Reason> {
        if self.values.len() - self.fence() < count {
            return Err(Reason::StackUnderflow);
        }
        let attributes = kind == Kind::Tuple && count == 2 && self.is_attribute_pair();
        let len = u32::try_from(count).map_err(|_| Reason::Truncated)?;
        let mut made =
            Container { kind, open: true, shared: false, hashable: true, attributes: false, len, depth: 1, size: 1 };
        let keys = if kind == Kind::FrozenSet { |_| true } else { |_| false };
        self.absorb(&mut made, count, keys)?;
        self.push_made(Container { attributes, ..made })
    }

    fn is_attribute_pair(&self) -> bool {
        match self.values[self.values.len() - 2..] {
            [Slot::None, Slot::Container(index)] => {
                let container = &self.containers[index as usize];
                container.kind == Kind::Dict && container.attributes
            }
            _ => false,
        }
    }

    pub(super) fn put(&mut self, index: usize) -> Result<(), Reason> {
        let order = || Reason::MemoOrder(u32::try_from(index).unwrap_or(u32::MAX));
        let max = self.policy.limits.memo;
        if index >= max {
            return Err(Reason::Limit { what: "memo entries", max: max as u64 });
        }
        let top = self.top()?;
        if index >= self.memo.len() {
            if index - self.memo.len() > MEMO_GAP_MAX {
                return Err(order());
            }
            self.memo.resize(index + 1, Slot::Vacant);
        }
        if !matches!(self.memo[index], Slot::Vacant) {
            return Err(order());
        }
        if let Slot::Container(container) = top {
            self.containers[container as usize].shared = true;
        }
        self.memo[index] = top;
        self.memo_used += 1;
        Ok(())
    }

    pub(super) fn get(&mut self, index: u32) -> Result<(), Reason> {
        match self.memo.get(index as usize).copied() {
            None | Some(Slot::Vacant) => Err(Reason::MemoMiss(index)),
            Some(slot) => self.push(slot),
        }
    }
}
