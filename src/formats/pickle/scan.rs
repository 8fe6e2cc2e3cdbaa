//! The scanner: runs a pickle with tags in place of values, and refuses what the policy does not list.
//!
//! Containers are tracked by identity while they are open or shared, so that nesting and size are those of the
//! finished value. That needs one rule which every pickler of acyclic data keeps: a container is filled before it is
//! put into another one. Cycles break it, so they are refused as well.

use super::opcodes::{Op, Opcodes, Step};
use super::policy::{Policy, StateShape, Use};
use super::value::Class;
use super::violation::{Reason, Violation, escape};

/// Most entries that a memo index may lie beyond those in use.
const MEMO_GAP_MAX: usize = 1_024;

/// What a pickle that may pass holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// The declared protocol; 1 if it declares none.
    pub protocol: u8,
    /// Opcodes.
    pub opcodes: u64,
    /// Deepest nesting of containers.
    pub nesting: u32,
    /// About how many bytes it would have without shared references.
    pub expanded_bytes: u64,
    /// The classes it names, each once, in the policy's order.
    pub classes: Vec<Class>,
}

/// Decides whether a pickle may pass. One pass, in time linear to the input; memory only for bytes received.
pub fn scan(bytes: &[u8], policy: &Policy) -> Result<Scan, Violation> {
    if u32::try_from(bytes.len()).is_err() {
        let reason = Reason::Limit { what: "bytes", max: u64::from(u32::MAX) };
        return Err(Violation { opcode: "begin", offset: 0, name: None, reason });
    }
    let mut opcodes = Opcodes::new(bytes, policy.limits);
    let mut machine = Machine::new(bytes, policy);
    loop {
        let step = opcodes.next()?;
        if let Some(finished) = machine.run(&step).map_err(|refusal| refusal.at(&step))? {
            return Ok(Scan {
                protocol: opcodes.protocol,
                opcodes: opcodes.count,
                nesting: machine.deepest,
                expanded_bytes: finished.size,
                classes: machine.classes_named(),
            });
        }
    }
}

/// A reason, and the name it is about.
struct Refusal {
    reason: Reason,
    name: Option<String>,
}

impl Refusal {
    fn at(self, step: &Step<'_>) -> Violation {
        Violation { name: self.name, ..step.violation(self.reason) }
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self { reason, name: None }
    }
}

/// A value on the stack or in the memo.
#[derive(Debug, Clone, Copy)]
enum Slot {
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
enum Kind {
    List,
    Dict,
    Set,
    FrozenSet,
    Tuple,
    Object(u16),
}

#[derive(Debug, Clone, Copy)]
struct Container {
    kind: Kind,
    /// Can still be changed: it has not been put anywhere.
    open: bool,
    /// There may be more than one reference to it.
    shared: bool,
    /// Could be a key.
    hashable: bool,
    /// A dict whose keys are all texts, or the pair of `None` and such a dict.
    attributes: bool,
    /// Arguments in a tuple.
    len: u32,
    depth: u32,
    size: u64,
}

/// What a value adds to the container it is put into.
#[derive(Clone, Copy)]
struct Part {
    size: u64,
    depth: u32,
    hashable: bool,
}

struct Machine<'a, 'p> {
    bytes: &'a [u8],
    policy: &'p Policy,
    stack: Vec<Slot>,
    marks: Vec<usize>,
    memo: Vec<Slot>,
    memo_used: usize,
    containers: Vec<Container>,
    /// Places of containers that are gone.
    free: Vec<u32>,
    named: Vec<bool>,
    deepest: u32,
    budget: u64,
}

impl<'a, 'p> Machine<'a, 'p> {
    fn new(bytes: &'a [u8], policy: &'p Policy) -> Self {
        let limits = &policy.limits;
        let budget = (bytes.len() as u64).saturating_mul(limits.expansion_factor);
        Self {
            bytes,
            policy,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: Vec::new(),
            memo_used: 0,
            containers: Vec::new(),
            free: Vec::new(),
            named: vec![false; policy.classes.len()],
            deepest: 0,
            budget: budget.saturating_add(limits.expansion_bytes),
        }
    }

