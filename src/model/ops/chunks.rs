//! When attention is computed by matrix products, and how much of it at a time.

/// Scores of all heads and rows of a batch for which products are worth their launches, ten for each chunk: with fewer,
/// tiles in shared memory take less than the half millisecond or so that those take the CPU.
const WORTH: usize = 1 << 24;
/// The shortest rows: of shorter ones, half of what products compute would be hidden.
const LONG: usize = 256;
/// Scores in memory at one time: 256 MiB in f32, and their weights.
const SCORES: usize = 1 << 26;
/// Chunks of a row, if memory permits so few: of the scores that are computed then, a ninth lies in the future.
const CHUNKS: usize = 8;
/// What a chunk is a multiple of: the tiles of products, and offsets in memory that every device can address.
const STEP: usize = 64;

/// The queries or keys of one chunk of attention by products, with `heads` query heads in all rows of a batch together
/// and queries that see at most `reach` keys; `None` where there is too little to do. Only for half formats on GPUs with
/// tensor cores.
pub fn attention_chunk(heads: usize, seq: usize, reach: usize) -> Option<usize> {
    let part = seq.div_ceil(CHUNKS).next_multiple_of(STEP);
    let most = SCORES / (heads * seq).max(1) / STEP * STEP;
    let is_worth = seq >= LONG && heads * seq * reach >= WORTH;
    is_worth.then(|| part.min(most).max(STEP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_an_eighth_of_a_row_unless_memory_is_short() {
        assert_eq!(attention_chunk(16, 512, 512), None);
        assert_eq!(attention_chunk(1 << 20, 255, 255), None);
        assert_eq!(attention_chunk(64, 512, 512), Some(64));
        assert_eq!(attention_chunk(128, 2048, 2048), Some(256));
        assert_eq!(attention_chunk(8, 2049, 2049), Some(320));
        assert_eq!(attention_chunk(256, 2048, 2048), Some(128));
        assert_eq!(attention_chunk(4096, 4096, 4096), Some(64));
        assert_eq!(attention_chunk(128, 2048, 60), None);
        assert_eq!(attention_chunk(1, 0, 0), None);
    }
}
