//! Token shards in object stores: `s3://`, `gs://`, `az://`, and `file://` for tests without one.
//!
//! A shard is fetched once into a cache directory and read from there. Its file name ends in a digest of
//! object and version (ETag, or modification time), so another version is another file. It gets that name
//! only after it has arrived in full and its sums are right.
//!
//! Credentials are the one exception to the rule that no environment variable changes what this program
//! does: they are read as the vendors' tools read them. `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
//! `AWS_REGION` and, for other stores of the same protocol, `AWS_ENDPOINT`; for Google Cloud
//! `GOOGLE_APPLICATION_CREDENTIALS`; `AZURE_STORAGE_ACCOUNT_NAME` and `AZURE_STORAGE_ACCOUNT_KEY`. All
//! variables that the crate `object_store` lists for its builders work, such as `AWS_SKIP_SIGNATURE` for
//! public buckets.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use futures_util::StreamExt;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, parse_url_opts};
use reqwest::Url;
use sha2::{Digest, Sha256};

use crate::data::shards::Shard;
use crate::data::shards::content::ENDING;
use crate::error::{Cause, Error, Result};
use crate::files::{free_bytes, hex, scratch};
use crate::report::Reporter;

/// Prefixes of the environment variables that are passed on; `REGION` or `TOKEN` alone mean other things.
const PREFIXES: [&str; 3] = ["AWS_", "AZURE_", "GOOGLE_"];
/// A large shard may take long in total, but no pause between two chunks may.
const TIMEOUTS: [(&str, &str); 2] = [("timeout", "12h"), ("read_timeout", "60s")];
/// Characters of an object's name that its file name keeps.
const NAME_KEPT: usize = 80;

/// Local files of the shards at `url`: the object itself if it ends in `.safetensors`, otherwise all
/// such objects below it, sorted by name. Fetches what `cache_dir` does not hold.
///
/// # Errors
/// If there is no shard, the store does not answer or refuses, a shard arrives damaged, or the disk
/// is full; the message names the URL.
///
/// # Panics
/// If called from within an asynchronous task.
pub(in crate::data::shards) fn fetch(
    url: &str,
    cache_dir: &Path,
    quiet: bool,
) -> Result<Vec<PathBuf>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| because(url, format!("no runtime for its requests: {error}"), error))?;
    runtime.block_on(async { Remote::open(url)?.fetch(cache_dir, quiet).await })
}

/// An error about `url`.
fn failed(url: &str, message: impl std::fmt::Display) -> Error {
    Error::invalid(format!("data {url}: {message}"))
}

/// An error about `url` that keeps its `source`, whose text is part of `message`.
fn because(url: &str, message: impl std::fmt::Display, source: impl Into<Cause>) -> Error {
    Error::Invalid { message: format!("data {url}: {message}"), source: Some(source.into()) }
}

/// The texts of `error` and its sources; the reason for a refused connection is nested deep.
fn causes(error: &object_store::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// An object or a prefix in an object store.
struct Remote<'a> {
    url: &'a str,
    store: Box<dyn ObjectStore>,
    path: object_store::path::Path,
}

impl<'a> Remote<'a> {
    fn open(url: &'a str) -> Result<Self> {
        // An error means that a provider is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let parsed = Url::parse(url).map_err(|error| because(url, error, error))?;
        let fixed = TIMEOUTS.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let named = std::env::vars_os().filter_map(|(key, value)| {
            let (key, value) = (key.into_string().ok()?, value.into_string().ok()?);
            PREFIXES.iter().any(|prefix| key.starts_with(prefix)).then_some((key, value))
        });
        let (store, path) =
            parse_url_opts(&parsed, fixed.into_iter().chain(named)).map_err(|error| {
                because(url, format!("cannot be opened: {}", causes(&error)), error)
            })?;
        Ok(Self { url, store, path })
    }

