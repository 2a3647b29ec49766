//! Draws from rows of logits: a cube per distribution, which finds the ids that stay, then a cube per draw.
//!
//! No ids are sorted: limits of top-k and top-p are found by bisection over the order of all floats.

use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::noise::{Wide, gumbel};
use crate::model::ops::draws::{Draws, word};
use kernels::gpu::{argument, cubes, element, empty, largest, sum};

/// Units per cube.
const LINE: usize = 256;

/// Words per distribution of what the first kernel finds: see [`Kept`].
const FOUND: usize = 3;

/// The ids of a distribution that stay: those with a key above `lowest`, and those with that key up to `last`.
#[derive(CubeType, Clone)]
struct Kept {
    lowest: u32,
    last: u32,
}

/// A number that is higher for a higher logit and never 0, which stands for a hidden id.
#[cube]
fn key_of(logit: f32) -> u32 {
    let mut bits = u32::reinterpret(logit);
    if logit == 0.0f32 {
        bits = 0u32; // of either sign
    }
    let mut key = bits | 0x8000_0000u32;
    if bits >= 0x8000_0000u32 {
        key = bits ^ 0xffff_ffffu32;
    }
    key
}

#[cube]
fn logit_of(key: u32) -> f32 {
    let mut bits = key ^ 0xffff_ffffu32;
    if key >= 0x8000_0000u32 {
        bits = key ^ 0x8000_0000u32;
    }
    f32::reinterpret(bits)
}

/// Whether bit `at` of the set at `start` of the table is set.
#[cube]
fn has(table: &[u32], start: u32, at: usize) -> bool {
    (table[start as usize + at / 32] >> (at as u32 % 32u32)) & 1u32 == 1u32
}

/// The logit of `column` after guidance, repetition penalty and temperature.
#[cube]
fn processed<F: Float>(
    logits: &[F],
    table: &[u32],
    of: usize,
    column: usize,
    columns: usize,
) -> f32 {
    let full = f32::cast_from(logits[table[of + word::FULL] as usize * columns + column]);
    let images = f32::cast_from(logits[table[of + word::IMAGES] as usize * columns + column]);
    let nothing = f32::cast_from(logits[table[of + word::NOTHING] as usize * columns + column]);
    let text_scale = f32::reinterpret(table[of + word::TEXT_SCALE]);
    let image_scale = f32::reinterpret(table[of + word::IMAGE_SCALE]);
    let mut logit = full;
    if table[of + word::FULL] != table[of + word::NOTHING] {
        logit = nothing + image_scale * (images - nothing) + text_scale * (full - images);
    }
    let seen = table[of + word::SEEN];
    // No set begins at 0, but its word there can be read.
    if seen != 0u32 && has(table, seen, column) {
        let penalty = f32::reinterpret(table[of + word::PENALTY]);
        if logit < 0.0f32 {
            logit *= penalty;
        } else {
            logit /= penalty;
        }
    }
    logit / f32::reinterpret(table[of + word::TEMPERATURE])
}

/// Writes the keys of a row; returns how many ids are not hidden, or -1 if a logit is NaN or infinite, and the highest
/// logit.
#[cube]
fn fill<F: Float>(
    logits: &[F],
    table: &[u32],
    of: usize,
    keys: &mut [u32],
    start: usize,
    columns: usize,
) -> (f32, f32) {
    let mut bad = 0.0f32;
    let mut visible = 0.0f32;
    let mut top = f32::new(f32::MIN);
    let mut column = UNIT_POS_X as usize;
    while column < columns {
        let mut key = 0u32;
        if has(table, table[of + word::ALLOWED], column) {
            let logit = processed::<F>(logits, table, of, column, columns);
            // NaN is in no order.
            if logit >= f32::new(f32::MIN) && logit <= f32::new(f32::MAX) {
                key = key_of(logit);
                visible += 1.0f32;
                top = max(top, logit);
            } else {
                let is_hidden = logit < f32::new(f32::MIN);
                if !is_hidden {
                    bad = 1.0f32;
                }
            }
        }
        keys[start + column] = key;
        column += LINE;
    }
    let bad = largest(bad, LINE);
    let mut count = sum(visible, LINE, 1usize);
    if bad > 0.0f32 {
        count = -1.0f32;
    }
    (count, largest(top, LINE))
}

