//! What an adapter adds to the modules of one model.

use std::collections::{BTreeMap, BTreeSet};

use super::config::{AdapterConfig, RowIds};
use super::modules::{ModuleKind, ModuleShape, modules};
use super::names::{Names, OneOrMany};
use super::patterns::{ends_in, layer_of, names};
use crate::error::{Error, Result};
use crate::model::ModelConfig;

/// Low-rank factors of a module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factors {
    /// Their rank.
    pub rank: usize,
    /// What their product is multiplied by.
    pub scale: f64,
    /// Whether a magnitude for each output belongs to them.
    pub magnitude: bool,
    /// Shape of the module's weight.
    pub shape: [usize; 2],
}

impl Factors {
    /// The number of trained values.
    pub fn num_parameters(&self) -> usize {
        let [outputs, inputs] = self.shape;
        self.rank * (outputs + inputs) + if self.magnitude { outputs } else { 0 }
    }
}

/// What an adapter adds, by the names of modules.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdapterPlan {
    /// Modules with factors.
    pub factors: BTreeMap<String, Factors>,
    /// Modules that are trained whole, with the number of their values.
    pub whole: BTreeMap<String, usize>,
    /// Ids whose rows are replaced, in the order of the stored rows.
    pub rows: BTreeMap<String, Vec<u32>>,
    /// Width of a row.
    pub width: usize,
}

impl AdapterConfig {
    /// What an adapter with these settings adds to a model of the sizes `config`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a name fits no module or one that cannot be adapted, if an id is out of range, or if
    /// nothing would be trained.
    pub fn plan(&self, config: &ModelConfig) -> Result<AdapterPlan> {
        self.validate()?;
        let modules = modules(config);
        let whole = self.whole(&modules)?;
        let mut plan = AdapterPlan { width: config.hidden_size, ..AdapterPlan::default() };
        for module in &modules {
            if whole.contains(&module.name) {
                plan.whole.insert(module.name.clone(), num_values(module));
            } else if self.targets(module)? {
                plan.factors.insert(module.name.clone(), self.factors(module)?);
            }
        }
        plan.rows = self.rows(&modules, config)?;
        if config.tie_word_embeddings {
            refuse_tied(&plan)?;
        }
        if let (Names::One(pattern), true) = (&self.target_modules, plan.factors.is_empty()) {
            return Err(unknown("target_modules", pattern, &modules));
        }
        match plan.num_parameters() {
            0 => Err(Error::invalid(
                "the adapter trains nothing: target_modules, modules_to_save and \
                 trainable_token_indices name no module",
            )),
            _ => Ok(plan),
        }
    }

    /// Checks that every name in the list of targets fits a module of a model of the sizes `config`; PEFT lets
    /// others pass.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the first one that does not.
    pub fn check_targets(&self, config: &ModelConfig) -> Result<()> {
        let Names::Many(ends) = &self.target_modules else { return Ok(()) };
        let modules = modules(config);
        let fits = |end: &&String| modules.iter().any(|module| ends_in(&module.name, end));
        match ends.iter().find(|end| !fits(end)) {
            Some(end) => Err(unknown("target_modules", end, &modules)),
            None => Ok(()),
        }
    }

    /// Whether `module` gets factors.
    fn targets(&self, module: &ModuleShape) -> Result<bool> {
        let is_target = match &self.target_modules {
            Names::One(all) if all.eq_ignore_ascii_case("all-linear") => {
                module.kind == ModuleKind::Linear
            }
            given => names(given, &module.name)?,
        };
        let excluded = match &self.exclude_modules {
            Some(given) => names(given, &module.name)?,
            None => false,
        };
        let in_layers = self.layers_to_transform.as_ref().is_none_or(|layers| {
            let lists = self.layers_pattern.as_ref().map(OneOrMany::as_slice);
            let layers = layers.as_slice();
            let is_in = |layer| layers.contains(&layer);
            layers.is_empty() || layer_of(&module.name, lists).is_some_and(is_in)
        });
        Ok(is_target && !excluded && in_layers)
    }

    fn factors(&self, module: &ModuleShape) -> Result<Factors> {
        let what = match module.kind {
            ModuleKind::Norm => Some("a norm"),
            ModuleKind::Score => Some("the score head"),
            _ => None,
        };
        if let Some(what) = what {
            return Err(Error::invalid(format!(
                "target_modules: {} is {what}; allowed: linear layers, embed_tokens and lm_head \
                 (modules_to_save trains others whole)",
                module.name
            )));
        }
        if module.kind == ModuleKind::Embedding && self.use_dora {
            let message = "use_dora is not built for embed_tokens; take it out of target_modules";
            return Err(Error::invalid(message));
        }
        let rank = self.rank_pattern.of(&module.name, self.r)?;
        let alpha = self.alpha_pattern.of(&module.name, self.lora_alpha)?;
        let (scale, magnitude) = (self.scale(rank, alpha), self.use_dora);
        Ok(Factors { rank, scale, magnitude, shape: module.shape })
    }

