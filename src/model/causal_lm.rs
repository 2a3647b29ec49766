//! The whole model: embedding, layers, final norm, output layer.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{DType, Device, Int, Tensor};

use super::linear::product;
use super::{DecoderLayer, KvCache, Linear, Mask, ModelConfig, RmsNorm, Rope};

/// A decoder-only language model over text and image ids alike.
#[derive(Module, Debug)]
pub struct CausalLm {
    /// Embedding, layers and final norm.
    pub model: Decoder,
    /// `[vocab, hidden]`; `None` when the embedding serves as output layer.
    pub lm_head: Option<Linear>,
    head_dim: usize,
    rope_theta: f64,
    mixed: bool,
}

/// The layers between ids and the last hidden state.
#[derive(Module, Debug)]
pub struct Decoder {
    /// One row per id.
    pub embed_tokens: Embedding,
    /// In order of application.
    pub layers: Vec<DecoderLayer>,
    /// The final norm.
    pub norm: RmsNorm,
}

/// A table of rows picked by id.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[vocab, hidden]`.
    pub weight: Param<Tensor<2>>,
}

/// What one forward pass reads.
#[derive(Debug)]
pub struct ModelInput<'a> {
    /// New tokens, `[batch, seq]`.
    pub ids: Tensor<2, Int>,
    /// Their positions within their documents, `[batch, seq]`.
    pub positions: Tensor<2, Int>,
    /// What is hidden; `None` shows every key, which is right only for one new token per row. The
    /// mask's keys count the cache's tokens and the new ones.
    pub mask: Option<Mask>,
    /// Keys and values of earlier tokens; the new ones are added.
    pub cache: Option<&'a mut KvCache>,
}

impl CausalLm {
    pub(crate) fn new(config: &ModelConfig, device: &Device) -> Self {
        let (vocab, hidden, std) =
            (config.vocab_size, config.hidden_size, config.initializer_range);
        let embedding = Initializer::Normal { mean: 0.0, std }.init([vocab, hidden], device);
        Self {
            model: Decoder {
                embed_tokens: Embedding { weight: embedding },
                layers: (0..config.num_hidden_layers)
                    .map(|_| DecoderLayer::new(config, device))
                    .collect(),
                norm: RmsNorm::new(hidden, config.rms_norm_eps, device),
            },
            lm_head: (!config.tie_word_embeddings).then(|| Linear::new(hidden, vocab, std, device)),
            head_dim: config.head_dim(),
            rope_theta: config.rope_theta,
            mixed: false,
        }
    }

    /// The same model with its matrix products in bfloat16; the weights stay as they are, softmax,
    /// norms' statistics and loss in f32. What training in bfloat16 means: the optimizer sees f32.
    #[must_use]
    pub fn in_mixed_precision(self) -> Self {
        Self { mixed: true, ..self }
    }

    /// Logits of every new token, `[batch, seq, vocab]`: raw, no id is masked.
    ///
    /// The Hugging Face model overwrites the logits of image ids here; what may be sampled is the
    /// business of `generate::modality` instead.
    pub fn forward(&self, input: ModelInput<'_>) -> Tensor<3> {
        let hidden = self.hidden(input);
        self.logits(hidden)
    }

    /// The last hidden state after the final norm, `[batch, seq, hidden]`.
    pub fn hidden(&self, input: ModelInput<'_>) -> Tensor<3> {
        self.hidden_states(input, |_| {})
    }

    /// As [`Self::hidden`]; `inspect` sees the input of every layer in turn.
    pub fn hidden_states(
        &self,
        input: ModelInput<'_>,
        mut inspect: impl FnMut(&Tensor<3>),
    ) -> Tensor<3> {
        let ModelInput { ids, positions, mask, mut cache } = input;
        let seq = ids.dims()[1];
        let mut x = self.embed(ids); // [batch, seq, hidden]
        let rope = self.rope(positions);
        for (index, layer) in self.model.layers.iter().enumerate() {
            inspect(&x);
            let layer_cache = cache.as_deref_mut().map(|cache| cache.layer(index));
            x = layer.forward(x, &rope, mask.as_ref(), layer_cache);
        }
        if let Some(cache) = cache {
            cache.advance(seq);
        }
        self.model.norm.forward(x)
    }

    /// What the first layer reads: ids `[batch, seq]` to `[batch, seq, hidden]`.
    pub(crate) fn embed(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let x = self.model.embed_tokens.forward(ids);
        if self.compute_dtype() == x.dtype() { x } else { x.cast(self.compute_dtype()) }
    }

    /// The rotations of tokens at `positions`, `[batch, seq]`.
    pub(crate) fn rope(&self, positions: Tensor<2, Int>) -> Rope {
        Rope::new(positions, self.head_dim, self.rope_theta, self.compute_dtype())
    }

    /// `[batch, seq, hidden]` to `[batch, seq, vocab]`.
    pub fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        let [batch, seq, width] = hidden.dims();
        let weight = self.output_weight(); // [vocab, hidden]
        let vocab = weight.dims()[0];
        product(hidden.reshape([batch * seq, width]), weight).reshape([batch, seq, vocab])
    }

    /// The matrix of the output layer, `[vocab, hidden]`.
    pub fn output_weight(&self) -> Tensor<2> {
        match &self.lm_head {
            Some(head) => head.weight.val(),
            None => self.model.embed_tokens.weight.val(),
        }
    }

    /// The number format of activations and cache: the weights', but bfloat16 in mixed precision, and f32
    /// on the CPU for weights in bfloat16, which it widens as it reads them.
    pub fn compute_dtype(&self) -> DType {
        if self.mixed {
            return DType::BF16;
        }
        #[cfg(feature = "cpu")]
        if super::ops::widens(&self.model.embed_tokens.weight.val()) {
            return DType::F32;
        }
        self.dtype()
    }

    /// Where the weights lie.
    pub fn device(&self) -> Device {
        self.model.embed_tokens.weight.val().device()
    }

    /// The number format of the weights.
    pub fn dtype(&self) -> DType {
        self.model.embed_tokens.weight.val().dtype()
    }
}

impl Embedding {
    /// `[batch, seq]` ids to `[batch, seq, hidden]`.
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        burn::tensor::module::embedding(self.weight.val(), ids)
    }
}
