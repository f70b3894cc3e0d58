//! Training of an adapter: epochs of steps, each followed by a validation that keeps the best parameters;
//! killed at any moment, it goes on from its last checkpoint to the same result.
//!
//! A [`job::Job`] is a run as users ask for it, from files to files; a [`run::Run`] its loop, over a
//! [`learner::Learner`] on some device.

mod asked;
pub mod base;
pub mod batch;
pub mod checkpoint;
pub mod cross_fit;
pub mod domain;
pub mod examples;
pub mod head_fit;
pub mod identity;
pub mod job;
pub mod learner;
pub mod metrics;
mod model_card;
pub mod options;
mod pace;
pub mod prepared;
pub mod progress;
pub mod run;
pub mod sampling;
pub mod schedule;
pub mod step;
pub mod summary;
pub mod team;
mod under_way;
mod validation_lists;

pub use asked::Asked;
pub use options::{Beta, TrainOptions};
pub use progress::{Losses, Observer, StepReport, Validation};
pub use run::{Outcome, Run};
pub use validation_lists::ValidationLists;
