//! The sparse feed-forward layer: each token goes through the few experts that a router chooses for it.
//!
//! No token is dropped, and no expert has a capacity: assignments of tokens are sorted by expert, each expert
//! multiplies the rows of its tokens, and a token's results are added in the order of its experts' numbers.
//! Sources: arXiv 2401.04088 (Mixtral), arXiv 2401.06066 (fine-grained and shared experts).

#[cfg(test)]
mod tests;

use burn::module::{Module, Param};
use burn::tensor::{Bool, Device, Tensor};
use vq_tokenizer::init;

use super::router::{Router, Routing};
use super::{ExpertsConfig, FeedForward, ModelConfig, ops};

/// `sum_e w_e down_e(silu(gate_e(x)) * up_e(x)) + shared(x)` over the chosen experts of each token.
#[derive(Module, Debug)]
pub struct SparseFeedForward {
    /// Chooses the experts.
    pub gate: Router,
    /// All of them.
    pub experts: Experts,
    /// Those that every token goes through, as one layer.
    pub shared_experts: Option<FeedForward>,
}

/// The matrices of all experts.
#[derive(Module, Debug)]
pub struct Experts {
    /// `[experts, 2 * intermediate, hidden]`: the gate of each expert above its up.
    pub gate_up_proj: Param<Tensor<3>>,
    /// `[experts, hidden, intermediate]`.
    pub down_proj: Param<Tensor<3>>,
}

impl SparseFeedForward {
    pub(crate) fn new(config: &ModelConfig, experts: &ExpertsConfig, device: &Device) -> Self {
        let (hidden, std) = (config.hidden_size, config.initializer_range);
        let (count, inner) = (experts.num_experts, experts.moe_intermediate_size);
        let shared = experts.n_shared_experts * inner;
        Self {
            gate: Router::new(experts, hidden, std, device),
            experts: Experts {
                gate_up_proj: init::normal(std, [count, 2 * inner, hidden], device),
                down_proj: init::normal(std, [count, hidden, inner], device),
            },
            shared_experts: (shared > 0).then(|| FeedForward::of_width(config, shared, device)),
        }
    }

    /// The layer's output, before the residual sum.
    ///
    /// # Shapes
    /// `x` `[batch, seq, hidden]`; returns the same.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.routed(x, None).0
    }

    /// As [`Self::forward`] with experts that are `closed` to tokens, and what the router did.
    ///
    /// # Shapes
    /// `closed` `[batch * seq, experts]`.
    pub(super) fn routed(
        &self,
        x: Tensor<3>,
        closed: Option<&Tensor<2, Bool>>,
    ) -> (Tensor<3>, Routing) {
        let shape @ [batch, seq, hidden] = x.dims();
        let rows = x.clone().reshape([batch * seq, hidden]);
        let routing = self.gate.forward(rows.clone(), closed);
        let y = self.experts.forward(rows, &routing).reshape(shape);
        let y = match &self.shared_experts {
            Some(shared) => y + shared.forward(x),
            None => y,
        };
        (y, routing)
    }
}

impl Experts {
    /// The sum of the results of each token's experts by their weights.
    ///
    /// # Shapes
    /// `x` `[tokens, hidden]`; returns the same.
    fn forward(&self, x: Tensor<2>, routing: &Routing) -> Tensor<2> {
        let (gate_up, down) = (self.gate_up_proj.val(), self.down_proj.val());
        let Sorted { counts, places } = Sorted::of(&routing.experts, down.dims()[0]);
        let weights = routing.weights.clone().cast(x.dtype());
        let x = ops::dispatch(x, &places); // [rows, hidden]
        let inside = ops::swiglu_halves(ops::grouped_linear(x, gate_up, &counts)); // [rows, intermediate]
        let y = ops::grouped_linear(inside, down, &counts); // [rows, hidden]
        ops::combine(y, weights, &places) // [tokens, hidden]
    }
}

/// The assignments of tokens to experts in the order of the experts; those of one expert in the order of the tokens.
struct Sorted {
    /// Assignments to each expert.
    counts: Vec<usize>,
    /// Where the assignments of each token are, token after token.
    places: Vec<i32>,
}

impl Sorted {
    /// Of all tokens to `count` experts.
    fn of(experts: &[u32], count: usize) -> Self {
        let mut counts = vec![0; count];
        experts.iter().for_each(|expert| counts[*expert as usize] += 1);
        let mut end = 0;
        let starts = counts.iter().map(|count| {
            end += count;
            end - count
        });
        let mut next: Vec<usize> = starts.collect();
        let place = |expert: &u32| {
            let next = &mut next[*expert as usize];
            *next += 1;
            (*next - 1) as i32
        };
        let places = experts.iter().map(place).collect();
        Self { counts, places }
    }
}
