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
const OPCODES: &[u8] = b"ciRobQPq\x81\x82\x83\x84\x92\x93\x94\x85\x86\x87012(th)]}elduasNK.\x8f\x90\x91\x88\x8cX\x95\x97\x98";

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
];

/// A damaged copy of one of the pickles.
pub(crate) fn mutant(corpus: &[Vec<u8>], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = corpus[chance.below(corpus.len())].clone();
    for _ in 0..=chance.below(3) {
        mutate(&mut bytes, corpus, chance);
    }
    bytes
}

fn mutate(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], chance: &mut Chance) {
    if bytes.is_empty() {
        return;
    }
    let at = chance.below(bytes.len());
    match chance.below(12) {
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
        10 => unframe(bytes),
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
