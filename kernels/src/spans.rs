//! Which keys a query sees, as intervals instead of a matrix of booleans.

use std::ops::Range;

/// The visible keys of every query: an interval that ends with its own.
#[derive(Clone, Debug)]
pub struct Spans {
    /// Number of rows; 1 stands for any number of equal rows.
    pub rows: usize,
    /// Queries and keys per row.
    pub seq: usize,
    /// The first key that each query sees, `[rows * seq]`.
    pub first: Vec<usize>,
}

impl Spans {
    /// The keys between the first visible one and the query itself.
    pub fn range(&self, row: usize, query: usize) -> Range<usize> {
        self.first[row % self.rows * self.seq + query]..query + 1
    }

    /// Whether `key` is hidden from `query`.
    pub fn hides(&self, row: usize, query: usize, key: usize) -> bool {
        !self.range(row, query).contains(&key)
    }
}
