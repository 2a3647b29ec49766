//! How many ids are guessed ahead of the model.

/// The number of ids that are guessed and checked in one pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Window {
    /// None: one id per pass.
    Off,
    /// This many.
    Fixed(usize),
    /// As many as measured costs and hits make worth while.
    #[default]
    Auto,
}
