//! The whole model: embedding, layers, final norm, output layer.

use std::ops::Range;

use burn::module::{Module, Param};
use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};
use vq_tokenizer::init;

use super::adapter::{LowRankEmbedding, TokenRows};
use super::decoder_layer::{Stream, Surroundings};
use super::modality;
use super::ops::Lanes;
use super::product::product;
use super::rope::Rotary;
use super::{
    DecoderLayer, ExpertLoads, ExpertsConfig, Lane, Linear, Mask, ModelConfig, PagedCache, RmsNorm,
    Rope, Routing, ops,
};
use crate::error::{Error, Result};

/// A decoder-only language model over text and image ids alike.
#[derive(Module, Debug)]
pub struct CausalLm {
    /// Embedding, layers and final norm.
    pub model: Decoder,
    /// `[vocab, hidden]`; `None` when the embedding is the output layer as well.
    pub lm_head: Option<Linear>,
    /// Rows of an adapter in place of the output layer's.
    pub head_rows: Option<TokenRows>,
    /// `[1, hidden]`; the number that a reward model or a value function gives each token.
    pub score: Option<Linear>,
    #[module(skip)]
    rotary: Rotary,
    mixed: bool,
}

/// Embedding, layers and final norm: ids in, hidden states out.
#[derive(Module, Debug)]
pub struct Decoder {
    /// The embedding.
    pub embed_tokens: Embedding,
    /// In order of application.
    pub layers: Vec<DecoderLayer>,
    /// The final norm.
    pub norm: RmsNorm,
}

/// A matrix with a row per id.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[vocab, hidden]`.
    pub weight: Param<Tensor<2>>,
    /// Factors of an adapter.
    pub lora: Option<LowRankEmbedding>,
    /// Rows of an adapter in place of some ids' own.
    pub rows: Option<TokenRows>,
}

/// The input of a forward pass.
#[derive(Debug)]
pub struct ModelInput {
    /// Tokens, `[batch, seq]`.
    pub ids: Tensor<2, Int>,
    /// Their positions within their documents, `[batch, seq]`.
    pub positions: Tensor<2, Int>,
    /// The hidden keys.
    pub mask: Mask,
}

impl ModelConfig {
    /// A randomly initialised model on `device`; linear and embedding weights are normal with
    /// standard deviation [`Self::initializer_range`]. Weights take no memory until they are loaded or
    /// first used.
    ///
    /// # Errors
    /// Those of [`Self::validate`].
    pub fn init(&self, device: &Device) -> Result<CausalLm> {
        self.validate()?;
        match &self.experts {
            Some(ExpertsConfig { modality_groups: Some(_), modality_ids: None, .. }) => {
                let message = "experts.modality_groups needs experts.modality_ids, the first and the last image code";
                Err(Error::invalid(message))
            }
            _ => Ok(CausalLm::new(self, device)),
        }
    }
}

impl CausalLm {
    fn new(config: &ModelConfig, device: &Device) -> Self {
        let (vocab, hidden, std) =
            (config.vocab_size, config.hidden_size, config.initializer_range);
        let embedding = init::normal(std, [vocab, hidden], device);
        Self {
            model: Decoder {
                embed_tokens: Embedding { weight: embedding, lora: None, rows: None },
                layers: (0..config.num_hidden_layers)
                    .map(|index| DecoderLayer::new(config, index, device))
                    .collect(),
                norm: RmsNorm::new(hidden, config.rms_norm_eps, device),
            },
            lm_head: (!config.tie_word_embeddings).then(|| Linear::new(hidden, vocab, std, device)),
            head_rows: None,
            score: (config.num_labels > 0)
                .then(|| Linear::new(hidden, config.num_labels, std, device)),
            rotary: Rotary::of(config),
            mixed: false,
        }
    }

    /// The same model in mixed precision: matrix products in bfloat16, the weights as they are; softmax,
    /// statistics of the norms and loss in f32.
    #[must_use]
    pub fn in_mixed_precision(self) -> Self {
        Self { mixed: true, ..self }
    }

    /// Whether training draws random numbers from the device.
    pub fn has_dropout(&self) -> bool {
        self.model.layers.iter().any(DecoderLayer::has_dropout)
    }

    /// Raw logits of every token: unlike Hugging Face's `forward`, which masks the image ids, this
    /// masks no id.
    ///
    /// # Shapes
    /// Returns `[batch, seq, vocab]`.
    pub fn forward(&self, input: ModelInput) -> Tensor<3> {
        let hidden = self.hidden(input);
        self.logits(hidden)
    }

