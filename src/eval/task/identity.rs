//! The identity of an evaluation: only if it is unchanged does a stopped evaluation continue, and is a finished
//! task skipped.
//!
//! Data are known by their samples' fields and images, not by their files: a task is skipped also if its
//! files were renamed or touched, and measured again if an image has changed that a file of lines names.

use std::path::PathBuf;
use std::time::SystemTime;

use serde_json::json;
use sha2::{Digest, Sha256};

use super::config::{Answering, LossTask, TaskConfig};
use super::evaluation::Evaluation;
use super::keys::TaskKeys;
use crate::data::{self, Dataset, Stamps};
use crate::error::Result;
use crate::eval::{Responses, reconstruction, vqa};
use crate::files::hex;
use crate::json::sorted;

/// Directory below the results of the stamps of image files.
const STAMPS: &str = "codes";

impl Evaluation<'_> {
    /// Everything that decides a response but the item itself: model, settings, and the data of examples and
    /// choices.
    ///
    /// # Errors
    /// If a data set cannot be opened.
    pub fn identity(&self) -> Result<String> {
        let keys = TaskKeys::from(self.task.clone());
        let chooses_all = keys.answer != Answering::Generate && keys.choices.is_empty();
        let reads_train = keys.shots > 0 || chooses_all;
        let keys = TaskKeys {
            name: None,
            batch: 0,
            limit: None,
            inception: None,
            official: None,
            train: keys.train.filter(|_| reads_train),
            ..keys
        };
        let stamps = self.stamps()?;
        // Without training data the choices are those of the data set.
        let data = (chooses_all && keys.train.is_none())
            .then(|| Ok::<_, crate::Error>(fields_of(&stamps, &*self.open(&keys.data)?)));
        let train = keys.train.as_deref().map(|spec| {
            let train = self.open(spec)?;
            let all = 0..train.len();
            Ok::<_, crate::Error>(stamps.digest(train.as_ref(), all, keys.shots > 0))
        });
        // The digest is that of the files opened: a link such as `latest` may point elsewhere by now.
        let checkpoint = match self.pipeline.digest() {
            Some(digest) => json!(digest),
            None => json!(data::file_states(self.checkpoint)?),
        };
        let identity = json!([
            checkpoint,
            self.pipeline.model().model().dtype().name(),
            self.pipeline.prompts(),
            keys,
            self.generation,
            data.transpose()?,
            train.transpose()?,
        ]);
        Ok(sorted(identity).to_string())
    }

    /// The [`identity`](Self::identity) and the fields of all samples of `dataset`.
    pub(super) fn identity_with_prompts(&self, dataset: &dyn Dataset) -> Result<String> {
        let identity = json!([self.identity()?, fields_of(&self.stamps()?, dataset)]);
        Ok(sorted(identity).to_string())
    }

    /// A digest of [`identity`](Self::identity) and of what else decides the scores, above all the
    /// samples measured; part of the results.
    ///
    /// # Errors
    /// As [`identity`](Self::identity).
    pub fn digest(&self) -> Result<String> {
        let keys = TaskKeys::from(self.task.clone());
        let TaskKeys { limit, inception, official, train, .. } = keys;
        let stamps = self.stamps()?;
        let data = self.open(&self.task.common().data)?;
        let measured = 0..self.task.common().extent().of(data.len());
        let measured = stamps.digest(data.as_ref(), measured, true);
        stamps.save()?;
        // The majority answers are learnt on these.
        let learnt_on = match (self.task, train) {
            (_, Some(train)) => Some(fields_of(&stamps, &*self.open(&train)?)),
            (TaskConfig::Vqa(_), None) => Some(fields_of(&stamps, data.as_ref())),
            _ => None,
        };
        let path = |path: Option<PathBuf>| path.map(|path| path.display().to_string());
        let all =
            json!([self.identity()?, limit, path(inception), path(official), measured, learnt_on]);
        Ok(hex(&Sha256::digest(sorted(all).to_string())[..8]))
    }

    /// The data set `spec` with the samples that the task measures.
    fn open(&self, spec: &str) -> Result<Box<dyn Dataset>> {
        match self.task {
            TaskConfig::Vqa(_) => vqa::open(spec),
            TaskConfig::Reconstruction(_) => reconstruction::open(spec),
            TaskConfig::Loss(LossTask { explode, .. }) => {
                data::open_as(spec, explode.as_deref(), None)
            }
            TaskConfig::Captioning(_) | TaskConfig::TextToImage(_) | TaskConfig::Geneval(_) => {
                data::open(spec)
            }
        }
    }

    fn stamps(&self) -> Result<Stamps> {
        Stamps::open(&self.out.join(STAMPS), SystemTime::now())
    }

    /// The responses that an earlier run of this evaluation left.
    pub(super) fn responses(&self) -> Result<Responses> {
        Responses::open(&self.out, &self.identity()?)
    }
}

/// The state of the fields of all samples.
fn fields_of(stamps: &Stamps, dataset: &dyn Dataset) -> String {
    stamps.digest(dataset, 0..dataset.len(), false)
}
