//! The compiler of a build without grammars.

use std::convert::Infallible;

use super::Grammar;
use crate::error::{Error, Result};
use crate::generate::Constraint;
use crate::tokenize::Processor;

/// Compiles grammars for one vocabulary; this build cannot.
#[derive(Debug)]
pub struct GrammarCompiler(Infallible);

impl GrammarCompiler {
    /// No compiler.
    ///
    /// # Errors
    /// Always: it names the feature that is missing.
    pub fn new(_processor: &Processor) -> Result<Self> {
        Err(Error::invalid("grammars need a build with --features grammar"))
    }

    /// Nothing, as there is no compiler.
    ///
    /// # Errors
    /// None.
    pub fn constraint(&self, _grammar: &Grammar) -> Result<Box<dyn Constraint>> {
        match self.0 {}
    }
}
