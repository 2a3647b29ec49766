//! An opened checkpoint of the fixtures, and what several cases read of it.

use std::cell::OnceCell;
use std::path::Path;

use burn::tensor::Device;
use calumma::checkpoint::Checkpoint;
use calumma::generate::ServingModel;
use calumma::tokenize::Processor;
use tempfile::TempDir;
use vq_tokenizer::VqTokenizer;

use crate::folder::{Folder, Form};
use crate::forward::Whole;
use crate::training::Step;

/// A folder's checkpoint in one form, opened as a user would.
pub struct Opened<'a> {
    pub folder: &'a Folder,
    pub serving: ServingModel,
    pub processor: Processor,
    pub vq: Option<VqTokenizer>,
    copy: TempDir,
    whole: OnceCell<Whole>,
    step: OnceCell<Step>,
}

impl<'a> Opened<'a> {
    pub fn open(folder: &'a Folder, form: Form) -> Result<Self, String> {
        let copy = tempfile::tempdir().unwrap();
        folder.copy(form, copy.path());
        let checkpoint = Checkpoint::open(copy.path(), &Device::flex());
        let place = format!("{}/", copy.path().display());
        let checkpoint = checkpoint.map_err(|error| error.to_string().replace(&place, ""))?;
        let Checkpoint { config, model, processor, vq, .. } = checkpoint;
        let serving = ServingModel::new(config, model, Device::flex());
        let (whole, step) = (OnceCell::new(), OnceCell::new());
        Ok(Self { folder, serving, processor, vq, copy, whole, step })
    }

    /// The directory that it was opened from.
    pub fn dir(&self) -> &Path {
        self.copy.path()
    }

    /// What the model makes of the fixture's rows.
    pub fn whole(&self) -> &Whole {
        self.whole.get_or_init(|| Whole::of(self))
    }

    /// The loss of the fixture's rows and its gradients.
    pub fn step(&self) -> &Step {
        self.step.get_or_init(|| Step::of(self))
    }
}
