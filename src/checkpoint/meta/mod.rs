//! The original release's layout, in and out: `models/NAME/` with `params.json` and
//! `consolidated.pth` or `consolidated.NN.pth`, `tokenizer/` with `text_tokenizer.json`, `vqgan.ckpt`
//! and `vqgan.yaml`. Anole comes in this layout too.

mod export;
mod import;
mod layout;
mod params;
mod release;
mod vqgan;

pub use export::export;
pub use import::{add_vqgan, import};
pub(super) use layout::half_apart;
pub use release::Release;