    fn classes_named(&self) -> Vec<Class> {
        let named = self.policy.classes.iter().zip(&self.named).filter(|(_, named)| **named);
        named.map(|(class, _)| Class { module: class.module.into(), name: class.name.into() }).collect()
    }

    /// Runs one instruction; at the end it gives the whole value's measure.
    fn run(&mut self, step: &Step<'a>) -> Result<Option<Part>, Refusal> {
        let scalar = Slot::Scalar { size: u32::try_from(step.end - step.start).unwrap_or(u32::MAX) };
        match step.op {
            Op::Stop => return self.finish().map(Some),
            Op::Mark => self.mark()?,
            Op::Pop => self.discard()?,
            Op::PopMark => self.discard_to_mark()?,
            Op::Dup => self.duplicate()?,
            Op::None => self.push(Slot::None)?,
            Op::Bool(_) | Op::Int(_) | Op::Long(_) | Op::Float(_) | Op::Bytes(_) => self.push(scalar)?,
            Op::Text(text) => self.push_text(step, text)?,
            Op::EmptyList => self.push_container(Kind::List)?,
            Op::EmptyDict => self.push_container(Kind::Dict)?,
            Op::EmptySet => self.push_container(Kind::Set)?,
            Op::Append => self.append(1)?,
            Op::Appends => {
                let count = self.above_mark()?;
                self.append(count)?;
            }
            Op::SetItem => self.set_items(2)?,
            Op::SetItems => {
                let count = self.above_mark()?;
                self.set_items(count)?;
            }
            Op::AddItems => self.add_items()?,
            Op::FrozenSet => {
                let count = self.above_mark()?;
                self.gather(Kind::FrozenSet, count)?;
            }
            Op::TupleOfMark => {
                let count = self.above_mark()?;
                self.gather(Kind::Tuple, count)?;
            }
            Op::TupleOf(count) => self.gather(Kind::Tuple, usize::from(count))?,
            Op::Put(index) => self.put(index as usize)?,
            Op::Memoize => self.put(self.memo_used)?,
            Op::Get(index) => self.get(index)?,
            Op::StackGlobal => self.name_class()?,
            Op::NewObject => self.new_object()?,
            Op::Reduce => self.call()?,
            Op::Build => self.build()?,
            Op::PersistentId => self.persistent_id()?,
            // The walker handles these itself.
            Op::Proto(_) | Op::Frame(_) => {}
        }
        Ok(None)
    }

    fn finish(&mut self) -> Result<Part, Refusal> {
        let value = self.pop()?;
        if !self.stack.is_empty() || !self.marks.is_empty() {
            return Err(Reason::LeftOver.into());
        }
        Ok(self.take_in(value)?)
    }

    fn push(&mut self, slot: Slot) -> Result<(), Reason> {
        if self.stack.len() >= self.policy.limits.stack {
            return Err(Reason::Limit { what: "values on the stack", max: self.policy.limits.stack as u64 });
        }
        self.stack.push(slot);
        Ok(())
    }

    fn push_text(&mut self, step: &Step<'_>, text: &str) -> Result<(), Reason> {
        let at = u32::try_from(step.end - text.len()).map_err(|_| Reason::Truncated)?;
        let len = u32::try_from(text.len()).map_err(|_| Reason::Truncated)?;
        self.push(Slot::Text { at, len })
    }

