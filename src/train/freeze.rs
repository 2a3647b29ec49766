//! Freezing the parameters of groups with a learning rate of 0.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;
use tensor_files::ParamPath;

use super::groups::matches;
use super::optimizer_config::OptimizerConfig;
use crate::error::{Error, Result};

impl OptimizerConfig {
    /// `module` without gradients for the parameters of groups whose `lr_scale` is 0.
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
        let is_frozen = |name: &str| self.group(name).is_some_and(|group| group.lr_scale == 0.0);
        if names.iter().all(|name| is_frozen(name)) {
            return Err(Error::invalid("optimizer.groups freezes every parameter"));
        }
        Ok(module.map(&mut Freeze { path: ParamPath::default(), is_frozen: &is_frozen }))
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
