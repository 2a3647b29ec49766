//! The norm of each head with rotation: results and gradients are those of the formula in f64.

#[path = "../src/noise.rs"]
mod noise;

use kernels::rope::{Inputs, Norm, backward, forward};
use noise::noise;

const SCALE: f64 = 0.7;
const EPS: f64 = 1e-2;

/// `x`, weight, bias, cosines and sines.
type Arrays<T> = [Vec<T>; 5];

/// The normalised elements of one head.
fn normalised(norm: Norm, x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let mean = |of: &dyn Fn(f64) -> f64| x.iter().map(|x| of(*x)).sum::<f64>() / x.len() as f64;
    let centre = mean(&|x| x);
    let deviation = (mean(&|x| (x - centre).powi(2)) + EPS).sqrt();
    let root = (mean(&|x| x * x) + EPS).sqrt();
    let value = |(i, x): (usize, &f64)| match norm {
        Norm::Layer => (x - centre) / deviation * weight[i] + bias[i],
        Norm::Rms => x / root * weight[i],
        Norm::None => *x,
    };
    x.iter().enumerate().map(value).collect()
}

/// `[batch, heads, seq, head_dim]`.
fn expected(
    norm: Norm,
    [x, weight, bias, cos, sin]: &Arrays<f64>,
    [batch, seq, heads, head_dim]: [usize; 4],
) -> Vec<f64> {
    let half = head_dim / 2;
    let mut y = vec![0.0; x.len()];
    for place in 0..batch * seq * heads {
        let (token, head) = (place / heads, place % heads);
        let x = &x[place * head_dim..][..head_dim];
        let row = if norm == Norm::Layer { head * head_dim } else { 0 };
        let of = |weights: &'_ [f64]| weights.iter().skip(row).take(head_dim).copied().collect();
        let (weight, bias): (Vec<f64>, Vec<f64>) = (of(weight), of(bias));
        let normal = normalised(norm, x, &weight, &bias);
        let to = ((token / seq * heads + head) * seq + token % seq) * head_dim;
        for i in 0..half {
            let (c, s) = (cos[token * half + i], sin[token * half + i]);
            y[to + i] = (normal[i] * c - normal[half + i] * s) * SCALE;
            y[to + half + i] = (normal[half + i] * c + normal[i] * s) * SCALE;
        }
    }
    y
}

/// The derivatives of `sum(dy * y)` by every number of the array at `place`.
fn differences(
    norm: Norm,
    arrays: &Arrays<f64>,
    dims: [usize; 4],
    dy: &[f32],
    place: usize,
) -> Vec<f64> {
    let loss = |arrays: &Arrays<f64>| {
        let y = expected(norm, arrays, dims);
        y.iter().zip(dy).map(|(y, dy)| y * f64::from(*dy)).sum::<f64>()
    };
    let mut moved = arrays.clone();
    let mut difference = |at: usize| {
        let mut shifted = |step: f64| {
            moved[place][at] = arrays[place][at] + step;
            loss(&moved)
        };
        let difference = (shifted(1e-5) - shifted(-1e-5)) / 2e-5;
        moved[place][at] = arrays[place][at];
        difference
    };
    (0..arrays[place].len()).map(&mut difference).collect()
}

fn assert_near(name: &str, got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{name}");
    let largest = want.iter().fold(1.0f64, |most, want| most.max(want.abs()));
    for (at, (got, want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*got) - want).abs() / largest;
        assert!(error < 2e-6, "{name}, element {at}: {got} instead of {want}");
    }
}

#[test]
fn results_and_gradients_are_those_of_the_formula() {
    for norm in [Norm::Layer, Norm::Rms, Norm::None] {
        // The first has more tokens than a task.
        for dims in [[2, 40, 3, 12], [1, 5, 2, 2], [3, 1, 1, 34], [1, 2, 2, 64]] {
            let [batch, seq, heads, head_dim] = dims;
            let (size, angles) = (batch * seq * heads * head_dim, batch * seq * head_dim / 2);
            let (weights, biases) = match norm {
                Norm::Layer => (heads * head_dim, heads * head_dim),
                Norm::Rms => (head_dim, 0),
                Norm::None => (0, 0),
            };
            let sizes = [size, weights, biases, angles, angles];
            let arrays: Arrays<f32> = std::array::from_fn(|at| noise(sizes[at], at as u64 + 1));
            let [x, weight, bias, cos, sin] = &arrays;
            let (scale, eps) = (SCALE as f32, EPS as f32);
            let inputs = Inputs { norm, x, weight, bias, cos, sin, scale, eps, dims };
            let exact = arrays.clone().map(|values| values.into_iter().map(f64::from).collect());
            let name = format!("{norm:?} of {dims:?}");

            let mut y = vec![f32::NAN; size];
            forward(inputs, &mut y);
            assert_near(&name, &y, &expected(norm, &exact, dims));

            let (dy, mut dx) = (noise(size, 6), vec![f32::NAN; size]);
            let (d_weight, d_bias) = backward(inputs, &dy, &mut dx);
            for (place, got) in [dx, d_weight, d_bias].iter().enumerate() {
                let want = differences(norm, &exact, dims, &dy, place);
                assert_near(&format!("{name}, gradient {place}"), got, &want);
            }
        }
    }
}
