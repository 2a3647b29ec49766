//! Names of an adapter's tensors: those of our parameters, and PEFT's.

use std::collections::BTreeMap;

use crate::model::ModelConfig;
use crate::model::adapter::{AdapterPlan, ModuleKind, modules};

/// What PEFT puts before the names of a model's modules.
const PREFIX: &str = "base_model.model.";

/// A tensor of an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AdapterTensor {
    /// The name in PEFT's file.
    pub(super) stored: String,
    /// The shape.
    pub(super) shape: Vec<usize>,
}

/// The tensors of an adapter with `plan` for a model of the sizes `config`, by the names of our parameters.
pub(super) fn tensors(plan: &AdapterPlan, config: &ModelConfig) -> BTreeMap<String, AdapterTensor> {
    let mut all = BTreeMap::new();
    let mut add = |ours: String, stored: String, shape: Vec<usize>| {
        let stored = format!("{PREFIX}{stored}");
        all.insert(ours, AdapterTensor { stored, shape });
    };
    for module in modules(config) {
        let parameters = module.parameters();
        let (name, [rows, width]) = (module.name, module.shape);
        if let Some(factors) = plan.factors.get(&name) {
            let rank = factors.rank;
            let [a, b] = [format!("{name}.lora.a"), format!("{name}.lora.b")];
            if module.kind == ModuleKind::Embedding {
                add(a, format!("{name}.lora_embedding_A"), vec![rank, rows]);
                add(b, format!("{name}.lora_embedding_B"), vec![width, rank]);
            } else {
                add(a, format!("{name}.lora_A.weight"), vec![rank, width]);
                add(b, format!("{name}.lora_B.weight"), vec![rows, rank]);
            }
            if factors.magnitude {
                let ours = format!("{name}.lora.magnitude");
                add(ours, format!("{name}.lora_magnitude_vector"), vec![rows]);
            }
        }
        if let Some(ids) = plan.rows.get(&name) {
            let ours = match module.kind {
                ModuleKind::Head => "head_rows.values".to_owned(),
                _ => format!("{name}.rows.values"),
            };
            let stored = format!("{name}.token_adapter.trainable_tokens_delta");
            add(ours, stored, vec![ids.len(), width]);
        }
        if plan.whole.contains_key(&name) {
            for (kind, shape) in parameters {
                add(format!("{name}.{kind}"), format!("{name}.{kind}"), shape);
            }
        }
    }
    all
}

/// Whether PEFT stores the tensor called `name` besides those of an adapter, unchanged from the base: embedding
/// and head, if they are targets.
pub(super) fn is_of_base(name: &str) -> bool {
    name.starts_with(PREFIX) && name.ends_with(".base_layer.weight")
}
