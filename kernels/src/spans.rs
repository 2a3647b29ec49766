//! Which keys a query sees, as intervals instead of a matrix of booleans.

use std::ops::Range;

/// The visible keys of every query: an interval that ends with its own.
#[derive(Clone, Copy, Debug)]
pub struct Spans<'a> {
    /// Queries and keys per row.
    pub seq: usize,
    /// The first key that each query sees, `[rows * seq]`; one row stands for any number of equal rows.
    pub first: &'a [i32],
}

impl Spans<'_> {
    /// The keys between the first visible one and the query itself.
    pub fn range(&self, row: usize, query: usize) -> Range<usize> {
        self.first[(row * self.seq + query) % self.first.len()] as usize..query + 1
    }
}
