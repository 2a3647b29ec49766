//! Matrices within slices, and the number formats of their elements.

use half::bf16;

/// A number format of weights; the arithmetic is that of f32.
pub trait Element: Copy + Send + Sync {
    /// The number in f32.
    fn wide(self) -> f32;
}

impl Element for f32 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }
}

impl Element for bf16 {
    /// Its bits are the upper half of the f32's.
    #[inline(always)]
    fn wide(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

/// A matrix within a slice: element `(i, j)` is `data[i * row + j * column]`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// The elements, starting with `(0, 0)`.
    pub data: &'a [f32],
    /// Stride from row to row.
    pub row: usize,
    /// Stride from column to column.
    pub column: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix of contiguous rows, `row` elements apart.
    pub fn rows(data: &'a [f32], row: usize) -> Self {
        Self { data, row, column: 1 }
    }

    /// The transposed matrix.
    pub fn transposed(self) -> Self {
        Self { data: self.data, row: self.column, column: self.row }
    }

    /// Whether the slice covers a matrix of this size.
    pub fn covers(&self, rows: usize, columns: usize) -> bool {
        rows == 0
            || columns == 0
            || (rows - 1) * self.row + (columns - 1) * self.column < self.data.len()
    }
}

/// A term of a sum of matrix products.
#[derive(Clone, Copy, Debug)]
pub struct Term<'a> {
    /// `[m, k]`.
    pub lhs: Matrix<'a>,
    /// `[k, n]`.
    pub rhs: Matrix<'a>,
    /// Length of the sums.
    pub k: usize,
}

/// Whether a product replaces its destination or adds to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// Replaces the old content.
    Overwrite,
    /// Adds to the old content.
    Add,
}
