//! Weighted draws from several sources, resumable at any draw.
//!
//! Source, template and the document's own random choices follow from the seed and the number of
//! draws so far; the sample follows from the seed and the number of draws from its source. Each
//! epoch visits a source in a new order, which is computed, not stored.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A source of a mixture.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// Name in messages.
    pub name: String,
    /// Number of samples, at least one.
    pub len: usize,
    /// Relative share of the draws in each stage; the last one holds for all later stages too. At
    /// least 0, and above 0 in some stage.
    pub weights: Vec<f64>,
    /// Weights of the templates; at least one, each above 0.
    pub templates: Vec<f64>,
}

/// One draw.
#[derive(Clone, Debug, PartialEq)]
pub struct Draw {
    /// Number of this draw, from 0.
    pub number: u64,
    /// Index of the source.
    pub source: usize,
    /// Index of the sample in its source.
    pub index: usize,
    /// Index of the template in its source.
    pub template: usize,
    /// Number of complete passes over the source before this draw.
    pub epoch: u64,
    /// Random generator for the document, different in every draw.
    pub rng: ChaCha8Rng,
}

/// Position of a mixture: all that a resumed run needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// The seed.
    pub seed: u64,
    /// Draws so far.
    pub draws: u64,
    /// Samples in each source.
    pub lens: Vec<usize>,
    /// Draws so far from each source.
    pub taken: Vec<u64>,
}

/// An endless weighted and shuffled stream of draws from sources.
#[derive(Clone, Debug)]
pub struct Mixture {
    sources: Vec<Source>,
    cursor: Cursor,
}

impl Mixture {
    /// A mixture at its first draw.
    ///
    /// # Errors
    /// If there is no source, a source has no sample or no template, a weight is negative or not
    /// finite, or a source or a stage has no weight above 0.
    pub fn new(seed: u64, sources: Vec<Source>) -> Result<Self> {
        if sources.is_empty() {
            return Err(Error::invalid("a mixture needs at least one source"));
        }
        for source in &sources {
            source.validate().map_err(|m| Error::invalid(format!("{}: {m}", source.name)))?;
        }
        let stages = sources.iter().map(|source| source.weights.len()).max().unwrap_or(0);
        let drawn = |stage: &usize| sources.iter().any(|source| source.weight(*stage) > 0.0);
        if let Some(stage) = (0..stages).find(|stage| !drawn(stage)) {
            let message = format!("no source has a weight above 0 in stage {}", stage + 1);
            return Err(Error::invalid(message));
        }
        let lens: Vec<usize> = sources.iter().map(|source| source.len).collect();
        let cursor = Cursor { seed, draws: 0, taken: vec![0; lens.len()], lens };
        Ok(Self { sources, cursor })
    }

    /// The next draw by the weights of `stage`, from 0; never exhausted.
    pub fn draw(&mut self, stage: usize) -> Draw {
        let number = self.cursor.draws;
        let mut rng = ChaCha8Rng::seed_from_u64(self.cursor.seed);
        rng.set_stream(number + 1);
        let source = weighted(self.sources.iter().map(|s| s.weight(stage)), &mut rng);
        let template = weighted(self.sources[source].templates.iter().copied(), &mut rng);
        let len = self.sources[source].len as u64;
        let (epoch, position) = (self.cursor.taken[source] / len, self.cursor.taken[source] % len);
        let key = mix(mix(mix(self.cursor.seed) ^ source as u64) ^ epoch);
        let index = permuted(len, key, position) as usize;
        self.cursor.draws += 1;
        self.cursor.taken[source] += 1;
        Draw { number, source, index, template, epoch, rng }
    }

    /// The current position.
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// Continues from `cursor` with the draws of an uninterrupted run.
    ///
    /// # Errors
    /// If `cursor` belongs to another seed or other data.
    pub fn restore(&mut self, cursor: &Cursor) -> Result<()> {
        if cursor.seed != self.cursor.seed {
            let (found, now) = (cursor.seed, self.cursor.seed);
            let message = format!("the saved cursor has seed {found}, the run has seed {now}");
            return Err(Error::invalid(message));
        }
        if cursor.lens != self.cursor.lens || cursor.taken.len() != cursor.lens.len() {
            return Err(Error::invalid(format!(
                "the data has changed since the cursor was saved: sources of {:?} good samples \
                 then, {:?} now",
                cursor.lens, self.cursor.lens
            )));
        }
        self.cursor = cursor.clone();
        Ok(())
    }

