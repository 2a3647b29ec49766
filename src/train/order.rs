//! The order in which finite data are drawn: a new permutation in every epoch.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// The indices of draws `from` to `from + count` of `len` entries; the order depends on the seed alone.
///
/// # Panics
/// If there is no entry.
pub(in crate::train) fn drawn(len: usize, seed: u64, from: u64, count: usize) -> Vec<usize> {
    assert!(len > 0, "nothing to draw");
    let mut epoch = None;
    let draw = |at: u64| {
        let number = at / len as u64;
        let order = match &mut epoch {
            Some((known, order)) if *known == number => order,
            epoch => &epoch.insert((number, permutation(len, seed, number))).1,
        };
        order[(at % len as u64) as usize]
    };
    (from..from + count as u64).map(draw).collect()
}

fn permutation(len: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(epoch);
    order.shuffle(&mut rng);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_has_every_entry_once_and_draws_do_not_depend_on_where_they_start() {
        let all = drawn(7, 3, 0, 28);
        for epoch in all.chunks(7) {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..7).collect::<Vec<_>>());
        }
        assert_ne!(all[..7], all[7..14]);
        assert_eq!(drawn(7, 3, 5, 10), all[5..15]);
        assert_ne!(drawn(7, 4, 0, 28), all);
    }
}