/// The number of ids whose keys are `lowest` or higher.
#[cube]
fn count_from(keys: &mut [u32], start: usize, columns: usize, lowest: u32) -> f32 {
    let mut count = 0.0f32;
    let mut column = UNIT_POS_X as usize;
    while column < columns {
        if keys[start + column] >= lowest {
            count += 1.0f32;
        }
        column += LINE;
    }
    sum(count, LINE, 1usize)
}

/// The number of ids up to column `last` whose keys are `key`.
#[cube]
fn count_equal(keys: &mut [u32], start: usize, last: u32, columns: usize, key: u32) -> f32 {
    let mut count = 0.0f32;
    let mut column = UNIT_POS_X as usize;
    while column < columns {
        if keys[start + column] == key && column as u32 <= last {
            count += 1.0f32;
        }
        column += LINE;
    }
    sum(count, LINE, 1usize)
}

/// The sum of `e^(logit - top)` over the ids with keys from `lowest` to below `end`.
#[cube]
fn weight_between(
    keys: &mut [u32],
    start: usize,
    columns: usize,
    lowest: u32,
    end: u32,
    top: f32,
) -> f32 {
    let mut weight = 0.0f32;
    let mut column = UNIT_POS_X as usize;
    while column < columns {
        let key = keys[start + column];
        if key >= lowest && key < end {
            weight += f32::exp(logit_of(key) - top);
        }
        column += LINE;
    }
    sum(weight, LINE, 1usize)
}

/// The highest key that at least `k` ids reach.
#[cube]
fn top_k(keys: &mut [u32], start: usize, columns: usize, k: f32, highest: u32) -> u32 {
    let mut low = 1u32;
    let mut high = highest;
    for _ in 0..32u32 {
        let middle = high - (high - low) / 2u32;
        if count_from(keys, start, columns, middle) >= k {
            low = middle;
        } else if low < high {
            high = middle - 1u32;
        }
    }
    low
}

/// What stays of the ids from the key `lowest` on when the least likely ones whose probabilities add up to at most
/// `rest` are dropped, of equal ones the higher ids first.
#[cube]
fn top_p(keys: &mut [u32], start: usize, columns: usize, lowest: u32, rest: f32, top: f32) -> Kept {
    let highest = key_of(top);
    let limit = rest * weight_between(keys, start, columns, lowest, 0xffff_ffffu32, top);
    let mut low = lowest;
    let mut high = highest;
    for _ in 0..32u32 {
        let middle = high - (high - low) / 2u32;
        if weight_between(keys, start, columns, lowest, middle, top) <= limit {
            low = middle;
        } else if low < high {
            high = middle - 1u32;
        }
    }
    let dropped = weight_between(keys, start, columns, lowest, low, top);
    let equal = count_equal(keys, start, 0xffff_ffffu32, columns, low);
    let more = f32::floor((limit - dropped) / f32::exp(logit_of(low) - top));
    // The most likely id stays even if rounding says otherwise.
    let stay = max(equal - max(more, 0.0f32), 1.0f32);
    let mut first = 0u32;
    let mut last = columns as u32 - 1u32;
    for _ in 0..32u32 {
        let middle = first + (last - first) / 2u32;
        if count_equal(keys, start, middle, columns, low) >= stay {
            last = middle;
        } else if first < last {
            first = middle + 1u32;
        }
    }
    Kept { lowest: low, last }
}

#[cube(launch)]
fn distributions_kernel<F: Float>(
    logits: &[F], // [rows, columns]
    table: &[u32],
    keys: &mut [u32],  // [distributions, columns]
    found: &mut [u32], // [distributions, FOUND]
    columns: usize,
    distributions: usize,
    #[define(F)] _element: ElemType,
) {
    let number = CUBE_POS;
    if number >= distributions {
        terminate!();
    }
    let (of, start) = (number * word::DISTRIBUTION, number * columns);
    let (visible, top) = fill::<F>(logits, table, of, keys, start, columns);
    let highest = key_of(top);
    let mut lowest = 1u32;
    let mut last = 0xffff_ffffu32;
    if table[of + word::GREEDY] == 1u32 {
        lowest = highest;
    } else if visible > 0.0f32 {
        let k = table[of + word::TOP_K];
        if k > 0u32 {
            lowest = top_k(keys, start, columns, f32::cast_from(k), highest);
        }
        let rest = f32::reinterpret(table[of + word::REST]);
        if rest > 0.0f32 {
            let kept = top_p(keys, start, columns, lowest, rest, top);
            lowest = kept.lowest;
            last = kept.last;
        }
        let least =
            key_of(max(top + f32::reinterpret(table[of + word::REACH]), f32::new(f32::MIN)));
        if least > lowest {
            lowest = least;
            last = 0xffff_ffffu32;
        }
    }
    if UNIT_POS == 0 {
        found[number * FOUND] = lowest;
        found[number * FOUND + 1] = last;
        found[number * FOUND + 2] = 0u32;
        if visible < 0.0f32 {
            found[number * FOUND + 2] = word::NOT_FINITE;
        } else if visible == 0.0f32 {
            found[number * FOUND + 2] = word::EMPTY;
        }
    }
}

