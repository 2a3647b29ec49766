//! A module in training: its weights, gradients, optimizer state and averaged weights.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Gradients;
use tensor_files::{StoredDtype, WeightFiles};

use super::average::Average;
use super::optimizer::Optimizer;
use super::optimizer_config::OptimizerConfig;
use super::rows::Rows;
use crate::checkpoint::ExpertStacks;
use crate::error::{Error, Result};

/// Directory of a checkpoint with the files that only training needs.
pub(super) const TRAINER_DIR: &str = "trainer";
/// Weight file that a checkpoint releases: averages where there are any.
const RELEASED: &str = "model.safetensors";

/// A quantity of a step that is not finite; nothing was changed by the step.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("the {quantity} is {value}")]
pub struct NotFinite {
    /// The name of the quantity, such as `loss`.
    pub quantity: &'static str,
    /// Its value.
    pub value: f64,
}

/// A module on an autodiff device with everything that training adds to it.
///
/// A step is [`add`](Self::add) once per micro-batch, then [`apply`](Self::apply).
pub struct Trained<M> {
    /// Name of the files of an auxiliary module; `None` for the module that checkpoints release.
    name: Option<&'static str>,
    module: Slot<M>,
    gradients: GradientsAccumulator<M>,
    optimizer: Optimizer,
    average: Option<Average>,
    /// The parameters that checkpoints hold; `None` for all.
    part: Option<BTreeSet<String>>,
}

impl<M: Module> Trained<M> {
    /// The module that checkpoints release; `decay` is that of its averaged weights, 0 for none.
    pub fn new(module: M, config: OptimizerConfig, decay: f64) -> Self {
        let average = (decay > 0.0).then(|| Average::new(decay, &module));
        Self {
            name: None,
            module: Slot(Some(module)),
            gradients: GradientsAccumulator::new(),
            optimizer: Optimizer::new(config),
            average,
            part: None,
        }
    }

    /// A module of which only the parameters called `part` are trained, and held by checkpoints: the caller releases
    /// them in a form of its own. `decay` as in [`Self::new`].
    pub fn part(module: M, config: OptimizerConfig, decay: f64, part: BTreeSet<String>) -> Self {
        let average = (decay > 0.0).then(|| Average::of(decay, &module, part.clone()));
        Self { average, part: Some(part), ..Self::new(module, config, 0.0) }
    }

    /// The same with `rows` of every parameter that has a gradient as all that is trained.
    #[must_use]
    pub(super) fn of_rows(self, rows: Rows) -> Self {
        Self { optimizer: self.optimizer.of_rows(rows), ..self }
    }

    /// A module that only training needs; the names of its files start with `name`.
    pub fn auxiliary(name: &'static str, module: M, config: OptimizerConfig) -> Self {
        Self::new(module, config, 0.0).aside(name)
    }

    /// The same as a module that only training needs; the names of its files start with `name`.
    #[must_use]
    pub fn aside(self, name: &'static str) -> Self {
        Self { name: Some(name), average: None, ..self }
    }

    /// The module with its current weights.
    pub fn module(&self) -> &M {
        self.module.get()
    }

    /// The module outside autodiff, with averaged weights where there are any: what is evaluated
    /// and released.
    pub fn released(&self) -> M {
        match &self.average {
            Some(average) => average.load(self.module()),
            None => self.module().valid(),
        }
    }

    /// Adds `gradients` to those of this step.
    pub fn add(&mut self, gradients: GradientsParams) {
        self.gradients.accumulate(self.module.get(), gradients);
    }

    /// Moves the module's gradients from `gradients` to those of this step.
    pub fn add_from(&mut self, gradients: &mut Gradients) {
        let gradients = GradientsParams::from_module(gradients, self.module());
        self.add(gradients);
    }

    /// Drops the gradients of this step.
    pub fn discard(&mut self) {
        self.gradients = GradientsAccumulator::new();
    }

    /// Updates the weights with this step's gradients at learning rate `lr`, then the averages.
    /// Returns the L2 norm of all gradients before clipping.
    ///
    /// # Errors
    /// [`NotFinite`] for such a norm; weights, averages and optimizer state are as before then.
    pub fn apply(&mut self, lr: f64) -> std::result::Result<f64, NotFinite> {
        let norm = self.update(lr)?;
        self.average();
        Ok(norm)
    }

