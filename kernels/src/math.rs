//! Scalar building blocks that the compiler turns into vector code.

use super::simd::LANES;

/// `e^x` with a relative error of at most 2e-7; 0 below -87.3, so that `exp(-infinity)` is 0.
///
/// `2^n * p(r)` with `|r| <= ln(2) / 2` and the Taylor polynomial of degree 7. Without branches and
/// calls, so that loops over it are vectorised.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    /// Adding it rounds to an integer, which the low bits then hold.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x > 88.0 { 88.0 } else { x };
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let p = 1.0 / 5040.0;
    let p = p * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r + 1.0;
    let p = p * r + 1.0;
    let exponent = rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127);
    let power = f32::from_bits(exponent << 23);
    if x < -87.3 { 0.0 } else { p * power }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The sum of the lanes, pairwise.
///
/// The lanes pass through memory; otherwise the compiler applies the order of this sum to the loop that
/// fills them and works on pairs of lanes there, at a quarter of the speed.
#[inline(always)]
pub fn total(lanes: [f32; LANES]) -> f32 {
    let mut lanes = std::hint::black_box(lanes);
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The sum of `f(a[i], b[i])`, in a fixed order.
#[inline(always)]
pub fn sum_by<B: Copy>(a: &[f32], b: &[B], f: impl Fn(f32, B) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let ((a_chunks, a_rest), (b_chunks, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] += f(a[lane], b[lane]);
        }
    }
    let mut sum = total(lanes);
    for (a, b) in a_rest.iter().zip(b_rest) {
        sum += f(*a, *b);
    }
    sum
}

/// The dot product.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    sum_by(a, b, |a, b| a * b)
}

/// The largest element, `-infinity` of an empty slice.
#[inline(always)]
pub fn largest(a: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = a.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// Replaces every element by `exp(x - shift)` and returns the sum.
#[inline(always)]
pub fn exp_shifted(a: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = a.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            chunk[lane] = exp(chunk[lane] - shift);
            lanes[lane] += chunk[lane];
        }
    }
    let mut sum = total(lanes);
    for x in rest {
        *x = exp(*x - shift);
        sum += *x;
    }
    sum
}

/// As [`exp_shifted`]; returns the sum of `exp(x - shift)` and that of `exp(x - shift) * (x - shift)`.
#[inline(always)]
pub fn exp_shifted_moments(a: &mut [f32], shift: f32) -> [f32; 2] {
    let (mut sums, mut moments) = ([0.0; LANES], [0.0; LANES]);
    let (chunks, rest) = a.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            let shifted = chunk[lane] - shift;
            chunk[lane] = exp(shifted);
            sums[lane] += chunk[lane];
            moments[lane] += chunk[lane] * shifted;
        }
    }
    let (mut sum, mut moment) = (total(sums), total(moments));
    for x in rest {
        let shifted = *x - shift;
        *x = exp(shifted);
        sum += *x;
        moment += *x * shifted;
    }
    [sum, moment]
}
