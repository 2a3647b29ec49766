//! The numbers of an AdamW update.

/// One update of one parameter (arXiv 1711.05101).
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdamW {
    /// Decay of the first and the second moment.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Factor on the gradient, below 1 when it is clipped.
    pub gradient_scale: f64,
    /// Bias corrections of the moments: `1 - beta^step`.
    pub corrections: [f64; 2],
    /// Learning rate.
    pub lr: f64,
    /// Decoupled weight decay per unit of learning rate.
    pub decay: f64,
}
