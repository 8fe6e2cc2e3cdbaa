//! How often somebody may guess a password: a few times a minute per address, and a limit over all strangers.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Failed attempts that one address may make at once; then one every [`PER_ADDRESS_REFILL`].
const PER_ADDRESS_BURST: u32 = 5;
/// Time after which one more attempt is allowed to an address: five a minute.
const PER_ADDRESS_REFILL: Duration = Duration::from_secs(12);
/// Failed attempts of all addresses together at once; then one every [`TOGETHER_REFILL`].
const TOGETHER_BURST: u32 = 100;
/// Time after which one more attempt is allowed to all together: 120 a minute.
const TOGETHER_REFILL: Duration = Duration::from_millis(500);
/// Addresses remembered, of those who failed and of those who succeeded.
const ADDRESSES_MAX: usize = 4096;

/// Decides who may try a password. Only failures cost anything. Whoever came in before from an address is not held
/// up by the failures of strangers elsewhere.
#[derive(Debug)]
pub struct Attempts {
    failures: BTreeMap<IpAddr, Bucket>,
    known: BTreeMap<IpAddr, Instant>,
    together: Bucket,
}

impl Attempts {
    /// Nobody has failed yet.
    pub fn new(now: Instant) -> Self {
        Self { failures: BTreeMap::new(), known: BTreeMap::new(), together: Bucket::full(TOGETHER_BURST, now) }
    }

    /// Whether `address` may try now; otherwise how long it has to wait. Ask before comparing a password.
    pub fn allow(&mut self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let address = network_of(address);
        if let Some(bucket) = self.failures.get_mut(&address) {
            bucket.refill(PER_ADDRESS_BURST, PER_ADDRESS_REFILL, now);
            bucket.available(PER_ADDRESS_REFILL, now)?;
        }
        if self.known.contains_key(&address) {
            return Ok(());
        }
        self.together.refill(TOGETHER_BURST, TOGETHER_REFILL, now);
        self.together.available(TOGETHER_REFILL, now)
    }

    /// `address` gave a wrong password.
    pub fn failed(&mut self, address: IpAddr, now: Instant) {
        let address = network_of(address);
        self.together.take();
        if !self.failures.contains_key(&address) && self.failures.len() >= ADDRESSES_MAX {
            self.forget_failures(now);
        }
        self.failures.entry(address).or_insert_with(|| Bucket::full(PER_ADDRESS_BURST, now)).take();
    }

    /// `address` gave the right password.
    pub fn succeeded(&mut self, address: IpAddr, now: Instant) {
        let address = network_of(address);
        if !self.known.contains_key(&address) && self.known.len() >= ADDRESSES_MAX {
            forget_oldest(&mut self.known, |seen| *seen);
        }
        self.known.insert(address, now);
    }

    /// Makes room: drops those who may try as often as anyone, or else those who failed longest ago.
    fn forget_failures(&mut self, now: Instant) {
        self.failures.retain(|_, bucket| {
            bucket.refill(PER_ADDRESS_BURST, PER_ADDRESS_REFILL, now);
            bucket.left < PER_ADDRESS_BURST
        });
        if self.failures.len() >= ADDRESSES_MAX {
            forget_oldest(&mut self.failures, |bucket| bucket.since);
        }
    }
}

/// Drops the older half at once, so that a flood of new addresses does not cost a search each.
fn forget_oldest<T>(entries: &mut BTreeMap<IpAddr, T>, since: impl Fn(&T) -> Instant) {
    let mut times: Vec<Instant> = entries.values().map(&since).collect();
    times.sort_unstable();
    let Some(middle) = times.get(times.len() / 2).copied() else { return };
    let mut surplus = times.len() / 2;
    entries.retain(|_, entry| {
        let drop = surplus > 0 && since(entry) <= middle;
        surplus -= usize::from(drop);
        !drop
    });
}