    /// The first half of [`Self::apply`], for a caller that edits the weights before they are
    /// averaged.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn update(&mut self, lr: f64) -> std::result::Result<f64, NotFinite> {
        let gradients = self.gradients.grads();
        // Here the device is waited for: if it fails, nothing has been changed yet.
        let norm = self.norm(&gradients)?;
        let optimizer = &mut self.optimizer;
        self.module.replace(|module| (optimizer.update(module, gradients, norm, lr), ()));
        Ok(norm)
    }

    /// The norm of this step's gradients, if it is finite, for a caller that must know before it updates another module.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn check(&mut self) -> std::result::Result<f64, NotFinite> {
        let gradients = self.gradients.grads();
        let norm = self.norm(&gradients)?;
        self.gradients.accumulate(self.module.get(), gradients);
        Ok(norm)
    }

    fn norm(&self, gradients: &GradientsParams) -> std::result::Result<f64, NotFinite> {
        let norm = self.optimizer.norm(self.module.get(), gradients);
        match norm.is_finite() {
            true => Ok(norm),
            false => Err(NotFinite { quantity: "gradient norm", value: norm }),
        }
    }

    /// Whether the module is there: a panic amid its update takes it away.
    pub fn is_whole(&self) -> bool {
        self.module.0.is_some()
    }

    /// The second half of [`Self::apply`]: moves the averages towards the weights.
    pub fn average(&mut self) {
        if let Some(average) = &mut self.average {
            average.update(self.module.get());
        }
    }

    /// Replaces the module by the first value of `change`; returns the second.
    pub fn change<T>(&mut self, change: impl FnOnce(M) -> (M, T)) -> T {
        self.module.replace(change)
    }

    /// Forgets the past of `rows` of the matrix at `path`, because they were replaced: their
    /// averages start at the new values, their moments at 0.
    pub fn forget_rows(&mut self, path: &str, rows: &[usize]) {
        if rows.is_empty() {
            return;
        }
        let module = self.module.get();
        if let Some(average) = &mut self.average {
            average.replace_rows(path, rows, module);
        }
        if let Some(shape) = tensor_files::shapes(module).get(path) {
            self.optimizer.reset_rows(path, rows, shape[0]);
        }
    }

    /// Approximate bytes that weights, two moments and averages take in a checkpoint.
    pub fn checkpoint_bytes(&self) -> u64 {
        let shapes = tensor_files::shapes(self.module());
        let counted = shapes.iter().filter(|(name, _)| self.holds(name)).map(|(_, shape)| shape);
        let count: usize = counted.map(|shape| shape.iter().product::<usize>()).sum();
        (4 * count * (3 + usize::from(self.average.is_some()))) as u64
    }

    /// Writes to the checkpoint `dir` what [`Self::restore`] needs besides the
    /// [released](Self::released) weights, which the caller writes.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let trainer = dir.join(TRAINER_DIR);
        std::fs::create_dir_all(&trainer).map_err(Error::io(&trainer))?;
        if self.name.is_some() || self.average.is_some() || self.part.is_some() {
            let mut tensors = tensor_files::on_device(self.module());
            tensors.retain(|name, _| self.holds(name));
            tensor_files::write(&self.weights_path(dir), &tensors, StoredDtype::F32)?;
        }
        if let (Some(average), Some(_)) = (&self.average, &self.part) {
            average.save(&average_path(dir))?;
        }
        self.optimizer.save(&self.optimizer_path(dir))
    }

    /// Continues from the checkpoint `dir`. One without averages starts them at its weights.
    ///
    /// # Errors
    /// Those of the files; training cannot go on then.
    pub fn restore(&mut self, dir: &Path) -> Result<()> {
        self.discard();
        let (released, own) = (dir.join(RELEASED), self.weights_path(dir));
        match (&mut self.average, &self.part) {
            (Some(average), None) => average.restore(&released, self.module.get())?,
            (Some(average), Some(_)) if average_path(dir).exists() => {
                average.load_saved(&average_path(dir))?;
            }
            (_, Some(_)) | (None, None) => {}
        }
        let path = if self.name.is_some() || own.exists() { own } else { released };
        let (module, files) = (self.module().clone(), WeightFiles::open(&path)?);
        let files = ExpertStacks::new(files, None);
        let module = tensor_files::load_some(module, files, &path, |name| self.holds(name))?;
        let device = module.devices().first().map(|device| device.clone().inner());
        if let (Some(average), Some(part)) = (&mut self.average, &self.part)
            && !average_path(dir).exists()
        {
            average.restart(&module, part.clone());
        }
        self.module = Slot(Some(module));
        let device = device.expect("a module in training has parameters");
        let path = self.optimizer_path(dir);
        self.optimizer.restore(&path, &device)?;
        let shapes = tensor_files::shapes(self.module.get());
        self.optimizer.check(&shapes).map_err(Error::in_file(&path))
    }

    /// Whether checkpoints hold the parameter called `name`.
    fn holds(&self, name: &str) -> bool {
        self.part.as_ref().is_none_or(|part| part.contains(name))
    }

    fn weights_path(&self, dir: &Path) -> PathBuf {
        let name = self.name.unwrap_or("weights");
        dir.join(TRAINER_DIR).join(format!("{name}.safetensors"))
    }

    fn optimizer_path(&self, dir: &Path) -> PathBuf {
        let prefix = self.name.map(|name| format!("{name}-")).unwrap_or_default();
        dir.join(TRAINER_DIR).join(format!("{prefix}optimizer.safetensors"))
    }
}

