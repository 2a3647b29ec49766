//! Images that the server fetches itself, from hosts that its operator lists.
//!
//! A request could otherwise make the server ask machines that only it can reach. A host must be listed; a name must resolve
//! to public addresses, which is checked for each connection, so that no name can change its mind; an address that is no
//! public one must itself be listed. Redirects go to listed hosts only, proxies are not used.

#[cfg(not(feature = "image_hosts"))]
mod absent;
#[cfg(feature = "image_hosts")]
mod fetcher;
#[cfg_attr(not(feature = "image_hosts"), allow(dead_code, reason = "only the feature asks hosts"))]
mod hosts;

#[cfg(not(feature = "image_hosts"))]
pub(super) use absent::Fetcher;
#[cfg(feature = "image_hosts")]
pub(super) use fetcher::Fetcher;
pub use hosts::ImageHost;
