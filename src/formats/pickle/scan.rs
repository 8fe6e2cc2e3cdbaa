//! The scanner: runs a pickle with tags in place of values, and refuses what the policy does not list.
//!
//! Containers are tracked by identity while they are open or shared, so that nesting and size are those of the
//! finished value. That needs one rule which every pickler of acyclic data keeps: a container is filled before it is
//! put into another one. Cycles break it, so they are refused as well.

use super::opcodes::{Op, Opcodes, Step};
use super::policy::{Policy, StateShape, Use};
use super::stack::{Container, Kind, Part, Slot, Stack};
use super::value::Class;
use super::violation::{Reason, Violation, escape};

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
    run(bytes, policy, [""; 0]).map(|(scan, [])| scan)
}

/// As [`scan()`], and what a pickle that is a dict has under these keys, where that is a text. Nothing else of it is
/// built, however large it is.
pub fn texts_of<'a, const N: usize>(
    bytes: &'a [u8],
    policy: &Policy,
    keys: [&str; N],
) -> Result<[Option<&'a str>; N], Violation> {
    run(bytes, policy, keys).map(|(_, texts)| texts)
}

fn run<'a, const N: usize>(
    bytes: &'a [u8],
    policy: &Policy,
    keys: [&str; N],
) -> Result<(Scan, [Option<&'a str>; N]), Violation> {
    if u32::try_from(bytes.len()).is_err() {
        let reason = Reason::Limit { what: "bytes", max: u64::from(u32::MAX) };
        return Err(Violation { opcode: "begin", offset: 0, name: None, reason });
    }
    let mut opcodes = Opcodes::new(bytes, policy);
    let mut machine = Machine::new(bytes, policy, keys);
    loop {
        let step = opcodes.next()?;
        if let Some(finished) = machine.run(&step).map_err(|refusal| refusal.at(&step))? {
            let scan = Scan {
                protocol: opcodes.protocol,
                opcodes: opcodes.count,
                nesting: machine.stack.deepest,
                expanded_bytes: finished.size,
                classes: machine.classes_named(),
            };
            return Ok((scan, machine.texts));
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

/// Runs instructions: those about classes itself, all others on the stack.
struct Machine<'a, 'p, 'k, const N: usize> {
    bytes: &'a [u8],
    policy: &'p Policy,
    stack: Stack<'p>,
    named: Vec<bool>,
    keys: [&'k str; N],
    /// What the value at the bottom of the stack has under the keys: at the end that is the whole value.
    texts: [Option<&'a str>; N],
}

impl<'a, 'p, 'k, const N: usize> Machine<'a, 'p, 'k, N> {
    fn new(bytes: &'a [u8], policy: &'p Policy, keys: [&'k str; N]) -> Self {
        let (stack, named) = (Stack::new(policy, bytes.len()), vec![false; policy.classes.len()]);
        Self { bytes, policy, stack, named, keys, texts: [None; N] }
    }

    fn classes_named(&self) -> Vec<Class> {
        let named = self.policy.classes.iter().zip(&self.named).filter(|(_, named)| **named);
        named.map(|(class, _)| Class { module: class.module.into(), name: class.name.into() }).collect()
    }

    /// Runs one instruction; at the end it gives the whole value's measure.
    fn run(&mut self, step: &Step<'a>) -> Result<Option<Part>, Refusal> {
        if self.stack.is_empty() {
            self.texts = [None; N];
        }
        let scalar = Slot::Scalar { size: u32::try_from(step.end - step.start).unwrap_or(u32::MAX) };
        match step.op {
            Op::Stop => return self.finish().map(Some),
            Op::Mark => self.stack.mark()?,
            Op::Pop => self.stack.discard()?,
            Op::PopMark => self.stack.discard_to_mark()?,
            Op::Dup => self.stack.duplicate()?,
            Op::None => self.stack.push(Slot::None)?,
            Op::Bool(_) | Op::Int(_) | Op::Long(_) | Op::Float(_) | Op::Bytes(_) => self.stack.push(scalar)?,
            Op::Text(text) => self.stack.push_text(step, text)?,
            Op::EmptyList => self.stack.push_container(Kind::List)?,
            Op::EmptyDict => self.stack.push_container(Kind::Dict)?,
            Op::EmptySet => self.stack.push_container(Kind::Set)?,
            Op::Append => self.stack.append(1)?,
            Op::Appends => {
                let count = self.stack.above_mark()?;
                self.stack.append(count)?;
            }
            Op::SetItem => self.set_items(2)?,
            Op::SetItems => {
                let count = self.stack.above_mark()?;
                self.set_items(count)?;
            }
            Op::AddItems => self.stack.add_items()?,
            Op::FrozenSet => {
                let count = self.stack.above_mark()?;
                self.stack.gather(Kind::FrozenSet, count)?;
            }
            Op::TupleOfMark => {
                let count = self.stack.above_mark()?;
                self.stack.gather(Kind::Tuple, count)?;
            }
            Op::TupleOf(count) => self.stack.gather(Kind::Tuple, usize::from(count))?,
            Op::Put(index) => self.stack.put(index as usize)?,
            Op::Memoize => self.stack.put(self.stack.memo_used)?,
            Op::Get(index) => self.stack.get(index)?,
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
        let value = self.stack.pop()?;
        if !self.stack.is_empty() {
            return Err(Reason::LeftOver.into());
        }
        if !self.stack.is_dict(value) {
            self.texts = [None; N];
        }
        Ok(self.stack.take_in(value)?)
    }

    fn set_items(&mut self, count: usize) -> Result<(), Reason> {
        if N > 0 && self.stack.fills_bottom(count) {
            for nth in (0..count / 2).rev() {
                let [key, value] = self.stack.pair_from_top(nth);
                let key = self.text_of(key);
                let place = self.keys.iter().position(|wanted| key == Some(wanted));
                if let Some(place) = place {
                    self.texts[place] = self.text_of(value);
                }
            }
        }
        self.stack.set_items(count)
    }

    fn text_of(&self, slot: Slot) -> Option<&'a str> {
        let Slot::Text { at, len } = slot else { return None };
        let at = at as usize;
        std::str::from_utf8(self.bytes.get(at..at + len as usize)?).ok()
    }

    /// STACK_GLOBAL: both names must be literal texts, whichever way they came to the stack.
    fn name_class(&mut self) -> Result<(), Refusal> {
        let (name, module) = (self.stack.pop()?, self.stack.pop()?);
        let (Some(module), Some(name)) = (self.text_of(module), self.text_of(name)) else {
            return Err(Reason::NameNotLiteral.into());
        };
        let Some(class) = self.policy.find(module, name) else {
            let name = Some(escape(&[module.as_bytes(), name.as_bytes()]));
            return Err(Refusal { reason: Reason::NotListed, name });
        };
        self.named[usize::from(class)] = true;
        Ok(self.stack.push(Slot::Class(class))?)
    }

    fn pop_tuple(&mut self) -> Result<(Container, Part), Reason> {
        let slot = self.stack.pop()?;
        let Slot::Container(index) = slot else { return Err(Reason::Misuse("the arguments are not a tuple")) };
        let container = self.stack.containers[index as usize];
        if container.kind != Kind::Tuple {
            return Err(Reason::Misuse("the arguments are not a tuple"));
        }
        Ok((container, self.stack.take_in(slot)?))
    }

    fn pop_class(&mut self) -> Result<(u16, Use), Reason> {
        let Slot::Class(class) = self.stack.pop()? else { return Err(Reason::ForbiddenOpcode) };
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
        self.stack.push_made(Container {
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
        let target = self.stack.target(1)?;
        let Kind::Object(class) = self.stack.containers[target].kind else { return Err(Reason::ForbiddenOpcode) };
        let takes_state = matches!(
            self.policy.classes[usize::from(class)].usage,
            Use::NewObject { state: StateShape::Attributes, .. }
        );
        let fits = match self.stack.top()? {
            Slot::Container(state) => {
                let state = &self.stack.containers[state as usize];
                state.attributes && matches!(state.kind, Kind::Dict | Kind::Tuple)
            }
            Slot::Vacant | Slot::None | Slot::Scalar { .. } | Slot::Text { .. } | Slot::Class(_) => false,
        };
        if !takes_state || !fits {
            return Err(Reason::Misuse("the object may not be given this state"));
        }
        self.stack.fill(target, 1, |_| false)?;
        // A second state would come too late.
        self.stack.containers[target].open = false;
        Ok(())
    }

    fn persistent_id(&mut self) -> Result<(), Refusal> {
        let slot = self.stack.pop()?;
        let Some(id) = self.text_of(slot) else { return Err(Reason::NameNotLiteral.into()) };
        if !self.policy.persistent_ids.contains(&id) {
            return Err(Refusal { reason: Reason::NotListed, name: Some(escape(&[id.as_bytes()])) });
        }
        Ok(self.stack.push(Slot::Scalar { size: 2 })?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(pickle: &[u8]) -> Option<&str> {
        let [text] = texts_of(pickle, &Policy::DATA_ONLY, ["k"]).unwrap();
        text
    }

    #[test]
    fn texts_are_those_of_the_whole_value_and_of_nothing_in_it() {
        assert_eq!(text(b"\x80\x04}\x8c\x01k\x8c\x01vs."), Some("v"));
        assert_eq!(text(b"\x80\x04}(\x8c\x01aN\x8c\x01k\x94h\0u."), Some("k"));
        assert_eq!(text(b"\x80\x04}(\x8c\x01k\x8c\x01v\x8c\x01k\x8c\x01wu."), Some("w"), "the last one counts");
        assert_eq!(text(b"\x80\x04}\x8c\x01k\x8c\x01vs\x8c\x01kK\x01s."), None);
        assert_eq!(text(b"\x80\x04}\x8c\x01x}\x8c\x01k\x8c\x01vss."), None, "a dict inside");
        assert_eq!(text(b"\x80\x04}\x8c\x01k\x8c\x01vs\x85."), None, "a tuple around it");
        assert_eq!(text(b"\x80\x04}\x8c\x01k\x8c\x01vs0}."), None, "another dict");
        assert_eq!(text(b"\x80\x04\x8c\x01k."), None);
        let broken = texts_of(b"\x80\x04}\x8c\x01k\x8c\x01vs", &Policy::DATA_ONLY, ["k"]).unwrap_err();
        assert_eq!(broken.reason, Reason::NoStop);
    }
}
