//! Activation checkpointing: the forward pass keeps only what each layer reads, the backward pass computes
//! a layer again before it goes through it (arXiv 1604.06174). Memory holds the activations of one
//! layer instead of all, for a third more work.
//!
//! Each layer is a tape of its own: with the gradient `dy` of its result the scalar `sum(y * dy)` has the
//! gradients of the whole loss. Burn has no segments of a tape to keep or drop.

use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Tensor;

use super::next_token::{NextToken, NextTokenBatch, NextTokenLoss, input};
use crate::model::{CausalLm, ModelInput};

impl NextToken {
    /// As [`gradients`](Self::gradients), with activation checkpointing. `seed` decides what dropout
    /// drops: a layer is seeded before it is computed and again before it is computed anew.
    pub fn gradients_by_layer(
        &self,
        model: &CausalLm,
        batch: &NextTokenBatch,
        share: f64,
        seed: u64,
    ) -> (GradientsParams, NextTokenLoss) {
        let ModelInput { ids, positions, mask, .. } = input(model, &batch.packed);
        let (rope, device) = (model.rope(positions), model.device());
        let layer = |index: usize, x: Tensor<3>| {
            device.seed(seed.wrapping_add(index as u64));
            model.model.layers[index].forward(x, &rope, mask.as_ref(), None)
        };
        let mut gradients = GradientsAccumulator::new();
        let mut x = model.embed(ids.clone()).inner(); // [rows, seq, hidden]
        let mut inputs = Vec::with_capacity(model.model.layers.len());
        for index in 0..model.model.layers.len() {
            inputs.push(x.clone());
            x = layer(index, Tensor::from_inner(x)).inner();
        }

        let top = Tensor::from_inner(x).require_grad();
        let mut loss = self.of_hidden(model, model.model.norm.forward(top.clone()), batch);
        let surrogate = std::mem::replace(&mut loss.surrogate, Tensor::zeros([1], &device));
        let found = (surrogate * share).backward();
        let mut dy = gradient_of(&top, &found);
        gradients.accumulate(model, GradientsParams::from_grads(found, model));

        for (index, x) in inputs.into_iter().enumerate().rev() {
            let x = Tensor::from_inner(x).require_grad();
            let found = (layer(index, x.clone()) * Tensor::from_inner(dy)).sum().backward();
            dy = gradient_of(&x, &found);
            gradients.accumulate(model, GradientsParams::from_grads(found, model));
        }
        let bottom = (model.embed(ids) * Tensor::from_inner(dy)).sum();
        // A frozen embedding leaves nothing to go through.
        if bottom.is_tracked() {
            let found = bottom.backward();
            gradients.accumulate(model, GradientsParams::from_grads(found, model));
        }
        (gradients.grads(), loss)
    }
}

fn gradient_of(x: &Tensor<3>, found: &burn::tensor::Gradients) -> Tensor<3> {
    x.grad(found).expect("the loss depends on the input of every layer")
}
