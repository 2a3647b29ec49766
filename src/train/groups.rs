//! Parameters with rules of their own: other rates, another decay, or none at all.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use tensor_files::ParamPath;

use super::optimizer::OptimizerConfig;
use crate::error::{Error, Result};

/// Parameters with rules of their own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupConfig {
    /// Names of parameters as in the checkpoint, such as `model.layers.*.mlp.*`; `*` stands for anything.
    pub parameters: Vec<String>,
    /// Factor on the learning rate; 0 freezes them: no gradient is computed.
    #[serde(default = "one")]
    pub lr_scale: f64,
    /// Decay in place of the optimizer's.
    pub weight_decay: Option<f64>,
}

fn one() -> f64 {
    1.0
}

impl GroupConfig {
    fn has(&self, path: &str) -> bool {
        self.parameters.iter().any(|pattern| matches(pattern, path))
    }
}

/// Whether `name` is what `pattern` says, in which `*` stands for any run of characters.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(name) = name.strip_prefix(start) else { return false };
    (0..=name.len()).any(|at| name.is_char_boundary(at) && matches(rest, &name[at..]))
}

impl OptimizerConfig {
    pub(super) fn group(&self, path: &str) -> Option<&GroupConfig> {
        self.groups.iter().find(|group| group.has(path))
    }

    /// `module` with the parameters of groups whose `lr_scale` is 0 out of the tape.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a group names no parameter of `module`, or all of them are frozen.
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
            return Err(Error::invalid("optimizer.groups freezes every parameter".to_owned()));
        }
        Ok(module.map(&mut Freeze { path: ParamPath::default(), is_frozen: &is_frozen }))
    }
}

/// Takes parameters out of the tape.
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
