//! `serve`: the program itself on loopback.

#[path = "../support/browser.rs"]
mod browser;
#[path = "../support/mod.rs"]
mod support;

mod adapters;
mod answers;
mod bad_requests;
mod clients;
mod compute;
mod drain;
mod embedded;
mod figures;
mod harness;
mod http;
mod overload;
mod page;
mod safety;
mod scores;
mod server_option;
