//! A language model in training, whole or through an adapter, and what its checkpoints release.

use std::path::Path;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor};
use tensor_files::StoredDtype;
use vq_tokenizer::{VqTokenizer, init};

use super::adapter::TrainedAdapter;
use super::config::LanguageRecipe;
use super::objective::{NextTokenBatch, input};
use super::optimizer_config::{OptimizerConfig, TrainRows};
use super::rows::Rows;
use super::state::write_toml;
use super::trained::{TRAINER_DIR, Trained};
use crate::checkpoint::adapter::Adapter;
use crate::checkpoint::{Checkpoint, Parts, config_from_json};
use crate::device::Precision;
use crate::error::{Error, Result};
use crate::files::read_json;
use crate::model::{CausalLm, ModelConfig, QkNorm, QueryKeySquares};
use crate::tokenize::{Processor, TokenClass, Vocabulary};

/// A language model in training.
pub(super) struct TrainedLm {
    /// Its sizes.
    pub(super) config: ModelConfig,
    /// Weights, gradients and optimizer state.
    pub(super) model: Trained<CausalLm>,
    /// What is trained in place of all weights.
    adapter: Option<TrainedAdapter>,
    /// The number of weights in the rows that are trained, if not all are.
    in_rows: Option<usize>,
    precision: Precision,
}

/// What a checkpoint holds besides a model's weights.
pub(super) struct Released<'a> {
    /// The recipe of the run.
    pub(super) recipe: &'a LanguageRecipe,
    /// Text and images to ids and back.
    pub(super) processor: &'a Processor,
    /// Images to codes and back.
    pub(super) vq: Option<&'a VqTokenizer>,
}

impl TrainedLm {
    /// The model before the first step of `recipe`, for a tokenizer with `vocabulary`, on the autodiff device
    /// `device`; `precision` is that of the matrix products, weights are always in f32.
    ///
    /// # Errors
    /// Those of the files that the recipe names, and of its model.
    pub(super) fn new(
        recipe: &LanguageRecipe,
        vocabulary: &Vocabulary,
        device: &Device,
        precision: Precision,
    ) -> Result<Self> {
        let config = recipe.sizes(vocabulary)?;
        init::seed(recipe.run.seed);
        let (config, model) = match &recipe.run.init {
            Some(dir) => begun(dir, config, recipe, device)?,
            None => {
                let model = config.init(device)?;
                (config, model)
            }
        };
        let (model, adapter) = TrainedAdapter::attach(recipe, &config, model)?;
        let model = in_precision(recipe.optimizer.freeze(model)?, precision);
        let (optimizer, decay) = (recipe.optimizer.clone(), recipe.average.decay);
        let model = match &adapter {
            Some(adapter) => {
                let part = adapter.parameters(&model);
                Trained::part(model, optimizer, decay, part)
            }
            None => Trained::new(model, optimizer, decay),
        };
        Ok(Self { config, model, adapter, in_rows: None, precision })
    }

    /// The same with weights of the norms that `recipe` adds that keep queries and keys at their root mean squares over
    /// `batches`.
    ///
    /// # Panics
    /// If the model has latent attention, or is trained through an adapter.
    pub(super) fn with_measured_norms(
        self,
        recipe: &LanguageRecipe,
        batches: &[NextTokenBatch],
    ) -> Self {
        assert!(self.adapter.is_none(), "an adapter and new norms exclude each other");
        let (model, mut squares) = (self.model.module(), QueryKeySquares::default());
        let measured = model.valid();
        for NextTokenBatch { packed, .. } in batches {
            let counted: Vec<bool> = packed.document_ids.iter().map(|id| *id != 0).collect();
            squares.add(&measured, input(&measured, packed), &counted);
        }
        let model = model.clone().with_head_lengths(&squares);
        let model = Trained::new(model, recipe.optimizer.clone(), recipe.average.decay);
        Self { model, ..self }
    }

    /// Lets the norms of queries and keys count by `share`, from 0 to 1.
    pub(super) fn blend_norms(&mut self, share: f64) {
        self.config.qk_norm_share = share;
        self.model.change(|model| (model.with_norm_share(share), ()));
    }

    /// Goes on from the checkpoint `dir`.
    ///
    /// # Errors
    /// Those of its files.
    pub(super) fn restore(&mut self, dir: &Path) -> Result<()> {
        self.model.restore(dir)?;
        if self.adapter.is_none() {
            self.blend_norms(config_in(dir)?.qk_norm_share);
        }
        Ok(())
    }

    /// The same with as little of it trained as `optimizer` says, by the meaning of ids in `vocabulary`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if no id has that meaning.
    pub(super) fn of_rows(
        self,
        optimizer: &OptimizerConfig,
        vocabulary: &Vocabulary,
    ) -> Result<Self> {
        let Some(TrainRows::Images) = optimizer.train_rows else { return Ok(self) };
        if !vocabulary.has_images() {
            let message =
                "optimizer.train_rows is images, but the tokenizer has no codes of images";
            return Err(Error::invalid(message));
        }
        let placeholder = vocabulary.special().image_placeholder;
        let is_of_images = |id: &u32| {
            let bracket_or_code = [TokenClass::Image, TokenClass::BeginImage, TokenClass::EndImage]
                .contains(&vocabulary.class(*id));
            bracket_or_code || Some(*id) == placeholder
        };
        let ids = (0..vocabulary.len() as u32).filter(is_of_images);
        let rows = Rows::new(ids.map(|id| id as usize));
        let matrices = if self.config.tie_word_embeddings { 1 } else { 2 };
        let in_rows = Some(rows.len() * self.config.hidden_size * matrices);
        Ok(Self { model: self.model.of_rows(rows), in_rows, ..self })
    }

