//! A grammar and how far a text has followed it.

use std::fmt::{self, Debug, Formatter};
use std::sync::Arc;

use llguidance::Matcher;

use super::fault;
use crate::error::{Error, Result};
use crate::generate::Constraint;

/// A grammar's state after some ids.
pub(super) struct GrammarState {
    matcher: Matcher,
    /// The ids that may be allowed at all: those of text.
    text: Arc<[bool]>,
}

impl GrammarState {
    /// The state before the first id; `matcher` has no error.
    pub(super) fn new(matcher: Matcher, text: Arc<[bool]>) -> Self {
        Self { matcher, text }
    }

    /// Whether the text is complete and nothing can follow.
    fn is_complete(&self) -> bool {
        self.matcher.is_stopped() && !self.matcher.is_error()
    }

    fn is_text(&self, id: u32) -> bool {
        self.text.get(id as usize).copied().unwrap_or(false)
    }
}

impl Constraint for GrammarState {
    fn allowed(&mut self) -> Result<Vec<bool>> {
        let mut allowed = vec![false; self.text.len()];
        if self.is_complete() {
            return Ok(allowed);
        }
        let mask = self.matcher.compute_mask().map_err(|error| fault::on_the_way(&error))?;
        mask.iter_set_entries(|id| {
            if let (Some(slot), Some(is_text)) = (allowed.get_mut(id), self.text.get(id)) {
                *slot = *is_text;
            }
        });
        Ok(allowed)
    }

    fn may_end(&mut self) -> bool {
        self.is_complete() || self.matcher.is_accepting().unwrap_or(false)
    }

    fn forced(&mut self) -> Vec<u32> {
        if self.is_complete() {
            return Vec::new();
        }
        let mut ids = self.matcher.compute_ff_tokens();
        let usable = ids.iter().take_while(|id| self.is_text(**id)).count();
        ids.truncate(usable);
        ids
    }

    fn accept(&mut self, id: u32) -> Result<()> {
        let refused = || Error::invalid(format!("id {id} is not allowed by the grammar here"));
        if !self.is_text(id) || self.is_complete() {
            return Err(refused());
        }
        // One by one: llguidance keeps an error for good, but takes no id that it refuses.
        let taken = self.matcher.try_consume_tokens(&[id]);
        match taken.map_err(|error| fault::on_the_way(&error))? {
            0 => Err(refused()),
            _ => Ok(()),
        }
    }

    fn boxed_clone(&self) -> Box<dyn Constraint> {
        // Shares no automaton, so that what one text makes it grow counts for no other.
        Box::new(Self { matcher: self.matcher.deep_clone(), text: self.text.clone() })
    }
}

impl Debug for GrammarState {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let stop = self.matcher.stop_reason();
        out.debug_struct("GrammarState").field("stop", &stop).finish_non_exhaustive()
    }
}
