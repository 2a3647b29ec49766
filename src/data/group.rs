//! Views with one sample per list entry, or one per group of rows.

use std::collections::HashMap;

use rayon::prelude::*;
use serde_json::Value;

use super::dataset::{Dataset, Fields, Sample, Unused, in_range};
use super::image_key::Place;
use super::messages::{available, type_name};
use crate::error::{Error, Result};

/// Data set with one sample per entry of a list-valued field.
///
/// If an entry is an object, its keys become fields (replacing fields of the same name) instead of
/// the list; any other entry replaces the list.
pub struct Exploded {
    inner: Box<dyn Dataset>,
    field: String,
    /// Original sample and entry of each sample; a sample without a readable list is one bad sample.
    places: Vec<(u32, u32)>,
    /// Number of original samples whose list is empty, and the first one.
    empty: (usize, usize),
}

impl Exploded {
    /// Explodes `field` of `inner`, which reads the fields of every sample once.
    ///
    /// # Errors
    /// If the field is a list in no sample.
    pub fn new(inner: Box<dyn Dataset>, field: &str) -> Result<Self> {
        let count = |index| inner.fields(index).and_then(|f| Ok(list_of(&f, field)?.len()));
        let counts = scan(inner.as_ref(), count)?;
        let (mut places, mut empty) = (Vec::new(), (0, 0));
        for (sample, count) in (0..).zip(counts) {
            let entries = u32::try_from(count.unwrap_or(1)).unwrap_or(u32::MAX);
            places.extend((0..entries).map(|entry| (sample, entry)));
            match entries {
                0 if empty.0 == 0 => empty = (1, sample as usize),
                0 => empty.0 += 1,
                _ => {}
            }
        }
        Ok(Self { inner, field: field.to_owned(), places, empty })
    }

    /// The original sample and entry of sample `index`.
    fn origin(&self, index: usize) -> Result<(usize, usize)> {
        in_range(self, index)?;
        let (sample, entry) = self.places[index];
        Ok((sample as usize, entry as usize))
    }

    /// The `fields` of `sample` with the list replaced by one `entry`.
    fn explode(&self, sample: usize, entry: usize, mut fields: Fields) -> Result<Fields> {
        let context = || format!("{}: sample {sample}", self.inner.name());
        let list = list_of(&fields, &self.field).map_err(|e| Error::because(context())(e))?;
        let shorter = || Error::invalid(format!("{}: the list has become shorter", context()));
        let chosen = list.get(entry).cloned().ok_or_else(shorter)?;
        fields.remove(&self.field);
        match chosen {
            Value::Object(object) => fields.extend(object),
            other => drop(fields.insert(self.field.clone(), other)),
        }
        Ok(fields)
    }
}

impl Dataset for Exploded {
    fn len(&self) -> usize {
        self.places.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let (sample, entry) = self.origin(index)?;
        let found = self.inner.get(sample)?;
        let source = format!("{}, {} {entry}", found.source, self.field);
        Ok(Sample { fields: self.explode(sample, entry, found.fields)?, source, ..found })
    }

    fn place(&self, index: usize) -> String {
        let (sample, entry) = self.places[index];
        format!("{}, {} {entry}", self.inner.place(sample as usize), self.field)
    }

    fn image_keys(&self, index: usize) -> Result<Vec<String>> {
        let (sample, _) = self.origin(index)?;
        self.inner.image_keys(sample)
    }

    fn image_places(&self, index: usize) -> Result<Option<Vec<Place>>> {
        let (sample, _) = self.origin(index)?;
        self.inner.image_places(sample)
    }

    fn unused(&self) -> Vec<Unused> {
        let mut unused = self.inner.unused();
        let (count, first) = self.empty;
        if count > 0 {
            let reason = format!("the list {} is empty", self.field);
            unused.push(Unused { what: self.inner.place(first), count, reason });
        }
        unused
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn fields(&self, index: usize) -> Result<Fields> {
        let (sample, entry) = self.origin(index)?;
        self.explode(sample, entry, self.inner.fields(sample)?)
    }
}

/// The list in `field`.
fn list_of<'a>(fields: &'a Fields, field: &str) -> Result<&'a [Value]> {
    match fields.get(field) {
        Some(Value::Array(list)) => Ok(list),
        Some(other) => Err(Error::invalid(format!(
            "field {field} is a {}, not a list that can be exploded",
            type_name(other)
        ))),
        None => Err(missing(fields, field)),
    }
}

