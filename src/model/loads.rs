//! How many tokens go through each expert.

use std::ops::AddAssign;

use super::router::Routing;

/// The loads of experts, summed over some tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExpertLoads {
    /// Tokens of each expert, a list for each sparse layer.
    pub layers: Vec<Vec<u64>>,
    /// Tokens that went through each layer.
    pub tokens: usize,
}

impl ExpertLoads {
    /// Those of the tokens for which `counted` is true, `None` for all.
    pub fn of(layers: &[Routing], counted: Option<&[bool]>) -> Self {
        let tokens = layers.first().map_or(0, |layer| layer.logits.dims()[0]);
        let is_counted = |token: usize| counted.is_none_or(|counted| counted[token]);
        let of_layer = |layer: &Routing| {
            let mut loads = vec![0; layer.logits.dims()[1]];
            let chosen = layer.experts.chunks_exact((layer.experts.len() / tokens).max(1));
            for (_, chosen) in chosen.enumerate().filter(|(token, _)| is_counted(*token)) {
                chosen.iter().for_each(|expert| loads[*expert as usize] += 1);
            }
            loads
        };
        let layers = layers.iter().map(of_layer).collect();
        Self { layers, tokens: (0..tokens).filter(|token| is_counted(*token)).count() }
    }
}

impl AddAssign<&Self> for ExpertLoads {
    fn add_assign(&mut self, more: &Self) {
        self.tokens += more.tokens;
        self.layers.resize(self.layers.len().max(more.layers.len()), Vec::new());
        for (loads, more) in self.layers.iter_mut().zip(&more.layers) {
            loads.resize(loads.len().max(more.len()), 0);
            loads.iter_mut().zip(more).for_each(|(load, more)| *load += more);
        }
    }
}
