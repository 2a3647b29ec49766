//! How much text a request may have.

use crate::generate::LanguageModel;
use crate::pipeline::Pipeline;
use crate::server::fault::Fault;

/// Bytes of text for each id that a context holds; no token is longer on average.
const BYTES_PER_ID: usize = 64;

/// # Errors
/// If no prompt holds `bytes` bytes of text.
pub(super) fn check_text(pipeline: &Pipeline, bytes: usize) -> Result<(), Fault> {
    let context = pipeline.model().context();
    match bytes > context * BYTES_PER_ID {
        true => Err(Fault::too_long(format!(
            "{bytes} bytes of text do not fit the context of {context} ids"
        ))),
        false => Ok(()),
    }
}
