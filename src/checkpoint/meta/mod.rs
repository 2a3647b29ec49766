//! The original release's layout, which Anole shares: import and export.
//!
//! `models/NAME/` holds `params.json` and `consolidated.pth` or `consolidated.NN.pth`; `tokenizer/` holds
//! `text_tokenizer.json`, `vqgan.ckpt` and `vqgan.yaml`.

mod export;
mod import;
mod join;
mod layout;
mod params;
mod release;
mod vqgan;

pub use export::export;
pub use import::{add_vqgan, import};
pub(super) use layout::half_apart;
pub use release::Release;