fn average_path(dir: &Path) -> PathBuf {
    dir.join(TRAINER_DIR).join("average.safetensors")
}

/// A value that a function can replace without copying it.
struct Slot<M>(Option<M>);

impl<M> Slot<M> {
    const ABSENT: &str = "a value is absent only while a function replaces it";

    fn get(&self) -> &M {
        self.0.as_ref().expect(Self::ABSENT)
    }

    fn replace<T>(&mut self, change: impl FnOnce(M) -> (M, T)) -> T {
        let (value, result) = change(self.0.take().expect(Self::ABSENT));
        self.0 = Some(value);
        result
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::{Device, Tensor};
    use tensor_files::NamedTensors;

    fn linear() -> Linear {
        LinearConfig::new(4, 3).init(&Device::flex().autodiff())
    }

    fn trained(decay: f64) -> Trained<Linear> {
        Trained::new(linear(), OptimizerConfig::default(), decay)
    }

    /// Adds the gradients of a loss that grows with `scale`.
    fn add(trained: &mut Trained<Linear>, scale: f64) {
        let module = trained.module();
        let x = Tensor::<2>::from_floats([[0.5, -1.0, 2.0, 0.1]], &Device::flex().autodiff());
        let loss = (module.forward(x).square() * scale).sum();
        trained.add(GradientsParams::from_grads(loss.backward(), trained.module()));
    }

    /// The current and the released weights.
    fn tensors(trained: &Trained<Linear>) -> [NamedTensors; 2] {
        [tensor_files::collect(trained.module()), tensor_files::collect(&trained.released())]
    }

    #[test]
    fn gradients_of_micro_batches_add_up() {
        let module = linear();
        let new = || Trained::new(module.clone(), OptimizerConfig::default(), 0.0);
        let (mut parts, mut whole) = (new(), new());
        add(&mut parts, 0.75);
        add(&mut parts, 0.25);
        add(&mut whole, 1.0);
        let (parts, whole) = (parts.apply(0.1).unwrap(), whole.apply(0.1).unwrap());
        assert!(whole > 0.0 && (parts - whole).abs() < 1e-6 * whole, "{parts} {whole}");
    }

    #[test]
    fn a_gradient_that_is_not_finite_changes_nothing_and_is_forgotten() {
        let mut trained = trained(0.5);
        add(&mut trained, 1.0);
        trained.apply(0.1).unwrap();
        let before = tensors(&trained);
        add(&mut trained, f64::NAN);
        let problem = trained.apply(0.1).unwrap_err();
        assert!(problem.to_string().contains("gradient norm is NaN"), "{problem}");
        assert_eq!(tensors(&trained), before);
        assert_eq!(trained.optimizer.steps_taken(), 1);
        add(&mut trained, f64::NAN);
        trained.discard();
        add(&mut trained, 1.0);
        trained.apply(0.1).unwrap();
        assert!(tensors(&trained) != before);
    }

    #[test]
    fn a_restored_module_continues_to_the_same_bits() {
        let auxiliary = || Trained::auxiliary("head", linear(), OptimizerConfig::default());
        let kinds: [&dyn Fn() -> Trained<Linear>; 3] =
            [&|| trained(0.5), &|| trained(0.0), &auxiliary];
        for new in kinds {
            let dir = tempfile::tempdir().unwrap();
            let (mut first, mut second) = (new(), new());
            add(&mut first, 1.0);
            first.apply(0.1).unwrap();
            first.save(dir.path()).unwrap();
            let released = tensor_files::on_device(&first.released());
            tensor_files::write(&dir.path().join(RELEASED), &released, StoredDtype::F32).unwrap();
            // What a step left behind when it failed.
            add(&mut second, 3.0);
            second.restore(dir.path()).unwrap();
            assert_eq!(tensors(&first), tensors(&second));
            for trained in [&mut first, &mut second] {
                add(trained, 0.5);
                trained.apply(0.1).unwrap();
            }
            assert_eq!(tensors(&first), tensors(&second));
        }
    }

    #[test]
    fn forgotten_rows_have_neither_average_nor_moments() {
        let mut trained = trained(0.5);
        add(&mut trained, 1.0);
        trained.apply(0.1).unwrap();
        trained.forget_rows("weight", &[2]);
        let [current, released] =
            tensors(&trained).map(|tensors| tensors["weight"].iter::<f32>().collect::<Vec<_>>());
        assert!(current[..6] != released[..6]);
        assert_eq!(current[6..9], released[6..9]);
        let dir = tempfile::tempdir().unwrap();
        trained.save(dir.path()).unwrap();
        let moments = tensor_files::read(&trained.optimizer_path(dir.path())).unwrap();
        for kind in ["first.weight", "second.weight"] {
            let values: Vec<f32> = moments[kind].iter::<f32>().collect();
            assert!(values.chunks(3).enumerate().all(|(row, v)| (v == [0.0; 3]) == (row == 2)));
        }
    }
}
