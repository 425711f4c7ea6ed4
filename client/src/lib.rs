//! Thin async client of Hearth, the daemon that keeps language models ready on a small board.
//!
//! ```no_run
//! use hearth_client::{ChatRequest, Client, Endpoint, GenerationEvent};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(Endpoint::from_env()?).await?;
//! let request = ChatRequest::new("demo").system("You run a weather station.").user("Hello!");
//! let mut generation = client.generate(request).await?;
//! while let Some(event) = generation.next().await {
//!     if let GenerationEvent::Text(delta) = event? {
//!         print!("{}", delta.text);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! What the wire carries is in [`v1`], commented field by field; this crate adds the way to the daemon
//! ([`Endpoint`], [`Client`], and [`ClientBuilder`] for tokens, TLS, timeouts and retries), a request that reads like a conversation ([`ChatRequest`]), streams of
//! typed events ([`Generation`], [`Events`]) and errors that say what to do next ([`Error`]).
//!
//! Feature `tls` brings `https` endpoints; the default feature `cli` brings the command line `hearth`, which a
//! program that wants the library alone turns off.
//!
//! Dropping a [`Generation`], or the future that makes one, cancels the work on the board.

mod builder;
mod call;
mod chat;
mod client;
mod endpoint;
mod error;
mod events;
mod generation;
pub mod reason;
mod retry;
#[cfg(feature = "tls")]
mod tls;
mod token;
mod upload;

pub use hearth_proto::v1;

pub use builder::ClientBuilder;
pub use call::{Call, CallOptions};
pub use chat::ChatRequest;
pub use client::Client;
pub use endpoint::{BadEndpoint, DEFAULT_ENDPOINT, ENDPOINT_VARIABLE, Endpoint};
pub use error::{Code, Error, FieldViolation, QuotaViolation, Refusal};
pub use events::{Events, ImportEvent, LoadEvent, ModelChange};
pub use generation::{Answer, Generation, GenerationEvent};
pub use retry::Retry;
#[cfg(feature = "tls")]
pub use tls::Tls;
pub use token::{BadToken, TOKEN_VARIABLE, Token};
