//! [`CausalLm`] as the engine's [`LanguageModel`]: spans of ids in, logits on the host out.

use std::collections::BTreeSet;
use std::ops::Range;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::on_device::{self, Wanted};
use super::sampling::log_probability;
use super::{BLOCK, Draw, Drawn, LanguageModel, Span};
use crate::device::is_cpu;
use crate::error::{Error, Result};
use crate::guard::failure;
use crate::model::{CausalLm, Lane, ModelConfig, ModelInput, PagedCache, mask, ops};
use crate::threads::awake;

/// Maximum number of choices scored at once.
const CHOICES: usize = 64;
/// Maximum size in bytes of the caches of choices scored at once; a single choice may exceed it.
const CHOICE_BYTES: usize = 1 << 30;

/// A model for decoding, with its configuration and device.
///
/// For f32 on the CPU the logits of a row do not depend on the other rows of a pass, bit for bit; weights may be
/// stored in bfloat16.
#[derive(Debug)]
pub struct ServingModel {
    config: ModelConfig,
    model: CausalLm,
    device: Device,
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
        host_rows(self.model.forward(self.row(ids)?))
    }

    /// What the score head says of one row: its number at the last token.
    ///
    /// # Errors
    /// As [`all_logits`](Self::all_logits); [`Error::Invalid`] without a score head.
    pub fn reward(&self, ids: &[u32]) -> Result<f32> {
        if self.model.score.is_none() {
            return Err(Error::invalid(
                "the model has no score head; [reward_model] in a recipe of `calumma train` trains one",
            ));
        }
        let hidden = self.model.hidden(self.row(ids)?);
        let [_, seq, width] = hidden.dims();
        let last = hidden.narrow(1, seq - 1, 1).reshape([1, width]).cast(DType::F32);
        let scores =
            self.model.scores(last).try_into_data().map_err(|error| failure(&error.to_string()))?;
        Ok(scores.iter::<f32>().next().unwrap_or(f32::NAN))
    }

    /// One row as the input of a whole pass.
    fn row(&self, ids: &[u32]) -> Result<ModelInput> {
        let seq = ids.len();
        self.check_len(seq)?;
        self.check_ids(ids)?;
        let tensor = |values: Vec<i32>| {
            Tensor::<2, Int>::from_data(TensorData::new(values, [1, seq]), &self.device)
        };
        Ok(ModelInput {
            ids: tensor(ids.iter().map(|&id| id as i32).collect()),
            positions: tensor((0..seq as i32).collect()),
            mask: mask::causal(seq, &self.device),
        })
    }

    /// The log-probability in nats of each of `choices` after `prompt`, summed over its ids. The prompt is
    /// computed once.
    ///
    /// # Errors
    /// Those of [`all_logits`](Self::all_logits) for the prompt with a choice, or if a choice is empty;
    /// [`Error::PromptTooLong`] if they do not fit the context.
    pub fn log_probabilities(&self, prompt: &[u32], choices: &[Vec<u32>]) -> Result<Vec<f64>> {
        if choices.is_empty() {
            return Ok(Vec::new());
        }
        if choices.iter().any(Vec::is_empty) {
            return Err(Error::invalid("a choice is empty; each needs some text"));
        }
        let longest = choices.iter().map(Vec::len).max().unwrap_or(0);
        let (len, context) = (prompt.len(), self.context());
        if len + longest > context {
            return Err(Error::PromptTooLong { prompt: len, needed: longest, context });
        }
        choices.iter().try_for_each(|choice| self.check_ids(choice))?;
        let further: Vec<usize> = (0..choices.len()).filter(|&at| choices[at].len() > 1).collect();
        // Full blocks of the prompt are shared by all choices; each continues a copy of the last, partial one.
        let (shared, table) = (len / BLOCK, numbered(0..len.div_ceil(BLOCK)));
        let own = (len + longest - 1).div_ceil(BLOCK) - shared;
        let at_once = CHOICE_BYTES / (own * self.block_bytes()).max(1);
        let at_once = at_once.clamp(1, CHOICES).min(further.len().max(1));
        let mut cache = self.new_cache(table.len() + at_once * own);
        let columns = 0..self.vocab_size();
        let prompt = Span { blocks: &table, start: 0, ids: prompt, wanted: 1, columns };
        let first = self.pass(std::slice::from_ref(&prompt), &mut cache)?.remove(0).remove(0);
        let mut found: Vec<f64> =
            choices.iter().map(|choice| log_probability(&first, choice[0])).collect();
        for part in further.chunks(at_once) {
            let tables: Vec<Vec<u32>> = (0..part.len())
                .map(|number| {
                    let start = table.len() + number * own;
                    [&table[..shared], &numbered(start..start + own)].concat()
                })
                .collect();
            if shared < table.len() {
                tables.iter().for_each(|to| cache.copy_block(shared, to[shared] as usize));
            }
            let spans: Vec<Span<'_>> = part
                .iter()
                .zip(&tables)
                .map(|(&at, blocks)| {
                    let ids = &choices[at][..choices[at].len() - 1];
                    Span {
                        blocks,
                        start: len,
                        ids,
                        wanted: ids.len(),
                        columns: prompt.columns.clone(),
                    }
                })
                .collect();
            for (&at, logits) in part.iter().zip(self.pass(&spans, &mut cache)?) {
                let pairs = logits.iter().zip(&choices[at][1..]);
                found[at] += pairs.map(|(logits, &id)| log_probability(logits, id)).sum::<f64>();
            }
        }
        Ok(found)
    }

    /// Runs `spans` through the model and hands the logits of the wanted rows, `[1, rows, columns]`, to `take`, those
    /// with equal columns together.
    fn run(
        &self,
        spans: &[Span<'_>],
        cache: &mut PagedCache,
        mut take: impl FnMut(Range<usize>, &[Wanted], Tensor<3>) -> Result<()>,
    ) -> Result<()> {
        self.check(spans, cache)?;
        if spans.is_empty() {
            return Ok(());
        }
        let lanes: Vec<Lane<'_>> = spans
            .iter()
            .map(|span| Lane { blocks: span.blocks, start: span.start, rows: span.ids.len() })
            .collect();
        let ids: Vec<u32> = spans.iter().flat_map(|span| span.ids).copied().collect();
        let hidden = self.model.pass(&ids, &lanes, cache); // [1, rows, hidden]
        for (columns, rows) in by_columns(spans) {
            let wanted = rows.iter().map(|(row, ..)| *row as i32).collect::<Vec<_>>();
            let hidden = if wanted.len() == ids.len() {
                hidden.clone() // all, in order
            } else {
                let len = wanted.len();
                let wanted = TensorData::new(wanted, [len]);
                hidden.clone().select(1, Tensor::<1, Int>::from_data(wanted, &self.device))
            };
            take(columns.clone(), &rows, self.model.logits_of(hidden, columns))?;
        }
        Ok(())
    }

    /// Refuses what [`CausalLm::pass`] does not take.
    fn check(&self, spans: &[Span<'_>], cache: &PagedCache) -> Result<()> {
        let mut written = BTreeSet::new();
        for Span { blocks, start, ids, wanted, columns } in spans {
            let end = start + ids.len();
            if ids.is_empty() {
                return Err(Error::invalid("a span has no ids; allowed: one or more"));
            }
            self.check_len(end)?;
            self.check_ids(ids)?;
            let used = blocks.get(..end.div_ceil(BLOCK)).ok_or_else(|| {
                let blocks = blocks.len();
                Error::invalid(format!("{end} tokens do not fit {blocks} blocks of {BLOCK}"))
            })?;
            if let Some(block) = used.iter().find(|block| **block as usize >= cache.blocks()) {
                let blocks = cache.blocks();
                return Err(Error::invalid(format!("there is no block {block} among {blocks}")));
            }
            if let Some(block) = used[start / BLOCK..].iter().find(|block| !written.insert(**block))
            {
                return Err(Error::invalid(format!("two spans write to block {block}")));
            }
            if *wanted > ids.len() {
                let ids = ids.len();
                return Err(Error::invalid(format!(
                    "{wanted} logits wanted of a span of {ids} ids"
                )));
            }
            let vocab = self.vocab_size();
            if columns.start > columns.end || columns.end > vocab {
                return Err(Error::invalid(format!(
                    "logits {columns:?} wanted of a vocabulary of {vocab}"
                )));
            }
        }
        Ok(())
    }

    fn check_ids(&self, ids: &[u32]) -> Result<()> {
        let vocab = self.vocab_size();
        match ids.iter().find(|&&id| id as usize >= vocab) {
            Some(id) => {
                Err(Error::invalid(format!("id {id} is outside the vocabulary of {vocab}")))
            }
            None => Ok(()),
        }
    }

    fn check_len(&self, len: usize) -> Result<()> {
        let context = self.context();
        if (1..=context).contains(&len) {
            return Ok(());
        }
        Err(Error::invalid(format!("{len} tokens do not fit; the context takes 1 to {context}")))
    }
}

impl LanguageModel for ServingModel {
    type Cache = PagedCache;

    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn context(&self) -> usize {
        self.config.max_position_embeddings
    }

    fn block_bytes(&self) -> usize {
        PagedCache::block_bytes(&self.config, self.model.compute_dtype())
    }

    fn new_cache(&self, blocks: usize) -> PagedCache {
        PagedCache::new(&self.config, blocks, self.model.compute_dtype(), &self.device)
    }

    fn pass(&self, spans: &[Span<'_>], cache: &mut PagedCache) -> Result<Vec<Vec<Vec<f32>>>> {
        let mut found: Vec<_> = spans.iter().map(|span| vec![Vec::new(); span.wanted]).collect();
        let take = |_, rows: &[Wanted], logits| {
            for (&(_, span, place), of_row) in rows.iter().zip(host_rows(logits)?) {
                found[span][place] = of_row;
            }
            Ok(())
        };
        if is_cpu(&self.device) {
            awake(|| self.run(spans, cache, take))?;
        } else {
            self.run(spans, cache, take)?;
        }
        Ok(found)
    }

    fn draws(&self) -> bool {
        ops::can_draw(&self.model.output_weight())
    }

    fn pass_drawn(
        &self,
        spans: &[Span<'_>],
        draws: &[Draw],
        cache: &mut PagedCache,
    ) -> Result<Vec<Vec<Drawn>>> {
        let (mut numbers, mut parts) = (Vec::new(), Vec::new());
        self.run(spans, cache, |columns, rows, logits| {
            let (of_draws, table) = on_device::table(draws, columns.start as u32, rows);
            if !of_draws.is_empty() {
                numbers.extend(of_draws);
                parts.push(ops::draw(logits.squeeze_dim(0), &table));
            }
            Ok(())
        })?;
        let mut found = vec![Vec::new(); draws.len()];
        if !parts.is_empty() {
            let drawn = ops::fetch(Tensor::cat(parts, 0));
            let drawn = drawn.map_err(|error| failure(&error.to_string()))?;
            numbers.into_iter().zip(drawn).for_each(|(draw, id): (usize, _)| found[draw].push(id));
        }
        Ok(found)
    }

    fn poison(&self, blocks: &[u32], cache: &mut PagedCache) {
        cache.poison(blocks);
    }
}

/// The wanted rows, those with equal columns together.
fn by_columns(spans: &[Span<'_>]) -> Vec<(Range<usize>, Vec<Wanted>)> {
    let mut groups: Vec<(Range<usize>, Vec<Wanted>)> = Vec::new();
    let mut end = 0;
    for (number, span) in spans.iter().enumerate() {
        end += span.ids.len();
        if span.wanted == 0 || span.columns.is_empty() {
            continue;
        }
        let rows = (end - span.wanted..end).zip(0..).map(|(row, place)| (row, number, place));
        match groups.iter_mut().find(|(columns, _)| *columns == span.columns) {
            Some((_, group)) => group.extend(rows),
            None => groups.push((span.columns.clone(), rows.collect())),
        }
    }
    groups
}

/// The ids of some blocks.
fn numbered(blocks: Range<usize>) -> Vec<u32> {
    blocks.map(|block| block as u32).collect()
}

/// The rows of `logits` `[1, rows, columns]` on the host, in f32.
fn host_rows(logits: Tensor<3>) -> Result<Vec<Vec<f32>>> {
    let [_, rows, columns] = logits.dims();
    let data = logits.try_into_data().map_err(|error| failure(&error.to_string()))?;
    let values = data.convert_dtype(DType::F32).try_into_vec::<f32>();
    let values = values.expect("the values have been converted");
    if rows == 1 {
        return Ok(vec![values]);
    }
    Ok(values.chunks_exact(columns).map(<[f32]>::to_vec).collect())
}
