//! Elementary functions and sums of vectors.

use pulp::Simd;

/// Vectors summed in f32 before their sum goes to f64.
pub(super) const RUN: usize = 512;

/// `e^x` for `x` clamped to `[-87, 88]`, to 2e-7 relative.
#[inline(always)]
pub(super) fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts; the first has few bits, so that its multiples are exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5 * 2^23 rounds to an integer, held in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // Taylor coefficients from degree 7 down; the remainder at ln(2) / 2 is below 1e-8.
    const TERMS: [f32; 7] = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    let x = simd.max_f32s(simd.min_f32s(x, simd.splat_f32s(88.0)), simd.splat_f32s(-87.0));
    let shifted = simd.mul_add_e_f32s(x, simd.splat_f32s(LOG2_E), simd.splat_f32s(ROUND));
    let count = simd.sub_f32s(shifted, simd.splat_f32s(ROUND));
    let rest = simd.mul_add_e_f32s(count, simd.splat_f32s(-LN2_HIGH), x);
    let rest = simd.mul_add_e_f32s(count, simd.splat_f32s(-LN2_LOW), rest);
    let mut power = simd.splat_f32s(1.0 / 5040.0);
    for term in TERMS {
        power = simd.mul_add_e_f32s(power, rest, simd.splat_f32s(term));
    }
    let bits = simd.transmute_u32s_f32s(shifted);
    let exponent = simd.wrapping_dyn_shl_u32s(bits, simd.splat_u32s(23));
    simd.transmute_f32s_u32s(simd.add_u32s(simd.transmute_u32s_f32s(power), exponent))
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(super) fn sigmoid<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let one = simd.splat_f32s(1.0);
    simd.div_f32s(one, simd.add_f32s(one, exp(simd, simd.neg_f32s(x))))
}

/// The sum of `f` over whole vectors, in f64 between runs of [`RUN`].
#[inline(always)]
pub(super) fn sum<S: Simd>(simd: S, vectors: &[S::f32s], f: impl Fn(S::f32s) -> S::f32s) -> f64 {
    let mut total = 0.0;
    for run in vectors.chunks(RUN) {
        let mut sums = [simd.splat_f32s(0.0); 4];
        let fours = run.chunks_exact(4);
        for vector in fours.remainder() {
            sums[0] = simd.add_f32s(sums[0], f(*vector));
        }
        for four in fours {
            for (sum, vector) in sums.iter_mut().zip(four) {
                *sum = simd.add_f32s(*sum, f(*vector));
            }
        }
        let [a, b, c, d] = sums;
        let sum = simd.add_f32s(simd.add_f32s(a, b), simd.add_f32s(c, d));
        total += f64::from(simd.reduce_sum_f32s(sum));
    }
    total
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::ops::cpu::simd::dispatch;
    use pulp::WithSimd;

    struct Exp<'a>(&'a [f32], &'a mut [f32]);

    impl WithSimd for Exp<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let (vectors, rest) = S::as_simd_f32s(self.0);
            let (out, rest_out) = S::as_mut_simd_f32s(self.1);
            for (out, x) in out.iter_mut().zip(vectors) {
                *out = exp(simd, *x);
            }
            simd.partial_store_f32s(rest_out, exp(simd, simd.partial_load_f32s(rest)));
        }
    }

    #[test]
    fn exponential_is_exact_to_a_millionth_over_its_range() {
        let inputs: Vec<f32> = (0..1_000_003).map(|i| -87.0 + 175.0 * i as f32 / 1e6).collect();
        let mut outputs = vec![0.0; inputs.len()];
        dispatch(Exp(&inputs, &mut outputs));
        for (x, y) in inputs.iter().map(|x| x.clamp(-87.0, 88.0)).zip(outputs) {
            let exact = f64::from(x).exp();
            assert!((f64::from(y) / exact - 1.0).abs() < 1e-6, "exp({x}) is {exact}, not {y}");
        }
    }
}
