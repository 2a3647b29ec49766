//! [`CausalLm`] as the generator's [`LanguageModel`]: rows of ids in, logits on the host out.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::sampling::log_probability;
use super::{BLOCK, LanguageModel, Span};
use crate::error::{Error, Result};
use crate::model::{CausalLm, KvCache, ModelConfig, ModelInput, mask};

/// Maximum number of choices scored at once.
const CHOICES: usize = 64;
/// Maximum size in bytes of the caches of choices scored at once; a single choice may exceed it.
const CHOICE_BYTES: usize = 1 << 30;

/// A model for decoding, with its configuration and device.
#[derive(Debug)]
pub struct ServingModel {
    config: ModelConfig,
    model: CausalLm,
    device: Device,
}

/// The keys and values of a batch, and which of its columns are padding.
///
/// Rows may take different numbers of ids in a call; shorter ones are padded on the left, and columns of
/// padding stay hidden.
#[derive(Debug)]
pub struct ServingCache {
    kv: KvCache,
    /// `[row][column]`: whether the column is padding in this row.
    is_pad: Vec<Vec<bool>>,
}

impl ServingCache {
    /// A copy with `rows` equal rows, from a cache of one row.
    fn repeated(&self, rows: usize) -> Self {
        let is_pad = vec![self.is_pad[0].clone(); rows];
        Self { kv: self.kv.repeated(rows), is_pad }
    }

    /// Adds a call's columns; returns the positions of its ids, `[rows * seq]`, with 0 for padding.
    fn extend(&mut self, rows: &[Vec<u32>], seq: usize) -> Vec<i32> {
        let mut positions = Vec::with_capacity(rows.len() * seq);
        for (row, is_pad) in rows.iter().zip(&mut self.is_pad) {
            let seen = is_pad.iter().filter(|pad| !**pad).count();
            let pads = seq - row.len();
            is_pad.extend((0..seq).map(|column| column < pads));
            positions.extend(std::iter::repeat_n(0, pads));
            positions.extend((seen..seen + row.len()).map(|position| position as i32));
        }
        positions
    }
}

