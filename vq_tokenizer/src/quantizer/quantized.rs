//! What every quantizer returns in training.

use burn::tensor::{Int, Tensor};

use super::estimator::Estimator;

/// The output of a quantizer in training.
///
/// Losses are means over positions and channels; a loss that a quantizer does not have is 0.
#[derive(Debug)]
pub struct Quantized {
    /// `[batch, embed, h, w]`: the vectors of the codes, with a gradient for the latents.
    pub latents: Tensor<4>,
    /// `[batch, h, w]`: the codes.
    pub codes: Tensor<3, Int>,
    /// Mean of `(sg(z) - e)^2`, which moves the codebook towards the latents.
    pub codebook_loss: Tensor<1>,
    /// Mean of `(z - sg(e))^2`, which keeps the latents near the codebook.
    pub commitment_loss: Tensor<1>,
    /// Mean entropy of the single choices less the entropy of their mean, in nats.
    pub entropy_loss: Tensor<1>,
}

impl Quantized {
    /// The output for `latents` whose `codes` have the `vectors` of a table.
    ///
    /// # Shapes
    /// - latents, vectors: `[batch, embed, h, w]`
    /// - codes: `[batch, h, w]`
    pub(super) fn of_table(
        latents: Tensor<4>,
        vectors: Tensor<4>,
        codes: Tensor<3, Int>,
        estimator: Estimator,
    ) -> Self {
        let codebook_loss = (vectors.clone() - latents.clone().detach()).square().mean();
        let commitment_loss = (vectors.clone().detach() - latents.clone()).square().mean();
        let entropy_loss = codebook_loss.zeros_like();
        let latents = estimator.pass(latents, vectors);
        Self { latents, codes, codebook_loss, commitment_loss, entropy_loss }
    }
}
