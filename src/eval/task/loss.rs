//! The task `loss`, and the loss on the validation sources of a training recipe.

use serde_json::{Map, Value, json};

use super::config::LossTask;
use super::evaluation::Evaluation;
use crate::checkpoint::{Manifest, VQ_DIR};
use crate::data::pack::Packer;
use crate::data::{
    self, DocumentData, Encoding, LeftOut, SourceConfig, TemplateConfig, Validation,
    validation_batches,
};
use crate::error::{Error, Result};
use crate::eval::loss::DocumentLoss;
use crate::eval::{Report, loss};
use crate::report::Omission;
use crate::train::objective::{NextTokenBatch, cross_entropies};

impl Evaluation<'_> {
    pub(super) fn loss(&self, task: &LossTask, progress: &mut dyn FnMut(usize)) -> Result<Report> {
        self.loss_of(&[source(task)], progress)
    }

    /// The mean loss on the documents of `sources`. The batch size counts rows of the model's context length.
    ///
    /// # Errors
    /// Those of the data; if there is no token to predict.
    pub fn loss_of(
        &self,
        sources: &[DocumentData],
        progress: &mut dyn FnMut(usize),
    ) -> Result<Report> {
        let packed = sources.iter().map(|source| self.packed(source));
        let packed = packed.collect::<Result<Vec<_>>>()?;
        let named = packed.iter().flat_map(|(name, found)| {
            found.left_out.iter().map(|left_out| (name.clone(), json!(left_out)))
        });
        let named: Map<String, Value> = named.collect();
        let left_out: Vec<Omission> = packed
            .iter()
            .flat_map(|(_, found)| &found.left_out)
            .flat_map(LeftOut::omissions)
            .collect();
        let batch = self.task.common().batch;
        let batches = |rows: &[NextTokenBatch]| -> Vec<_> {
            rows.chunks(batch).map(NextTokenBatch::joined).collect()
        };
        let packed: Vec<_> =
            packed.into_iter().map(|(name, found)| (name, batches(&found.batches))).collect();
        if packed.iter().all(|(_, batches)| batches.is_empty()) {
            let all: Vec<String> = left_out.iter().map(ToString::to_string).collect();
            let message = format!("no document is left to measure; {}", all.join("; "));
            return Err(Error::invalid(message));
        }
        let scores = loss::evaluate(&packed, |batch| {
            let (targets, nll) = cross_entropies(self.pipeline.model().model(), batch);
            progress(1);
            DocumentLoss::of_batch(batch, &targets, &nll)
        })?;
        let mut report = scores.report(&self.task.common().data);
        report.left_out = left_out;
        report.config.insert("left_out".to_owned(), Value::Object(named));
        report.config.insert("sources".to_owned(), json!(sources));
        Ok(report)
    }

    /// The name of `source` and its documents packed into batches of one row, so that neither the rows nor
    /// their order depend on the batch size; image codes are cached in `codes`
    /// next to the results.
    fn packed(&self, source: &DocumentData) -> Result<(String, Validation)> {
        let processor = self.pipeline.processor();
        let seq_len = self.pipeline.model().config().max_position_embeddings;
        let pad = processor.vocabulary().special().pad;
        // The digest of the image tokenizer alone, as in token shards: codes of another one must
        // not be reused.
        let vq_dir = self.checkpoint.join(VQ_DIR);
        let digest = match vq_dir.is_dir() {
            true => Manifest::of(&vq_dir)?.digest(),
            false => data::file_states(self.checkpoint)?,
        };
        let cache_dir = self.out.join("codes");
        let encoding = Encoding {
            vq: self.pipeline.vq().ok(),
            digest: &digest,
            cache_dir: &cache_dir,
            quiet: self.quiet,
        };
        let common = self.task.common();
        let count = common.limit.or(source.limit()).unwrap_or(usize::MAX);
        let new_packer = || Packer::new(1, seq_len, pad);
        let one = std::slice::from_ref(source);
        let batches = validation_batches(one, encoding, count, processor, new_packer)?;
        Ok((source.label().to_owned(), batches))
    }
}

/// The data source of a task.
fn source(task: &LossTask) -> DocumentData {
    let samples = SourceConfig {
        explode: task.explode.clone(),
        allows_one: true,
        ..SourceConfig::new(&task.common.data)
    };
    let template =
        TemplateConfig { loss: task.loss, ..TemplateConfig::new(task.templates.clone()) };
    DocumentData { name: task.common.name.clone(), ..DocumentData::samples(samples, template) }
}