    /// Fetches the shards that `cache_dir` does not hold; returns the files of all.
    async fn fetch(&self, cache_dir: &Path, quiet: bool) -> Result<Vec<PathBuf>> {
        let objects = self.list().await?;
        let dir = cache_dir.join(&hex(&Sha256::digest(self.url))[..16]);
        std::fs::create_dir_all(&dir).map_err(Error::io(&dir))?;
        let paths: Vec<PathBuf> = objects.iter().map(|object| dir.join(name(object))).collect();
        let missing: Vec<_> = objects.iter().zip(&paths).filter(|(_, p)| !p.exists()).collect();
        if missing.is_empty() {
            return Ok(paths);
        }
        let needed: u64 = missing.iter().map(|(object, _)| object.size).sum();
        if let Some(free) = free_bytes(&dir).filter(|free| *free < needed) {
            let dir = dir.display();
            let message =
                format_args!("{needed} bytes do not fit into {dir}, where {free} are free");
            return Err(failed(self.url, message));
        }
        let bar = || Reporter::bar(missing.len() as u64, "bytes");
        let mut reporter = if quiet { Reporter::silent() } else { bar() };
        let (count, all, url) = (missing.len(), objects.len(), self.url);
        reporter.note(&format!("fetching {count} of {all} shards, {needed} bytes, of {url}"));
        for (number, (object, path)) in missing.into_iter().enumerate() {
            self.fetch_one(object, path).await?;
            reporter.step(number + 1, usize::try_from(object.size).unwrap_or(usize::MAX));
        }
        reporter.finish();
        Ok(paths)
    }

    /// The shards that the URL names; at least one.
    async fn list(&self) -> Result<Vec<ObjectMeta>> {
        let failed = |error: object_store::Error| {
            because(self.url, format!("cannot be looked up: {}", causes(&error)), error)
        };
        if self.path.extension() == Some(ENDING) {
            return Ok(vec![self.store.head(&self.path).await.map_err(failed)?]);
        }
        let mut found = Vec::new();
        let mut listed = self.store.list(Some(&self.path));
        while let Some(object) = listed.next().await {
            let object = object.map_err(failed)?;
            if object.location.extension() == Some(ENDING) {
                found.push(object);
            }
        }
        found.sort_by(|a, b| a.location.cmp(&b.location));
        match found.is_empty() {
            true => Err(self::failed(self.url, format_args!("there is no *.{ENDING} below it"))),
            false => Ok(found),
        }
    }

    /// Fetches `object` to `path`, atomically.
    async fn fetch_one(&self, object: &ObjectMeta, path: &Path) -> Result<()> {
        let scratch = scratch(path);
        let fetched = match self.stream(object, &scratch).await {
            Ok(()) => self
                .verify(object, &scratch)
                .and_then(|()| std::fs::rename(&scratch, path).map_err(Error::io(path))),
            Err(error) => Err(error),
        };
        if fetched.is_err() {
            // The first error is the one to report.
            let _ = std::fs::remove_file(&scratch);
        }
        fetched
    }

    /// Writes the bytes of `object` to the file at `path`.
    async fn stream(&self, object: &ObjectMeta, path: &Path) -> Result<()> {
        let name = &object.location;
        let failed = |error: object_store::Error| {
            because(self.url, format!("cannot fetch {name}: {}", causes(&error)), error)
        };
        let mut chunks = self.store.get(name).await.map_err(failed)?.into_stream();
        let mut file = File::create(path).map_err(Error::io(path))?;
        while let Some(chunk) = chunks.next().await {
            file.write_all(&chunk.map_err(failed)?).map_err(Error::io(path))?;
        }
        file.sync_all().map_err(Error::io(path))
    }

    /// Verifies a fetched shard, so that the next run does not find a damaged one.
    fn verify(&self, object: &ObjectMeta, path: &Path) -> Result<()> {
        let name = &object.location;
        Shard::open(path).and_then(|shard| shard.verify()).map_err(|error| {
            let message = match &error {
                Error::File { message, .. } => format!("{name} {message}"),
                other => format!("{name}: {other}"),
            };
            because(self.url, message, error)
        })
    }
}

/// The file name in the cache for this version of `object`.
fn name(object: &ObjectMeta) -> String {
    let ObjectMeta { location, last_modified, size, e_tag, .. } = object;
    let version = e_tag.clone().unwrap_or_else(|| last_modified.to_string());
    let digest = hex(&Sha256::digest(format!("{location} {size} {version}")));
    let stem = location.filename().unwrap_or_default();
    let stem = stem.strip_suffix(ENDING).unwrap_or(stem).trim_end_matches('.');
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let stem: String = stem.chars().take(NAME_KEPT).map(plain).collect();
    format!("{stem}-{}.{ENDING}", &digest[..16])
}
