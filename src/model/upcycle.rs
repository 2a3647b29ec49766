//! A sparse model from a dense one: each expert begins as the dense layer's feed-forward (arXiv 2212.05055), of which a
//! part may be drawn anew (Drop-Upcycling, arXiv 2502.19261).

#[cfg(test)]
mod tests;

use burn::module::Param;
use burn::tensor::{Bool, Tensor, TensorData};
use vq_tokenizer::init;

use super::{
    CausalLm, Experts, ExpertsConfig, FeedForward, Linear, Mlp, ModelConfig, SparseFeedForward,
};
use crate::error::{Error, Result};

/// Standard deviation of the new routers.
const ROUTER_STD: f64 = 0.02;

impl ModelConfig {
    /// Checks that a dense model can become one of this configuration whose outputs are the same.
    ///
    /// # Errors
    /// [`Error::Invalid`] that names the key, its value and what is allowed.
    pub fn check_upcycling(&self) -> Result<()> {
        let refused = |message: String| Err(Error::invalid(format!("[upcycle] {message}")));
        let Some(experts) = &self.experts else {
            return refused(
                "needs [model.experts], which the dense model does not have".to_owned(),
            );
        };
        let (inner, outer) = (experts.moe_intermediate_size, self.intermediate_size);
        if inner != outer {
            return refused(format!(
                "copies whole layers: moe_intermediate_size is {inner}; allowed: intermediate_size ({outer})"
            ));
        }
        if experts.num_experts_per_tok == 1 && experts.num_experts > 1 {
            let message = "leaves routers of one expert for each token without a gradient, as its weight is 1 always: \
                num_experts_per_tok is 1; allowed: at least 2";
            return refused(message.to_owned());
        }
        let (scale, shared) = (experts.routed_scaling_factor, experts.n_shared_experts);
        if !experts.norm_topk_prob || scale != 1.0 {
            return refused(format!(
                "needs weights of a token's experts whose sum is 1: norm_topk_prob is {} and routed_scaling_factor \
                 {scale}; allowed: true and 1",
                experts.norm_topk_prob
            ));
        }
        if shared > 0 {
            return refused(format!(
                "adds no shared experts: n_shared_experts is {shared}; allowed: 0"
            ));
        }
        if self.mlp_bias {
            return refused("needs mlp_bias = false, as experts have no biases".to_owned());
        }
        Ok(())
    }
}

impl CausalLm {
    /// This dense model with the sparse layers of `config`: each expert is a copy of the layer's feed-forward, of whose
    /// channels the share `redraw`, others for each expert, is drawn anew with the mean and deviation of the weights;
    /// routers are new. Without redrawing outputs are the same but for rounding.
    ///
    /// # Errors
    /// Those of [`ModelConfig::check_upcycling`] and [`ModelConfig::init`].
    ///
    /// # Panics
    /// If the model is not of `config` without experts.
    pub fn upcycled(mut self, config: &ModelConfig, redraw: f64) -> Result<Self> {
        config.check_upcycling()?;
        let Some(experts) = &config.experts else { return Ok(self) };
        // Checks what only a model with experts must have, and takes no memory.
        let device = self.device();
        config.init(&device)?;
        for (at, layer) in self.model.layers.iter_mut().enumerate() {
            let Mlp::Dense(dense) = &layer.mlp else { panic!("a dense model has dense layers") };
            if config.is_sparse(at) {
                let mut sparse = SparseFeedForward::new(config, experts, &device);
                let shape = [experts.num_experts, config.hidden_size];
                sparse.gate.weight = init::normal(ROUTER_STD, shape, &device);
                sparse.experts = copies(dense, experts, redraw);
                layer.mlp = Mlp::Sparse(sparse);
            }
        }
        Ok(self)
    }
}

/// Copies of `dense` for all experts.
fn copies(dense: &FeedForward, experts: &ExpertsConfig, redraw: f64) -> Experts {
    let (count, width) = (experts.num_experts, experts.moe_intermediate_size);
    let copies = |linear: &Linear| {
        let weight = linear.weight.val().detach();
        weight.unsqueeze::<3>().repeat_dim(0, count) // [experts, out, in]
    };
    let [mut gate, mut up, mut down] =
        [&dense.gate_proj, &dense.up_proj, &dense.down_proj].map(copies);
    if redraw > 0.0 {
        let channels = drawn_channels([count, width], redraw, &dense.gate_proj);
        let channels = channels.unsqueeze_dim::<3>(2); // [experts, intermediate, 1]
        (gate, up) = (redrawn(gate, channels.clone()), redrawn(up, channels.clone()));
        down = redrawn(down, channels.swap_dims(1, 2));
    }
    // New values, which no gradient links to the old ones.
    let parameter = |stack: Tensor<3>| {
        let device = stack.device();
        Param::from_data(stack.into_data(), &device)
    };
    Experts { gate_up_proj: parameter(Tensor::cat(vec![gate, up], 1)), down_proj: parameter(down) }
}

/// The share `redraw` of the channels of each expert, chosen at random.
///
/// # Shapes
/// Returns `[experts, intermediate]`.
fn drawn_channels([count, width]: [usize; 2], redraw: f64, like: &Linear) -> Tensor<2, Bool> {
    let device = like.weight.val().device();
    let noise: Vec<f32> =
        init::uniform::<2>(1.0, [count, width], &device).val().into_data().iter().collect();
    let number = (redraw * width as f64).round() as usize;
    let of_expert = |noise: &[f32]| {
        let mut order: Vec<usize> = (0..width).collect();
        order.sort_by(|a, b| noise[*a].total_cmp(&noise[*b]));
        let mut drawn = vec![false; width];
        order[..number].iter().for_each(|channel| drawn[*channel] = true);
        drawn
    };
    let drawn = noise.chunks_exact(width).flat_map(of_expert).collect::<Vec<bool>>();
    Tensor::from_data(TensorData::new(drawn, [count, width]), &device)
}

/// `stack` with the entries where `drawn` is true from the normal distribution that has mean and deviation of all.
///
/// # Shapes
/// `stack` `[experts, out, in]`; `drawn` may be 1 where `stack` is wider.
fn redrawn(stack: Tensor<3>, drawn: Tensor<3, Bool>) -> Tensor<3> {
    let (shape, device) = (stack.dims(), stack.device());
    let mean = stack.clone().mean().into_scalar::<f32>();
    let deviation = (stack.clone() - mean).square().mean().into_scalar::<f32>().sqrt();
    let noise = init::normal::<3>(1.0, shape, &device).val().detach();
    stack.mask_where(drawn.expand(shape), noise * deviation + mean)
}
