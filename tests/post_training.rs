//! Post-training against reference values of TRL, and rows of other projects.

mod rows;
mod sft;
