//! Concatenation of data sets.

use std::path::PathBuf;

use super::dataset::{Dataset, Fields, Sample, Unused, in_range};
use super::image_key::Place;
use super::unused::Tally;
use crate::error::Result;

/// Data set with the samples of several data sets in sequence.
pub(super) struct Joined {
    name: String,
    parts: Vec<Box<dyn Dataset>>,
    /// Index of the first sample of each part, and the total.
    starts: Vec<usize>,
    /// Files of other data sets that could not be opened.
    lost: Vec<PathBuf>,
}

impl Joined {
    /// Concatenates `parts` under `name`; `lost` are links to further ones that lead nowhere.
    pub(super) fn new(name: &str, parts: Vec<Box<dyn Dataset>>, lost: Vec<PathBuf>) -> Self {
        let mut starts = vec![0];
        let mut total = 0;
        for part in &parts {
            total += part.len();
            starts.push(total);
        }
        Self { name: name.to_owned(), parts, starts, lost }
    }

    /// The part that holds sample `index`, and the index in it.
    fn locate(&self, index: usize) -> Result<(&dyn Dataset, usize)> {
        in_range(self, index)?;
        let part = self.starts.partition_point(|&start| start <= index) - 1;
        Ok((self.parts[part].as_ref(), index - self.starts[part]))
    }
}

impl Dataset for Joined {
    fn len(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let (part, index) = self.locate(index)?;
        part.get(index)
    }

    fn image_keys(&self, index: usize) -> Result<Vec<String>> {
        let (part, index) = self.locate(index)?;
        part.image_keys(index)
    }

    fn image_places(&self, index: usize) -> Result<Option<Vec<Place>>> {
        let (part, index) = self.locate(index)?;
        part.image_places(index)
    }

    fn unused(&self) -> Vec<Unused> {
        let mut tally = Tally::default();
        self.parts.iter().for_each(|part| tally.merge(part.unused()));
        for part in self.parts.iter().filter(|part| part.is_empty()) {
            tally.add(|| part.name().to_owned(), "files without samples");
        }
        for link in &self.lost {
            tally.add(|| link.display().to_string(), "links that lead nowhere");
        }
        tally.into_vec()
    }

    fn place(&self, index: usize) -> String {
        match self.locate(index) {
            Ok((part, index)) => part.place(index),
            Err(_) => format!("{}: sample {index}", self.name),
        }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn fields(&self, index: usize) -> Result<Fields> {
        let (part, index) = self.locate(index)?;
        part.fields(index)
    }
}
