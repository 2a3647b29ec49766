//! The transformer in bfloat16: its weights, and all of its arithmetic.
//!
//! The reference's checkpoint is in bfloat16. `raw_logits` are its f32 arithmetic on these weights,
//! `logits_bf16` its arithmetic in bfloat16 throughout. A run that silently stays in f32 fails both cases.

use std::path::Path;

use burn::tensor::FloatDType;
use calumma::checkpoint::{Checkpoint, weight_files, write_weights};
use calumma::model::CausalLm;
use safetensors::Dtype;

use crate::Table;
use crate::excess::excess;
use crate::models::{ABSOLUTE, RELATIVE, device, forward};
use crate::values::{Values, flat};

/// Relative change of a weight that rounding to the 8 significant bits of bfloat16 undoes: below 2^-9.
const NUDGE: f32 = 0.9 / 512.0;

/// Compares the checkpoint in `dir` with the bfloat16 values of the reference.
pub fn check(table: &mut Table, title: &str, dir: &Path, values: &Values) {
    table.case(&format!("{title} text_short on weights rounded to bfloat16"), || {
        rounded_weights(dir, values)
    });
    table.case(&format!("{title} text_short in bfloat16 throughout"), || arithmetic(dir, values));
}

/// The deviation in tolerances from the reference's f32 arithmetic on bfloat16 weights.
///
/// The checkpoint that is opened has other f32 weights, which rounding turns into the reference's.
fn rounded_weights(dir: &Path, values: &Values) -> f32 {
    let nudged = tempfile::tempdir().unwrap();
    nudge(dir, nudged.path());
    let want = flat(&values.floats("text_short.raw_logits"));
    let off = |dtype| {
        let model = Checkpoint::open_as(nudged.path(), &device(), dtype).unwrap().model;
        excess(&logits(&model, values), &want, ABSOLUTE, RELATIVE)
    };
    let in_f32 = off(FloatDType::F32);
    assert!(in_f32 > 10.0, "f32 weights are at {in_f32} of the tolerance: the case proves nothing");
    off(FloatDType::BF16)
}

/// A copy of the checkpoint in `dir` in f32, each weight that is stored in bfloat16 changed by [`NUDGE`].
fn nudge(dir: &Path, to: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        // Ours has a manifest of the old weights.
        if path.extension().is_some_and(|e| e == "json") && !name.contains("manifest") {
            std::fs::copy(&path, to.join(name)).unwrap();
        }
    }
    let (_, files) = weight_files(dir).unwrap();
    let mut infos = files.infos();
    infos.iter_mut().for_each(|(_, dtype, _)| *dtype = Dtype::F32);
    write_weights(to, &infos, u64::MAX, |name| {
        let stored = files.stored(name)?;
        let is_narrow = stored.dtype == Dtype::BF16;
        let values = flat(&stored.to_data(FloatDType::F32)?).into_iter().enumerate();
        // Up and down in no regular order.
        let change = |(at, value): (usize, f32)| match (is_narrow, at * at % 7 % 2) {
            (false, _) => value,
            (true, 0) => value * (1.0 + NUDGE),
            (true, _) => value * (1.0 - NUDGE),
        };
        Ok(values.map(change).flat_map(f32::to_le_bytes).collect())
    })
    .unwrap();
}

/// How unlike the reference's arithmetic in bfloat16 ours is; at most 1 is alike.
///
/// Both round differently, so single logits differ as much as they do from f32. But our deviation from
/// f32 must be as large as the reference's, and point in the same direction.
fn arithmetic(dir: &Path, values: &Values) -> f32 {
    let model = Checkpoint::open_as(dir, &device(), FloatDType::F32).unwrap().model;
    let in_f32 = logits(&model, values);
    let in_bf16 = logits(&model.in_mixed_precision(), values);
    let base = flat(&values.floats("text_short.raw_logits"));
    let reference = flat(&values.floats("text_short.logits_bf16"));
    let silent = unlikeness(&in_f32, &reference, &base);
    assert!(silent > 10.0, "f32 is at {silent} of the limit: the case proves nothing");
    unlikeness(&in_bf16, &reference, &base)
}

/// How unlike the deviations of `got` and `want` from `base` are in size and direction; at most 1 is alike.
fn unlikeness(got: &[f32], want: &[f32], base: &[f32]) -> f32 {
    /// Largest ratio of their sizes; 1.02 was measured.
    const SIZE: f64 = 1.5;
    /// Least cosine of the angle between them; 0.35 was measured, and independent roundings give 0.
    const COSINE: f64 = 0.2;
    let (mut ours, mut theirs, mut both) = (0.0, 0.0, 0.0);
    for ((got, want), base) in got.iter().zip(want).zip(base) {
        // The reference replaces the logits of image ids by the lowest number.
        if *want > -1e30 {
            let (a, b) = (f64::from(got - base), f64::from(want - base));
            ours += a * a;
            theirs += b * b;
            both += a * b;
        }
    }
    let ratio = (ours / theirs).sqrt();
    let size = ratio.max(ratio.recip()) / SIZE;
    let direction = COSINE / (both / (ours * theirs).sqrt()).max(f64::MIN_POSITIVE);
    size.max(direction) as f32
}

fn logits(model: &CausalLm, values: &Values) -> Vec<f32> {
    let rows = values.ids("text_short.input_ids");
    let shown = vec![vec![true; rows[0].len()]; rows.len()];
    forward(model, &rows, &shown, |_, _| ()).1
}
