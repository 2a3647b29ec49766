//! Elementary functions of f64 that give the same bits on every machine.
//!
//! The standard library calls the platform's mathematical library, which may differ in the last bit. These use
//! addition, multiplication, division and bit patterns only; Rust never fuses them.

/// 2^54, which makes any subnormal number normal.
const TWO_54: f64 = 18_014_398_509_481_984.0;
/// Bits of the significand.
const SIGNIFICAND: u32 = 52;
/// Added to exponents in their bit pattern.
const BIAS: i64 = 1023;

/// Coefficients of `x^3`, `x^5`, ... of artanh; the first one left out changes nothing below 0.172.
const ARTANH: [f64; 10] = [
    1.0 / 3.0,
    1.0 / 5.0,
    1.0 / 7.0,
    1.0 / 9.0,
    1.0 / 11.0,
    1.0 / 13.0,
    1.0 / 15.0,
    1.0 / 17.0,
    1.0 / 19.0,
    1.0 / 21.0,
];

/// The natural logarithm of `x`, positive and finite, with a relative error of less than 1e-15.
///
/// `x = 2^n m` with `m` in `[sqrt(1/2), sqrt(2))`, and `ln m = 2 artanh((m - 1) / (m + 1))` by its series.
#[inline]
pub(super) fn ln(x: f64) -> f64 {
    const SQRT_HALF: u64 = std::f64::consts::FRAC_1_SQRT_2.to_bits();
    let (normal, below) = if x < f64::MIN_POSITIVE { (x * TWO_54, 54) } else { (x, 0) };
    let bits = normal.to_bits();
    let exponent = (bits.wrapping_sub(SQRT_HALF) as i64) >> SIGNIFICAND;
    let m = f64::from_bits(bits.wrapping_sub((exponent << SIGNIFICAND) as u64));
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let series = ARTANH.iter().rev().fold(0.0, |series, term| series * square + term);
    let of_m = 2.0 * s + 2.0 * s * (square * series);
    (exponent - below) as f64 * std::f64::consts::LN_2 + of_m
}

/// `e^x` for `x` in `[-700, 700]`, with a relative error of less than 1e-14.
///
/// `x = n ln 2 + r` with `|r| <= ln(2) / 2`, and the Taylor polynomial of degree 14.
pub(super) fn exp(x: f64) -> f64 {
    /// The first 32 bits of `ln 2`, so that its product with an exponent is exact, and the rest.
    const LN2_HIGH: f64 = 0.693_147_180_369_123_8;
    const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    let n = (x * std::f64::consts::LOG2_E).round();
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut series = 1.0;
    for factor in (1..=14).rev() {
        series = series * r / f64::from(factor) + 1.0;
    }
    series * f64::from_bits(((n as i64 + BIAS) << SIGNIFICAND) as u64)
}

/// `sin x` for `x` in `[0, pi / 2]`, with an error of less than 1e-15, by the Taylor polynomial of degree 21.
pub(super) fn sin(x: f64) -> f64 {
    let square = x * x;
    let mut series = 1.0;
    for half in (1..=10).rev() {
        let even = f64::from(2 * half);
        series = 1.0 - series * square / (even * (even + 1.0));
    }
    x * series
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asserts that `ours` is within 1e-14 of `theirs`, relative to it.
    fn assert_close(x: f64, ours: f64, theirs: f64) {
        assert!((ours - theirs).abs() <= 1e-14 * theirs.abs(), "{x:e}: {ours:e}, not {theirs:e}");
    }

    #[test]
    fn the_logarithm_is_that_of_the_standard_library_to_1e14() {
        assert_eq!(ln(1.0), 0.0);
        let mut x = f64::MIN_POSITIVE / TWO_54;
        while x < f64::MAX / 1.01 {
            assert_close(x, ln(x), x.ln());
            x *= 1.009_7;
            // Subnormal steps of 1 % vanish.
            x = f64::from_bits(x.to_bits() + 1);
        }
        for exponent in 1..=52 {
            let step = 0.5_f64.powi(exponent);
            for x in [1.0 + step, 1.0 - step, 1.0 - step / 2.0, step, 1.0 + step + f64::EPSILON] {
                assert_close(x, ln(x), x.ln());
            }
        }
        for x in [f64::MIN_POSITIVE, f64::from_bits(1), f64::MAX, std::f64::consts::SQRT_2] {
            assert_close(x, ln(x), x.ln());
        }
    }

    #[test]
    fn the_logarithm_rises_with_its_argument() {
        // At the ends of the range of the significand, and next to 1.
        let roots = [std::f64::consts::FRAC_1_SQRT_2, std::f64::consts::SQRT_2, 1.0, 2.0];
        for start in roots.map(f64::to_bits) {
            let values: Vec<f64> =
                (start - 1000..start + 1000).map(|bits| ln(f64::from_bits(bits))).collect();
            // Neighbours may be equal or, where two roundings meet, off by one unit in the last place.
            let falls = values.windows(2).filter(|pair| pair[1] < pair[0] - 2.3e-16).count();
            assert_eq!(falls, 0, "near {}", f64::from_bits(start));
        }
    }

    #[test]
    fn exponential_and_sine_are_those_of_the_standard_library() {
        for step in -7000..=7000 {
            let x = f64::from(step) / 10.0;
            assert_close(x, exp(x), x.exp());
        }
        for step in 0..=1000 {
            let x = f64::from(step) / 1000.0 * std::f64::consts::FRAC_PI_2;
            assert_close(x, sin(x), x.sin());
        }
    }
}
