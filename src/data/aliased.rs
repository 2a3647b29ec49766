//! Columns under other names: what a measure or a template looks for may be called something else.

use std::collections::BTreeMap;

use super::{Dataset, Fields, Sample};
use crate::error::Result;

/// A data set whose columns also go by other names.
pub struct Aliased {
    inner: Box<dyn Dataset>,
    names: BTreeMap<String, String>,
}

impl Aliased {
    /// `inner` with the columns that `names` maps to (new name to column) under their new names too; a
    /// column that is missing is missing under both.
    pub fn new(inner: Box<dyn Dataset>, names: BTreeMap<String, String>) -> Self {
        Self { inner, names }
    }

    fn rename(&self, fields: &mut Fields) {
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
        self.rename(&mut sample.fields);
        Ok(sample)
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn fields(&self, index: usize) -> Result<Fields> {
        let mut fields = self.inner.fields(index)?;
        self.rename(&mut fields);
        Ok(fields)
    }
}
