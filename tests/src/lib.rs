//! Support for Hearth's end-to-end tests: a real daemon with real engines on a socket in a temporary
//! folder, and model files made on the spot.
//!
//! - [`daemon`]: starts, asks, kills and restarts `hearthd`;
//! - [`fixture`]: model files;
//! - [`cli`]: runs `hearth`;
//! - [`heldout`]: the cases that the demo model is measured by;
//! - [`journal`]: plays journald;
//! - [`manager`]: plays systemd;
//! - [`user`]: other users;
//! - [`schemas`]: JSON Schemas and an independent judge of them;
//! - [`answer`]: reads generations the way tests need them;
//! - [`eventually`]: waits for a condition, as the last resort.

pub mod answer;
pub mod cli;
pub mod daemon;
pub mod eventually;
pub mod fixture;
pub mod group;
pub mod heldout;
pub mod journal;
pub mod manager;
pub mod schemas;
pub mod user;

pub use daemon::{Launch, TestDaemon};
