//! Families of decoders by their `model_type`, and how keys of a `config.json` are read.

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// What a `model_type` stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// The reference of this project.
    Chameleon,
    /// Any combination that no other family has, under the keys of [`ModelConfig`].
    Calumma,
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    Mixtral,
    Qwen3Moe,
    Olmoe,
    DeepseekV2,
    DeepseekV3,
    /// LLaMA's text model beside an image tokenizer.
    Emu3,
}

/// `model_type` and the class of transformers that opens it.
const NAMES: [(Family, &str, &str); 12] = [
    (Family::Chameleon, "chameleon", "ChameleonForConditionalGeneration"),
    (Family::Calumma, "calumma", "CalummaForCausalLM"),
    (Family::Llama, "llama", "LlamaForCausalLM"),
    (Family::Mistral, "mistral", "MistralForCausalLM"),
    (Family::Qwen2, "qwen2", "Qwen2ForCausalLM"),
    (Family::Qwen3, "qwen3", "Qwen3ForCausalLM"),
    (Family::Mixtral, "mixtral", "MixtralForCausalLM"),
    (Family::Qwen3Moe, "qwen3_moe", "Qwen3MoeForCausalLM"),
    (Family::Olmoe, "olmoe", "OlmoeForCausalLM"),
    (Family::DeepseekV2, "deepseek_v2", "DeepseekV2ForCausalLM"),
    (Family::DeepseekV3, "deepseek_v3", "DeepseekV3ForCausalLM"),
    (Family::Emu3, "emu3", "Emu3ForConditionalGeneration"),
];

impl Family {
    /// The family of a `config.json`; Chameleon's if it does not say.
    ///
    /// # Errors
    /// [`Error::Invalid`] for one that is not supported.
    pub(super) fn of(config: &Map<String, Value>) -> Result<Self> {
        let Some(found) = config.get("model_type") else { return Ok(Self::Chameleon) };
        let family = NAMES.iter().find(|(_, name, _)| found == name);
        family.map(|(family, ..)| *family).ok_or_else(|| {
            let names: Vec<&str> = NAMES.iter().map(|(_, name, _)| *name).collect();
            Error::invalid(format!("model_type is {found}; supported: {}", names.join(", ")))
        })
    }

    /// The name in `config.json`, and that of the class.
    pub(super) fn names(self) -> [&'static str; 2] {
        let row = NAMES.iter().find(|(family, ..)| *family == self);
        row.map_or(["chameleon"; 2], |(_, name, class)| [name, class])
    }
}

/// The value of a key that is true or false; false if it is absent.
pub(super) fn flag(config: &Map<String, Value>, key: &str) -> bool {
    config.get(key).and_then(Value::as_bool).unwrap_or(false)
}

/// Gives `key` a value if it has none.
pub(super) fn default(config: &mut Map<String, Value>, key: &str, value: Value) {
    if config.get(key).is_none_or(Value::is_null) {
        config.insert(key.to_owned(), value);
    }
}

/// # Errors
/// [`Error::Invalid`] if `key` has a value that is neither null nor among the allowed ones.
pub(super) fn check(config: &Map<String, Value>, key: &str, allowed: &[Value]) -> Result<()> {
    let Some(value) = config.get(key) else { return Ok(()) };
    if value.is_null() || allowed.contains(value) {
        return Ok(());
    }
    let supported = match allowed {
        [] => "it is not supported".to_owned(),
        [first, ..] => format!("only {first} is supported"),
    };
    Err(Error::invalid(format!("{key} is {value}; {supported}")))
}
