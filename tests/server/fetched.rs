//! Images that the server fetches, and what it does not fetch.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use calumma::server::{ImageHost, Server, ServerConfig};

use super::bodies::{png, with_image};
use super::{config, message, with_ready_server};

/// Answers one request of a server that has an image, redirects and more.
fn answer(mut stream: TcpStream, port: u16, image: &[u8]) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut line = String::from("-");
    while !line.trim().is_empty() {
        line.clear();
        reader.read_line(&mut line)?;
    }
    let large = vec![0; 3 << 20];
    let to = |url: &str| (format!("302 Found\r\nlocation: {url}"), &[][..]);
    let path = first.split([' ', '?']).nth(1).unwrap_or_default();
    let (status, body) = match path {
        "/a.png" => ("200 OK".to_owned(), image),
        "/here" => to("/a.png"),
        "/circle" => to("/circle"),
        "/there" => to(&format!("http://127.0.0.2:{port}/a.png")),
        "/file" => to("file:///etc/passwd"),
        "/large" => ("200 OK".to_owned(), large.as_slice()),
        "/text" => ("200 OK".to_owned(), b"<html>".as_slice()),
        _ => ("404 Not Found".to_owned(), &[][..]),
    };
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n")?;
    stream.write_all(body)
}

/// A server on this machine that ends with the test.
fn elsewhere() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (_, image) = picture();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client may leave early.
            let _ = answer(stream, address.port(), &image);
        }
    });
    address
}

/// The address of an image that holds it, and its file.
fn picture() -> (String, Vec<u8>) {
    let uri =
        png(&image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([x as u8 * 4, y as u8 * 4, 0])));
    let file = STANDARD.decode(uri.split_once(',').unwrap().1).unwrap();
    (uri, file)
}

fn with_hosts(hosts: &[String]) -> ServerConfig {
    let image_hosts = hosts.iter().map(|host| host.parse::<ImageHost>().unwrap()).collect();
    ServerConfig { image_hosts, ..config() }
}

#[test]
fn images_are_fetched_from_listed_hosts_only() {
    let port = elsewhere().port();
    let hosts = [format!("127.0.0.1:{port}"), format!("localhost:{port}")];
    if let Err(error) = Server::bind(with_hosts(&hosts)) {
        assert!(error.to_string().contains("--features image_hosts"), "{error}");
        eprintln!("SKIPPED: the build fetches no images");
        return;
    }
    with_ready_server(with_hosts(&hosts), |client| {
        let tokens = |url: &str| {
            let reply = client.post("/tokenize", &with_image(url));
            assert_eq!(reply.status, 200, "{url}: {}", reply.text());
            reply.json()["tokens"].clone()
        };
        let own = tokens(&picture().0);
        for path in ["a.png", "here", "a.png?a=b#c"] {
            assert_eq!(tokens(&format!("http://127.0.0.1:{port}/{path}")), own, "{path}");
        }
        // The same address in another form.
        assert_eq!(tokens(&format!("HTTP://2130706433:{port}/a.png")), own);
        for (url, said) in [
            (format!("http://localhost:{port}/a.png"), "none of the public network"),
            (format!("http://127.0.0.2:{port}/a.png"), "no image may come from 127.0.0.2"),
            ("http://127.0.0.1/a.png".to_owned(), "no image may come from 127.0.0.1, port 80"),
            ("http://169.254.169.254/latest".to_owned(), "no image may come from 169.254.169.254"),
            (format!("http://[::1]:{port}/"), "no image may come from [::1]"),
            (format!("http://[::ffff:127.0.0.1]:{port}/"), "no image may come from [::ffff"),
            (format!("http://127.0.0.1:{port}@example.org/"), "has a name or password"),
            (format!("http://user@127.0.0.1:{port}/a.png"), "has a name or password"),
            (format!("https://127.0.0.1:{port}/a.png"), "cannot be reached"),
            (
                format!("http://127.0.0.1:{port}/there"),
                "a redirect: no image may come from 127.0.0.2",
            ),
            (format!("http://127.0.0.1:{port}/file"), "status 302"),
            (format!("http://127.0.0.1:{port}/circle"), "more than 3 redirects"),
            (format!("http://127.0.0.1:{port}/nothing"), "status 404"),
            (format!("http://127.0.0.1:{port}/large"), "fetched images are too large"),
            (format!("http://127.0.0.1:{port}/text"), "PNG, JPEG, WebP"),
            ("file:///etc/passwd".to_owned(), "must begin with data:, https:// or http://"),
            ("gopher://127.0.0.1/".to_owned(), "must begin with data:, https:// or http://"),
            ("//127.0.0.1/a.png".to_owned(), "the address of an image"),
            (String::new(), "the address of an image"),
        ] {
            let reply = client.post("/v1/chat/completions", &with_image(&url));
            assert_eq!(reply.status, 400, "{url}: {}", reply.text());
            assert!(message(&reply).contains(said), "{url}: {}", message(&reply));
        }
        assert_eq!(tokens(&picture().0), own);
    });
}
