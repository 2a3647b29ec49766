//! Additional names for columns, for measures that expect other names than those of the data set.

use std::collections::BTreeMap;

use super::dataset::{Dataset, Fields, Sample, Unused};
use super::image_key::Place;
use crate::error::Result;

/// Data set whose columns have additional names.
pub struct Aliased {
    inner: Box<dyn Dataset>,
    names: BTreeMap<String, String>,
}

impl Aliased {
    /// Wraps `inner` and adds its columns under the names in `names` (new name to column); missing
    /// columns are skipped.
    pub fn new(inner: Box<dyn Dataset>, names: BTreeMap<String, String>) -> Self {
        Self { inner, names }
    }

    /// Adds the aliased columns to `fields`.
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

    fn image_keys(&self, index: usize) -> Result<Vec<String>> {
        self.inner.image_keys(index)
    }

    fn image_places(&self, index: usize) -> Result<Option<Vec<Place>>> {
        self.inner.image_places(index)
    }

    fn unused(&self) -> Vec<Unused> {
        self.inner.unused()
    }

    fn place(&self, index: usize) -> String {
        self.inner.place(index)
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