    /// The same as an auxiliary model: its files in a checkpoint start with `name`, and it is not released.
    pub(super) fn aside(self, name: &'static str) -> Self {
        Self { model: self.model.aside(name), ..self }
    }

    /// The number of weights that are trained, frozen ones not among them, if an adapter or chosen rows are.
    pub(super) fn num_adapted(&self) -> Option<usize> {
        self.adapter.as_ref().map(TrainedAdapter::num_parameters).or(self.in_rows)
    }

    /// The number format of the matrix products.
    pub(super) fn precision(&self) -> Precision {
        self.precision
    }

    /// The model as it is before the first step: without a new adapter, or with the adapter that the run
    /// goes on with. It lies on the autodiff device, without gradients, so that it takes the same kernels as the model in
    /// training, with which it shares what is frozen.
    ///
    /// # Errors
    /// Those of the adapter's files.
    pub(super) fn at_start(&self, recipe: &LanguageRecipe) -> Result<CausalLm> {
        // Outside autodiff first, where nothing is dropped.
        Ok(self.started(recipe)?.valid().map(&mut WithoutGradients))
    }

    fn started(&self, recipe: &LanguageRecipe) -> Result<CausalLm> {
        let model = self.model.module().valid();
        let Some(dir) = &recipe.run.init else { return Ok(model) };
        let Some(adapter) = &self.adapter else {
            let fresh = self.config.init(&model.device())?;
            let model = Checkpoint::load_weights(dir, &self.config, fresh)?;
            return Ok(in_precision(model, self.precision));
        };
        let changed = |name: &str| adapter.trains(name);
        let model = model.without_adapter();
        let model = Checkpoint::load_some_weights(dir, &self.config, model, changed)?;
        match &recipe.run.init_adapter {
            Some(dir) => Adapter::open(dir, &self.config)?.attach(model),
            None => Ok(model),
        }
    }

    /// Writes a complete checkpoint into the empty directory `dir`.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn save(&self, dir: &Path, released: Released<'_>) -> Result<()> {
        let Released { recipe, processor, vq } = released;
        let weights = tensor_files::on_device(&self.model.released());
        match &self.adapter {
            Some(adapter) => adapter.write(dir, &self.config, weights)?,
            None => {
                let parts = Parts {
                    config: &self.config,
                    weights: Some(weights),
                    dtype: StoredDtype::F32,
                    processor,
                    vq,
                    generation: &recipe.generation,
                };
                parts.write(dir)?;
            }
        }
        self.model.save(dir)?;
        write_toml(&dir.join(TRAINER_DIR).join("recipe.toml"), recipe)
    }
}

/// The sizes of the checkpoint in `dir`.
fn config_in(dir: &Path) -> Result<ModelConfig> {
    let path = dir.join("config.json");
    config_from_json(&read_json(&path)?).map_err(Error::in_file(&path))
}

/// The model `config` before the first step of `recipe`, from the checkpoint in `dir`, which may lack parts that the recipe
/// adds; and its sizes then.
fn begun(
    dir: &Path,
    config: ModelConfig,
    recipe: &LanguageRecipe,
    device: &Device,
) -> Result<(ModelConfig, CausalLm)> {
    let found = config_in(dir)?;
    check_parts(&found, &config, recipe).map_err(|message| Error::file(dir, message))?;
    let load = |config: &ModelConfig| Checkpoint::load_weights(dir, config, config.init(device)?);
    if let Some(upcycle) = &recipe.upcycle {
        let model = load(&ModelConfig { experts: None, ..config.clone() })?;
        let model = model.upcycled(&config, upcycle.redraw)?;
        return Ok((config, model));
    }
    if recipe.add_qk_norm.is_some() {
        let (qk_norm, o_bias) = (QkNorm::None, found.o_bias);
        let model = load(&ModelConfig { qk_norm, o_bias, ..config.clone() })?;
        let config = ModelConfig { qk_norm_share: 0.0, ..config };
        return Ok((config.clone(), model.with_head_norms(&config)));
    }
    let model = load(&config)?;
    Ok((config, model))
}

/// Checks that the checkpoint of sizes `found` has the parts of `config` that `recipe` does not add, and lacks those that
/// it does.
fn check_parts(
    found: &ModelConfig,
    config: &ModelConfig,
    recipe: &LanguageRecipe,
) -> std::result::Result<(), String> {
    if found.qk_norm_share < 1.0 {
        return Err(format!(
            "was saved while norms of queries and keys were blended in, at {} of 1; take a later checkpoint of that run",
            found.qk_norm_share
        ));
    }
    let message = match (&found.experts, &config.experts, &recipe.upcycle) {
        (Some(_), _, Some(_)) => "has experts already; leave out [upcycle]",
        (None, Some(_), None) => "has no experts; [upcycle] makes them of its feed-forward layers",
        _ if recipe.add_qk_norm.is_none() => return Ok(()),
        _ if found.o_bias && !config.o_bias => {
            "has biases in the output layers of attention; allowed with [add_qk_norm]: model.o_bias = true"
        }
        _ if found.qk_norm != QkNorm::None => {
            "has norms of queries and keys already; leave out [add_qk_norm]"
        }
        _ => return Ok(()),
    };
    Err(message.to_owned())
}

/// Brings weights to the autodiff device without gradients.
struct WithoutGradients;

impl ModuleMapper for WithoutGradients {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        Param::initialized(param.id, Tensor::from_inner(param.val()))
    }
}

fn in_precision(model: CausalLm, precision: Precision) -> CausalLm {
    match precision {
        Precision::Bf16 => model.in_mixed_precision(),
        Precision::F32 => model,
    }
}
