//! `calumma serve`: OpenAI's protocol over HTTP, with images in and out.
//!
//! ```text
//! connection -> access -> route: reads and checks the body           (async, axum)
//!                           |
//!                        Work: decodes images, makes the prompt's ids (a blocking thread)
//!                           |  Job                     ^ Step
//!                           v                          |
//!                        worker: one engine per model, one pass of each after the other (one thread)
//! ```
//!
//! A request is refused before any work if the server is full. What a client gets depends on its request alone: the
//! engine's results do not depend on what runs beside them. A dropped connection ends its jobs within one pass.

mod access;
mod body;
mod config;
mod fault;
mod form;
mod image_data;
mod listener;
mod metrics;
mod remote;
mod routes;
mod sampling;
mod state;
mod work;
mod worker;

pub use config::{ApiKey, Limits, NamedPipeline, ServerConfig};
pub use listener::{Server, ended_by_signal};
pub use remote::ImageHost;
pub use routes::{check_body, check_image};
