//! Numbers and central differences for the tests of analytic gradients.

/// Reproducible values, uniform in an interval (a linear congruential generator).
pub(super) struct Uniform(pub u64);

impl Uniform {
    pub fn next(&mut self, low: f64, high: f64) -> f64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        low + (high - low) * (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub fn list(&mut self, len: usize, low: f64, high: f64) -> Vec<f64> {
        (0..len).map(|_| self.next(low, high)).collect()
    }

    /// Log-probabilities of `len` tokens.
    pub fn log_probs(&mut self, len: usize) -> Vec<f64> {
        self.list(len, -3.0, -0.02)
    }
}

/// Central differences of `f` at `x`.
pub(super) fn differences(x: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let at = |place: usize, step: f64| {
        let mut moved = x.to_vec();
        moved[place] += step;
        f(&moved)
    };
    (0..x.len()).map(|place| (at(place, 1e-6) - at(place, -1e-6)) / 2e-6).collect()
}

/// Compares to 1e-7 and a relative 1e-6, which central differences in f64 reach.
pub(super) fn assert_close(got: &[f64], want: &[f64], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (place, (got, want)) in got.iter().zip(want).enumerate() {
        let off = (got - want).abs();
        assert!(off < 1e-7 + 1e-6 * want.abs(), "{what}, {place}: {got} is not {want}");
    }
}
