//! Seeded pseudo-random numbers, so that fixed inputs are the same on every machine.

/// A small generator (splitmix64).
pub(super) struct Chance(u64);

impl Chance {
    /// The same seed gives the same numbers.
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 bits.
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `count` (0 if that is 0).
    pub(super) fn below(&mut self, count: u64) -> u64 {
        let wide = u128::from(self.next()) * u128::from(count);
        u64::try_from(wide >> 64).expect("the upper half")
    }

    /// A number from 0 to below 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
    pub(super) fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A log-normal size.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size need not be exact")]
    pub(super) fn log_normal(&mut self, mean: f64, deviation: f64) -> usize {
        let radius = (-2.0 * (1.0 - self.share()).ln()).sqrt();
        let normal = radius * (std::f64::consts::TAU * self.share()).cos();
        (mean + deviation * normal).exp() as usize
    }

    /// This many bytes.
    pub(super) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_normal_sizes_have_the_median_asked_for() {
        let mut chance = Chance::new(1);
        let mut sizes: Vec<usize> = (0..2_001).map(|_| chance.log_normal(6.9, 0.7)).collect();
        sizes.sort_unstable();
        assert!((900..1_100).contains(&sizes[1_000]), "{}", sizes[1_000]);
    }

    #[test]
    fn numbers_stay_below_their_bound() {
        let mut chance = Chance::new(2);
        assert!((0..1_000).all(|_| chance.below(7) < 7 && chance.share() < 1.0));
    }
}
