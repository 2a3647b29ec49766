//! Logistic functions in f64 that neither overflow nor cancel.

use std::f64::consts::LN_2;

/// `1 / (1 + e^-x)`.
pub(super) fn sigmoid(x: f64) -> f64 {
    let tail = (-x.abs()).exp();
    if x >= 0.0 { 1.0 / (1.0 + tail) } else { tail / (1.0 + tail) }
}

/// The derivative of [`sigmoid`].
pub(super) fn sigmoid_slope(x: f64) -> f64 {
    sigmoid(x) * sigmoid(-x)
}

/// `ln(1 + e^x)`, which is `-ln sigmoid(-x)`; its derivative is [`sigmoid`].
pub(super) fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// `ln(1 - e^x)` for `x < 0`; the two forms keep their digits on either side of `-ln 2`.
pub(super) fn log1mexp(x: f64) -> f64 {
    if x < -LN_2 { (-x.exp()).ln_1p() } else { (-x.exp_m1()).ln() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_arguments_stay_finite_and_small_ones_keep_their_digits() {
        assert_eq!((sigmoid(800.0), sigmoid(-800.0)), (1.0, 0.0));
        assert_eq!((softplus(800.0), softplus(-800.0)), (800.0, 0.0));
        assert!((softplus(0.0) - LN_2).abs() < 1e-16);
        assert!((log1mexp(-1e-12) - 1e-12_f64.ln()).abs() < 1e-9);
        assert!((log1mexp(-40.0) / -(-40.0_f64).exp() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn both_forms_meet_at_the_border() {
        let (below, above) = (log1mexp(-LN_2 - 1e-12), log1mexp(-LN_2 + 1e-12));
        assert!((below - above).abs() < 1e-11 && (below + LN_2).abs() < 1e-11);
    }
}
