//! Second-pass rescoring of N-best lists with low-rank adapted BERT (LoRB, arXiv 2309.15223).
//!
//! The program `lorb-engine` and the Python package are thin layers over this library. It rescores lists so:
//!
//! ```no_run
//! use std::path::Path;
//!
//! use lorb_engine::device::AnyDevice;
//! use lorb_engine::device::cpu::Cpu;
//! use lorb_engine::hub::{Kind, locate};
//! use lorb_engine::nbest::read_all;
//! use lorb_engine::rescore::head::Head;
//! use lorb_engine::rescore::prune::Margin;
//! use lorb_engine::rescore::rescorer::Rescorer;
//! use lorb_engine::rescore::settings::ListOptions;
//! use lorb_engine::rescore::weights::order;
//!
//! # fn main() -> lorb_engine::Result<()> {
//! let base = locate(Path::new("BERT"), Kind::Model, &|_| ())?;
//! let adapter = locate(Path::new("adapter"), Kind::Adapter, &|_| ())?;
//! let head = Head::open(Some(base), Some(adapter), &ListOptions::default())?;
//! // The weights of the scores, and which fields of a list have them, as they were tuned with the adapter.
//! let rescoring = head.settings.rescoring.clone();
//! let rescorer = Rescorer::of_head(AnyDevice::Cpu(Cpu::of_environment()?), head)?;
//!
//! let lists = read_all(&["lists.jsonl.gz"], &rescoring.fields)?;
//! let scored = rescorer.score(&lists, Margin::NONE)?;
//! for (utterance, features) in lists.iter().zip(&scored.features) {
//!     let totals: Vec<f64> = features.iter().flatten().map(|f| rescoring.weights.combined(f)).collect();
//!     let best = order(&totals)[0];
//!     println!("{} {}", utterance.id, utterance.hypotheses[best].text);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`train::job::Job`] trains an adapter, [`rescore::evaluate::Evaluate`] counts word errors, [`serve`] is the service.
//! Beneath them, [`bert::Encoder`] is written once for every [`device::Device`], whose operations are in [`ops`]; what
//! depends on a trained parameter is recorded on a [`tape`].

pub mod atomic;
pub mod bert;
pub mod builtin;
pub mod card;
pub mod device;
pub mod error;
pub mod hub;
pub mod lora;
pub mod model;
pub mod nbest;
pub mod ops;
pub mod profile;
pub mod report;
pub mod rescore;
pub mod serve;
pub mod tape;
pub mod text;
pub mod train;

pub use error::{Error, Result};
