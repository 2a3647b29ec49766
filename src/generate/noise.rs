//! Gumbel noise that is a function of seed, position and id.
//!
//! The id with the highest `log p + noise` is drawn with probability `p`. Noise hashed from the position makes
//! a sample a function of weights, prompt and seed alone: it does not matter what else a pass computes, or how
//! many ids are guessed ahead. Positions count from the first new id of a request.

use super::elementary::ln;

/// 2^64 over the golden ratio: the increment of SplitMix64 (Steele, Lea and Flood 2014).
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The noise of all ids at one position.
#[derive(Clone, Copy, Debug)]
pub struct Noise {
    key: u64,
}

impl Noise {
    /// The noise at `position` of the stream `seed`.
    pub fn new(seed: u64, position: usize) -> Self {
        // Seeds and positions pass through the hash one after the other, so that no sum of the two is a key.
        let stream = mix(seed.wrapping_add(GOLDEN));
        Self { key: mix(stream ^ mix((position as u64).wrapping_mul(GOLDEN))) }
    }

    /// What the noise of every id is hashed from.
    pub fn key(self) -> u64 {
        self.key
    }

    /// The hash of `id`.
    #[inline]
    fn bits(self, id: u32) -> u64 {
        mix(self.key.wrapping_add(u64::from(id).wrapping_mul(GOLDEN)))
    }

    /// A number between 0 and 1: an odd multiple of 2^-53, so that neither end occurs and `1 - u` is exact.
    #[inline]
    pub fn uniform(self, id: u32) -> f64 {
        let odd = (self.bits(id) >> 11) | 1;
        odd as i64 as f64 * f64::EPSILON / 2.0
    }

    /// Noise by the standard Gumbel distribution, `-ln(-ln u)`.
    #[inline]
    pub fn gumbel(self, id: u32) -> f64 {
        -ln(-ln(self.uniform(id)))
    }
}

/// A bijection of which each bit of the result depends on all bits of `x`: the finaliser of SplitMix64, with the
/// constants of its variant 13 (Stafford 2011).
#[inline]
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A seed, a position and an id.
    type Place = (u64, usize, u32);

    fn bits((seed, position, id): Place) -> u64 {
        Noise::new(seed, position).bits(id)
    }

    fn uniform((seed, position, id): Place) -> f64 {
        Noise::new(seed, position).uniform(id)
    }

    /// 20,000 places: small numbers in every combination.
    fn places() -> impl Iterator<Item = Place> {
        (0..20_000).map(|n| (n % 20, (n / 20 % 25) as usize, (n / 500) as u32))
    }

    /// Places near a place, which must have noise of their own.
    const NEIGHBOURS: [fn(Place) -> Place; 7] = [
        |(seed, position, id)| (seed + 1, position, id),
        |(seed, position, id)| (seed, position + 1, id),
        |(seed, position, id)| (seed, position, id + 1),
        |(seed, position, id)| (seed + 1, position + 1, id),
        |(seed, position, id)| (seed, position + 1, id + 1),
        |(seed, position, id)| (seed ^ 1 << 63, position, id),
        |(seed, position, id)| (position as u64 + 1000, seed as usize, id),
    ];

    /// Asserts that chi-square is within five standard deviations of its mean for `counts` that should be equal.
    fn assert_even(counts: &[f64], what: &str) {
        let (total, cells) = (counts.iter().sum::<f64>(), counts.len() as f64);
        let expected = total / cells;
        let chi2: f64 = counts.iter().map(|n| (n - expected).powi(2) / expected).sum();
        let (mean, deviation) = (cells - 1.0, (2.0 * (cells - 1.0)).sqrt());
        assert!((chi2 - mean).abs() < 5.0 * deviation, "{what}: chi-square {chi2} of {cells}");
    }

    #[test]
    fn every_bit_of_the_hash_is_fair_and_differs_from_a_neighbours_half_of_the_time() {
        let fair = |what: &str, of: &dyn Fn(Place) -> u64| {
            let mut ones = [0.0; 64];
            let mut total = 0.0;
            for place in places() {
                let bits = of(place);
                total += 1.0;
                (0..64).for_each(|bit| ones[bit] += (bits >> bit & 1) as f64);
            }
            // Sums of 64 squared standard normal variables.
            let chi2: f64 = ones.iter().map(|n| (n - total / 2.0).powi(2) / (total / 4.0)).sum();
            assert!((chi2 - 64.0).abs() < 5.0 * 128_f64.sqrt(), "{what}: chi-square {chi2}");
        };
        fair("one place", &bits);
        for (index, neighbour) in NEIGHBOURS.iter().enumerate() {
            fair(&format!("neighbour {index}"), &|place| bits(place) ^ bits(neighbour(place)));
        }
    }

    #[test]
    fn draws_are_even_and_independent_of_their_neighbours() {
        const CELLS: usize = 16;
        let cell = |u: f64| (u * CELLS as f64) as usize;
        for (index, neighbour) in NEIGHBOURS.iter().enumerate() {
            let mut pairs = vec![0.0; CELLS * CELLS];
            for place in places() {
                pairs[cell(uniform(place)) * CELLS + cell(uniform(neighbour(place)))] += 1.0;
            }
            assert_even(&pairs, &format!("pairs with neighbour {index}"));
        }
        let mut single = vec![0.0; 1000];
        places().for_each(|place| single[(uniform(place) * 1000.0) as usize] += 1.0);
        assert_even(&single, "single draws");
    }

    #[test]
    fn no_two_places_share_their_noise() {
        let mut all: Vec<u64> = places().map(bits).collect();
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn gumbel_noise_has_its_mean_and_variance() {
        let values: Vec<f64> =
            places().map(|(seed, position, id)| Noise::new(seed, position).gumbel(id)).collect();
        let len = values.len() as f64;
        let mean = values.iter().sum::<f64>() / len;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / len;
        // Euler's constant and pi^2 / 6; five standard errors of 20,000 draws.
        assert!((mean - 0.577_216).abs() < 5.0 * 1.283 / len.sqrt(), "{mean}");
        assert!((variance - 1.644_934).abs() < 0.13, "{variance}");
    }

    #[test]
    fn the_noise_of_a_place_is_the_same_in_every_build() {
        let noise = Noise::new(42, 7);
        // As by a few lines of Python, whose logarithm ends in 57 instead of 6.
        assert_eq!(noise.bits(8195), 9_481_757_569_545_469_493);
        assert_eq!(noise.gumbel(8195), 0.407_189_315_856_319_6);
    }
}
