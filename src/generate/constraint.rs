//! What a request's text must look like, beyond the rules of [`modality`](super::modality).

use std::fmt::Debug;

use crate::error::Result;

/// The ids that may follow a text, as a set that the text moves on.
///
/// It is about text ids: every other id is not allowed, stop ids included, which end the text where
/// [`may_end`](Self::may_end). Where no id is allowed and the text may end, it is complete.
pub trait Constraint: Debug + Send {
    /// Whether each id of the vocabulary may be next.
    ///
    /// # Errors
    /// If the constraint cannot be followed any further, such as over a limit of its size.
    fn allowed(&mut self) -> Result<Vec<bool>>;

    /// Whether the text may end here, and so whether stop ids are allowed.
    fn may_end(&mut self) -> bool;

    /// The ids that must follow, if they are known without the model: drafts that cost no pass each. Each of
    /// them is the only one allowed in its place; whether this is asked changes nothing.
    fn forced(&mut self) -> Vec<u32> {
        Vec::new()
    }

    /// Moves on by `id`, which is allowed.
    ///
    /// # Errors
    /// If `id` is not allowed.
    fn accept(&mut self, id: u32) -> Result<()>;

    /// A copy in the same state.
    fn boxed_clone(&self) -> Box<dyn Constraint>;
}

impl Clone for Box<dyn Constraint> {
    fn clone(&self) -> Self {
        self.boxed_clone()
    }
}
