//! Which hosts images come from.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Ports without one in the list: those of HTTP and HTTPS.
const PORTS: [u16; 2] = [80, 443];

/// A host that images may come from: `example.org`, `*.example.org` (all names below it), `192.0.2.7`, `[2001:db8::7]`, each
/// with a port if it is not 80 or 443.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageHost {
    /// In small letters, without `*`.
    name: String,
    /// Whether names below it are meant.
    is_below: bool,
    port: Option<u16>,
}

impl FromStr for ImageHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || {
            format!("{text:?} is no host; allowed: NAME, *.NAME or ADDRESS, with :PORT or without")
        };
        let is_bare = text.parse::<Ipv6Addr>().is_ok();
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) if !is_bare && !port.ends_with(']') => {
                (name, Some(port.parse().map_err(|_| malformed())?))
            }
            _ => (text, None),
        };
        let (name, is_below) = match name.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (name, false),
        };
        let name = name.to_ascii_lowercase();
        let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let name = match address.unwrap_or(&name).parse::<IpAddr>() {
            Ok(_) if is_below => return Err(malformed()),
            // As addresses of the web write it.
            Ok(IpAddr::V6(address)) => format!("[{address}]"),
            Ok(IpAddr::V4(address)) => address.to_string(),
            Err(_) if name.bytes().all(is_letter) => name,
            Err(_) => return Err(malformed()),
        };
        match name.is_empty() || name.starts_with('.') {
            true => Err(malformed()),
            false => Ok(Self { name, is_below, port }),
        }
    }
}

impl ImageHost {
    /// Whether it is the host `name` at `port`; `name` is as the standard of URLs writes it.
    pub(super) fn is(&self, name: &str, port: u16) -> bool {
        let is_port = self.port.map_or(PORTS.contains(&port), |own| own == port);
        let name = name.strip_suffix('.').unwrap_or(name);
        let is_name = match name.strip_suffix(&self.name) {
            Some(below) => {
                if self.is_below {
                    below.ends_with('.')
                } else {
                    below.is_empty()
                }
            }
            None => false,
        };
        is_port && is_name
    }
}

impl fmt::Display for ImageHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, is_below, port } = self;
        write!(f, "{}{name}", if *is_below { "*." } else { "" })?;
        port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Whether `address` is one of the public network, and none of this machine, of a private network or of a way into one
/// (IANA's registries of special-purpose addresses for IPv4 and IPv6).
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    /// The first addresses of blocks, and the lengths of their prefixes.
    const SPECIAL: [(Ipv4Addr, u32); 15] = [
        (Ipv4Addr::new(0, 0, 0, 0), 8),
        (Ipv4Addr::new(10, 0, 0, 0), 8),
        (Ipv4Addr::new(100, 64, 0, 0), 10),
        (Ipv4Addr::new(127, 0, 0, 0), 8),
        (Ipv4Addr::new(169, 254, 0, 0), 16),
        (Ipv4Addr::new(172, 16, 0, 0), 12),
        (Ipv4Addr::new(192, 0, 0, 0), 24),
        (Ipv4Addr::new(192, 0, 2, 0), 24),
        (Ipv4Addr::new(192, 88, 99, 0), 24),
        (Ipv4Addr::new(192, 168, 0, 0), 16),
        (Ipv4Addr::new(198, 18, 0, 0), 15),
        (Ipv4Addr::new(198, 51, 100, 0), 24),
        (Ipv4Addr::new(203, 0, 113, 0), 24),
        // Multicast.
        (Ipv4Addr::new(224, 0, 0, 0), 4),
        (Ipv4Addr::new(240, 0, 0, 0), 4),
    ];
    let is_in = |(first, length): &(Ipv4Addr, u32)| {
        (address.to_bits() ^ first.to_bits()) >> (32 - length) == 0
    };
    !SPECIAL.iter().any(is_in)
}

/// Only of the block for the public network, and there of none that leads elsewhere or is for documents.
fn is_public_v6(address: Ipv6Addr) -> bool {
    const PUBLIC: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
    const SPECIAL: [(Ipv6Addr, u32); 4] = [
        (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
        (Ipv6Addr::new(0x2001, 0xDB8, 0, 0, 0, 0, 0, 0), 32),
        // Holds an address of IPv4.
        (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
        (Ipv6Addr::new(0x3FFF, 0, 0, 0, 0, 0, 0, 0), 20),
    ];
    let is_in = |(first, length): &(Ipv6Addr, u32)| {
        (address.to_bits() ^ first.to_bits()) >> (128 - length) == 0
    };
    match address.to_ipv4_mapped() {
        Some(address) => is_public_v4(address),
        None => is_in(&PUBLIC) && !SPECIAL.iter().any(is_in),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn host(text: &str) -> ImageHost {
        text.parse().unwrap()
    }

    #[test]
    fn hosts_are_names_or_addresses_with_ports() {
        for text in [
            "example.org",
            "*.example.org",
            "a.b:8080",
            "192.0.2.7",
            "[2001:db8::7]:81",
            "localhost",
        ] {
            assert_eq!(host(text).to_string(), text);
        }
        assert_eq!(host("Example.ORG").to_string(), "example.org");
        assert_eq!(host("2001:DB8:0::7").to_string(), "[2001:db8::7]");
        for text in [
            "",
            "*",
            "*.",
            ".",
            "a b",
            "a/b",
            "http://a",
            "a:",
            "a:99999",
            "*.1.2.3.4",
            "[::1",
            "a:b:c",
            "ü.org",
        ] {
            let error = text.parse::<ImageHost>().unwrap_err();
            assert!(error.contains("is no host; allowed: "), "{text}: {error}");
        }
    }

    #[test]
    fn a_host_is_itself_and_no_other() {
        let own = host("example.org");
        assert!(
            own.is("example.org", 443) && own.is("example.org", 80) && own.is("example.org.", 443)
        );
        for (name, port) in [
            ("example.org", 22),
            ("a.example.org", 443),
            ("badexample.org", 443),
            ("example.org.a", 443),
            ("", 443),
        ] {
            assert!(!own.is(name, port), "{name}:{port}");
        }
        let below = host("*.example.org:8443");
        assert!(below.is("a.example.org", 8443) && below.is("a.b.example.org", 8443));
        assert!(!below.is("example.org", 8443) && !below.is("aexample.org", 8443));
        assert!(!below.is("a.example.org", 443));
        assert!(host("[2001:db8::7]").is("[2001:db8::7]", 443));
        assert!(!host("192.0.2.7").is("1192.0.2.7", 443));
    }

    #[test]
    fn only_public_addresses_are_public() {
        for address in [
            "1.1.1.1",
            "100.63.255.255",
            "172.32.0.1",
            "192.0.1.1",
            "223.255.255.255",
            "2606:4700::1",
            "::ffff:1.1.1.1",
        ] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "ff02::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }
}
