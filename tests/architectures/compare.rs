//! Comparison with expected values, within the tolerances of the fixtures' README.

use std::fmt::Debug;

use burn::tensor::TensorData;

use crate::values::flat;

/// What a line of the table says after its name: a figure, or what is wrong.
pub type Outcome = Result<String, String>;

/// An absolute and a relative tolerance, which add up.
#[derive(Clone, Copy)]
pub struct Tolerance {
    pub absolute: f32,
    pub relative: f32,
}

/// Of logits and hidden states, for sums in another order.
pub const LOGITS: Tolerance = Tolerance { absolute: 2e-4, relative: 1e-4 };
/// Of the loss.
pub const LOSS: Tolerance = Tolerance { absolute: 1e-5, relative: 0.0 };
/// Of a gradient, as a part of its largest entry.
pub const GRADIENT: f32 = 1e-4;
/// Between two computations of this program with the same sums over other rows.
pub const SAME_SUMS: Tolerance = Tolerance { absolute: 1e-5, relative: 1e-5 };

/// Compares tensors of one shape.
pub fn close(got: &TensorData, want: &TensorData, tolerance: Tolerance) -> Outcome {
    if got.shape() != want.shape() {
        return Err(format!("the shape is {:?}, expected {:?}", got.shape(), want.shape()));
    }
    all_close(&flat(got), &flat(want), tolerance)
}

/// Compares as many values; the figure is the worst deviation and what is allowed there.
pub fn all_close(got: &[f32], want: &[f32], tolerance: Tolerance) -> Outcome {
    if got.len() != want.len() {
        return Err(format!("there are {} values, expected {}", got.len(), want.len()));
    }
    let mut worst = (0.0_f32, 0.0, tolerance.absolute);
    for (got, want) in got.iter().zip(want) {
        let off = (got - want).abs();
        let allowed = tolerance.absolute + tolerance.relative * want.abs();
        if !off.is_finite() {
            return Err(format!("{got} in place of {want}"));
        }
        let ratio = if off == 0.0 { 0.0 } else { off / allowed };
        if ratio > worst.0 {
            worst = (ratio, off, allowed);
        }
    }
    let (ratio, off, allowed) = worst;
    let figure = format!("{off:.1e} of {allowed:.1e}");
    if ratio <= 1.0 { Ok(figure) } else { Err(figure) }
}

/// Compares without tolerance.
pub fn same<T: PartialEq + Debug>(got: &T, want: &T) -> Outcome {
    if got == want { Ok(String::new()) } else { Err(format!("{got:?}, expected {want:?}")) }
}

/// Compares values bit for bit.
pub fn same_bits(got: &[f32], want: &[f32]) -> Outcome {
    if got.len() != want.len() {
        return Err(format!("there are {} values, expected {}", got.len(), want.len()));
    }
    let differ = got.iter().zip(want).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    match differ {
        0 => Ok("bit for bit".to_owned()),
        _ => Err(format!("{differ} of {} values differ", got.len())),
    }
}
