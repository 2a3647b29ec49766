//! What is asked of the sampler: prompts with the seeds of their answers.

use crate::data::Prompt;

/// For each of `group` answers to every prompt of `drawn`, which are numbers of prompts and of draws, the number of
/// the prompt, and its ids with the seed of the answer.
pub(super) fn requests<'p>(
    prompts: &'p [Prompt],
    drawn: &[(usize, u64)],
    group: usize,
    seed: u64,
) -> (Vec<usize>, Vec<(&'p [u32], u64)>) {
    let answers = drawn.iter().flat_map(|drawn| (0..group).map(move |number| (*drawn, number)));
    let request = |((index, draw), number): ((usize, u64), usize)| {
        (index, (&prompts[index].ids[..], seed_of(seed, draw, number)))
    };
    answers.map(request).unzip()
}

/// The seed of answer `number` to the prompt of draw `draw`, in a run with `seed`.
fn seed_of(seed: u64, draw: u64, number: usize) -> u64 {
    // The rotation tells seed 1 and draw 2 from seed 2 and draw 1.
    let add = |state: u64, value: &u64| mixed(state.rotate_left(23) ^ mixed(*value));
    [draw, number as u64].iter().fold(mixed(seed), add)
}

/// A step of SplitMix64 (Steele et al. 2014), a permutation of all numbers.
fn mixed(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_seeds_of_their_own() {
        let mut all = std::collections::HashSet::new();
        for (seed, draw) in (0..8).flat_map(|seed| (0..32).map(move |draw| (seed, draw))) {
            assert!((0..8).all(|number| all.insert(seed_of(seed, draw, number))));
        }
        assert_eq!(seed_of(1, 2, 3), seed_of(1, 2, 3));
    }
}
