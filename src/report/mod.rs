//! A training run as one HTML page that needs nothing else: what was trained, how the losses went, and which
//! hypotheses changed places.

mod charts;
mod curve;
mod examples;
mod page;
mod plot;

pub use page::html;
