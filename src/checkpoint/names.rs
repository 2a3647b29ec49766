//! Names of files and keys of a checkpoint.

/// The directory of the image tokenizer.
pub const VQ_DIR: &str = "vq_tokenizer";
/// How a checkpoint generates.
pub const GENERATION: &str = "generation_config.json";
/// Hugging Face's file that relates images and text.
pub const PROCESSOR: &str = "processor_config.json";
/// This project's key in it for the form of images: `fixed` (the default) or [`SIZED`].
pub const IMAGE_FORMAT: &str = "image_format";
/// The form of images whose ids begin with their size.
pub const SIZED: &str = "sized";