    /// The last hidden states, after the final norm.
    ///
    /// # Shapes
    /// Returns `[batch, seq, hidden]`.
    pub fn hidden(&self, input: ModelInput) -> Tensor<3> {
        self.hidden_states(input, |_| {})
    }

    /// As [`Self::hidden`]; `inspect` gets the input of every layer, first to last.
    ///
    /// # Shapes
    /// `inspect` gets, and the result is, `[batch, seq, hidden]`.
    pub fn hidden_states(
        &self,
        input: ModelInput,
        mut inspect: impl FnMut(&Tensor<3>),
    ) -> Tensor<3> {
        let (x, surroundings) = self.begin(input);
        self.routed(x, &surroundings, &mut inspect).0
    }

    /// The first layer's input, and what all layers know of the tokens.
    ///
    /// # Shapes
    /// Returns `[batch, seq, hidden]`.
    pub(crate) fn begin(&self, input: ModelInput) -> (Tensor<3>, Surroundings) {
        let ModelInput { ids, positions, mask } = input;
        let closed = self.closed_experts(&ids);
        (self.embed(ids), Surroundings { rope: self.rope(positions), mask, closed })
    }

    /// The last hidden states, after the final norm, from the first layer's input, and what the router of every sparse
    /// layer did; `inspect` gets the input of every layer.
    ///
    /// # Shapes
    /// `x` `[batch, seq, hidden]`; the same is returned.
    pub(crate) fn routed(
        &self,
        mut x: Tensor<3>,
        surroundings: &Surroundings,
        inspect: &mut impl FnMut(&Tensor<3>),
    ) -> (Tensor<3>, Vec<Routing>) {
        let mut routings = Vec::new();
        for layer in &self.model.layers {
            inspect(&x);
            let routing;
            (x, routing) = layer.forward(x, surroundings);
            routings.extend(routing);
        }
        (self.model.norm.forward(x), routings)
    }

    /// What the router of every sparse layer does with the tokens of `input`, row after row.
    pub fn routing(&self, input: ModelInput) -> Vec<Routing> {
        let (x, surroundings) = self.begin(input);
        self.routed(x, &surroundings, &mut |_| {}).1
    }

    /// The last hidden states, after the final norm, of new tokens of many sequences in one pass. Their keys and
    /// values are written to `cache`; a token sees its lane's tokens up to itself. On the CPU in f32 a row's
    /// result does not depend on the other rows.
    ///
    /// # Shapes
    /// `ids` `[rows]`, lane after lane; returns `[1, rows, hidden]`.
    ///
    /// # Panics
    /// If the lanes do not add up to `rows`, or the cache lacks one of their blocks.
    pub fn pass(&self, ids: &[u32], lanes: &[Lane<'_>], cache: &mut PagedCache) -> Tensor<3> {
        let device = self.device();
        let tensor = |values: Vec<i32>| {
            let shape = [1, values.len()];
            Tensor::<2, Int>::from_data(TensorData::new(values, shape), &device)
        };
        let positions = lanes.iter().flat_map(|lane| lane.start..lane.start + lane.rows);
        let positions: Vec<i32> = positions.map(|position| position as i32).collect();
        assert_eq!(positions.len(), ids.len(), "a row for every id");
        let ids = tensor(ids.iter().map(|&id| id as i32).collect());
        let closed = self.closed_experts(&ids);
        let mut x = Stream::from(self.embed(ids)); // [1, rows, hidden]
        let rope = self.rope(tensor(positions));
        let lanes = Lanes::new(lanes);
        for (index, layer) in self.model.layers.iter().enumerate() {
            x = layer.paged(x, (&rope, closed.as_ref()), &lanes, cache.layer(index));
        }
        let [_, normal] = x.normed(&self.model.norm);
        normal
    }

    /// The configuration of the experts, if there are any.
    pub fn experts(&self) -> Option<&ExpertsConfig> {
        self.model.layers.iter().find_map(|layer| Some(&layer.mlp.router()?.config))
    }

    /// The experts that are closed to each token; `None` if all are open to all.
    ///
    /// # Shapes
    /// `ids` `[batch, seq]`; returns `[batch * seq, experts]`.
    fn closed_experts(&self, ids: &Tensor<2, Int>) -> Option<Tensor<2, Bool>> {
        modality::closed(self.experts()?, ids)
    }

    /// The same model after a step in which the experts had `loads`: each expert's bias for the choice is moved by
    /// `speed` against what its load is off the mean of those that a token chooses from (arXiv 2412.19437 section 2.1.2).
    #[must_use]
    pub fn with_balanced_biases(mut self, speed: f64, loads: &ExpertLoads) -> Self {
        let routers = self.model.layers.iter_mut().filter_map(|layer| layer.mlp.router_mut());
        routers.zip(&loads.layers).for_each(|(router, loads)| router.balance(speed, loads));
        self
    }

    /// The biases for the choice of experts of each sparse layer, if they have any.
    pub fn selection_biases(&self) -> Vec<Vec<f32>> {
        let of_layer = |layer: &DecoderLayer| layer.mlp.router()?.selection_bias();
        self.model.layers.iter().filter_map(of_layer).collect()
    }

    /// The first layer's input.
    ///
    /// # Shapes
    /// `ids` `[batch, seq]`; returns `[batch, seq, hidden]`.
    pub(crate) fn embed(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        self.model.embed_tokens.forward(ids, self.compute_dtype())
    }

    /// The rotary tables for `positions`.
    ///
    /// # Shapes
    /// `positions` `[batch, seq]`.
    pub(crate) fn rope(&self, positions: Tensor<2, Int>) -> Rope {
        Rope::of(positions, &self.rotary, self.compute_dtype())
    }

    /// The output layer.
    ///
    /// # Shapes
    /// `hidden` `[batch, seq, hidden]`; returns `[batch, seq, vocab]`.
    pub fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        product(hidden, self.output_weight())
    }