    /// Epochs drawn from each source so far, with fractions.
    pub fn epochs(&self) -> Vec<f64> {
        let counts = self.cursor.taken.iter().zip(&self.cursor.lens);
        counts.map(|(&taken, &len)| taken as f64 / len as f64).collect()
    }
}

impl Source {
    fn weight(&self, stage: usize) -> f64 {
        let last = self.weights.last().copied().unwrap_or(0.0);
        self.weights.get(stage).copied().unwrap_or(last)
    }

    fn validate(&self) -> std::result::Result<(), String> {
        if self.len == 0 {
            return Err("holds no samples".to_owned());
        }
        if self.templates.is_empty() {
            return Err("needs at least one template".to_owned());
        }
        let refuse = |weight| Err(format!("weight {weight} is not a finite number above 0"));
        let allowed = |weight: f64| weight.is_finite() && weight >= 0.0;
        if let Some(weight) = self.weights.iter().find(|weight| !allowed(**weight)) {
            return Err(format!("weight {weight} is not a finite number of 0 or more"));
        }
        if self.weights.iter().all(|weight| *weight == 0.0) {
            return refuse(0.0);
        }
        match self.templates.iter().find(|weight| !allowed(**weight) || **weight == 0.0) {
            Some(weight) => refuse(*weight),
            None => Ok(()),
        }
    }
}

/// Index of one of `weights`, drawn by weight.
pub(super) fn weighted(weights: impl Iterator<Item = f64> + Clone, rng: &mut ChaCha8Rng) -> usize {
    let unit = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    let mut left = unit * weights.clone().sum::<f64>();
    let mut last = 0;
    for (index, weight) in weights.enumerate() {
        last = index;
        if left < weight {
            break;
        }
        left -= weight;
    }
    last
}

/// A uniform number below `len`, which is above 0. Written out here, and not left to a library's
/// choice of method, so that a seed means the same data in every version.
pub(super) fn below(rng: &mut ChaCha8Rng, len: usize) -> usize {
    ((u128::from(rng.next_u64()) * len as u128) >> 64) as usize
}

/// Rounds of the Feistel network; four give a pseudo-random permutation, two more cost nothing.
const ROUNDS: u64 = 6;

/// The image of `position` under the permutation of `0..len` with key `key`: a Feistel network over
/// the next power of four, iterated until it lands below `len` (at most four times on average).
fn permuted(len: u64, key: u64, position: u64) -> u64 {
    let bits = u64::BITS - (len - 1).leading_zeros();
    let half = bits.div_ceil(2).max(1);
    let mask = (1u64 << half) - 1;
    let mut at = position;
    loop {
        let (mut left, mut right) = (at >> half, at & mask);
        for round in 0..ROUNDS {
            let scrambled = mix(key ^ mix(round << 32 | right)) & mask;
            (left, right) = (right, left ^ scrambled);
        }
        at = left << half | right;
        if at < len {
            return at;
        }
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
pub(super) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn permutations_hit_every_index_once() {
        for len in [1, 2, 3, 5, 64, 65, 1000] {
            let mut seen: Vec<u64> = (0..len).map(|at| permuted(len, 42, at)).collect();
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..len), "{len}");
        }
    }

    #[test]
    fn permutations_favour_no_position() {
        // the mean of 400 draws of where 0 goes in 0..100 has a deviation of 1.4
        let mean = (0..400).map(|key| permuted(100, mix(key), 0) as f64).sum::<f64>() / 400.0;
        assert!((43.0..56.0).contains(&mean), "{mean}");
        let fixed = (0..1000).filter(|&at| permuted(1000, 3, at) == at).count();
        assert!(fixed < 10, "{fixed} of 1000 stay where they are; 1 is expected");
    }
}
