//! Descriptions of adapters.

use std::path::Path;

use calumma::checkpoint::adapter::read_config;
use calumma::{Error, Result};
use serde_json::{Value, json};
use tensor_files::WeightFiles;

use crate::cli::session::{Session, name};

/// Describes the adapter in `dir`.
///
/// # Errors
/// Those of its files.
pub fn show(dir: &Path, session: &Session) -> Result<()> {
    let stored = read_config(dir)?;
    let files = WeightFiles::open(&dir.join("adapter_model.safetensors"))?;
    let values: usize = files.tensors().map(|(.., shape)| shape.iter().product::<usize>()).sum();
    let settings = serde_json::to_value(&stored.config)
        .map_err(Error::because("the settings cannot be written as JSON"))?;
    let base = stored.base.as_deref().unwrap_or("(not named)");
    session.line(format_args!("{}: an adapter of {base}", dir.display()))?;
    session.line(format_args!("  values     {values}"))?;
    let mut object =
        json!({ "kind": "adapter", "path": name(dir), "base": stored.base, "values": values });
    if let (Value::Object(settings), Some(object)) = (settings, object.as_object_mut()) {
        for (key, value) in settings {
            session.line(format_args!("  {key}: {value}"))?;
            object.insert(key, value);
        }
    }
    session.object(&object)
}
