//! A build that fetches nothing.

use std::convert::Infallible;

use super::ImageHost;
use crate::error::{Error, Result};
use crate::server::fault::Fault;

/// Fetches images; this build cannot.
#[derive(Clone, Debug)]
pub(crate) struct Fetcher(Infallible);

impl Fetcher {
    /// No fetcher.
    ///
    /// # Errors
    /// Always: it names the feature that is missing.
    pub(crate) fn new(_hosts: Vec<ImageHost>) -> Result<Self> {
        Err(Error::invalid("fetching images needs a build with --features image_hosts"))
    }

    /// Nothing, as there is no fetcher.
    ///
    /// # Errors
    /// None.
    pub(crate) async fn fetch_all(
        &self,
        _urls: &[&str],
        _most: usize,
    ) -> std::result::Result<Vec<Vec<u8>>, Fault> {
        match self.0 {}
    }
}