/// Logit and noise of a column, or a number below all others if the id does not stay.
#[cube]
fn score(key: u32, kept: &Kept, column: u32, id: u32, noise: &Wide, is_greedy: bool) -> f32 {
    let mut score = f32::new(f32::MIN);
    if key > kept.lowest || (key == kept.lowest && column <= kept.last) {
        score = logit_of(key);
        if !is_greedy {
            score += gumbel(noise, id);
        }
    }
    score
}

#[cube(launch)]
fn draws_kernel(
    keys: &[u32],
    found: &[u32],
    table: &[u32],
    drawn: &mut [u32], // [draws]
    columns: usize,
    first: u32,
    distributions: usize,
) {
    let draw = CUBE_POS;
    if draw >= drawn.len() {
        terminate!();
    }
    let at = distributions * word::DISTRIBUTION + draw * word::DRAW;
    let number = table[at] as usize;
    let noise = Wide { high: table[at + 1], low: table[at + 2] };
    let guess = table[at + 3];
    let start = number * columns;
    let kept = Kept { lowest: found[number * FOUND], last: found[number * FOUND + 1] };
    let status = found[number * FOUND + 2];
    let is_greedy = table[number * word::DISTRIBUTION + word::GREEDY] == 1u32;
    let unit = UNIT_POS as usize;
    let mut best = f32::new(f32::MIN);
    let mut choice = 0u32;
    let mut column = unit;
    while column < columns {
        let number = column as u32;
        let score = score(keys[start + column], &kept, number, first + number, &noise, is_greedy);
        if score > best {
            best = score;
            choice = number;
        }
        column += LINE;
    }
    let top = largest(best, LINE);
    let mut candidates = Shared::<[u32]>::new_slice(LINE);
    candidates[unit] = 0xffff_ffffu32;
    if best == top {
        candidates[unit] = choice;
    }
    sync_cube();
    if unit == 0 {
        let mut lowest = 0xffff_ffffu32;
        for other in 0..LINE {
            lowest = min(lowest, candidates[other]);
        }
        if guess < columns as u32 {
            let key = keys[start + guess as usize];
            let near = score(key, &kept, guess, first + guess, &noise, is_greedy);
            let is_kept = near > f32::new(f32::MIN);
            if is_kept && near >= top - f32::reinterpret(table[at + 4]) {
                lowest = guess;
            }
        }
        drawn[draw] = first + lowest;
        if status != 0u32 {
            drawn[draw] = status;
        }
    }
}

/// The drawn ids in i32; see [`crate::model::ops::draw`].
pub(super) fn draw(logits: CubeTensor, draws: &Draws, table: CubeTensor) -> CubeTensor {
    let logits = into_contiguous(logits);
    let [_, columns] = logits.shape().dims();
    let (distributions, count) = (draws.distributions.len(), draws.places.len());
    let keys = empty(&logits, [distributions, columns], DType::U32);
    let found = empty(&logits, [distributions, FOUND], DType::U32);
    let drawn = empty(&logits, [count], DType::I32);
    let (client, types, units) =
        (logits.client.clone(), element(&logits), CubeDim::new_1d(LINE as u32));
    let buffer = |tensor: &CubeTensor| argument(tensor.clone());
    distributions_kernel::launch(
        &client,
        cubes(distributions),
        units,
        buffer(&logits),
        buffer(&table),
        buffer(&keys),
        buffer(&found),
        columns,
        distributions,
        types,
    );
    draws_kernel::launch(
        &client,
        cubes(count),
        units,
        buffer(&keys),
        buffer(&found),
        buffer(&table),
        buffer(&drawn),
        columns,
        draws.first,
        distributions,
    );
    drawn
}
