//! Low-rank adapters: their parameters, initialisation, PEFT files and merging.

pub mod adapter;
pub mod config;
pub mod layout;
mod merge;
pub(crate) mod name;
mod peft;

pub use adapter::Adapter;
pub use config::{LoraConfig, Target, Targets};
pub use layout::{Entry, Group, Kind, Layout, LoraSlot};
pub use merge::merge;
