//! Sizes and routing of sparse feed-forward layers.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A mixture of experts in place of the feed-forward layer: each token goes through the few experts that a router
/// chooses for it, and through the shared ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExpertsConfig {
    /// Number of experts.
    pub num_experts: usize,
    /// Experts that a token goes through.
    pub num_experts_per_tok: usize,
    /// Width of an expert.
    pub moe_intermediate_size: usize,
    /// Experts that every token goes through; they are one layer of their widths together.
    #[serde(default)]
    pub n_shared_experts: usize,
    /// Layers that stay dense.
    #[serde(default)]
    pub dense_layers: Vec<usize>,
    /// What becomes of the router's logits.
    #[serde(default)]
    pub scores: RouterScores,
    /// Whether the weights of a token's experts are divided by their sum.
    pub norm_topk_prob: bool,
    /// Factor on those weights.
    #[serde(default = "one")]
    pub routed_scaling_factor: f64,
    /// The groups that experts are chosen from, if not from all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<ExpertGroups>,
    /// Numbers of the experts of two modalities, if the experts of a token are chosen among those of its own: text, then
    /// images (MoMa, arXiv 2407.21770). Their sum is the number of experts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modality_groups: Option<[usize; 2]>,
    /// The first and the last id of the second modality; in a recipe those of the tokenizer's image codes, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modality_ids: Option<[u32; 2]>,
    /// Factor of the load-balancing loss (arXiv 2101.03961 equation 4, summed over the chosen experts).
    #[serde(default)]
    pub router_aux_loss_coef: f64,
}

/// Experts in groups of equal size, of which a token's experts come from the best few.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpertGroups {
    /// Number of groups.
    pub n_group: usize,
    /// Groups that a token's experts come from.
    pub topk_group: usize,
    /// Whether a group is as good as its two best experts together, not as its best one.
    pub by_two_best: bool,
}

/// What becomes of the router's logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouterScores {
    /// Probabilities of all experts.
    #[default]
    Softmax,
    /// A number between 0 and 1 for each, to which a bias is added for the choice alone (DeepSeek-V3, arXiv 2412.19437
    /// section 2.1.2).
    Sigmoid,
}

fn one() -> f64 {
    1.0
}

impl ExpertsConfig {
    /// `num_experts` experts of `moe_intermediate_size`, of which each token of every layer goes through
    /// `num_experts_per_tok`, with softmax weights whose sum is 1.
    pub fn new(
        num_experts: usize,
        num_experts_per_tok: usize,
        moe_intermediate_size: usize,
    ) -> Self {
        Self {
            num_experts,
            num_experts_per_tok,
            moe_intermediate_size,
            n_shared_experts: 0,
            dense_layers: Vec::new(),
            scores: RouterScores::Softmax,
            norm_topk_prob: true,
            routed_scaling_factor: 1.0,
            groups: None,
            modality_groups: None,
            modality_ids: None,
            router_aux_loss_coef: 0.0,
        }
    }

    /// Whether the feed-forward of layer `layer` is sparse.
    pub fn is_sparse(&self, layer: usize) -> bool {
        !self.dense_layers.contains(&layer)
    }

    /// Weights in the matrices of one sparse layer, with `experts` routed experts.
    pub(super) fn matrix_parameters(&self, hidden: usize, experts: usize) -> usize {
        let wide = experts + self.n_shared_experts;
        self.num_experts * hidden + 3 * hidden * self.moe_intermediate_size * wide
    }

    /// The experts among which a router chooses for a token: all of them, or those of each modality.
    pub fn choices(&self) -> Vec<Range<usize>> {
        let experts = self.num_experts;
        match self.modality_groups {
            Some([first, _]) => vec![0..first, first..experts],
            None => vec![Range { start: 0, end: experts }],
        }
    }

    /// As [`Self::validate`].
    fn validate_modalities(&self) -> Result<()> {
        let Some(groups @ [first, second]) = self.modality_groups else {
            return match self.modality_ids {
                None => Ok(()),
                Some(_) => Err(Error::invalid("modality_ids needs modality_groups")),
            };
        };
        let (experts, chosen) = (self.num_experts, self.num_experts_per_tok);
        let fits = first.checked_add(second) == Some(experts) && first.min(second) >= chosen;
        if !fits {
            return Err(Error::invalid(format!(
                "modality_groups is {groups:?}; the sum must be num_experts ({experts}), and each at least \
                 num_experts_per_tok ({chosen})"
            )));
        }
        if self.groups.is_some() {
            let message = "modality_groups and groups are both given; allowed: one of them";
            return Err(Error::invalid(message));
        }
        match self.modality_ids {
            Some(ids @ [low, high]) if low > high || high > i32::MAX as u32 => {
                let message = format!("modality_ids is {ids:?}; allowed: a first and a last id");
                Err(Error::invalid(message))
            }
            _ => Ok(()),
        }
    }

    /// # Errors
    /// [`Error::Invalid`] that names the key, its value and what is allowed.
    pub(super) fn validate(&self) -> Result<()> {
        let Self { num_experts: experts, num_experts_per_tok: chosen, .. } = *self;
        let width = self.moe_intermediate_size;
        if experts == 0 || experts > super::MAX_LAYERS {
            let allowed = format!("1 to {}", super::MAX_LAYERS);
            return Err(Error::invalid(format!("num_experts is {experts}; allowed: {allowed}")));
        }
        if chosen == 0 || chosen > experts {
            let message =
                format!("num_experts_per_tok is {chosen}; allowed: 1 to num_experts ({experts})");
            return Err(Error::invalid(message));
        }
        if width == 0 || width > super::MAX_SIZE {
            let allowed = format!("1 to {}", super::MAX_SIZE);
            return Err(Error::invalid(format!(
                "moe_intermediate_size is {width}; allowed: {allowed}"
            )));
        }
        let shared = self.n_shared_experts.checked_mul(width);
        if shared.is_none_or(|shared| shared > super::MAX_SIZE) {
            let (shared, most) = (self.n_shared_experts, super::MAX_SIZE);
            return Err(Error::invalid(format!(
                "n_shared_experts is {shared}; allowed: at most {most} channels of all together"
            )));
        }
        let coefficient = self.router_aux_loss_coef;
        if !(coefficient >= 0.0 && coefficient.is_finite()) {
            let message = format!("router_aux_loss_coef is {coefficient}; allowed: at least 0");
            return Err(Error::invalid(message));
        }
        if let Some(ExpertGroups { n_group, topk_group, .. }) = self.groups {
            let fits = n_group > 0 && experts.is_multiple_of(n_group);
            if !fits {
                let message = format!("n_group is {n_group}; it must divide the {experts} experts");
                return Err(Error::invalid(message));
            }
            if topk_group == 0 || topk_group > n_group || chosen > topk_group * (experts / n_group)
            {
                return Err(Error::invalid(format!(
                    "topk_group is {topk_group}; allowed: 1 to n_group ({n_group}), with at least num_experts_per_tok \
                     ({chosen}) experts"
                )));
            }
        }
        self.validate_modalities()?;
        let scale = self.routed_scaling_factor;
        if !(scale > 0.0 && scale.is_finite()) {
            let message = format!("routed_scaling_factor is {scale}; allowed: above 0");
            return Err(Error::invalid(message));
        }
        Ok(())
    }
}
