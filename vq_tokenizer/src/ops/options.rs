//! Options of the operations.

/// Stride, padding and resizing of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Geometry {
    /// Stride 1 with zeros on all sides: keeps the size.
    Same,
    /// Stride 2 with one row of zeros below and one column of zeros at the right: halves the size,
    /// rounded down.
    Down,
    /// Stride 1 over the input upsampled by nearest neighbour: doubles the size.
    Up,
}

/// Options of a group normalisation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNormOptions {
    /// Groups of channels; each is normalised over its channels and pixels.
    pub groups: usize,
    /// Added to the variance.
    pub epsilon: f64,
    /// Whether `y * sigmoid(y)` follows.
    pub swish: bool,
}
