//! The front of Hearth.
//!
//! One daemon keeps models ready and serves them over gRPC. It supervises one engine process per loaded
//! model and never touches llama.cpp, a template or a GGUF itself: whatever may crash does so elsewhere.
//!
//! Read in this order: [`app`] wires everything; [`rpc`] is the door for clients; [`engines`] decides who
//! gets which model and drives the processes; [`memory`] says whether a model fits; [`store`] is what is
//! on disk. [`access`] says who may do what, [`config`] what the daemon was told. [`units`] holds the words that all of them share.

pub mod app;
pub mod config;
pub mod metrics;
pub mod telemetry;

pub mod lifecycle;
pub mod listen;
pub mod reload;
pub mod tls;

pub mod access;
pub mod rpc;

pub mod engines;

pub mod board;
pub mod memory;
pub mod store;

pub mod units;