    /// The modules that are trained whole.
    fn whole(&self, modules: &[ModuleShape]) -> Result<BTreeSet<String>> {
        let mut whole = BTreeSet::new();
        for end in self.modules_to_save.iter().flatten() {
            let found = modules.iter().filter(|module| module.name.ends_with(end.as_str()));
            let before = whole.len();
            whole.extend(found.map(|module| module.name.clone()));
            if whole.len() == before {
                return Err(unknown("modules_to_save", end, modules));
            }
        }
        Ok(whole)
    }

    /// The ids of replaced rows by module.
    fn rows(
        &self,
        modules: &[ModuleShape],
        config: &ModelConfig,
    ) -> Result<BTreeMap<String, Vec<u32>>> {
        const KEY: &str = "trainable_token_indices";
        let given = match &self.trainable_token_indices {
            None => return Ok(BTreeMap::new()),
            Some(RowIds::Embedding(ids)) => vec![("embed_tokens", ids)],
            Some(RowIds::ByModule(lists)) => {
                lists.iter().map(|(name, ids)| (name.as_str(), ids)).collect()
            }
        };
        let mut rows = BTreeMap::new();
        for (end, ids) in given {
            let module = modules.iter().find(|module| {
                ends_in(&module.name, end)
                    && matches!(module.kind, ModuleKind::Embedding | ModuleKind::Head)
            });
            let module = module.ok_or_else(|| unknown(KEY, end, modules))?;
            let mut seen = BTreeSet::new();
            for id in ids {
                let vocab = config.vocab_size;
                if *id as usize >= vocab {
                    let message = format!("{KEY}: id {id} of {end}; allowed: below {vocab}");
                    return Err(Error::invalid(message));
                }
                if !seen.insert(*id) {
                    return Err(Error::invalid(format!("{KEY}: id {id} of {end} twice")));
                }
            }
            if !ids.is_empty() {
                rows.insert(module.name.clone(), ids.clone());
            }
        }
        Ok(rows)
    }
}

fn num_values(module: &ModuleShape) -> usize {
    module.parameters().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
}

fn unknown(key: &str, name: &str, modules: &[ModuleShape]) -> Error {
    let mut ends: Vec<&str> = Vec::new();
    for module in modules {
        let end = module.name.rsplit('.').next().unwrap_or_default();
        if !ends.contains(&end) {
            ends.push(end);
        }
    }
    Error::invalid(format!("{key}: no module is called {name}; there are {}", ends.join(", ")))
}

/// Refuses what would give a tied embedding and its head different weights.
fn refuse_tied(plan: &AdapterPlan) -> Result<()> {
    const NAME: &str = "model.embed_tokens";
    if plan.factors.contains_key(NAME) || plan.whole.contains_key(NAME) {
        return Err(Error::invalid(
            "embed_tokens is the output layer as well (tie_word_embeddings), so it gets neither factors nor a \
             copy; allowed: trainable_token_indices",
        ));
    }
    Ok(())
}

impl AdapterPlan {
    /// The number of trained values.
    pub fn num_parameters(&self) -> usize {
        let factors = self.factors.values().map(Factors::num_parameters).sum::<usize>();
        let rows = self.rows.values().map(|ids| ids.len() * self.width).sum::<usize>();
        factors + rows + self.whole.values().sum::<usize>()
    }

