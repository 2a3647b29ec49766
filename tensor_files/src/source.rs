//! Sources of a module's tensors.

use burn::tensor::{FloatDType, TensorData};

use crate::error::Result;
use crate::named::NamedTensors;

/// Tensors that are taken one by one, by name.
pub trait TensorSource {
    /// Every name.
    fn names(&self) -> Vec<String>;

    /// The tensor called `name` with its values in `dtype`, or `None` if there is none.
    ///
    /// Called at most once for each name.
    ///
    /// # Errors
    /// If it cannot be read, or holds no floats.
    fn tensor(&mut self, name: &str, dtype: FloatDType) -> Result<Option<TensorData>>;

    /// The names that messages give for the tensor called `name`, which is not there: others if it is made of several.
    fn missing(&self, name: &str) -> Vec<String> {
        vec![name.to_owned()]
    }
}

impl TensorSource for NamedTensors {
    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }

    fn tensor(&mut self, name: &str, dtype: FloatDType) -> Result<Option<TensorData>> {
        Ok(self.remove(name).map(|data| data.convert_dtype(dtype.into())))
    }
}
