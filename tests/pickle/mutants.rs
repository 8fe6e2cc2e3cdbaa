//! Mutants: reproducible damage to pickles.

/// A small generator of pseudo-random numbers (splitmix64): the same seed, the same mutants.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which must not be 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }
}

/// Opcodes worth putting anywhere: all that import, call, move on the stack or use the memo, and some data.
const OPCODES: &[u8] =
    b"ciRobQPq\x81\x82\x83\x84\x92\x93\x94\x85\x86\x87012(th)]}elduasNK.\x8f\x90\x91\x88\x8cX\x95\x97\x98";

/// Pieces of attacks, for splicing.
const PIECES: &[&[u8]] = &[
    b"cos\nsystem\n",
    b"\x8c\x02os\x8c\x06system\x93",
    b"\x8c\x02os\x94\x8c\x06system\x94\x93",
    b"h\x00h\x01\x93",
    b"\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R",
    b"(S'id'\nios\nsystem\n",
    b"\x8c\x13replication.objects\x8c\x04Node\x93)\x81",
    b"\x8c\x0fdeepdiff.helper\x8c\x0fOrderedDictPlus\x93)R",
    b"\x8c\x0c<<NoneType>>Q",
    b")\x81N}\x86b",
    b"2\x93",
    b"0",
    b"(1",
    b"(N1",
    b"20",
    b"K\x01",
    b"\x8c\x01a",
    b"N\x85",
    b"](K\x01Ne",
    b"]\x94",
    b"\x94",
];

/// A damaged copy of one of the pickles. Groups are chosen with the same chance, however many pickles they hold.
pub(crate) fn mutant(groups: &[Vec<Vec<u8>>], chance: &mut Chance) -> Vec<u8> {
    let corpus = &groups[chance.below(groups.len())];
    let mut bytes = corpus[chance.below(corpus.len())].clone();
    // A frame's length gives nearly every change away; what comes after it is to be tried as well.
    if chance.below(4) != 0 {
        unframe(&mut bytes);
    }
    let changes = if chance.below(3) == 0 { 1 + chance.below(3) } else { 1 };
    for _ in 0..changes {
        mutate(&mut bytes, corpus, chance);
    }
    bytes
}

fn mutate(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], chance: &mut Chance) {
    if bytes.is_empty() {
        return;
    }
    let at = chance.below(bytes.len());
    match chance.below(11) {
        0 => bytes[at] = u8::try_from(chance.below(256)).unwrap(),
        1 => bytes[at] ^= 1 << chance.below(8),
        2 => bytes[at] = OPCODES[chance.below(OPCODES.len())],
        3 => bytes.insert(at, OPCODES[chance.below(OPCODES.len())]),
        4 => drop(bytes.remove(at)),
        5 => bytes.truncate(at),
        6 => {
            let end = at + chance.below((bytes.len() - at).min(64)) + 1;
            let copy = bytes[at..end].to_vec();
            let place = chance.below(bytes.len());
            bytes.splice(place..place, copy);
        }
        7 => {
            let piece = PIECES[chance.below(PIECES.len())];
            bytes.splice(at..at, piece.iter().copied());
        }
        8 => {
            let other = &corpus[chance.below(corpus.len())];
            let from = chance.below(other.len().max(1)).min(other.len());
            let until = (from + 64).min(other.len());
            bytes.splice(at..at, other[from..until].iter().copied());
        }
        9 => drop(bytes.drain(at..(at + chance.below(16) + 1).min(bytes.len()))),
        _ => {
            let last = bytes.len() - 1;
            let piece = PIECES[chance.below(PIECES.len())];
            bytes.splice(last..last, piece.iter().copied());
        }
    }
}

/// Takes the frame off, so that what follows may change its length and still be let pass.
fn unframe(bytes: &mut Vec<u8>) {
    if bytes.len() > 11 && bytes[0] == 0x80 && bytes[2] == 0x95 {
        bytes.drain(2..11);
    }
}

/// What lies on the stack of a made-up program, roughly.
#[derive(Clone, Copy, PartialEq)]
enum Shape {
    Leaf,
    List,
    Dict,
    Set,
    Tuple,
    Mark,
}