    /// Whether the parameter called `name`, such as `model.norm.weight`, is trained.
    pub fn trains(&self, name: &str) -> bool {
        let (module, last) = name.rsplit_once('.').unwrap_or(("", name));
        self.whole.contains_key(module)
            || matches!(module.rsplit('.').next(), Some("lora" | "rows" | "head_rows"))
                && matches!(last, "a" | "b" | "magnitude" | "values")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn config() -> ModelConfig {
        ModelConfig {
            vocab_size: 50,
            hidden_size: 16,
            intermediate_size: 24,
            num_hidden_layers: 3,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            ..ModelConfig::default()
        }
    }

    fn plan(json: &str) -> Result<AdapterPlan> {
        serde_json::from_str::<AdapterConfig>(json).unwrap().plan(&config())
    }

    #[test]
    fn targets_are_found_by_the_rules_of_peft() {
        for (json, number) in [
            (r#"{}"#, 21),
            (r#"{"target_modules": "ALL-linear"}"#, 21),
            (r#"{"target_modules": ["q_proj", "mlp.up_proj"]}"#, 6),
            (r#"{"target_modules": ["q_proj", "lm_head", "embed_tokens"]}"#, 5),
            (r#"{"target_modules": ".*(q|k)_proj"}"#, 6),
            (r#"{"target_modules": "all-linear", "exclude_modules": ["down_proj"]}"#, 18),
            (r#"{"target_modules": ["q_proj"], "layers_to_transform": 1}"#, 1),
            (
                r#"{"target_modules": ["q_proj"], "layers_to_transform": [0, 2], "layers_pattern": "layers"}"#,
                2,
            ),
            (r#"{"target_modules": ["q_proj"], "modules_to_save": ["0.self_attn.q_proj"]}"#, 2),
        ] {
            assert_eq!(plan(json).unwrap().factors.len(), number, "{json}");
        }
    }

    #[test]
    fn ranks_scales_and_sizes_follow_the_settings() {
        let found = plan(
            r#"{"r": 4, "lora_alpha": 8, "use_rslora": true, "rank_pattern": {"1.self_attn.q_proj": 16},
                "alpha_pattern": {"down_proj": 2}, "target_modules": ["q_proj", "down_proj"]}"#,
        )
        .unwrap();
        let of = |name: &str| found.factors[&format!("model.layers.{name}")];
        assert_eq!((of("0.self_attn.q_proj").rank, of("0.self_attn.q_proj").scale), (4, 4.0));
        assert_eq!((of("1.self_attn.q_proj").rank, of("1.self_attn.q_proj").scale), (16, 2.0));
        assert_eq!((of("2.mlp.down_proj").rank, of("2.mlp.down_proj").scale), (4, 1.0));
        assert_eq!(found.num_parameters(), 2 * 4 * 32 + 16 * 32 + 3 * 4 * 40);
        let rows = r#"{"target_modules": [], "trainable_token_indices": {"embed_tokens": [3, 1], "lm_head": [4]}}"#;
        let rows = plan(rows).unwrap();
        assert_eq!(
            (&rows.rows["model.embed_tokens"][..], rows.num_parameters()),
            (&[3, 1][..], 48)
        );
        let whole = plan(r#"{"target_modules": [], "modules_to_save": ["head", "norm"]}"#).unwrap();
        assert_eq!(whole.num_parameters(), 50 * 16 + 16 + 6 * 16 + 3 * 2 * (16 + 8));
        assert!(whole.trains("model.layers.1.self_attn.q_norm.bias"));
        assert!(!whole.trains("model.embed_tokens.weight"));
        assert!(found.trains("model.layers.1.self_attn.q_proj.lora.a"));
        assert!(!found.trains("model.layers.1.self_attn.q_proj.weight"));
    }

    #[test]
    fn names_that_fit_nothing_are_refused() {
        for (json, words) in [
            (
                r#"{"target_modules": ["q_proj", "query"]}"#,
                "no module is called query; there are embed_tokens, q_proj",
            ),
            (r#"{"target_modules": "q_proj"}"#, "no module is called q_proj"),
            (r#"{"target_modules": ["q_norm"]}"#, "is a norm"),
            (r#"{"target_modules": "(", "r": 1}"#, "no regular expression"),
            (r#"{"modules_to_save": ["score"]}"#, "modules_to_save: no module is called score"),
            (r#"{"target_modules": []}"#, "trains nothing"),
            (r#"{"trainable_token_indices": [1, 50]}"#, "id 50 of embed_tokens; allowed: below 50"),
            (r#"{"trainable_token_indices": [1, 1]}"#, "id 1 of embed_tokens twice"),
            (r#"{"trainable_token_indices": {"q_proj": [1]}}"#, "no module is called q_proj"),
            (r#"{"r": 0}"#, "r is 0"),
            (r#"{"lora_alpha": -1}"#, "lora_alpha is -1"),
            (r#"{"lora_dropout": 1}"#, "lora_dropout is 1"),
            (r#"{"use_dora": true, "target_modules": ["embed_tokens"]}"#, "use_dora is not built"),
        ] {
            let settings: AdapterConfig = serde_json::from_str(json).unwrap();
            let checked = settings.check_targets(&config()).and_then(|()| plan(json));
            let message = checked.unwrap_err().to_string();
            assert!(message.contains(words), "{json}: {message}");
        }
        let tied = ModelConfig { tie_word_embeddings: true, ..config() };
        let config = |json: &str| serde_json::from_str::<AdapterConfig>(json).unwrap().plan(&tied);
        let message = config(r#"{"target_modules": ["embed_tokens"]}"#).unwrap_err().to_string();
        assert!(message.contains("tie_word_embeddings"), "{message}");
        config(r#"{"trainable_token_indices": [1]}"#).unwrap();
    }
}
