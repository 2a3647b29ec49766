//! Post-training against reference values of TRL, and rows of other projects.

mod peers;
mod rows;
mod sft;