/// A made-up program of data opcodes: mostly sensible, sometimes not, with much use of the memo, DUP and POP.
pub(crate) fn program(chance: &mut Chance) -> Vec<u8> {
    let mut bytes = b"\x80\x04".to_vec();
    let mut stack: Vec<Shape> = Vec::new();
    let mut memo: Vec<Shape> = Vec::new();
    for _ in 0..5 + chance.below(60) {
        instruction(&mut bytes, &mut stack, &mut memo, chance);
    }
    while stack.len() > 1 {
        // POP takes values and marks; sometimes everything goes into a tuple instead.
        if stack.contains(&Shape::Mark) && chance.below(3) == 0 {
            bytes.push(b't');
            let mark = stack.iter().rposition(|shape| *shape == Shape::Mark).unwrap();
            stack.truncate(mark);
            stack.push(Shape::Tuple);
        } else {
            bytes.push(b'0');
            stack.pop();
        }
    }
    bytes.push(b'.');
    bytes
}

fn instruction(bytes: &mut Vec<u8>, stack: &mut Vec<Shape>, memo: &mut Vec<Shape>, chance: &mut Chance) {
    let mark = stack.iter().rposition(|shape| *shape == Shape::Mark);
    let above = stack.len() - mark.map_or(0, |mark| mark + 1);
    match chance.below(16) {
        0..=2 => {
            let leaves: [&[u8]; 6] =
                [b"N", b"\x88", b"K\x05", b"\x8c\x01k", b"C\x02ab", b"\x8a\x09\0\0\0\0\0\0\0\0\x01"];
            bytes.extend(leaves[chance.below(leaves.len())]);
            stack.push(Shape::Leaf);
        }
        3 | 4 => {
            let (code, shape) = [(b']', Shape::List), (b'}', Shape::Dict), (0x8f, Shape::Set)][chance.below(3)];
            bytes.push(code);
            stack.push(shape);
        }
        5 => {
            bytes.push(b'(');
            stack.push(Shape::Mark);
        }
        6 | 7 if above > 0 => {
            bytes.push(0x94);
            memo.push(stack[stack.len() - 1]);
        }
        8 | 9 if !memo.is_empty() => {
            let index = chance.below(memo.len());
            bytes.extend([b'h', u8::try_from(index).unwrap()]);
            stack.push(memo[index]);
        }
        10 if above > 0 => {
            bytes.push(b'2');
            stack.push(stack[stack.len() - 1]);
        }
        11 if !stack.is_empty() => {
            bytes.push(b'0');
            stack.pop();
        }
        12 if above > 0 => {
            let count = 1 + chance.below(above.min(3));
            bytes.push([0x85, 0x86, 0x87][count - 1]);
            stack.truncate(stack.len() - count);
            stack.push(Shape::Tuple);
        }
        13 if above > 1 && stack[stack.len() - 2] == Shape::List => {
            bytes.push(b'a');
            stack.pop();
        }
        14 if above > 2 && stack[stack.len() - 3] == Shape::Dict => {
            bytes.push(b's');
            stack.truncate(stack.len() - 2);
        }
        15 => collect(bytes, stack, mark, chance),
        _ => {}
    }
}

/// Collects what lies above a mark, in the way that suits what lies below it.
fn collect(bytes: &mut Vec<u8>, stack: &mut Vec<Shape>, mark: Option<usize>, chance: &mut Chance) {
    let Some(mark) = mark else { return };
    let below = mark.checked_sub(1).map(|below| stack[below]);
    let (code, made) = match below {
        Some(Shape::List) => (b'e', None),
        Some(Shape::Dict) if (stack.len() - mark) % 2 == 1 => (b'u', None),
        Some(Shape::Set) => (0x90, None),
        _ => [(b't', Some(Shape::Tuple)), (0x91, Some(Shape::Leaf)), (b'1', None)][chance.below(3)],
    };
    bytes.push(code);
    stack.truncate(mark);
    stack.extend(made);
}
