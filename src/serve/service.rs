//! What the parts of the service share.

use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::Semaphore;

use super::Secret;
use super::cache::ScoreCache;
use super::compute::{self, Computing, Row, Score};
use super::config::{Config, Limits};
use super::metrics;
use super::problem::Problem;
use super::queue::Queue;
use super::registry::Registry;
use crate::device::AnyDevice;
use crate::model::BaseModel;
use crate::rescore::scorer::Bank;
use crate::{Error, Result};

/// A service with its compute thread, ready for requests.
pub struct Service {
    pub(super) model: Arc<BaseModel>,
    pub(super) registry: Arc<Registry>,
    pub(super) queue: Arc<Queue<Row>>,
    pub(super) cache: Arc<ScoreCache>,
    pub(super) limits: Limits,
    pub(super) token: Option<Secret>,
    pub(super) admin_token: Option<Secret>,
    pub(super) log_text: bool,
    /// For requests whose answer is being made or written.
    pub(super) requests: Arc<Semaphore>,
    /// Bytes, for bodies that are being read.
    pub(super) bodies: Arc<Semaphore>,
    pub(super) figures: PrometheusHandle,
}

impl Service {
    /// Packs the base for its device and starts the compute thread, which ends with [`serve`](super::serve).
    ///
    /// # Errors
    /// Where the base, the adapters' folder or the limits are not what they should be.
    pub fn start(device: AnyDevice, model: BaseModel, config: Config) -> Result<(Arc<Service>, Computing)> {
        Self::start_with(device, model, config, |bank| Box::new(move |asked| bank.scores(asked)))
    }

    /// The same with something else in the place of the device's scores.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub fn start_with(
        device: AnyDevice,
        model: BaseModel,
        config: Config,
        score: impl FnOnce(Arc<Bank>) -> Box<Score>,
    ) -> Result<(Arc<Service>, Computing)> {
        let Config { adapters, adapter_bytes, cache_bytes, token, admin_token, log_text, limits } = config;
        limits.check()?;
        let figures = metrics::recorder();
        let bank = Arc::new(Bank::new(device, &model)?);
        let model = Arc::new(model);
        let registry = Registry::new(model.clone(), bank.clone(), adapters.as_deref(), adapter_bytes)?;
        let queue = Arc::new(Queue::new(limits.queue_tokens));
        let cache = Arc::new(ScoreCache::new(cache_bytes));
        let budget = limits.batch_tokens.unwrap_or(bank.batch_tokens());
        let computing = compute::start(queue.clone(), cache.clone(), budget, score(bank))
            .map_err(|e| Error::Usage(format!("cannot start the compute thread: {e}")))?;
        let requests = Arc::new(Semaphore::new(limits.requests));
        let room = limits.requests.saturating_mul(limits.body_bytes).min(Semaphore::MAX_PERMITS);
        let bodies = Arc::new(Semaphore::new(room));
        let registry = Arc::new(registry);
        let service = Service {
            model,
            registry,
            queue,
            cache,
            limits,
            token,
            admin_token,
            log_text,
            requests,
            bodies,
            figures,
        };
        Ok((Arc::new(service), computing))
    }

    /// Tells whoever asks that new requests should go elsewhere.
    pub(super) fn drain(&self) {
        self.queue.drain();
    }

    /// What waits is still computed; then the compute thread ends.
    pub(super) fn close(&self) {
        self.queue.close();
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Refuses a request that is too long for the service.
    pub(super) fn check_tokens(&self, tokens: usize) -> Result<(), Problem> {
        let most = self.limits.tokens;
        if tokens > most {
            let problem = format!("there are {tokens} tokens, and {most} are the most");
            return Err(Problem::too_large(Some("utterances".into()), problem));
        }
        Ok(())
    }

    /// The metrics as Prometheus reads them.
    pub(super) fn figures(&self) -> String {
        let (adapter_bytes, _) = self.registry.memory();
        metrics::now(&self.queue.depth(), self.cache.bytes(), self.registry.count(), adapter_bytes);
        self.figures.render()
    }

    /// Keeps what is measured from piling up where nobody reads it.
    pub(super) fn upkeep(&self) {
        self.figures.run_upkeep();
    }
}
