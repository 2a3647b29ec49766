//! The identity of an evaluation: everything that decides its responses. Only if it is unchanged
//! does a stopped evaluation continue and is a finished task skipped.

use serde_json::json;
use sha2::{Digest, Sha256};

use super::config::Answering;
use super::evaluation::Evaluation;
use super::keys::TaskKeys;
use crate::data;
use crate::error::Result;
use crate::eval::Responses;
use crate::files::hex;

impl Evaluation<'_> {
    /// Everything that decides a response: model, data, settings.
    ///
    /// # Errors
    /// If a file of the data set does not exist.
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
        let data = data::fingerprint(&keys.data)?;
        let train = keys.train.as_deref().map(data::fingerprint).transpose()?;
        // The digest is that of the files opened: a link such as `latest` may point elsewhere by now.
        let checkpoint = match self.pipeline.digest() {
            Some(digest) => json!(digest),
            None => json!(data::fingerprint(&self.checkpoint.to_string_lossy())?),
        };
        Ok(json!([
            checkpoint,
            self.pipeline.model().model().dtype().name(),
            self.pipeline.prompts(),
            keys,
            self.generation,
            data,
            train,
        ])
        .to_string())
    }

    /// A digest of [`identity`](Self::identity) and of what else decides the scores; part of the results.
    ///
    /// # Errors
    /// As [`identity`](Self::identity).
    pub fn digest(&self) -> Result<String> {
        let TaskKeys { limit, inception, official, train, .. } = TaskKeys::from(self.task.clone());
        let train = train.as_deref().map(data::fingerprint).transpose()?;
        let all = json!([self.identity()?, limit, inception, official, train]).to_string();
        Ok(hex(&Sha256::digest(all.as_bytes())[..8]))
    }

    /// The responses that a stopped run of this evaluation left.
    pub(super) fn responses(&self) -> Result<Responses> {
        Responses::open(&self.out, &self.identity()?)
    }
}
