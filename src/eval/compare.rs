//! Comparison of two evaluations of the same items: how much their scores differ, and whether the
//! difference may be chance.
//!
//! [`Results::read`] reads a directory that [`Report::write`](super::Report::write) wrote;
//! [`compare`] pairs the items and applies the paired [`bootstrap`](super::bootstrap) to every
//! score of `samples.jsonl`, over all items and by type. Scores of a whole set, such as codebook
//! usage, have no value per item and are not compared. BLEU-4 and METEOR of a set are not means
//! over items; their means over items are compared instead, under names that say so. The CIDEr of
//! an item depends on the set, so it is compared only if both evaluations have the same items.
//!
//! Items are resampled in groups: items with the same `group` if the samples have such a field,
//! else questions of one sample (`id` up to `, questions N`), else items with the same `id`.

mod differences;
mod results;
mod table;

pub use differences::{Comparison, ScoreDifference, compare};
pub use results::{Item, Results};
pub use table::COLUMNS;
