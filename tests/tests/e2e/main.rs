//! End-to-end tests: real daemon, real engines, real sockets. One program, since each links everything anew.

mod access;
mod batch;
mod cli;
mod config;
mod converse;
mod crash;
mod demo;
mod fixtures;
mod forms;
mod generate;
mod lifecycle;
mod logs;
mod memory;
mod metrics;
mod sandbox;
mod services;
mod store;
mod terminal;
mod tidy;
