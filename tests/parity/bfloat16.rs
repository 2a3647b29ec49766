//! The transformer in bfloat16: its weights, and all of its arithmetic.
//!
//! The reference's checkpoint is in bfloat16. `raw_logits` are its f32 arithmetic on these weights,
//! `logits_bf16` its arithmetic in bfloat16 throughout. A run that silently stays in f32 fails both cases.

use std::path::Path;

use burn::tensor::{FloatDType, TensorData};
use calumma::checkpoint::{Checkpoint, weight_files, write_weights};
use safetensors::Dtype;

use crate::Table;
use crate::models::{ABSOLUTE, RELATIVE, device, forward};
use crate::values::{Values, excess, flat};

/// Relative change of a weight that rounding to the 8 significant bits of bfloat16 undoes: below 2^-9.
const NUDGE: f32 = 0.9 / 512.0;

/// Holds the checkpoint in `dir` against the bfloat16 values of the reference.
pub fn check(table: &mut Table, title: &str, dir: &Path, values: &Values) {
    table.case(&format!("{title} text_short on weights rounded to bfloat16"), || {
        rounded_weights(dir, values)
    });
    table.case(&format!("{title} text_short in bfloat16 throughout"), || arithmetic(dir, values));
}

/// The deviation in tolerances from the reference's f32 arithmetic on bfloat16 weights.
///
/// Our checkpoint has other f32 weights, which only rounding turns into the reference's.
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

/// The deviation from the reference's arithmetic in bfloat16, as a part of what f32 may deviate.
fn arithmetic(dir: &Path, values: &Values) -> f32 {
    let want = flat(&values.floats("text_short.logits_bf16"));
    let model = Checkpoint::open_as(dir, &device(), FloatDType::F32).unwrap().model;
    let in_f32 = logits(&model, values);
    let in_bf16 = logits(&model.in_mixed_precision(), values);
    for (what, got) in [("f32", &in_f32), ("bf16", &in_bf16)] {
        let max = got
            .iter()
            .zip(&want)
            .filter(|(_, w)| **w > -1e30)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        println!("DEBUG {what} rms {} max {max}", rms(got, &want));
    }
    println!("DEBUG bf16-f32 rms {}", rms(&in_bf16, &in_f32));
    rms(&in_bf16, &want) / rms(&in_f32, &want)
}

fn logits(model: &calumma::model::CausalLm, values: &Values) -> Vec<f32> {
    let rows = values.ids("text_short.input_ids");
    let shown = vec![vec![true; rows[0].len()]; rows.len()];
    forward(model, &rows, &shown, |_, _| ()).1
}

/// The root of the mean squared difference; the reference hides image ids behind the lowest number.
fn rms(got: &[f32], want: &[f32]) -> f32 {
    let pairs = got.iter().zip(want).filter(|(_, want)| **want > -1e30);
    let (sum, count) = pairs.fold((0.0_f64, 0.0), |(sum, count), (got, want)| {
        (sum + f64::from(got - want).powi(2), count + 1.0)
    });
    (sum / count).sqrt() as f32
}