impl ServingModel {
    /// Serves `model`, whose weights are on `device`, outside autodiff.
    pub fn new(config: ModelConfig, model: CausalLm, device: Device) -> Self {
        Self { config, model, device }
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The model.
    pub fn model(&self) -> &CausalLm {
        &self.model
    }

    /// The device of the weights.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Raw logits of every position of one row; no id is masked.
    ///
    /// # Shapes
    /// Returns `seq` vectors of `vocab` logits.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the row is empty, longer than the context or holds an id out of range.
    pub fn all_logits(&self, ids: &[u32]) -> Result<Vec<Vec<f32>>> {
        let seq = ids.len();
        self.check_len(seq, self.context(), "context")?;
        self.check_ids(ids)?;
        let logits = self.model.forward(ModelInput {
            ids: self.tensor(ids.iter().map(|&id| id as i32).collect(), 1),
            positions: self.tensor((0..seq as i32).collect(), 1),
            mask: Some(mask::causal(seq, &self.device)),
            cache: None,
        });
        Ok(host_rows(logits.squeeze_dim(0)))
    }

    /// The log-probability in nats of each of `choices` after `prompt`, summed over its ids. The prompt is
    /// computed once.
    ///
    /// # Errors
    /// Those of [`all_logits`](Self::all_logits) for the prompt with a choice, or if a choice is empty;
    /// [`Error::PromptTooLong`] if they do not fit the context.
    pub fn log_probabilities(&self, prompt: &[u32], choices: &[Vec<u32>]) -> Result<Vec<f64>> {
        if choices.iter().any(Vec::is_empty) {
            return Err(Error::invalid("a choice is empty; each needs some text"));
        }
        let longest = choices.iter().map(Vec::len).max().unwrap_or(0);
        let (len, context) = (prompt.len(), self.context());
        if len + longest > context {
            return Err(Error::PromptTooLong { prompt: len, needed: longest, context });
        }
        self.check_len(len + longest, context, "context")?;
        let mut cache = self.rows_cache(1, prompt.len() + longest);
        let first = self.next_logits(&[prompt.to_vec()], &mut cache)?.remove(0);
        let mut found: Vec<f64> =
            choices.iter().map(|choice| log_probability(&first, choice[0])).collect();
        let further: Vec<usize> = (0..choices.len()).filter(|&at| choices[at].len() > 1).collect();
        let rows = CHOICE_BYTES / cache.kv.row_bytes().max(1);
        for part in further.chunks(rows.clamp(1, CHOICES)) {
            let rows: Vec<Vec<u32>> = part
                .iter()
                .map(|&at| choices[at].split_last().map_or(Vec::new(), |(_, ids)| ids.to_vec()))
                .collect();
            let hidden = self.extend(&rows, &mut cache.repeated(rows.len()))?;
            let [_, seq, _] = hidden.dims();
            let logits = host_rows(self.model.logits(hidden).flatten(0, 1));
            for (number, &at) in part.iter().enumerate() {
                let ids = &choices[at][1..];
                let of_row = &logits[number * seq..(number + 1) * seq];
                let pairs = of_row[seq - ids.len()..].iter().zip(ids);
                found[at] += pairs.map(|(logits, &id)| log_probability(logits, id)).sum::<f64>();
            }
        }
        Ok(found)
    }

    /// Adds `rows` to `cache`; returns the last hidden states, `[rows, seq, hidden]`, those of a shorter row
    /// at the end.
    fn extend(&self, rows: &[Vec<u32>], cache: &mut ServingCache) -> Result<Tensor<3>> {
        let seq = rows.iter().map(Vec::len).max().unwrap_or(0);
        if rows.len() != cache.is_pad.len() {
            let (given, batch) = (rows.len(), cache.is_pad.len());
            return Err(Error::invalid(format!("{given} rows given to a cache of {batch} rows")));
        }
        self.check_len(cache.kv.len() + seq, cache.kv.capacity(), "cache")?;
        rows.iter().try_for_each(|row| self.check_ids(row))?;
        let padded = |row: &Vec<u32>| {
            let pads = std::iter::repeat_n(0, seq - row.len());
            pads.chain(row.iter().map(|&id| id as i32)).collect::<Vec<_>>()
        };
        let ids = rows.iter().flat_map(padded).collect();
        let positions = cache.extend(rows, seq);
        Ok(self.model.hidden(ModelInput {
            ids: self.tensor(ids, rows.len()),
            positions: self.tensor(positions, rows.len()),
            mask: mask::padded(&cache.is_pad, seq, &self.device),
            cache: Some(&mut cache.kv),
        }))
    }

    fn tensor(&self, values: Vec<i32>, rows: usize) -> Tensor<2, Int> {
        let seq = values.len() / rows;
        Tensor::from_data(TensorData::new(values, [rows, seq]), &self.device)
    }

    fn check_ids(&self, ids: &[u32]) -> Result<()> {
        let vocab = self.config.vocab_size;
        match ids.iter().find(|&&id| id as usize >= vocab) {
            Some(id) => {
                Err(Error::invalid(format!("id {id} is outside the vocabulary of {vocab}")))
            }
            None => Ok(()),
        }
    }

    fn check_len(&self, len: usize, limit: usize, what: &str) -> Result<()> {
        if (1..=limit).contains(&len) {
            return Ok(());
        }
        Err(Error::invalid(format!("{len} tokens do not fit; the {what} takes 1 to {limit}")))
    }
}

impl ServingModel {
    /// A cache of rows.
    pub fn rows_cache(&self, batch: usize, capacity: usize) -> ServingCache {
        let kv =
            KvCache::new(&self.config, batch, capacity, self.model.compute_dtype(), &self.device);
        ServingCache { kv, is_pad: vec![Vec::with_capacity(capacity); batch] }
    }

    /// The logits of each row.
    ///
    /// # Errors
    /// As before.
    pub fn next_logits(
        &self,
        rows: &[Vec<u32>],
        cache: &mut ServingCache,
    ) -> Result<Vec<Vec<f32>>> {
        let hidden = self.extend(rows, cache)?;
        let seq = hidden.dims()[1];
        let last = hidden.narrow(1, seq - 1, 1); // [rows, 1, hidden]
        Ok(host_rows(self.model.logits(last).squeeze_dim(1)))
    }
}

impl LanguageModel for ServingModel {
    type Cache = ();

    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn context(&self) -> usize {
        self.config.max_position_embeddings
    }

    fn block_bytes(&self) -> usize {
        BLOCK
    }

    fn new_cache(&self, _blocks: usize) {}

    fn pass(&self, _spans: &[Span<'_>], _cache: &mut ()) -> Result<Vec<Vec<Vec<f32>>>> {
        Err(Error::invalid("not built yet"))
    }

    fn poison(&self, _blocks: &[u32], _cache: &mut ()) {}
}

/// The rows of `logits` `[rows, vocab]` on the host, in f32.
fn host_rows(logits: Tensor<2>) -> Vec<Vec<f32>> {
    let vocab = logits.dims()[1];
    let values: Vec<f32> = logits.into_data().convert_dtype(DType::F32).iter::<f32>().collect();
    values.chunks_exact(vocab).map(<[f32]>::to_vec).collect()
}