/// One host has a whole /64 of IPv6 addresses, so those count as one.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Attempts left, and since when that is counted.
#[derive(Debug)]
struct Bucket {
    left: u32,
    since: Instant,
}

impl Bucket {
    fn full(size: u32, now: Instant) -> Self {
        Self { left: size, since: now }
    }

    fn refill(&mut self, size: u32, every: Duration, now: Instant) {
        let periods = now.saturating_duration_since(self.since).as_nanos() / every.as_nanos();
        let periods = u32::try_from(periods).unwrap_or(u32::MAX);
        if self.left.saturating_add(periods) >= size {
            *self = Self::full(size, now);
        } else {
            self.left += periods;
            self.since += every * periods;
        }
    }

    fn available(&self, every: Duration, now: Instant) -> Result<(), Duration> {
        if self.left > 0 { Ok(()) } else { Err((self.since + every).saturating_duration_since(now)) }
    }

    fn take(&mut self) {
        self.left = self.left.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::clock;
    use std::net::Ipv4Addr;

    fn v4(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(n))
    }

    fn guesses(attempts: &mut Attempts, from: IpAddr, at: Instant, tries: usize) -> usize {
        (0..tries).filter(|_| attempts.allow(from, at).is_ok().then(|| attempts.failed(from, at)).is_some()).count()
    }

    #[test]
    fn an_address_may_guess_five_times_and_then_five_times_a_minute() {
        let start = clock::instant();
        let mut attempts = Attempts::new(start);
        assert_eq!(guesses(&mut attempts, v4(1), start, 100), 5);
        assert_eq!(attempts.allow(v4(1), start), Err(PER_ADDRESS_REFILL));
        let hour: usize = (1..=3600).map(|s| guesses(&mut attempts, v4(1), start + Duration::from_secs(s), 10)).sum();
        assert_eq!(hour, 300);
        assert_eq!(attempts.allow(v4(2), start), Ok(()), "others are not concerned");
    }

    #[test]
    fn right_passwords_cost_nothing() {
        let start = clock::instant();
        let mut attempts = Attempts::new(start);
        for _ in 0..1000 {
            assert_eq!(attempts.allow(v4(1), start), Ok(()));
            attempts.succeeded(v4(1), start);
        }
    }

    #[test]
    fn many_addresses_together_are_slowed_down_but_known_ones_are_not() {
        let start = clock::instant();
        let mut attempts = Attempts::new(start);
        attempts.succeeded(v4(9_999_999), start);
        let guessed: usize = (0..10_000).map(|n| guesses(&mut attempts, v4(n), start, 1)).sum();
        assert_eq!(guessed, TOGETHER_BURST as usize);
        assert!(attempts.allow(v4(20_000), start).is_err());
        assert_eq!(attempts.allow(v4(9_999_999), start), Ok(()));
        assert_eq!(attempts.allow(v4(20_000), start + TOGETHER_REFILL), Ok(()));
    }

    #[test]
    fn neighbours_in_ipv6_count_as_one_and_mapped_ipv4_as_itself() {
        let start = clock::instant();
        let mut attempts = Attempts::new(start);
        guesses(&mut attempts, "2001:db8::1".parse().unwrap(), start, 5);
        assert!(attempts.allow("2001:db8::ffff:2".parse().unwrap(), start).is_err());
        assert!(attempts.allow("2001:db8:0:1::1".parse().unwrap(), start).is_ok());
        guesses(&mut attempts, "::ffff:10.0.0.1".parse().unwrap(), start, 5);
        assert!(attempts.allow("10.0.0.1".parse().unwrap(), start).is_err());
    }

    #[test]
    fn memory_stays_bounded() {
        let start = clock::instant();
        let mut attempts = Attempts::new(start);
        for n in 0..20_000 {
            attempts.failed(v4(n), start);
            attempts.succeeded(v4(n), start);
        }
        assert!(attempts.failures.len() <= ADDRESSES_MAX && attempts.known.len() <= ADDRESSES_MAX);
    }
}
