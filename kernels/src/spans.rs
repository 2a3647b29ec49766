//! Which keys a query sees, as intervals instead of a matrix of booleans.

use std::ops::Range;

/// The visible keys of every query: an interval, less the columns that are padding.
#[derive(Clone, Debug)]
pub struct Spans {
    /// Number of rows; 1 stands for any number of equal rows.
    pub rows: usize,
    /// Queries per row. Query `i` is key `keys - seq + i` and sees nothing after it.
    pub seq: usize,
    /// Keys per row.
    pub keys: usize,
    /// The first key that each query sees, `[rows * seq]`.
    pub first: Vec<usize>,
    /// Whether a key is padding, `[rows * keys]`; empty when none is.
    pub padding: Vec<bool>,
}

impl Spans {
    /// The keys between the first visible one and the query itself.
    pub fn range(&self, row: usize, query: usize) -> Range<usize> {
        self.first[row % self.rows * self.seq + query]..self.keys - self.seq + query + 1
    }

    /// The padding flags of a row, `None` when no key is padding.
    pub fn padding(&self, row: usize) -> Option<&[bool]> {
        let start = row % self.rows * self.keys;
        self.padding.get(start..start + self.keys)
    }

    /// Whether `key` is hidden from `query`.
    pub fn hides(&self, row: usize, query: usize, key: usize) -> bool {
        !self.range(row, query).contains(&key) || self.padding(row).is_some_and(|pad| pad[key])
    }
}
