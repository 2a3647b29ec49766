//! What a server serves, where, and within which limits.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use subtle::ConstantTimeEq;

use super::remote::ImageHost;
use crate::error::{Error, Result};
use crate::generate::EngineConfig;
use crate::pipeline::Pipeline;

/// Of every limit.
const MAX_LIMIT: usize = 1 << 30;

/// A model under the name by which requests choose it.
#[derive(Debug)]
pub struct NamedPipeline {
    /// `model` of requests.
    pub name: String,
    /// The opened checkpoint.
    pub pipeline: Pipeline,
}

/// The key that requests must carry.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// A key that a header can hold.
    ///
    /// # Errors
    /// If it is empty or has characters other than visible ASCII ones.
    pub fn new(key: impl Into<String>) -> Result<Self> {
        let key = key.into();
        match !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(Self(key)),
            false => Err(Error::invalid("an API key needs one or more visible ASCII characters")),
        }
    }

    /// Whether `given` is this key, in a time that does not depend on where they differ.
    pub(super) fn is(&self, given: &str) -> bool {
        self.0.as_bytes().ct_eq(given.as_bytes()).into()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

/// Where a server listens, who may ask it, and what a request may cost.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Port 0 takes a free one.
    pub address: SocketAddr,
    /// Asked for on all routes but `/livez` and the page, if there is one.
    pub api_key: Option<ApiKey>,
    /// Allows an address that other machines reach without a key.
    pub insecure: bool,
    /// Origins whose pages may ask; none by default.
    pub origins: Vec<String>,
    /// Hosts that images may be fetched from; none by default.
    pub image_hosts: Vec<ImageHost>,
    /// Limits of requests.
    pub limits: Limits,
    /// Limits of the engine of each model.
    pub engine: EngineConfig,
}

impl ServerConfig {
    /// On `address`, with the default limits.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            api_key: None,
            insecure: false,
            origins: Vec::new(),
            image_hosts: Vec::new(),
            limits: Limits::default(),
            engine: EngineConfig::default(),
        }
    }

    /// # Errors
    /// If other machines could ask without a key, an origin is none, or a limit is out of range.
    pub(super) fn validate(&self) -> Result<()> {
        if !self.address.ip().is_loopback() && self.api_key.is_none() && !self.insecure {
            return Err(Error::invalid(format!(
                "{} can be reached from other machines: set an API key, or pass --insecure",
                self.address
            )));
        }
        let is_origin = |origin: &String| {
            let host = origin.split_once("://").map(|(_, host)| host);
            host.is_some_and(|host| !host.is_empty() && !host.contains('/'))
        };
        if let Some(origin) = self.origins.iter().find(|origin| !is_origin(origin)) {
            return Err(Error::invalid(format!(
                "{origin:?} is no origin; allowed: scheme and host, such as https://example.org"
            )));
        }
        let limits = &self.limits;
        let numbers = [
            ("queue", limits.queue),
            ("tokens", limits.tokens),
            ("answers", limits.answers),
            ("body", limits.body),
        ];
        match numbers.into_iter().find(|(_, number)| !(1..=MAX_LIMIT).contains(number)) {
            Some((name, number)) => Err(Error::invalid(format!(
                "the limit of {name} is {number}; allowed: 1 to {MAX_LIMIT}"
            ))),
            None => Ok(()),
        }
    }
}

/// What a request may be and cost; what is more is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Answers and images in progress or waiting; further requests get status 429.
    pub queue: usize,
    /// Bytes of a request's body.
    pub body: usize,
    /// Bytes of all bodies that are being read; further ones get status 429.
    pub bodies: usize,
    /// Pixels of an image.
    pub pixels: u64,
    /// Memory that the decoder of an image may allocate, in bytes.
    pub decoder_bytes: u64,
    /// Images of a request, which have at most four times [`pixels`](Self::pixels) together.
    pub images: usize,
    /// Answers or images of a request (`n`).
    pub answers: usize,
    /// `max_tokens` of a request.
    pub tokens: usize,
    /// Time from the end of the body to the end of the answer.
    pub answer_time: Duration,
    /// Time in which the headers must have come.
    pub header_time: Duration,
    /// Time in which the body must have come.
    pub body_time: Duration,
    /// Time that running answers have when the server is told to end.
    pub drain_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue: 128,
            body: 20 << 20,
            bodies: 256 << 20,
            pixels: 16_000_000,
            decoder_bytes: 128 << 20,
            images: 16,
            answers: 16,
            tokens: 1 << 20,
            answer_time: Duration::from_secs(600),
            header_time: Duration::from_secs(10),
            body_time: Duration::from_secs(30),
            drain_time: Duration::from_secs(30),
        }
    }
}
