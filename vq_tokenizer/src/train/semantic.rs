//! The semantic head, which predicts the words of an image's caption from its quantized latents:
//! codes from which words can be predicted serve a language model better. It is trained with the
//! tokenizer and not part of releases.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor, activation};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::init;
use crate::layers::Conv2d;

/// Settings of the semantic head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SemanticConfig {
    /// Weight of the head's loss; 0 trains without the head.
    pub weight: f64,
    /// Size of the vocabulary: words are hashed to so many classes.
    pub words: usize,
    /// Channels of the hidden layer.
    pub hidden: usize,
}

impl Default for SemanticConfig {
    fn default() -> Self {
        Self { weight: 0.0, words: 512, hidden: 128 }
    }
}

impl SemanticConfig {
    /// Checks every value against its range.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the key, its value and what is allowed.
    pub fn validate(&self) -> Result<()> {
        if !self.weight.is_finite() || self.weight < 0.0 {
            let weight = self.weight;
            let message = format!("semantic.weight is {weight}; allowed: 0 or more");
            return Err(Error::invalid(message));
        }
        for (key, value) in [("words", self.words), ("hidden", self.hidden)] {
            if value == 0 {
                return Err(Error::invalid(format!("semantic.{key} is 0; it must be at least 1")));
            }
        }
        Ok(())
    }
}

/// A convolution, pooling and a linear layer, from latents to words.
#[derive(Module, Debug)]
pub struct SemanticHead {
    hidden: Conv2d,
    weight: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
}

impl SemanticHead {
    /// A randomly initialised head for latents of `embed_dim` channels.
    pub fn new(config: &SemanticConfig, embed_dim: usize, device: &Device) -> Self {
        let std = (2.0 * config.hidden as f64).powf(-0.5);
        Self {
            hidden: Conv2d::new(embed_dim, config.hidden, 3, device),
            weight: init::normal(std, [2 * config.hidden, config.words], device),
            bias: Initializer::Zeros.init([config.words], device),
        }
    }

    /// The logit of each word.
    ///
    /// # Shapes
    /// - latents: `[batch, embed, h, w]`
    /// - result: `[batch, words]`
    pub fn forward(&self, latents: Tensor<4>) -> Tensor<2> {
        let x = activation::silu(self.hidden.forward(latents));
        let [batch, channels, height, width] = x.dims();
        let x = x.reshape([batch, channels, height * width]);
        // Mean pooling for the image as a whole, max pooling for what occurs anywhere.
        let pooled = Tensor::cat(vec![x.clone().mean_dim(2), x.max_dim(2)], 1);
        pooled.reshape([batch, 2 * channels]).matmul(self.weight.val())
            + self.bias.val().unsqueeze()
    }

    /// The mean binary cross-entropy of the present words plus that of the absent ones, which are many more.
    ///
    /// Images without any word are ignored.
    ///
    /// # Shapes
    /// - latents: `[batch, embed, h, w]`
    /// - present: `[batch, words]`, 1 or 0
    /// - result: `[1]`
    pub fn loss(&self, latents: Tensor<4>, present: Tensor<2>) -> Tensor<1> {
        let logits = self.forward(latents);
        let if_present = activation::softplus(logits.clone().neg(), 1.0);
        let if_absent = activation::softplus(logits, 1.0);
        let has_words = present.clone().sum_dim(1).greater_elem(0.0).float();
        let absent = (present.clone().neg() + 1.0) * has_words;
        let mean = |x: Tensor<2>, mask: Tensor<2>| (x * mask.clone()).sum() / (mask.sum() + 1e-6);
        mean(if_present, present) + mean(if_absent, absent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Distribution;

    #[test]
    fn gradient_descent_lowers_the_loss() {
        let device = Device::flex().autodiff();
        let config = SemanticConfig { weight: 1.0, words: 6, hidden: 16 };
        let mut head = SemanticHead::new(&config, 3, &device);
        let latents = init::random([4, 3, 4, 4], Distribution::Normal(0.0, 1.0), &device);
        let present = Tensor::<2>::from_data(
            [[1.0, 0.0, 0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0, 0.0], [0.0; 6], [1.0; 6]],
            &device,
        );
        let loss = |head: &SemanticHead| head.loss(latents.clone(), present.clone());
        let before = loss(&head).into_scalar::<f32>();
        for _ in 0..60 {
            let gradients = loss(&head).backward();
            let step = |param: Tensor<2>| {
                let gradient = param.grad(&gradients).expect("the weight has a gradient");
                Tensor::from_inner(param.inner() - gradient * 0.5).require_grad()
            };
            head.weight = head.weight.map(step);
        }
        let after = loss(&head).into_scalar::<f32>();
        assert!(after < 0.7 * before, "{before} to {after}");
    }
}
