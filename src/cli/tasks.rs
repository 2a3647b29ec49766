//! The tasks that a recipe of `train` may be of.

use burn::tensor::Device;
use calumma::Result;
use calumma::data::SourceReport;
use calumma::data::pack::PackReport;
use calumma::model::{CausalLm, ModelConfig};
use calumma::train::preference::PreferenceTask;
use calumma::train::rl::RlTask;
use calumma::train::{LanguageRecipe, LanguageTask, Task};

use super::session::Session;

/// A task that trains a language model.
pub trait LmTask: Task {
    /// The model with its current weights.
    fn model(&self) -> &CausalLm;

    /// Its sizes.
    fn config(&self) -> &ModelConfig;

    /// The number of weights of the adapter that is trained, if one is.
    fn num_adapted(&self) -> Option<usize>;

    /// The documents of the next step as text.
    ///
    /// # Errors
    /// Those of the data.
    fn preview(&mut self) -> Result<Vec<String>>;

    /// The number of items to train on and what they are, if their number is known.
    fn items(&self) -> Option<(usize, &'static str)> {
        None
    }

    /// What was packed so far, in all and by source.
    fn packed(&self) -> Option<(PackReport, Vec<SourceReport>)> {
        None
    }
}

/// What is done with a task.
pub trait OnTask {
    /// Does it with the task that `open` opens.
    ///
    /// # Errors
    /// Those of opening and of what is done.
    fn run<T: LmTask>(self, open: impl FnOnce() -> Result<T>) -> Result<()>;
}

/// Does `on` with the task of `recipe` on `device`.
///
/// # Errors
/// Those of recipe and data, and of what is done.
pub fn on_task(
    recipe: &LanguageRecipe,
    device: &Device,
    session: &Session,
    on: impl OnTask,
) -> Result<()> {
    let (owned, precision, quiet) = (recipe.clone(), session.precision(), session.quiet());
    if recipe.compares_answers() {
        on.run(|| PreferenceTask::new(owned, device, precision, quiet))
    } else if recipe.rl.is_some() {
        on.run(|| RlTask::new(owned, device, precision, quiet))
    } else {
        on.run(|| LanguageTask::new(owned, device, precision, quiet))
    }
}

/// The methods that all tasks have under the same names.
macro_rules! described {
    () => {
        fn model(&self) -> &CausalLm {
            (*self).model()
        }

        fn config(&self) -> &ModelConfig {
            (*self).config()
        }

        fn num_adapted(&self) -> Option<usize> {
            (*self).num_adapted()
        }

        fn preview(&mut self) -> Result<Vec<String>> {
            (*self).preview()
        }
    };
}

impl LmTask for LanguageTask {
    described!();

    fn packed(&self) -> Option<(PackReport, Vec<SourceReport>)> {
        let (packed, sources) = self.stream().packed();
        Some((packed.clone(), sources.to_vec()))
    }
}

impl LmTask for PreferenceTask {
    described!();

    fn items(&self) -> Option<(usize, &'static str)> {
        Some((self.num_pairs(), "rows of compared answers"))
    }
}

impl LmTask for RlTask {
    described!();

    fn items(&self) -> Option<(usize, &'static str)> {
        Some((self.num_prompts(), "prompts"))
    }
}
