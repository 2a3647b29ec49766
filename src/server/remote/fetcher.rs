//! Fetching images over HTTP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::try_join_all;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, Response, Url};

use super::ImageHost;
use super::hosts::is_public;
use crate::error::{Error, Result};
use crate::server::fault::Fault;

/// Time to reach a host.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// Time to fetch an image.
const TIME: Duration = Duration::from_secs(20);

/// Redirects on the way to an image.
const REDIRECTS: usize = 3;

/// Fetches images from listed hosts.
#[derive(Clone, Debug)]
pub(crate) struct Fetcher {
    hosts: Arc<[ImageHost]>,
    client: Client,
}

impl Fetcher {
    /// For images from `hosts`.
    ///
    /// # Errors
    /// If there is no TLS.
    pub(crate) fn new(hosts: Vec<ImageHost>) -> Result<Self> {
        // An error means that a provider is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let hosts: Arc<[ImageHost]> = hosts.into();
        let known = hosts.clone();
        let client = Client::builder()
            .dns_resolver(Public)
            .redirect(Policy::custom(move |attempt| redirected(attempt, &known)))
            .no_proxy()
            .referer(false)
            .connect_timeout(CONNECT_TIME)
            .timeout(TIME)
            .user_agent(concat!("calumma/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(Error::because("fetching images"))?;
        Ok(Self { hosts, client })
    }

    /// The files at `urls`, which have at most `most` bytes together.
    ///
    /// # Errors
    /// If a host is not listed or has no public address, or a file cannot be fetched or is too large.
    pub(crate) async fn fetch_all(
        &self,
        urls: &[&str],
        most: usize,
    ) -> std::result::Result<Vec<Vec<u8>>, Fault> {
        let room = AtomicUsize::new(most);
        try_join_all(urls.iter().map(|url| self.fetch(url, &room))).await.map_err(|said| {
            let said = if said == TOO_LARGE {
                format!("{said}; allowed: {most} bytes in all")
            } else {
                said
            };
            Fault::of("image_url", said)
        })
    }

    async fn fetch(&self, url: &str, room: &AtomicUsize) -> std::result::Result<Vec<u8>, String> {
        let url = Url::parse(url).map_err(|error| format!("the address of an image: {error}"))?;
        check(&url, &self.hosts)?;
        let host = url.host_str().unwrap_or_default().to_owned();
        let response = self.client.get(url).send().await.map_err(|error| told(&host, &error))?;
        read(response, &host, room).await
    }
}

const TOO_LARGE: &str = "fetched images are too large";

/// The content of `response`, whose bytes are taken from `room`.
async fn read(
    mut response: Response,
    host: &str,
    room: &AtomicUsize,
) -> std::result::Result<Vec<u8>, String> {
    if !response.status().is_success() {
        return Err(format!("the image of {host}: status {}", response.status().as_u16()));
    }
    let mut content = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| told(host, &error))? {
        let taken = room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| {
            room.checked_sub(chunk.len())
        });
        taken.map_err(|_| TOO_LARGE)?;
        content.extend_from_slice(&chunk);
    }
    Ok(content)
}

/// What went wrong with the image of `host`.
fn told(host: &str, error: &reqwest::Error) -> String {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if let Some(refused) = error.downcast_ref::<Refused>() {
            return format!("the image of {host}: {refused}");
        }
        cause = error.source();
    }
    let reason = match error {
        error if error.is_timeout() => "it took too long",
        error if error.is_connect() => "the host cannot be reached",
        error if error.is_redirect() => "too many redirects",
        _ => "the transfer failed",
    };
    format!("the image of {host}: {reason}")
}

/// # Errors
/// If no image may come from `url`.
fn check(url: &Url, hosts: &[ImageHost]) -> std::result::Result<(), String> {
    let name = url.host_str().unwrap_or_default();
    if !["http", "https"].contains(&url.scheme()) {
        return Err("the address of an image must begin with data:, https:// or http://".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("the address of an image has a name or password; allowed: none".to_owned());
    }
    let port = url.port_or_known_default().unwrap_or_default();
    match hosts.iter().any(|host| host.is(name, port)) {
        true => Ok(()),
        false => {
            let known = hosts.iter().map(ImageHost::to_string).collect::<Vec<_>>().join(", ");
            Err(format!("no image may come from {name}, port {port}; allowed: {known}"))
        }
    }
}

/// Why a host was not asked.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

fn redirected(attempt: Attempt<'_>, hosts: &[ImageHost]) -> reqwest::redirect::Action {
    if attempt.previous().len() > REDIRECTS {
        return attempt.error(Refused(format!("more than {REDIRECTS} redirects")));
    }
    match check(attempt.url(), hosts) {
        Ok(()) => attempt.follow(),
        Err(said) => attempt.error(Refused(format!("a redirect: {said}"))),
    }
}

/// Resolves names to public addresses.
struct Public;

impl Resolve for Public {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|found| is_public(found.ip())).collect();
            match public.is_empty() {
                true => Err(Refused("its address is none of the public network".to_owned()).into()),
                false => Ok(Box::new(public.into_iter()) as Addrs),
            }
        })
    }
}
