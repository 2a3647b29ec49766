//! Columns under additional names, for measures that look for other names than the data set has.

use std::collections::BTreeMap;

use super::dataset::{Dataset, Fields, Sample};
use crate::error::Result;

/// A data set whose columns have additional names.
pub struct Aliased {
    inner: Box<dyn Dataset>,
    names: BTreeMap<String, String>,
}

impl Aliased {
    /// Adds to the samples of `inner` the columns that `names` maps (new name to column) under their new
    /// names; a missing column stays missing.
    pub fn new(inner: Box<dyn Dataset>, names: BTreeMap<String, String>) -> Self {
        Self { inner, names }
    }

    fn add_aliases(&self, fields: &mut Fields) {
        let found: Vec<_> = self
            .names
            .iter()
            .filter_map(|(new, column)| Some((new.clone(), fields.get(column)?.clone())))
            .collect();
        fields.extend(found);
    }
}

impl Dataset for Aliased {
    fn len(&self) -> usize {
        self.inner.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let mut sample = self.inner.get(index)?;
        self.add_aliases(&mut sample.fields);
        Ok(sample)
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn fields(&self, index: usize) -> Result<Fields> {
        let mut fields = self.inner.fields(index)?;
        self.add_aliases(&mut fields);
        Ok(fields)
    }
}