    /// The output layer's logits of some ids.
    ///
    /// # Shapes
    /// `hidden` `[batch, seq, hidden]`; returns `[batch, seq, columns]`.
    ///
    /// # Panics
    /// If a column is outside the vocabulary.
    pub fn logits_of(&self, hidden: Tensor<3>, columns: Range<usize>) -> Tensor<3> {
        let weight = self.output_weight();
        if columns == (0..weight.dims()[0]) {
            return product(hidden, weight);
        }
        product(hidden, weight.narrow(0, columns.start, columns.len()))
    }

    /// The score head's number for each token.
    ///
    /// # Shapes
    /// `hidden` `[tokens, hidden]`, in f32; returns `[tokens]`.
    ///
    /// # Panics
    /// If the model has no score head.
    pub fn scores(&self, hidden: Tensor<2>) -> Tensor<1> {
        let head = self.score.as_ref().expect("the model has a score head");
        let weight = head.weight.val().cast(DType::F32);
        hidden.matmul(weight.transpose()).squeeze_dim(1)
    }

    /// The weight of the output layer, with an adapter's factors and rows.
    ///
    /// # Shapes
    /// Returns `[vocab, hidden]`.
    pub fn output_weight(&self) -> Tensor<2> {
        let weight = match &self.lm_head {
            Some(head) => head.merged(),
            None => self.model.embed_tokens.merged(),
        };
        match &self.head_rows {
            Some(rows) => rows.merge(weight),
            None => weight,
        }
    }

    /// The number format of activations and cache: the weights' own, but bfloat16 in mixed precision, and
    /// f32 on the CPU for weights in bfloat16.
    pub fn compute_dtype(&self) -> DType {
        if self.mixed {
            return DType::BF16;
        }
        ops::compute_dtype(&self.model.embed_tokens.weight.val())
    }

    /// The device of the weights.
    pub fn device(&self) -> Device {
        self.model.embed_tokens.weight.val().device()
    }

    /// The number format of the weights.
    pub fn dtype(&self) -> DType {
        self.model.embed_tokens.weight.val().dtype()
    }
}

impl Embedding {
    /// The rows of the ids, in `dtype`.
    ///
    /// # Shapes
    /// `ids` `[batch, seq]`; returns `[batch, seq, hidden]`.
    pub fn forward(&self, ids: Tensor<2, Int>, dtype: DType) -> Tensor<3> {
        let [batch, seq] = ids.dims();
        let ids = ids.reshape([batch * seq]);
        let mut rows = ops::rows(self.weight.val(), ids.clone(), dtype);
        if let Some(lora) = &self.lora {
            rows = rows + lora.rows(ids.clone(), dtype);
        }
        if let Some(own) = &self.rows {
            rows = own.replace(rows, ids, self.weight.dims()[0]);
        }
        let [_, hidden] = rows.dims();
        rows.reshape([batch, seq, hidden])
    }

    /// The weight with an adapter's factors and rows.
    ///
    /// # Shapes
    /// Returns `[vocab, hidden]`.
    pub(super) fn merged(&self) -> Tensor<2> {
        let mut weight = self.weight.val();
        if let Some(lora) = &self.lora {
            weight = lora.merge(weight);
        }
        match &self.rows {
            Some(rows) => rows.merge(weight),
            None => weight,
        }
    }
}
