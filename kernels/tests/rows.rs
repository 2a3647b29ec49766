//! A row's result does not depend on how many rows a call has.

#[path = "../src/noise.rs"]
mod noise;

use half::bf16;
use kernels::{cross_entropy, linear, norm, rope, swiglu};
use noise::noise;

const ROWS: usize = 130;

/// Checks that `of(n)`, the results of the first `n` rows, are bit for bit the start of `of(ROWS)`, and
/// that `alone(row)` is that row's part of them.
fn check(name: &str, of: impl Fn(usize) -> Vec<f32>, alone: impl Fn(usize) -> Vec<f32>) {
    let bits = |values: Vec<f32>| -> Vec<u32> { values.into_iter().map(f32::to_bits).collect() };
    let all = bits(of(ROWS));
    let width = all.len() / ROWS;
    assert!(width > 0 && all.len() == width * ROWS, "{name}");
    for rows in 1..ROWS {
        assert!(bits(of(rows)) == all[..rows * width], "{name}: {rows} rows");
    }
    for (row, part) in all.chunks_exact(width).enumerate() {
        assert!(bits(alone(row)) == part, "{name}: row {row} alone");
    }
}

fn check_linear<E: linear::Weight>(as_stored: impl Fn(f32) -> E) {
    for inputs in [1, 15, 16, 17, 100, 384, 513] {
        let x = noise(ROWS * inputs, 1);
        for outputs in [1, 5, 6, 7, 64, 65] {
            let w: Vec<E> = noise(outputs * inputs, 2).into_iter().map(&as_stored).collect();
            check(
                &format!("linear {inputs} to {outputs}"),
                |rows| linear::forward(&x[..rows * inputs], &w, inputs),
                |row| linear::forward(&x[row * inputs..][..inputs], &w, inputs),
            );
        }
    }
}

mod row_results_do_not_depend_on_row_count {
    use super::*;

    #[test]
    fn of_linear() {
        check_linear(|w| w);
    }

    #[test]
    fn of_linear_with_weights_in_bfloat16() {
        check_linear(bf16::from_f32);
    }

    /// Nor on how many outputs are asked for: a range of the weight's rows gives a range of the results.
    #[test]
    fn of_linear_on_a_range_of_outputs() {
        let (inputs, outputs) = (100, 70);
        let (x, w) = (noise(ROWS * inputs, 1), noise(outputs * inputs, 2));
        for rows in [1, 2, 3, 4, 5, 16, 17, 130] {
            let x = &x[..rows * inputs];
            let all = linear::forward(x, &w, inputs);
            for (from, to) in [(0, 1), (1, 70), (7, 20), (64, 70), (33, 34)] {
                let part = linear::forward(x, &w[from * inputs..to * inputs], inputs);
                for (part, all) in part.chunks_exact(to - from).zip(all.chunks_exact(outputs)) {
                    assert_eq!(part, &all[from..to], "{rows} rows, outputs {from} to {to}");
                }
            }
        }
    }

    #[test]
    fn of_rms_norm() {
        for hidden in [1, 15, 16, 17, 100, 384] {
            let (x, w) = (noise(ROWS * hidden, 1), noise(hidden, 2));
            let of = |x: &[f32]| {
                let mut y = vec![0.0; x.len()];
                norm::forward(x, &w, 1e-5, &mut y);
                y
            };
            check(
                &format!("norm of {hidden}"),
                |rows| of(&x[..rows * hidden]),
                |row| of(&x[row * hidden..][..hidden]),
            );
        }
    }

    /// As for the heads of a flat batch of rows; the result, `[heads, rows, head_dim]`, is compared by
    /// rows.
    #[test]
    fn of_head_norm_and_rotation() {
        let sizes = [(1, 2), (3, 6), (2, 40), (6, 64)];
        let norms = [rope::Norm::Layer, rope::Norm::Rms, rope::Norm::None];
        for (norm, (heads, head_dim)) in norms.into_iter().flat_map(|norm| sizes.map(|s| (norm, s)))
        {
            let (width, half) = (heads * head_dim, head_dim / 2);
            let (x, weight, bias) = (noise(ROWS * width, 1), noise(width, 2), noise(width, 3));
            let (cos, sin) = (noise(ROWS * half, 4), noise(ROWS * half, 5));
            let of = |from: usize, to: usize| {
                let angles = from * half..to * half;
                let inputs = rope::Inputs {
                    norm,
                    x: &x[from * width..to * width],
                    weight: &weight,
                    bias: &bias,
                    cos: &cos[angles.clone()],
                    sin: &sin[angles],
                    scale: 0.125,
                    eps: 1e-5,
                    dims: [1, to - from, heads, head_dim],
                };
                let mut y = vec![0.0; (to - from) * width];
                rope::forward(inputs, &mut y);
                let heads = |row: usize| {
                    let y = y.chunks_exact((to - from) * head_dim);
                    y.flat_map(move |y| y[row * head_dim..][..head_dim].to_vec())
                };
                (0..to - from).flat_map(heads).collect()
            };
            check(
                &format!("{norm:?} of {heads} heads of {head_dim}"),
                |rows| of(0, rows),
                |row| of(row, row + 1),
            );
        }
    }

    #[test]
    fn of_swiglu() {
        for width in [1, 15, 17, 100, 384] {
            let [gate, up] = [1, 2].map(|seed| noise(ROWS * width, seed));
            let of = |from: usize, to: usize| {
                let part = from * width..to * width;
                let mut y = vec![0.0; part.len()];
                swiglu::forward(&gate[part.clone()], &up[part], &mut y);
                y
            };
            check(&format!("SwiGLU of {width}"), |rows| of(0, rows), |row| of(row, row + 1));
        }
    }

    #[test]
    fn of_the_statistics_of_tokens() {
        for vocab in [2, 17, 100] {
            let logits = noise(ROWS * vocab, 1);
            let targets: Vec<i32> = (0..ROWS).map(|row| (row * 7 % vocab) as i32).collect();
            let of = |from: usize, to: usize| {
                let mut logits = logits[from * vocab..to * vocab].to_vec();
                let stats = cross_entropy::forward(&mut logits, &targets[from..to]);
                stats.iter().flat_map(|s| [s.log_prob, s.log_sum_exp, s.entropy]).collect()
            };
            check(&format!("a vocabulary of {vocab}"), |rows| of(0, rows), |row| of(row, row + 1));
        }
    }
}
