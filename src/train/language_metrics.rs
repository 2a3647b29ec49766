//! Metrics of language-model training; each is a ratio of sums.

use std::time::{Duration, Instant};

use super::objective::{LossSum, NextTokenBatch, NextTokenLoss, RouterSums, add_each};
use crate::report::Metrics;

/// Sums over the steps since the last report.
pub(super) struct Interval {
    sources: Vec<LossSum>,
    /// What routers did.
    pub(super) routers: RouterSums,
    image_tokens: usize,
    tokens: usize,
    slots: usize,
    documents: usize,
    since: Instant,
}

impl Interval {
    /// An interval that starts now.
    pub(super) fn start() -> Self {
        Self {
            sources: Vec::new(),
            routers: RouterSums::default(),
            image_tokens: 0,
            tokens: 0,
            slots: 0,
            documents: 0,
            since: Instant::now(),
        }
    }

    /// Adds `batch`, and its losses by source and sums of routers unless its loss is not finite.
    pub(super) fn add(&mut self, batch: &NextTokenBatch, loss: &NextTokenLoss) {
        if loss.total.is_finite() {
            add_each(&mut self.sources, &loss.sources);
            self.routers += &loss.routers;
        }
        let packed = &batch.packed;
        self.image_tokens += batch.is_image.iter().filter(|is_image| **is_image).count();
        self.tokens += packed.num_tokens();
        self.slots += packed.ids.len();
        let begins = |at: &usize| packed.document_ids[*at] != 0 && packed.positions[*at] == 0;
        self.documents += (0..packed.ids.len()).filter(begins).count();
    }

    /// The metrics of the interval up to now; `labels` names the sources, `waited` is the time that steps
    /// waited for data.
    pub(super) fn metrics(&self, labels: &[String], waited: Duration) -> Metrics {
        let mut metrics = by_source(labels, &self.sources);
        let share = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
        metrics.push(("image_share".into(), share(self.image_tokens, self.tokens)));
        metrics.push(("padding_share".into(), share(self.slots - self.tokens, self.slots)));
        let seconds = self.since.elapsed().as_secs_f64().max(1e-9);
        metrics.push(("documents_per_s_now".into(), self.documents as f64 / seconds));
        metrics.push(("data_wait_share".into(), waited.as_secs_f64() / seconds));
        metrics
    }
}

/// The mean cross-entropy over image and text targets together, if there are any.
pub(super) fn overall(loss: &NextTokenLoss) -> Metrics {
    let (image, text) = (loss.image, loss.text);
    mean("loss", (image.0 + text.0, image.1 + text.1)).into_iter().collect()
}

/// The mean cross-entropy of each modality that has targets.
pub(super) fn by_modality(loss: &NextTokenLoss) -> Metrics {
    [mean("image_loss", loss.image), mean("text_loss", loss.text)].into_iter().flatten().collect()
}

/// The mean cross-entropy of each source that has targets, under its label.
pub(super) fn by_source(labels: &[String], sums: &[LossSum]) -> Metrics {
    let sums = labels.iter().zip(sums);
    sums.filter_map(|(label, sum)| mean(&format!("loss/{label}"), *sum)).collect()
}

fn mean(name: &str, (sum, count): LossSum) -> Option<(std::borrow::Cow<'static, str>, f64)> {
    (count > 0).then(|| (name.to_owned().into(), sum / count as f64))
}
