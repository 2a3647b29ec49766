//! Freezing the parameters of groups with a learning rate of 0.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;
use tensor_files::ParamPath;

use super::groups::matches;
use super::optimizer_config::OptimizerConfig;
use crate::error::{Error, Result};

/// The parameters that have a row for every id.
const VOCABULARY: [&str; 2] = ["model.embed_tokens.weight", "lm_head.weight"];

impl OptimizerConfig {
    /// `module` without gradients for the parameters of groups whose `lr_scale` is 0, and with `train_rows` for all
    /// but embedding and output layer.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a group names no parameter of `module`, or if all are frozen.
    pub fn freeze<M: Module>(&self, module: M) -> Result<M> {
        let names: Vec<String> = tensor_files::shapes(&module).into_keys().collect();
        for group in &self.groups {
            let unused = |pattern: &&String| !names.iter().any(|name| matches(pattern, name));
            if let Some(pattern) = group.parameters.iter().find(unused) {
                return Err(Error::invalid(format!(
                    "optimizer.groups: no parameter is called {pattern}; the first of {} is {}",
                    names.len(),
                    names.first().map_or("", String::as_str)
                )));
            }
        }
        let is_frozen = |name: &str| {
            self.train_rows.is_some() && !VOCABULARY.contains(&name)
                || self.group(name).is_some_and(|group| group.lr_scale == 0.0)
        };
        let trained = trained(&module);
        if trained.iter().all(|name| is_frozen(name)) {
            return Err(Error::invalid("optimizer.groups freezes every parameter"));
        }
        let of_frozen = |pattern: &&String| !trained.iter().any(|name| matches(pattern, name));
        let mut patterns = self.groups.iter().flat_map(|group| &group.parameters);
        if let Some(pattern) = patterns.find(of_frozen) {
            return Err(Error::invalid(format!(
                "optimizer.groups: the adapter trains no parameter that is called {pattern}"
            )));
        }
        Ok(module.map(&mut Freeze { path: ParamPath::default(), is_frozen: &is_frozen }))
    }
}

/// The names of the parameters of `module` that have gradients; outside autodiff all.
fn trained<M: Module>(module: &M) -> Vec<String> {
    let mut visitor = Trained::default();
    module.visit(&mut visitor);
    visitor.names
}

#[derive(Default)]
struct Trained {
    path: ParamPath,
    names: Vec<String>,
}

impl ModuleVisitor for Trained {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.exit(container_type);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        if value.is_require_grad() || !value.device().is_autodiff() {
            self.names.push(self.path.name());
        }
    }
}

/// Turns gradients off by parameter path.
struct Freeze<'a> {
    path: ParamPath,
    is_frozen: &'a dyn Fn(&str) -> bool,
}

impl ModuleMapper for Freeze<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.exit(container_type);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match (self.is_frozen)(&self.path.name()) {
            true => param.set_require_grad(false),
            false => param,
        }
    }
}
