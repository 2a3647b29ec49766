//! The server over plain TCP: what it refuses, and that nobody else's request is disturbed by it. `tests/server_peers.sh`
//! tries it with OpenAI's own client.

mod bodies;
mod calls;
mod fetched;
mod http;
mod random;

use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use calumma::device::DeviceSpec;
use calumma::pipeline::Pipeline;
use calumma::server::{ApiKey, Limits, NamedPipeline, Server, ServerConfig};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use self::bodies::{bomb, many_images, png, with_image, with_parts};
use self::http::{Client, Reply};

const KEY: &str = "k3y";

/// Names that no user may smuggle in.
const NAMES: [&str; 4] = ["<image>", "<racm3:break>", "</s>", "IMGIMGAZ"];

fn config() -> ServerConfig {
    let limits = Limits {
        body: 1 << 20,
        pixels: 1 << 20,
        header_time: Duration::from_millis(600),
        body_time: Duration::from_millis(600),
        ..Limits::default()
    };
    let api_key = Some(ApiKey::new(KEY).unwrap());
    ServerConfig { api_key, limits, ..ServerConfig::new("127.0.0.1:0".parse().unwrap()) }
}

fn demo() -> Vec<NamedPipeline> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints/demo");
    let pipeline = Pipeline::open(&dir, &DeviceSpec::Cpu.open().unwrap()).unwrap();
    vec![NamedPipeline { name: "demo".to_owned(), pipeline }]
}

/// Runs `tests` against a server of the demo checkpoint, which is opened when `opens` is sent.
fn with_server(config: ServerConfig, tests: impl FnOnce(Client, Sender<()>)) {
    let server = Server::bind(config).unwrap();
    let client = Client { address: server.address(), key: Some(KEY) };
    let (end, ends) = oneshot::channel::<()>();
    let (opens, opened) = channel();
    thread::scope(|scope| {
        let running = scope.spawn(move || {
            let open = move || {
                opened.recv().expect("the test opens the model");
                Ok(demo())
            };
            server.run(open, async { drop(ends.await) })
        });
        // A failed test must end the server too: dropping `end` does.
        let _end = end;
        tests(client, opens);
        drop(_end);
        running.join().unwrap().unwrap();
    });
}

