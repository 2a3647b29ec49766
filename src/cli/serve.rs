//! `calumma serve`: a checkpoint over HTTP, by OpenAI's protocol.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use calumma::allocator;
use calumma::checkpoint::adapter::WeightedAdapter;
use calumma::generate::{EngineConfig, Window};
use calumma::server::{
    ApiKey, ImageHost, Limits, NamedPipeline, Server, ServerConfig, ended_by_signal,
};
use calumma::{Error, Result};
use clap::Args;
use serde_json::json;

use super::open::{self, AdapterArgs};
use super::session::Session;

/// Arguments of `serve`.
#[derive(Args)]
pub struct ServeArgs {
    /// Checkpoint directory
    checkpoint: PathBuf,
    /// Name of the model in requests [default: the name of the directory]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Serve the checkpoint with the adapter in DIR as a further model called NAME; repeatable
    #[arg(long, value_name = "NAME=DIR")]
    adapter: Vec<NamedAdapter>,
    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8000")]
    listen: SocketAddr,
    /// File whose first line is the key that requests must carry
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Listen on an address that other machines reach, without a key
    #[arg(long)]
    insecure: bool,
    /// Let pages of this origin ask, such as https://example.org; repeatable
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<String>,
    /// Fetch images from HOST, such as example.org, *.example.org or 192.0.2.7:8080; repeatable
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    allow_image_hosts: Vec<ImageHost>,
    /// Answers and images in progress or waiting; more are refused with status 429
    #[arg(long, value_name = "N", default_value_t = Limits::default().queue, help_heading = "Limits")]
    queue: usize,
    /// Memory for keys and values of each model, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024, help_heading = "Limits")]
    cache: usize,
    /// Longest answer, in tokens
    #[arg(long, value_name = "N", default_value_t = Limits::default().tokens, help_heading = "Limits")]
    max_tokens: usize,
    /// Most answers or images of one request
    #[arg(long, value_name = "N", default_value_t = Limits::default().answers, help_heading = "Limits")]
    max_answers: usize,
    /// Guess N tokens ahead and check them in one pass, 1 to 64, off, or auto: as many as pay
    #[arg(long, value_name = "N", default_value_t)]
    window: Window,
}

/// An adapter under the name of a model.
#[derive(Clone, Debug)]
struct NamedAdapter {
    name: String,
    adapter: WeightedAdapter,
}

impl FromStr for NamedAdapter {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (name, dir) = text.split_once('=').ok_or("expected NAME=DIR")?;
        if name.is_empty() {
            return Err("the name is empty".to_owned());
        }
        let adapter = WeightedAdapter::from_str(dir).map_err(|error| error.to_string())?;
        Ok(Self { name: name.to_owned(), adapter })
    }
}

/// Serves until a signal comes.
///
/// # Errors
/// Those of the checkpoint, the key's file and the address.
pub fn run(args: &ServeArgs, session: &Session) -> Result<()> {
    if session.seed().is_some() {
        let message = "--seed is not for serve: each request has its own, or a new one";
        return Err(Error::invalid(message));
    }
    // It runs for weeks, and what one large request needed is of no use to the next small ones.
    allocator::give_back();
    let api_key = args.api_key_file.as_deref().map(key).transpose()?;
    let limits = Limits {
        queue: args.queue,
        tokens: args.max_tokens,
        answers: args.max_answers,
        ..Limits::default()
    };
    let cache_bytes = args.cache.saturating_mul(1 << 20);
    let server = Server::bind(ServerConfig {
        api_key,
        insecure: args.insecure,
        origins: args.allow_origin.clone(),
        image_hosts: args.allow_image_hosts.clone(),
        limits,
        engine: EngineConfig { cache_bytes, ..EngineConfig::default() },
        ..ServerConfig::new(args.listen)
    })?;
    let address = server.address();
    session.note(format_args!("listening on http://{address}"));
    session.object(&json!({ "listening": address.to_string() }))?;
    server.run(|| open(args, session), ended_by_signal())
}

/// The checkpoint, and with each adapter.
fn open(args: &ServeArgs, session: &Session) -> Result<Vec<NamedPipeline>> {
    let own = || Some(args.checkpoint.canonicalize().ok()?.file_name()?.to_str()?.to_owned());
    let name = args.name.clone().or_else(own).unwrap_or_else(|| "calumma".to_owned());
    let adapters = args.adapter.iter();
    let models = adapters.map(|named| (named.name.clone(), vec![named.adapter.clone()]));
    let opened = |(name, adapters): (String, Vec<WeightedAdapter>)| {
        let adapters = AdapterArgs::from(adapters);
        let pipeline = open::pipeline(&args.checkpoint, &adapters, session)?;
        session.note(format_args!("serving {name}"));
        Ok(NamedPipeline { name, pipeline: pipeline.with_window(args.window) })
    };
    [(name, Vec::new())].into_iter().chain(models).map(opened).collect()
}

/// The key in the first line of `file`.
fn key(file: &Path) -> Result<ApiKey> {
    let text = std::fs::read_to_string(file).map_err(Error::io(file))?;
    ApiKey::new(text.lines().next().unwrap_or_default().trim()).map_err(Error::in_file(file))
}
