//! The load-balancing loss of routers: arXiv 2101.03961 equation 4, as Hugging Face's `load_balancing_loss_func`.

use burn::tensor::{Tensor, TensorData, activation};

use super::router::Routing;

/// `E sum_e f_e P_e` over the tokens of several layers together: `f_e` is how many tokens of one go through expert `e`,
/// `P_e` its mean probability. If all experts are equal it is the number of experts of a token.
///
/// Gradients go through `P_e` alone, so the loss is a sum of one part for each layer.
#[derive(Clone, Debug)]
pub struct BalanceLoss {
    /// `E f_e / n` for `n` tokens, times the factor of the loss.
    factors: Vec<f32>,
    /// 1 for tokens that count, else 0.
    mask: Option<Vec<f32>>,
}

impl BalanceLoss {
    /// That of `layers` over the tokens for which `counted` is true, `None` for all.
    ///
    /// # Panics
    /// Without layers, or if their experts are not as many.
    pub fn of(layers: &[Routing], counted: Option<&[bool]>) -> Self {
        let [tokens, experts] = layers.first().expect("a sparse layer").logits.dims();
        let is_counted = |token: usize| counted.is_none_or(|counted| counted[token]);
        let number = (0..tokens).filter(|token| is_counted(*token)).count() * layers.len();
        let mut factors = vec![0.0_f32; experts];
        for Routing { logits, experts: chosen, .. } in layers {
            assert_eq!(logits.dims(), [tokens, experts], "layers have the same tokens and experts");
            for (token, chosen) in chosen.chunks_exact(chosen.len() / tokens).enumerate() {
                let chosen = chosen.iter().filter(|_| is_counted(token));
                chosen.for_each(|expert| factors[*expert as usize] += 1.0);
            }
        }
        let number = number.max(1) as f32;
        factors.iter_mut().for_each(|factor| *factor *= experts as f32 / number / number);
        let mask = |counted: &[bool]| counted.iter().map(|&counted| f32::from(counted)).collect();
        Self { factors, mask: counted.map(mask) }
    }

    /// The loss times `factor`.
    #[must_use]
    pub fn times(mut self, factor: f64) -> Self {
        self.factors.iter_mut().for_each(|of_expert| *of_expert *= factor as f32);
        self
    }

    /// The part of one of the layers.
    ///
    /// # Shapes
    /// Returns `[1]`.
    pub fn part(&self, layer: &Routing) -> Tensor<1> {
        let device = layer.logits.device();
        let row = |values: &[f32], shape| {
            Tensor::<2>::from_data(TensorData::new(values.to_vec(), shape), &device)
        };
        let mut probabilities = activation::softmax(layer.logits.clone(), 1); // [tokens, experts]
        if let Some(mask) = &self.mask {
            probabilities = probabilities * row(mask, [mask.len(), 1]);
        }
        let factors = row(&self.factors, [1, self.factors.len()]);
        (probabilities.sum_dim(0) * factors).sum()
    }

    /// The loss over `layers`, of which it is.
    ///
    /// # Shapes
    /// Returns `[1]`.
    ///
    /// # Panics
    /// Without layers.
    pub fn total(&self, layers: &[Routing]) -> Tensor<1> {
        let parts = layers.iter().map(|layer| self.part(layer));
        parts.reduce(|sum, part| sum + part).expect("a sparse layer")
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn the_loss_of_equal_experts_is_the_number_of_experts_of_a_token() {
        let device = Device::flex();
        let logits = Tensor::<2>::zeros([4, 4], &device);
        let weights = Tensor::<2>::ones([4, 2], &device);
        let layer = Routing { logits, experts: vec![0, 1, 2, 3, 0, 2, 1, 3], weights };
        let loss = |layers: &[Routing], counted: Option<&[bool]>| {
            BalanceLoss::of(layers, counted).total(layers).into_scalar::<f32>()
        };
        assert!((loss(&[layer.clone(), layer.clone()], None) - 2.0).abs() < 1e-6);
        let skewed = Routing {
            logits: Tensor::from_data([[2.0, 0.0, 0.0, 0.0]; 4], &device),
            experts: vec![0, 1, 0, 1, 0, 1, 2, 3],
            ..layer
        };
        let counted = [true, true, true, false];
        let exp = 2f32.exp();
        let [first, other] = [exp, 1.0].map(|exp_of| exp_of / (exp + 3.0));
        assert!((loss(&[skewed], Some(&counted)) - 4.0 * (first + other)).abs() < 1e-6);
    }
}
