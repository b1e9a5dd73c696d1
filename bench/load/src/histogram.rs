//! Latencies, kept as counts in buckets whose width grows with the value.

/// Values below `2 * STEPS` ns have a bucket each; above, every doubling has `STEPS` buckets, so
/// a reported latency is at most 1/128 (0.8 %) too high.
const STEPS: u64 = 128;

/// Longest latency told apart, in nanoseconds (18 minutes, longer than any run may last).
const LONGEST: u64 = (1 << 40) - 1;

const BUCKETS: usize = bucket(LONGEST) + 1;

/// A histogram of nanoseconds in constant memory.
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    longest: u64,
}

impl Histogram {
    /// An empty histogram.
    pub fn new() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            total: 0,
            longest: 0,
        }
    }

    /// Counts one latency.
    #[inline]
    pub fn record(&mut self, nanoseconds: u64) {
        let value = nanoseconds.min(LONGEST);
        self.counts[bucket(value)] += 1;
        self.total += 1;
        self.longest = self.longest.max(value);
    }

    /// Adds everything that `other` counted.
    pub fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
        self.longest = self.longest.max(other.longest);
    }

    /// How many latencies were counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The longest latency in nanoseconds, exactly; 0 when nothing was counted.
    pub fn longest(&self) -> u64 {
        self.longest
    }

    /// The latency in nanoseconds that `share` (0.0 to 1.0) of the requests did not exceed.
    pub fn quantile(&self, share: f64) -> u64 {
        let rank = ((share * self.total as f64).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper_bound(index).min(self.longest);
            }
        }
        self.longest
    }
}

const fn bucket(value: u64) -> usize {
    let bits = 64 - value.leading_zeros() as u64;
    let shift = bits.saturating_sub(8);
    (shift * STEPS + (value >> shift)) as usize
}

const fn upper_bound(index: usize) -> u64 {
    let index = index as u64;
    if index < 2 * STEPS {
        return index;
    }
    let shift = index / STEPS - 1;
    let step = index - shift * STEPS;
    ((step + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bucket_begins_where_the_one_before_it_ends() {
        for index in 1..BUCKETS {
            assert_eq!(bucket(upper_bound(index)), index);
            assert_eq!(bucket(upper_bound(index - 1) + 1), index);
        }
        assert_eq!(upper_bound(BUCKETS - 1), LONGEST);
    }

    #[test]
    fn quantiles_are_within_one_percent_of_the_sorted_values() {
        let mut random = crate::pattern::Random::new(7);
        let mut histogram = Histogram::new();
        let mut values: Vec<u64> = (0..20_000)
            .map(|_| random.next() >> (24 + random.next() % 30))
            .map(|value| value.min(LONGEST))
            .collect();
        values.iter().for_each(|&value| histogram.record(value));
        values.sort_unstable();
        for share in [0.01, 0.5, 0.9, 0.99, 0.999, 1.0] {
            let exact = values[((share * 20_000f64).ceil() as usize).max(1) - 1];
            let found = histogram.quantile(share);
            assert!(found >= exact, "{share}: {found} < {exact}");
            assert!(
                found as f64 <= exact as f64 * 1.01 + 1.0,
                "{share}: {found} > {exact}"
            );
        }
        assert_eq!(histogram.longest(), *values.last().expect("20,000 values"));
    }

    #[test]
    fn an_empty_histogram_and_an_endless_latency_are_harmless() {
        let mut histogram = Histogram::new();
        assert_eq!((histogram.quantile(0.99), histogram.longest()), (0, 0));
        histogram.record(u64::MAX);
        assert_eq!((histogram.quantile(0.5), histogram.total()), (LONGEST, 1));
    }

    #[test]
    fn merging_is_as_good_as_recording_in_one() {
        let (mut one, mut two) = (Histogram::new(), Histogram::new());
        (0..1_000).for_each(|value| one.record(value));
        (1_000..2_000).for_each(|value| two.record(value));
        one.merge(&two);
        assert_eq!((one.total(), one.longest()), (2_000, 1_999));
        let middle = one.quantile(0.5);
        assert!((999..=1_007).contains(&middle), "{middle}");
    }
}
