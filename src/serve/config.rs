//! What a service may use, and what it accepts.

use std::path::PathBuf;
use std::time::Duration;

use super::Secret;
use crate::{Error, Result};

/// How a service runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// The folder whose folders are the adapters; without one the model's own head scores.
    pub adapters: Option<PathBuf>,
    /// Memory of the device for adapters.
    pub adapter_bytes: usize,
    /// Memory for scores that are known already; 0 keeps none.
    pub cache_bytes: usize,
    /// Who may score, and who may load and unload, where not everybody may.
    pub token: Option<Secret>,
    pub admin_token: Option<Secret>,
    /// Whether logs hold the text of hypotheses.
    pub log_text: bool,
    pub limits: Limits,
}

/// What is refused, and what is not waited for.
#[derive(Debug, Clone)]
pub struct Limits {
    pub body_bytes: usize,
    /// Utterances of a request.
    pub utterances: usize,
    /// Hypotheses of an utterance.
    pub hypotheses: usize,
    /// Tokens of a request.
    pub tokens: usize,
    /// Tokens that wait for the compute thread.
    pub queue_tokens: usize,
    /// Tokens of a batch; `None` for what keeps the device busy.
    pub batch_tokens: Option<usize>,
    /// Requests that are being answered. While they are read, bodies may take the bytes of so many of the largest.
    pub requests: usize,
    pub connections: usize,
    /// How long a request may wait for its scores once its body was read, whatever deadline it gives.
    pub max_wait: Duration,
    /// How long a client may take to send the head of a request, and then its body; and how long its connection may
    /// take nothing of an answer.
    pub read_timeout: Duration,
    /// How long requests and batches may take that are under way when the service ends.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            body_bytes: 1 << 20,
            utterances: 256,
            hypotheses: 1000,
            tokens: 1 << 16,
            queue_tokens: 1 << 17,
            batch_tokens: None,
            requests: 256,
            connections: 1024,
            max_wait: Duration::from_secs(2),
            read_timeout: Duration::from_secs(10),
            drain: Duration::from_secs(30),
        }
    }
}

impl Limits {
    /// Refuses limits under which some request that is within them could never be answered.
    ///
    /// # Errors
    /// [`Error::Usage`] with the numbers.
    pub fn check(&self) -> Result<()> {
        if self.queue_tokens < self.tokens {
            return Err(Error::Usage(format!(
                "a request may have {} tokens, but only {} may wait: raise --queue-tokens or lower --max-tokens",
                self.tokens, self.queue_tokens
            )));
        }
        Ok(())
    }
}
