//! A histogram of latencies: 32 steps per doubling, so that a percentile is off by 3 % at most.

const STEPS: u64 = 32;
const STEP_BITS: u32 = STEPS.trailing_zeros();

/// Counts of latencies in microseconds.
#[derive(Clone)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Histogram {
    /// Without a single count.
    pub(super) fn new() -> Self {
        let buckets = (64 - STEP_BITS + 1) * u32::try_from(STEPS).expect("32");
        Self { counts: vec![0; buckets as usize], total: 0, max: 0 }
    }

    /// Counts one latency.
    pub(super) fn add(&mut self, us: u64) {
        self.counts[bucket(us)] += 1;
        self.total += 1;
        self.max = self.max.max(us);
    }

    /// The latency below which this share (0 to 1) of the counts lies, in microseconds; 0 without counts.
    pub(super) fn percentile(&self, share: f64) -> u64 {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank need not be exact"
        )]
        let rank = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper_edge(index).min(self.max);
            }
        }
        self.max
    }

    /// The largest latency, in microseconds.
    pub(super) fn max(&self) -> u64 {
        self.max
    }
}

fn bucket(us: u64) -> usize {
    let index = if us < STEPS {
        us
    } else {
        let octave = u64::from(us.ilog2() - STEP_BITS);
        (octave + 1) * STEPS + ((us >> octave) - STEPS)
    };
    usize::try_from(index).expect("fewer than 2,000 buckets")
}

fn upper_edge(index: usize) -> u64 {
    let index = index as u64;
    if index < STEPS {
        return index;
    }
    let octave = index / STEPS - 1;
    ((index % STEPS + STEPS) << octave) + ((1 << octave) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_lies_in_its_bucket() {
        for us in (0..10_000).chain([1 << 40, u64::MAX]) {
            let edge = upper_edge(bucket(us));
            assert!(edge >= us && edge - us <= us / STEPS, "{us} in a bucket up to {edge}");
        }
    }

    #[test]
    fn percentiles_of_a_known_row_are_right() {
        let mut histogram = Histogram::new();
        (1..=1_000).for_each(|us| histogram.add(us));
        assert!((500..=516).contains(&histogram.percentile(0.5)));
        assert!((990..=1_000).contains(&histogram.percentile(0.99)));
        assert_eq!(histogram.percentile(1.0), 1_000);
        assert_eq!(histogram.max(), 1_000);
    }
}
