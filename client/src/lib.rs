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
//! typed events ([`Generation`], [`Conversation`], [`Events`]) and errors that say what to do next ([`Error`]).
//!
//! Feature `tools` brings functions that a model calls ([`Tools`], [`Client::run_tools`]). Feature `tls` brings `https` endpoints; the default feature `cli` brings the command line `hearth`, which a
//! program that wants the library alone turns off.
//!
//! Dropping a [`Generation`] or a [`Conversation`], or the future that makes one, cancels the work on the board.

mod builder;
mod call;
mod chat;
mod client;
mod conversation;
mod endpoint;
mod error;
mod events;
mod generation;
mod load;
pub mod reason;
mod retry;
#[cfg(feature = "tools")]
mod run;
#[cfg(feature = "tls")]
mod tls;
mod token;
#[cfg(feature = "tools")]
mod tools;
mod upload;

pub use hearth_proto::v1;
pub use hearth_proto::v1::KvType;

pub use builder::ClientBuilder;
pub use call::{Call, CallOptions};
pub use chat::ChatRequest;
pub use client::Client;
pub use conversation::{Conversation, Reply};
pub use endpoint::{BadEndpoint, DEFAULT_ENDPOINT, ENDPOINT_VARIABLE, Endpoint};
pub use error::{Code, Error, FieldViolation, QuotaViolation, Refusal};
pub use events::{Events, ImportEvent, LoadEvent, ModelChange};
pub use generation::{Answer, Generation, GenerationEvent};
pub use load::{KeepAlive, LoadOptions};
pub use retry::Retry;
#[cfg(feature = "tools")]
pub use run::{Called, RunError, RunEvent, RunOptions, RunOutcome};
#[cfg(feature = "tls")]
pub use tls::Tls;
pub use token::{BadToken, TOKEN_VARIABLE, Token};
#[cfg(feature = "tools")]
pub use tools::{NoArguments, Tools};

/// What the arguments of a tool are described with: derive `schemars::JsonSchema` with
/// `#[schemars(crate = "hearth_client::schemars")]`, and a program needs no dependency of its own.
#[cfg(feature = "tools")]
pub use schemars;
/// What the arguments of a tool are read with: derive `serde::Deserialize` with
/// `#[serde(crate = "hearth_client::serde")]`, and a program needs no dependency of its own.
#[cfg(feature = "tools")]
pub use serde;
/// JSON, for the results of tools.
#[cfg(feature = "tools")]
pub use serde_json;
