//! Cases of chance that can be repeated: every case has a seed, and the seed of a case that fails is printed.
//!
//! A short run always tries the same cases, because a gate must not fail by luck; with `HOTSET_LONG=1` each target has
//! minutes, and begins somewhere else every time. `HOTSET_SEED=<seed>` runs the one case with that seed.

use std::time::Duration;

/// Where a short run begins.
const SEED: u64 = 0x0067_6f74_7365_7431;

/// How long each target is tried in a short and in a long run.
const SHORT: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_mins(4);

/// Cases that are tried even if time is up.
const CASES_MIN: u64 = 20;

/// Most memory that the process may ever have had: mutants are small, and nothing allocates by what they claim.
const RESIDENT_KIB_MAX: u64 = 1 << 20;

/// A small generator of pseudo-random numbers (splitmix64).
pub(crate) struct Chance(u64);

impl Chance {
    /// The same seed, the same numbers.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 if that is 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).expect("below a usize")
    }

    /// Whether it happens this time, as it does once in `times`.
    pub(crate) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of these.
    pub(crate) fn one_of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    /// Any byte.
    pub(crate) fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    /// A number of the sort that breaks things, or one near `around`.
    pub(crate) fn number(&mut self, around: u64) -> u64 {
        match self.below(6) {
            0 => *self.one_of(&[0, 1, 2, 255, 4096, 1 << 31, 1 << 32, 1 << 53, u64::MAX >> 1, u64::MAX - 1, u64::MAX]),
            1 => around.wrapping_add(1),
            2 => around.wrapping_sub(1),
            3 => around ^ (1 << self.below(64)),
            4 => around.wrapping_add(self.next() % 64),
            _ => self.next() >> self.below(64),
        }
    }

    /// Damages bytes at one place: bits, bytes, pieces that are cut, doubled, moved, or taken from `pieces`.
    pub(crate) fn damage(&mut self, bytes: &mut Vec<u8>, pieces: &[&[u8]]) {
        let at = self.below(bytes.len() + 1);
        let end = (at + 1 + self.below(24)).min(bytes.len());
        match self.below(10) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            2 | 3 if at < bytes.len() => bytes[at] = self.byte(),
            4 => bytes.insert(at, self.byte()),
            5 if at < end => drop(bytes.drain(at..end)),
            6 if at < end => {
                let copy = bytes[at..end].to_vec();
                let place = self.below(bytes.len());
                bytes.splice(place..place, copy);
            }
            7 => bytes.truncate(at),
            _ if !pieces.is_empty() => {
                let piece = *self.one_of(pieces);
                let until = if self.once_in(2) { end.max(at) } else { at };
                bytes.splice(at..until, piece.iter().copied());
            }
            _ => bytes.extend_from_slice(&self.next().to_le_bytes()),
        }
    }
}

/// Tells the seed of the case that panics.
struct Told<'a> {
    target: &'a str,
    seed: u64,
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: to repeat this case alone: HOTSET_SEED={:#x}", self.target, self.seed);
        }
    }
}

/// Whether to take minutes.
fn long() -> bool {
    std::env::var_os("HOTSET_LONG").is_some_and(|value| value == "1")
}

fn wanted_seed() -> Option<u64> {
    let text = std::env::var("HOTSET_SEED").ok()?;
    let seed = text.strip_prefix("0x").map_or_else(|| text.parse(), |digits| u64::from_str_radix(digits, 16));
    Some(seed.expect("HOTSET_SEED is a number, or 0x and hexadecimal digits"))
}

fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(now.tv_sec.try_into().expect("after boot"), now.tv_nsec.try_into().expect("below a second"))
}

/// Most memory that this process has had so far; `None` where the system does not say.
fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Tries one case after another until the time is up. A case says whether it got through the first gate: a target
/// whose mutants are all refused at once tests nothing.
pub(crate) fn cases(target: &str, mut case: impl FnMut(&mut Chance) -> bool) {
    let alone = wanted_seed();
    let chosen = if long() { Chance::new(u64::try_from(since_boot().as_nanos()).unwrap_or(0)).next() } else { SEED };
    let first = alone.unwrap_or(chosen);
    println!("{target}: begins with HOTSET_SEED={first:#x}");
    let end = since_boot() + if long() { LONG } else { SHORT };
    let (mut seed, mut count, mut through) = (first, 0_u64, 0_u64);
    loop {
        let told = Told { target, seed };
        through += u64::from(case(&mut Chance::new(seed)));
        drop(told);
        count += 1;
        if alone.is_some() || (count >= CASES_MIN && since_boot() >= end) {
            break;
        }
        seed = Chance::new(seed).next();
    }
    println!("{target}: {count} cases, {through} of them got through");
    assert!(alone.is_some() || through > 0, "{target}: {count} cases, and none got through");
    let resident = resident_kib().unwrap_or(0);
    assert!(resident <= RESIDENT_KIB_MAX, "{target}: {resident} KiB of memory");
}