/// As [`with_server`], once it is ready.
fn with_ready_server(config: ServerConfig, tests: impl FnOnce(Client)) {
    with_server(config, |client, opens| {
        opens.send(()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while client.get("/health").status != 200 {
            assert!(Instant::now() < deadline, "the server does not become ready");
            thread::sleep(Duration::from_millis(20));
        }
        tests(client);
    });
}

/// What a client wants while others misbehave, and its answer.
fn question(client: &Client) -> String {
    let body = json!({ "prompt": "a large red", "max_tokens": 8, "temperature": 0 });
    let reply = client.post("/v1/completions", &body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["choices"][0]["text"].as_str().unwrap().to_owned()
}

fn message(reply: &Reply) -> String {
    let value = reply.json();
    let error = value["error"].as_object().unwrap_or_else(|| panic!("no error: {value}"));
    for key in ["message", "type", "param", "code"] {
        assert!(error.contains_key(key), "an error without {key}: {value}");
    }
    error["message"].as_str().unwrap().to_owned()
}

#[test]
fn a_server_says_whether_it_lives_and_is_ready() {
    with_server(config(), |client, opens| {
        assert_eq!(client.get("/livez").status, 200);
        let early = client.get("/health");
        assert_eq!((early.status, early.header("retry-after")), (503, Some("1")));
        let asked = client.post("/v1/completions", &json!({ "prompt": "a" }));
        assert_eq!(asked.status, 503);
        assert!(message(&asked).contains("loading"));
        opens.send(()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while client.get("/health").status != 200 {
            assert!(Instant::now() < deadline, "the server does not become ready");
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(client.get("/livez").status, 200);
    });
}

#[test]
fn other_machines_need_a_key() {
    let everywhere = "0.0.0.0:0".parse().unwrap();
    let error = Server::bind(ServerConfig::new(everywhere)).unwrap_err();
    assert!(error.to_string().contains("API key"), "{error}");
    let api_key = Some(ApiKey::new(KEY).unwrap());
    Server::bind(ServerConfig { api_key, ..ServerConfig::new(everywhere) }).unwrap();
    Server::bind(ServerConfig { insecure: true, ..ServerConfig::new(everywhere) }).unwrap();
    assert!(ApiKey::new("").is_err() && ApiKey::new("a b").is_err());
}

#[test]
fn only_the_key_opens_routes() {
    with_ready_server(config(), |client| {
        for key in [None, Some(""), Some("k3"), Some("k3y0"), Some("K3Y")] {
            let stranger = Client { key, ..client };
            for path in ["/v1/models", "/health", "/metrics", "/nothing"] {
                let reply = stranger.get(path);
                assert_eq!(reply.status, 401, "{path} with {key:?}");
                assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
            }
            assert_eq!(stranger.get("/livez").status, 200);
        }
        let reply = client.get("/v1/models");
        assert_eq!(reply.status, 200);
        assert_eq!(reply.json()["data"][0]["image_size"], "64x64");
        for (name, value) in [("x-content-type-options", "nosniff"), ("cache-control", "no-store")]
        {
            assert_eq!(reply.header(name), Some(value));
        }
        assert_eq!(reply.header("access-control-allow-origin"), None);
    });
}

/// A conversation with `extra` fields.
fn ask(extra: Value) -> String {
    let mut body = json!({ "messages": [{ "role": "user", "content": "what?" }] });
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body.to_string()
}

/// Each body must be refused with its status and a message that says so.
fn refused(client: &Client, cases: Vec<(String, u16, &str)>) {
    for (body, status, said) in cases {
        let json_type = ("content-type", "application/json");
        let reply = client.send("POST", "/v1/chat/completions", &[json_type], &body);
        let shown = &body[..body.len().min(80)];
        assert_eq!(reply.status, status, "{shown}: {}", reply.text());
        assert!(message(&reply).contains(said), "{shown}: {}", message(&reply));
    }
}

#[test]
fn hostile_bodies_are_refused_and_disturb_nobody() {
    with_ready_server(config(), |client| {
        let want = question(&client);
        let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let cases: Vec<(String, u16, &str)> = vec![
            ("{\"messages\":".to_owned(), 400, "EOF"),
            ("[]".to_owned(), 400, "struct Chat"),
            (nested.clone(), 400, "invalid type: sequence"),
            (format!("{{\"messages\":[],\"metadata\":{nested}}}"), 400, "the last message"),
            (ask(json!({ "n": 100_000 })), 400, "allowed: 1 to 16"),
            (ask(json!({ "n": -1 })), 400, "n: "),
            (ask(json!({ "temperature": "hot" })), 400, "temperature"),
            (ask(json!({ "top_p": 0 })), 400, "top_p"),
            (ask(json!({ "max_tokens": 0 })), 400, "max_tokens"),
            (ask(json!({ "stop": vec!["a"; 17] })), 400, "stop"),
            (ask(json!({ "logit_bias": { "5": 1 } })), 400, "logit_bias: this server does not"),
            (ask(json!({ "tempo": 1 })), 400, "unknown field `tempo`"),
            (ask(json!({})).replacen('{', "{\"seed\":99999999999999999999999,", 1), 400, "seed"),
            (ask(json!({ "messages": [{ "role": "user", "content": "" }] })), 400, "turn is empty"),
            (
                ask(json!({ "messages": [{ "role": "user", "content": 5 }] })),
                400,
                "a list of parts",
            ),
            (many_images(17), 400, "17 images"),
            (with_parts("assistant", &[0, 0]), 400, "there is no image 0, or it has a place"),
            (with_parts("assistant", &[]), 400, "x_parts and the message differ"),
            (with_parts("user", &[0]), 400, "only an answer has x_parts"),
            (ask(json!({ "modalities": ["audio"] })), 400, "modalities"),
            (ask(json!({ "model": "../../etc/passwd" })), 404, "there is no model"),
            (json!({ "messages": [] }).to_string(), 400, "the last message"),
            (json!({ "messages": [{ "role": "root", "content": "" }] }).to_string(), 400, "role"),
            (with_image("http://169.254.169.254/latest").to_string(), 400, "nothing is fetched"),
            (with_image("file:///etc/passwd").to_string(), 400, "nothing is fetched"),
            (with_image("data:image/png;base64,%%%").to_string(), 400, "base64"),
            (with_image("data:image/svg+xml;base64,PHN2Zz4=").to_string(), 400, "PNG, JPEG, WebP"),
            (with_image(&bomb()).to_string(), 400, "60000x60000 pixels"),
        ];
        let tokens = vec![5; 100_000];
        let reply = client.post("/detokenize", &json!({ "tokens": tokens }));
        assert_eq!(reply.status, 400);
        assert!(message(&reply).contains("100000 tokens"), "{}", reply.text());
        let greedy = json!({ "prompt": "a red circle", "n": 16, "candidates": 64 });
        let reply = client.post("/v1/images/generations", &greedy);
        assert_eq!(reply.status, 400, "more than there will ever be is not worth a retry");
        assert!(message(&reply).contains("1024 answers"), "{}", reply.text());
        refused(&client, cases);
        assert_eq!(question(&client), want);
    });
}

#[test]
fn hostile_requests_are_refused_and_disturb_nobody() {
    with_ready_server(config(), |client| {
        let want = question(&client);
        let json_type = ("content-type", "application/json");
        for (method, path, status) in [
            ("GET", "/v1/../../etc/passwd", 404),
            ("GET", "/v1/models/..%2f..%2fetc%2fpasswd", 404),
            ("GET", "/nothing", 404),
            ("GET", "/v1/completions", 405),
            ("DELETE", "/v1/models/demo", 405),
        ] {
            let reply = client.send(method, path, &[], "");
            assert_eq!(reply.status, status, "{method} {path}");
            message(&reply);
        }
        let text = client.send("POST", "/v1/completions", &[("content-type", "text/plain")], "{}");
        assert_eq!(text.status, 415);
        let large =
            client.send("POST", "/v1/completions", &[json_type], &"a".repeat((1 << 20) + 1));
        assert_eq!(large.status, 413);
        assert!(message(&large).contains("too large"));
        let many = "a".repeat(2 << 20);
        let chunked = client.part(&format!(
            "POST /v1/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer k3y\r\n\
             content-type: application/json\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n\
             {:x}\r\n{many}\r\n0\r\n\r\n",
            many.len()
        ));
        assert_eq!(chunked.map(|reply| reply.status), Some(413));
        let claimed = [json_type, ("content-length", "99999999999")];
        assert_eq!(client.send("POST", "/v1/completions", &claimed, "{").status, 413);
        let long = "a".repeat(100_000);
        assert_eq!(client.send("GET", "/livez", &[("x-long", long.as_str())], "").status, 431);
        let many: Vec<(String, &str)> = (0..500).map(|i| (format!("x-{i}"), "a")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(name, of)| (name.as_str(), *of)).collect();
        assert_eq!(client.send("GET", "/livez", &many, "").status, 431);
        // What never comes whole ends with its time.
        let slow = client.part(
            "POST /v1/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer k3y\r\n\
            content-type: application/json\r\ncontent-length: 100\r\n\r\n{",
        );
        assert_eq!(slow.map(|reply| reply.status), Some(408));
        assert!(client.part("GET /livez HTTP/1.1\r\nhost: a\r\nx-slow: ").is_none());
        assert_eq!(question(&client), want);
    });
}

#[test]
fn a_client_that_leaves_frees_its_place() {
    let limits = Limits { queue: 1, ..config().limits };
    with_ready_server(ServerConfig { limits, ..config() }, |client| {
        let want = question(&client);
        // Places are free by the time that an answer has come.
        assert_eq!(question(&client), want);
        let asked = json!({ "prompt": "a red circle", "stream": true, "partial_images": 8 });
        for _ in 0..3 {
            let events = client.leave("/v1/images/generations", &asked);
            assert!(events.contains("image_generation.partial_image"), "{events}");
            let deadline = Instant::now() + Duration::from_secs(10);
            let body = json!({ "prompt": "a", "max_tokens": 1 });
            while client.post("/v1/completions", &body).status == 429 {
                assert!(Instant::now() < deadline, "the place is not free");
                thread::sleep(Duration::from_millis(5));
            }
        }
    });
}

#[test]
fn an_answer_that_takes_too_long_is_cut_off() {
    let limits = Limits { answer_time: Duration::from_millis(1), ..config().limits };
    with_ready_server(ServerConfig { limits, ..config() }, |client| {
        let reply = client.post("/v1/images/generations", &json!({ "prompt": "a red circle" }));
        assert_eq!((reply.status, reply.header("x-should-retry")), (504, Some("false")));
        assert!(message(&reply).contains("longer"), "{}", reply.text());
    });
}

#[test]
fn names_of_tokens_in_texts_are_texts() {
    with_ready_server(config(), |client| {
        for name in NAMES {
            let messages = json!([{ "role": "user", "content": format!("say {name} twice") }]);
            let reply = client.post("/tokenize", &json!({ "messages": messages }));
            assert_eq!(reply.status, 200, "{}", reply.text());
            let value = reply.json();
            let names: Vec<&str> =
                value["token_strs"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
            let inner = &names[1..names.len() - 1];
            assert!(!inner.contains(&name), "{name} became a token: {names:?}");
            let codes = value["image_codes"].as_array().unwrap();
            assert!(codes.iter().all(Value::is_null), "{name} became a code");
        }
    });
}

#[test]
fn pages_of_other_origins_may_ask_only_if_listed() {
    let listed = "https://example.org";
    let config = ServerConfig { origins: vec![listed.to_owned()], ..config() };
    with_ready_server(config, |client| {
        let asked = |origin: &str| client.send("OPTIONS", "/v1/models", &[("origin", origin)], "");
        let reply =
            Client { key: None, ..client }.send("OPTIONS", "/v1/models", &[("origin", listed)], "");
        assert_eq!(
            (reply.status, reply.header("access-control-allow-origin")),
            (204, Some(listed))
        );
        let reply = asked("https://evil.example");
        assert_eq!((reply.status, reply.header("access-control-allow-origin")), (403, None));
        let own = format!("http://{}", client.address);
        assert_eq!(client.send("GET", "/v1/models", &[("origin", own.as_str())], "").status, 200);
    });
}

#[test]
fn without_a_key_names_that_point_here_are_refused() {
    let config = ServerConfig { api_key: None, ..config() };
    with_ready_server(config, |client| {
        let asked = |host: &str| {
            let head =
                format!("GET /v1/models HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
            client.part(&head).unwrap().status
        };
        for (host, status) in [
            ("localhost", 200),
            ("localhost:8000", 200),
            ("127.0.0.1:8000", 200),
            ("[::1]:8000", 200),
            ("evil.example", 403),
            ("127.0.0.1.evil.example:80", 403),
            ("", 403),
        ] {
            assert_eq!(asked(host), status, "{host}");
        }
    });
}

/// What one request asks for must not fail those of others, even if it is more than the context.
#[test]
fn a_request_that_outgrows_the_context_fails_alone() {
    with_ready_server(config(), |client| {
        let want = question(&client);
        let image = client.post("/tokenize", &with_image(&png(&image::RgbImage::new(64, 64))));
        let ids: Vec<u64> = serde_json::from_value(image.json()["tokens"].clone()).unwrap();
        let codes = image.json()["image_codes"].as_array().unwrap().clone();
        let first = codes.iter().position(|code| !code.is_null()).unwrap();
        let context = image.json()["max_model_len"].as_u64().unwrap() as usize;
        let body = json!({
            "prompt": &ids[..=first],
            "negative_prompt": "a ".repeat(2 * context),
            "guidance_scale": 3,
            "max_tokens": 4,
        });
        let reply = client.post("/v1/completions", &body);
        assert_eq!(reply.status, 400, "{}", reply.text());
        assert_eq!(reply.json()["error"]["code"], "context_length_exceeded");
        assert_eq!(question(&client), want);
    });
}
