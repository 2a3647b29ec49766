//! Log-probabilities under classifier-free guidance (arXiv 2207.12598): those of the distribution that a
//! guided sampler draws from, so that policy and sampler are the same.
//!
//! With the conditional logits `c`, the unconditional ones `u`, the scale `s` and the temperature `t`:
//!
//! ```text
//! log p = log_softmax((u + s (c - u)) / t), over the allowed ids only
//! ```

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How logits are mixed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Guidance {
    /// `s`; 1: the conditional distribution.
    pub guidance_scale: f64,
    /// `t`, above 0.
    pub temperature: f64,
    /// Whether the unconditional branch is a constant; then only the conditional one learns.
    pub detach_unconditional: bool,
}

impl Default for Guidance {
    fn default() -> Self {
        Self { guidance_scale: 1.0, temperature: 1.0, detach_unconditional: false }
    }
}

/// The log-probability of an id and its derivatives with respect to the logits of both branches.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GuidedLogProb {
    /// In nats.
    pub log_prob: f64,
    /// With respect to the conditional logits; 0 for ids that are not allowed.
    pub conditional: Vec<f64>,
    /// With respect to the unconditional logits.
    pub unconditional: Vec<f64>,
}

impl Guidance {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the key, its value and the range.
    pub fn validate(&self) -> Result<()> {
        if !self.guidance_scale.is_finite() {
            let message = format!("guidance_scale is {}; allowed: finite", self.guidance_scale);
            return Err(Error::invalid(message));
        }
        if self.temperature > 0.0 && self.temperature.is_finite() {
            return Ok(());
        }
        Err(Error::invalid(format!("temperature is {}; allowed: above 0", self.temperature)))
    }

    /// The log-probability of `id` among the `allowed` ids.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the branches differ in length, an id lies outside them, or `id` is not allowed.
    pub fn log_prob(
        &self,
        conditional: &[f64],
        unconditional: &[f64],
        allowed: &[usize],
        id: usize,
    ) -> Result<GuidedLogProb> {
        let vocab = conditional.len();
        if unconditional.len() != vocab {
            let message = format!("{vocab} conditional and {} other logits", unconditional.len());
            return Err(Error::invalid(message));
        }
        if let Some(outside) = allowed.iter().find(|id| **id >= vocab) {
            return Err(Error::invalid(format!("id {outside} is not in a vocabulary of {vocab}")));
        }
        if !allowed.contains(&id) {
            return Err(Error::invalid(format!("id {id} is not an allowed one")));
        }
        let (s, t) = (self.guidance_scale, self.temperature);
        let mixed = |id: usize| (unconditional[id] + s * (conditional[id] - unconditional[id])) / t;
        let max = allowed.iter().copied().map(mixed).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = allowed.iter().map(|id| (mixed(*id) - max).exp()).sum();
        let log_sum_exp = max + sum.ln();
        let mut found = GuidedLogProb {
            log_prob: mixed(id) - log_sum_exp,
            conditional: vec![0.0; vocab],
            unconditional: vec![0.0; vocab],
        };
        let other = if self.detach_unconditional { 0.0 } else { (1.0 - s) / t };
        for &at in allowed {
            let residual = f64::from(u8::from(at == id)) - (mixed(at) - log_sum_exp).exp();
            found.conditional[at] = residual * s / t;
            found.unconditional[at] = residual * other;
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::train::objective::finite_differences::{Uniform, assert_close, differences};

    const ALLOWED: [usize; 4] = [1, 2, 4, 6];

    fn logits() -> (Vec<f64>, Vec<f64>) {
        let mut uniform = Uniform(3);
        (uniform.list(7, -3.0, 3.0), uniform.list(7, -3.0, 3.0))
    }

    #[test]
    fn gradients_of_both_branches_are_those_of_finite_differences() {
        let (cond, uncond) = logits();
        for (guidance_scale, temperature) in [(1.0, 1.0), (4.0, 0.7), (0.0, 2.0)] {
            let config = Guidance { guidance_scale, temperature, detach_unconditional: false };
            let found = config.log_prob(&cond, &uncond, &ALLOWED, 4).unwrap();
            let of = |c: &[f64], u: &[f64]| config.log_prob(c, u, &ALLOWED, 4).unwrap().log_prob;
            let want = differences(&cond, |cond| of(cond, &uncond));
            assert_close(&found.conditional, &want, "conditional");
            let want = differences(&uncond, |uncond| of(&cond, uncond));
            assert_close(&found.unconditional, &want, "unconditional");
            let config = Guidance { detach_unconditional: true, ..config };
            let detached = config.log_prob(&cond, &uncond, &ALLOWED, 4).unwrap();
            assert_eq!(detached.conditional, found.conditional);
            assert!(detached.unconditional.iter().all(|slope| *slope == 0.0));
        }
    }

    #[test]
    fn allowed_ids_share_all_probability_and_scale_1_needs_one_branch() {
        let (cond, uncond) = logits();
        let config = Guidance { guidance_scale: 3.0, temperature: 0.5, ..Guidance::default() };
        let log_prob = |id| config.log_prob(&cond, &uncond, &ALLOWED, id).unwrap().log_prob;
        let total: f64 = ALLOWED.iter().map(|id| log_prob(*id).exp()).sum();
        assert!((total - 1.0).abs() < 1e-12);
        let plain = Guidance::default().log_prob(&cond, &uncond, &ALLOWED, 2).unwrap();
        let other = Guidance::default().log_prob(&cond, &cond, &ALLOWED, 2).unwrap();
        assert!((plain.log_prob - other.log_prob).abs() < 1e-12);
    }

    #[test]
    fn unsuitable_values_are_refused() {
        let (cond, uncond) = logits();
        let config = Guidance::default();
        assert!(config.log_prob(&cond, &uncond[1..], &ALLOWED, 4).is_err());
        assert!(config.log_prob(&cond, &uncond, &ALLOWED, 3).is_err());
        assert!(config.log_prob(&cond, &uncond, &[4, 7], 4).is_err());
        assert!(config.validate().is_ok());
        assert!(Guidance { temperature: 0.0, ..config.clone() }.validate().is_err());
        assert!(Guidance { guidance_scale: f64::NAN, ..config }.validate().is_err());
    }
}