/// The error for a missing field.
fn missing(fields: &Fields, field: &str) -> Error {
    Error::invalid(format!("there is no field {field}; {}", available(fields)))
}

/// Data set with one sample per group of rows that share a key.
///
/// A sample holds the key, the list `turns` with the other columns of each row in row order, and the
/// images of the first row.
pub struct Grouped {
    inner: Box<dyn Dataset>,
    field: String,
    /// The rows of each group, ordered by first row; a row without the key is its own group.
    groups: Vec<Vec<u32>>,
}

impl Grouped {
    /// Groups the rows of `inner` by `field`, which reads the fields of every row once.
    ///
    /// # Errors
    /// If no row has the field.
    pub fn new(inner: Box<dyn Dataset>, field: &str) -> Result<Self> {
        let key = |index| {
            let fields = inner.fields(index)?;
            fields.get(field).map(Value::to_string).ok_or_else(|| missing(&fields, field))
        };
        let keys = scan(inner.as_ref(), key)?;
        let mut groups: Vec<Vec<u32>> = Vec::new();
        let mut known = HashMap::new();
        for (row, key) in (0..).zip(keys) {
            let group = match key {
                Ok(key) => *known.entry(key).or_insert(groups.len()),
                Err(_) => groups.len(),
            };
            match groups.get_mut(group) {
                Some(rows) => rows.push(row),
                None => groups.push(vec![row]),
            }
        }
        Ok(Self { inner, field: field.to_owned(), groups })
    }

    /// The fields of `group`.
    fn merge(&self, group: usize) -> Result<Fields> {
        let mut merged = Fields::new();
        let mut turns = Vec::new();
        for &row in &self.groups[group] {
            let mut fields = self.inner.fields(row as usize)?;
            let Some(key) = fields.remove(&self.field) else {
                let context = format!("{}: row {row}", self.name());
                return Err(Error::because(context)(missing(&fields, &self.field)));
            };
            merged.insert(self.field.clone(), key);
            turns.push(Value::Object(fields));
        }
        merged.insert("turns".to_owned(), Value::Array(turns));
        Ok(merged)
    }
}

impl Dataset for Grouped {
    fn len(&self) -> usize {
        self.groups.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let fields = self.fields(index)?;
        let first = self.inner.get(self.groups[index][0] as usize)?;
        let more = self.groups[index].len() - 1;
        let source = match more {
            0 => first.source,
            _ => format!("{} and {more} more rows", first.source),
        };
        Ok(Sample { fields, images: first.images, source })
    }

    fn place(&self, index: usize) -> String {
        let first = self.inner.place(self.groups[index][0] as usize);
        match self.groups[index].len() - 1 {
            0 => first,
            more => format!("{first} and {more} more rows"),
        }
    }

    fn image_keys(&self, index: usize) -> Result<Vec<String>> {
        in_range(self, index)?;
        self.inner.image_keys(self.groups[index][0] as usize)
    }

    fn image_places(&self, index: usize) -> Result<Option<Vec<Place>>> {
        in_range(self, index)?;
        self.inner.image_places(self.groups[index][0] as usize)
    }

    fn unused(&self) -> Vec<Unused> {
        self.inner.unused()
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn fields(&self, index: usize) -> Result<Fields> {
        in_range(self, index)?;
        self.merge(index)
    }
}

/// The results of `read` for all samples in order, or the first error if all of them fail.
fn scan<T: Send>(
    dataset: &dyn Dataset,
    read: impl Fn(usize) -> Result<T> + Send + Sync,
) -> Result<Vec<Result<T>>> {
    if u32::try_from(dataset.len()).is_err() {
        let message = format!("{} holds more than 2^32 samples", dataset.name());
        return Err(Error::invalid(message));
    }
    let found: Vec<Result<T>> = (0..dataset.len()).into_par_iter().map(read).collect();
    if found.iter().any(Result::is_ok) {
        return Ok(found);
    }
    match found.into_iter().next() {
        Some(Err(first)) => Err(first),
        _ => Ok(Vec::new()),
    }
}
