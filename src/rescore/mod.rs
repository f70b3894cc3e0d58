//! Rescoring: scores of lists that stream by, their combination, its weights, and how good it is.

pub mod confidence;
pub mod domains;
pub mod evaluate;
pub mod head;
pub mod judge;
pub mod ngram;
pub mod output;
pub mod prune;
pub mod read_ahead;
pub mod rescorer;
pub mod rewrite;
pub mod scorer;
pub mod settings;
pub mod stream;
pub mod tune;
pub mod weights;
