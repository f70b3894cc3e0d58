//! Rescoring as a service: N-best lists over HTTP, many adapters on one base.
//!
//! A request goes through one file after the other: `http` and `body` read it, `registry` has its adapters, `ask`
//! makes token ids of it and asks `cache` what is known, `queue` holds the rest until `compute`, the one
//! thread that scores, takes it in the order of `scheduler`.

mod ask;
mod auth;
mod body;
mod cache;
mod client;
mod compute;
mod config;
mod http;
mod listen;
mod metrics;
mod observe;
mod openapi;
mod page;
mod problem;
mod queue;
mod registry;
mod scheduler;
mod service;
mod wire;

pub use auth::{Secret, read_token};
pub use client::Client;
pub use compute::{Computing, Score};
pub use config::{Config, Limits};
pub use listen::{bind, serve};
pub use openapi::OPENAPI;
pub use service::Service;
pub use wire::{
    Answer, AnsweredFields, AnsweredHypothesis, AnsweredUtterance, Ask, AskedHypothesis, AskedUtterance,
    Reweighting,
};
