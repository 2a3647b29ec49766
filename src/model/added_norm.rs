//! A norm of queries and keys for a model that has none, blended in while the model is trained:
//! `(1 - s) x + s RMSNorm(x)` with a share `s` that grows from 0, where outputs are those of the model without, to 1. The
//! weights of the norm begin at the root mean square of what they replace, as no norm keeps lengths that differ by token.

#[cfg(test)]
mod tests;

use burn::module::Param;
use burn::tensor::{DType, Device, Tensor, TensorData};

use super::{CausalLm, DecoderLayer, HeadNorm, Linear, ModelConfig, ModelInput, SelfAttention};

/// Mean squares of the numbers in queries and in keys of each layer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueryKeySquares {
    /// Sums over tokens.
    sums: Vec<[f64; 2]>,
    tokens: usize,
}

impl QueryKeySquares {
    /// Adds those of the tokens of `input` that are `counted`, row after row, before norms and rotary embedding.
    ///
    /// # Panics
    /// If the model has latent attention.
    pub fn add(&mut self, model: &CausalLm, input: ModelInput, counted: &[bool]) {
        let mask: Vec<f32> = counted.iter().map(|counted| f32::from(*counted)).collect();
        let mask = Tensor::<1>::from_data(TensorData::new(mask, [counted.len()]), &model.device());
        let mut layers = model.model.layers.iter();
        let mut found = Vec::new();
        let measure = |x: &Tensor<3>| {
            let layer = layers.next().expect("each layer has an input");
            let squares = layer.query_key_squares(x.clone());
            found.extend(squares.map(|squares| (squares * mask.clone()).sum()));
        };
        model.hidden_states(input, measure);
        let sums: Vec<f64> = Tensor::cat(found, 0).into_data().iter().collect();
        self.sums.resize(sums.len() / 2, [0.0; 2]);
        for (sum, more) in self.sums.iter_mut().zip(sums.chunks_exact(2)) {
            sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
        self.tokens += counted.iter().filter(|counted| **counted).count();
    }

    /// Root mean squares of queries and keys, by layer.
    pub fn roots(&self) -> impl Iterator<Item = [f64; 2]> {
        let tokens = self.tokens.max(1) as f64;
        self.sums.iter().map(move |sums| sums.map(|sum| (sum / tokens).sqrt()))
    }
}

impl DecoderLayer {
    /// Mean squares of each token's queries and keys for the layer's input `x`.
    ///
    /// # Shapes
    /// `x` `[batch, seq, hidden]`; returns `[batch * seq]`, in f32.
    fn query_key_squares(&self, x: Tensor<3>) -> [Tensor<1>; 2] {
        let x = if self.swin_norm { x } else { self.input_layernorm.forward(x) };
        let attention = grouped(&self.self_attn);
        [&attention.q_proj, &attention.k_proj].map(|linear| {
            let squares = linear.forward(x.clone()).cast(DType::F32).square();
            squares.mean_dim(2).flatten(0, 2)
        })
    }
}

impl CausalLm {
    /// This model, which has no norms of queries and keys, with those of `config` and weights of 1, and with biases of 0
    /// where `config` has more of them. With `config.qk_norm_share` 0 outputs are the same.
    ///
    /// # Panics
    /// If the model has latent attention.
    #[must_use]
    pub fn with_head_norms(mut self, config: &ModelConfig) -> Self {
        let device = self.device();
        for layer in &mut self.model.layers {
            let SelfAttention::Grouped(attention) = &mut layer.self_attn else { refuse_latent() };
            attention.q_norm = HeadNorm::new(config, config.num_attention_heads, &device);
            attention.k_norm = HeadNorm::new(config, config.num_key_value_heads, &device);
            if config.o_bias && attention.o_proj.bias.is_none() {
                attention.o_proj.bias = no_bias(config, &device);
            }
        }
        self
    }

    /// The same with weights of those norms that give queries and keys the root mean squares in `squares`.
    ///
    /// # Panics
    /// If the model has latent attention.
    #[must_use]
    pub fn with_head_lengths(mut self, squares: &QueryKeySquares) -> Self {
        for (layer, roots) in self.model.layers.iter_mut().zip(squares.roots()) {
            let SelfAttention::Grouped(attention) = &mut layer.self_attn else { refuse_latent() };
            for (norm, root) in
                [&mut attention.q_norm, &mut attention.k_norm].into_iter().zip(roots)
            {
                if let Some(HeadNorm::Rms(norm)) = norm {
                    norm.weight = filled(&norm.weight, root);
                }
            }
        }
        self
    }

    /// The same with norms of queries and keys that count by `share`, from 0 to 1.
    #[must_use]
    pub fn with_norm_share(mut self, share: f64) -> Self {
        for layer in &mut self.model.layers {
            let SelfAttention::Grouped(attention) = &mut layer.self_attn else { continue };
            for norm in [&mut attention.q_norm, &mut attention.k_norm] {
                if let Some(HeadNorm::Rms(norm)) = norm {
                    norm.share = share;
                }
            }
        }
        self
    }
}

/// Zeros for the output layer of attention.
fn no_bias(config: &ModelConfig, device: &Device) -> Option<Param<Tensor<1>>> {
    Linear::biased([1, config.hidden_size], true, 0.0, device).bias
}

/// `parameter` with `value` everywhere, trained or not as before.
fn filled(parameter: &Param<Tensor<1>>, value: f64) -> Param<Tensor<1>> {
    let is_trained = parameter.is_require_grad();
    parameter.clone().map(|old| (old.detach().zeros_like() + value).set_require_grad(is_trained))
}

fn grouped(attention: &SelfAttention) -> &super::Attention {
    match attention {
        SelfAttention::Grouped(attention) => attention,
        SelfAttention::Latent(_) => refuse_latent(),
    }
}

fn refuse_latent() -> ! {
    panic!("latent attention has norms of its own")
}