    fn push_container(&mut self, kind: Kind) -> Result<(), Reason> {
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

    fn push_made(&mut self, container: Container) -> Result<(), Reason> {
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

    fn top(&self) -> Result<Slot, Reason> {
        let top = self.stack.len().checked_sub(1).filter(|top| *top >= self.fence());
        Ok(self.stack[top.ok_or(Reason::StackUnderflow)?])
    }

    fn pop(&mut self) -> Result<Slot, Reason> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn mark(&mut self) -> Result<(), Reason> {
        let max = u64::from(self.policy.limits.nesting);
        if self.marks.len() as u64 >= max {
            return Err(Reason::Limit { what: "open marks", max });
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    /// Removes the last mark; returns how many values lie above it.
    fn above_mark(&mut self) -> Result<usize, Reason> {
        let mark = self.marks.pop().ok_or(Reason::NoMark)?;
        Ok(self.stack.len() - mark)
    }

    /// POP takes a mark if that is what lies on top.
    fn discard(&mut self) -> Result<(), Reason> {
        if self.marks.last() == Some(&self.stack.len()) {
            self.marks.pop();
            return Ok(());
        }
        let slot = self.pop()?;
        self.forget(slot);
        Ok(())
    }

    fn discard_to_mark(&mut self) -> Result<(), Reason> {
        for _ in 0..self.above_mark()? {
            let slot = self.pop()?;
            self.forget(slot);
        }
        Ok(())
    }

    fn duplicate(&mut self) -> Result<(), Reason> {
        let top = self.top()?;
        self.share(top);
        self.push(top)
    }

    fn share(&mut self, slot: Slot) {
        if let Slot::Container(index) = slot {
            self.containers[index as usize].shared = true;
        }
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
    fn take_in(&mut self, slot: Slot) -> Result<Part, Reason> {
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
    fn target(&self, count: usize) -> Result<usize, Reason> {
        let below = self.stack.len().checked_sub(count + 1).filter(|below| *below >= self.fence());
        let Slot::Container(index) = self.stack[below.ok_or(Reason::StackUnderflow)?] else {
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
        for (nth, place) in (self.stack.len() - count..self.stack.len()).enumerate() {
            let slot = self.stack[place];
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
        self.stack.truncate(self.stack.len() - count);
        self.check_size(into)
    }

    fn fill(&mut self, target: usize, count: usize, keys: fn(usize) -> bool) -> Result<(), Reason> {
        let mut container = self.open_container(target)?;
        self.absorb(&mut container, count, keys)?;
        // Absorbing may have closed it: then it was put into itself.
        self.open_container(target)?;
        self.containers[target] = container;
        Ok(())
    }

    fn append(&mut self, count: usize) -> Result<(), Reason> {
        let target = self.target(count)?;
        if self.containers[target].kind != Kind::List {
            return Err(Reason::WrongTarget);
        }
        self.fill(target, count, |_| false)
    }

    fn set_items(&mut self, count: usize) -> Result<(), Reason> {
        let target = self.target(count)?;
        let mapping = match self.containers[target].kind {
            Kind::Dict => true,
            Kind::Object(class) => self.policy.classes[usize::from(class)].usage == Use::EmptyMapping,
            Kind::List | Kind::Set | Kind::FrozenSet | Kind::Tuple => false,
        };
        if !mapping {
            return Err(Reason::WrongTarget);
        }
        if count % 2 != 0 {
            return Err(Reason::OddItems);
        }
        self.fill(target, count, |nth| nth % 2 == 0)
    }

    fn add_items(&mut self) -> Result<(), Reason> {
        let count = self.above_mark()?;
        let target = self.target(count)?;
        if self.containers[target].kind != Kind::Set {
            return Err(Reason::WrongTarget);
        }
        self.fill(target, count, |_| true)
    }

    /// Makes a tuple or frozen set of the top `count` values.
    fn gather(&mut self, kind: Kind, count: usize) -> Result<(), Reason> {
        if self.stack.len() - self.fence() < count {
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
        match self.stack[self.stack.len() - 2..] {
            [Slot::None, Slot::Container(index)] => {
                let container = &self.containers[index as usize];
                container.kind == Kind::Dict && container.attributes
            }
            _ => false,
        }
    }

    fn put(&mut self, index: usize) -> Result<(), Reason> {
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
        self.share(top);
        self.memo[index] = top;
        self.memo_used += 1;
        Ok(())
    }

    fn get(&mut self, index: u32) -> Result<(), Reason> {
        match self.memo.get(index as usize).copied() {
            None | Some(Slot::Vacant) => Err(Reason::MemoMiss(index)),
            Some(slot) => self.push(slot),
        }
    }

    fn text_of(&self, slot: Slot) -> Option<&'a str> {
        let Slot::Text { at, len } = slot else { return None };
        let at = at as usize;
        std::str::from_utf8(self.bytes.get(at..at + len as usize)?).ok()
    }

    /// STACK_GLOBAL: both names must be literal texts, whichever way they came to the stack.
    fn name_class(&mut self) -> Result<(), Refusal> {
        let (name, module) = (self.pop()?, self.pop()?);
        let (Some(module), Some(name)) = (self.text_of(module), self.text_of(name)) else {
            return Err(Reason::NameNotLiteral.into());
        };
        let Some(class) = self.policy.find(module, name) else {
            let name = Some(escape(&[module.as_bytes(), name.as_bytes()]));
            return Err(Refusal { reason: Reason::NotListed, name });
        };
        self.named[usize::from(class)] = true;
        Ok(self.push(Slot::Class(class))?)
    }

    fn pop_tuple(&mut self) -> Result<(Container, Part), Reason> {
        let slot = self.pop()?;
        let Slot::Container(index) = slot else { return Err(Reason::Misuse("the arguments are not a tuple")) };
        let container = self.containers[index as usize];
        if container.kind != Kind::Tuple {
            return Err(Reason::Misuse("the arguments are not a tuple"));
        }
        Ok((container, self.take_in(slot)?))
    }

    fn pop_class(&mut self) -> Result<(u16, Use), Reason> {
        let Slot::Class(class) = self.pop()? else { return Err(Reason::ForbiddenOpcode) };
        Ok((class, self.policy.classes[usize::from(class)].usage))
    }

    fn new_object(&mut self) -> Result<(), Reason> {
        let (arguments, part) = self.pop_tuple()?;
        match self.pop_class()? {
            (class, Use::NewObject { arguments: expected, .. }) if arguments.len == expected => {
                self.push_object(class, part)
            }
            _ => Err(Reason::Misuse("the class may not be made so")),
        }
    }

    fn call(&mut self) -> Result<(), Reason> {
        let (arguments, part) = self.pop_tuple()?;
        match self.pop_class()? {
            (class, Use::EmptyMapping) if arguments.len == 0 => self.push_object(class, part),
            _ => Err(Reason::Misuse("the class may not be called")),
        }
    }

    fn push_object(&mut self, class: u16, arguments: Part) -> Result<(), Reason> {
        self.push_made(Container {
            kind: Kind::Object(class),
            open: true,
            shared: false,
            hashable: false,
            attributes: false,
            len: 0,
            depth: arguments.depth + 1,
            size: arguments.size.saturating_add(1),
        })
    }

    fn build(&mut self) -> Result<(), Reason> {
        let target = self.target(1)?;
        let Kind::Object(class) = self.containers[target].kind else { return Err(Reason::ForbiddenOpcode) };
        let takes_state = matches!(
            self.policy.classes[usize::from(class)].usage,
            Use::NewObject { state: StateShape::Attributes, .. }
        );
        let fits = match self.top()? {
            Slot::Container(state) => {
                let state = &self.containers[state as usize];
                state.attributes && matches!(state.kind, Kind::Dict | Kind::Tuple)
            }
            Slot::Vacant | Slot::None | Slot::Scalar { .. } | Slot::Text { .. } | Slot::Class(_) => false,
        };
        if !takes_state || !fits {
            return Err(Reason::Misuse("the object may not be given this state"));
        }
        self.fill(target, 1, |_| false)?;
        // A second state would come too late.
        self.containers[target].open = false;
        Ok(())
    }

    fn persistent_id(&mut self) -> Result<(), Refusal> {
        let slot = self.pop()?;
        let Some(id) = self.text_of(slot) else { return Err(Reason::NameNotLiteral.into()) };
        if !self.policy.persistent_ids.contains(&id) {
            return Err(Refusal { reason: Reason::NotListed, name: Some(escape(&[id.as_bytes()])) });
        }
        Ok(self.push(Slot::Scalar { size: 2 })?)
    }
}
