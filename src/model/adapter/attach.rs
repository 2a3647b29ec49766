//! Attaching an adapter to a model for training.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;
use tensor_files::ParamPath;

use super::config::AdapterConfig;
use super::low_rank::{LowRank, LowRankEmbedding};
use super::plan::AdapterPlan;
use super::token_rows::TokenRows;
use crate::model::{CausalLm, DecoderLayer, Linear};

impl CausalLm {
    /// This model with new factors and rows as `plan` says, which `config` made. Until they are trained it computes
    /// what it did, unless `config` begins them at random. On an autodiff device only what the plan trains has
    /// gradients.
    ///
    /// # Panics
    /// If the plan is for another model.
    #[must_use]
    pub fn with_adapter(mut self, plan: &AdapterPlan, config: &AdapterConfig) -> Self {
        let mut left = plan.factors.len();
        for (index, layer) in self.model.layers.iter_mut().enumerate() {
            for (name, linear) in layer.linears() {
                let name = format!("model.layers.{index}.{name}");
                left -= attach(linear, &name, plan, config);
            }
        }
        if let Some(head) = &mut self.lm_head {
            left -= attach(head, "lm_head", plan, config);
            let ids = plan.rows.get("lm_head");
            self.head_rows = ids.map(|ids| TokenRows::of(&head.weight.val(), ids));
        }
        let embedding = &mut self.model.embed_tokens;
        if let Some(factors) = plan.factors.get("model.embed_tokens") {
            let device = embedding.weight.val().device();
            embedding.lora = Some(LowRankEmbedding::new(factors, config, &device));
            left -= 1;
        }
        let ids = plan.rows.get("model.embed_tokens");
        embedding.rows = ids.map(|ids| TokenRows::of(&embedding.weight.val(), ids));
        assert_eq!(left, 0, "the plan names modules of another model");
        match self.device().is_autodiff() {
            true => self.map(&mut Freeze { plan, path: ParamPath::default() }),
            false => self,
        }
    }

    /// This model with its adapter merged into its weights, which decoding needs: else every pass would merge the head.
    #[must_use]
    pub fn merged(mut self) -> Self {
        let head = self.lm_head.is_some().then(|| self.output_weight());
        let embedding = self.model.embed_tokens.merged();
        set(&mut self.model.embed_tokens.weight, embedding);
        if let (Some(linear), Some(weight)) = (&mut self.lm_head, head) {
            set(&mut linear.weight, weight);
        }
        for (_, linear) in self.model.layers.iter_mut().flat_map(DecoderLayer::linears) {
            let merged = linear.merged();
            set(&mut linear.weight, merged);
        }
        self.without_adapter()
    }

    /// This model without factors and rows of an adapter; modules that were trained whole stay as they are.
    #[must_use]
    pub fn without_adapter(mut self) -> Self {
        let layers = self.model.layers.iter_mut();
        let heads = self.lm_head.iter_mut();
        let in_layers = layers.flat_map(DecoderLayer::linears).map(|(_, linear)| linear);
        in_layers.chain(heads).for_each(|linear| linear.lora = None);
        (self.model.embed_tokens.lora, self.model.embed_tokens.rows) = (None, None);
        self.head_rows = None;
        self
    }
}

/// Turns gradients on for what a plan trains, and off for the rest.
struct Freeze<'a> {
    plan: &'a AdapterPlan,
    path: ParamPath,
}

impl ModuleMapper for Freeze<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.exit(container_type);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.set_require_grad(self.plan.trains(&self.path.name()))
    }
}

/// Replaces a weight in its number format.
fn set(weight: &mut Param<Tensor<2>>, merged: Tensor<2>) {
    let dtype = weight.val().dtype();
    *weight = Param::initialized(weight.id, merged.cast(dtype));
}

/// Gives `linear` its factors, if the plan has some; returns their number.
fn attach(linear: &mut Linear, name: &str, plan: &AdapterPlan, config: &AdapterConfig) -> usize {
    let Some(factors) = plan.factors.get(name) else { return 0 };
    linear.lora = Some(LowRank::new(factors, config, &linear.weight.val()));
    1
}
