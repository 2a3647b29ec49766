//! Token shards in object stores, with the feature `object_store`.

#[cfg(feature = "object_store")]
mod store;

#[cfg(feature = "object_store")]
pub(super) use store::fetch;

/// The error of a build without the feature.
#[cfg(not(feature = "object_store"))]
pub(super) fn fetch(
    url: &str,
    _cache_dir: &std::path::Path,
    _quiet: bool,
) -> crate::error::Result<Vec<std::path::PathBuf>> {
    let message = format!("data {url}: needs a build with --features object_store");
    Err(crate::error::Error::invalid(message))
}
