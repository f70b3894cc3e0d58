//! The one thread that scores. Whatever becomes of it, everybody who waits gets an answer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;
use std::{io, mem};

use tokio::sync::oneshot;

use super::cache::ScoreCache;
use super::metrics;
use super::problem::Problem;
use super::queue::{Queue, Work};
use super::registry::Loaded;
use crate::rescore::scorer::Seat;
use crate::{Error, Result};

/// What scores: [`crate::rescore::scorer::Bank::scores`], or what a test puts in its place.
pub type Score = dyn Fn(&[(Arc<Seat>, Arc<[u32]>)]) -> Result<Vec<f32>> + Send;

/// A hypothesis that waits for its score.
pub(super) struct Row {
    pub adapter: Arc<Loaded>,
    pub tokens: Arc<[u32]>,
    /// Its place in the answer.
    pub place: usize,
    pub answer: Arc<Gather>,
}

/// The scores of an utterance as they come in.
pub(super) struct Gather(Mutex<Gathering>);

struct Gathering {
    scores: Vec<f32>,
    missing: usize,
    to: Option<oneshot::Sender<Result<Vec<f32>, Problem>>>,
    /// Until its first batch begins.
    queued: Option<Instant>,
}

impl Gather {
    /// Waits for the scores of `rows` rows.
    pub fn new(rows: usize) -> (Arc<Gather>, oneshot::Receiver<Result<Vec<f32>, Problem>>) {
        let (to, answer) = oneshot::channel();
        let queued = Some(Instant::now());
        let gathering = Gathering { scores: vec![0.0; rows], missing: rows, to: Some(to), queued };
        (Arc::new(Gather(Mutex::new(gathering))), answer)
    }

    /// Whether nobody waits any more.
    fn is_gone(&self) -> bool {
        self.lock().to.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    /// Notes once how long the utterance waited for its first batch.
    fn started(&self) {
        let queued = self.lock().queued.take();
        if let Some(queued) = queued {
            metrics::stage("queue", queued.elapsed());
        }
    }

    fn put(&self, place: usize, score: f32) {
        let mut gathering = self.lock();
        gathering.scores[place] = score;
        gathering.missing -= 1;
        if gathering.missing == 0 {
            let scores = mem::take(&mut gathering.scores);
            gathering.answer(Ok(scores));
        }
    }

    fn fail(&self, problem: Problem) {
        self.lock().answer(Err(problem));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Gathering> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gathering {
    fn answer(&mut self, answer: Result<Vec<f32>, Problem>) {
        if let Some(to) = self.to.take() {
            // Whoever asked may have gone.
            let _ = to.send(answer);
        }
    }
}

/// The thread that scores, as one that waits for its end.
pub struct Computing(oneshot::Receiver<Result<()>>);

impl Computing {
    /// Waits until nothing is computed any more: because the queue was closed, or by a failure.
    ///
    /// # Errors
    /// [`Error::Device`] with the failure.
    pub(super) async fn ended(&mut self) -> Result<()> {
        let lost = |_| Err(Error::Device("the compute thread was lost".into()));
        (&mut self.0).await.unwrap_or_else(lost)
    }
}

/// Starts the thread; it ends when the queue is closed and empty, or when scoring fails.
pub(super) fn start(
    queue: Arc<Queue<Row>>,
    cache: Arc<ScoreCache>,
    budget: usize,
    score: Box<Score>,
) -> io::Result<Computing> {
    let (to, ended) = oneshot::channel();
    thread::Builder::new().name("compute".into()).spawn(move || {
        let run = || {
            while let Some(work) = queue.next(budget, |row| row.answer.is_gone()) {
                compute(&queue, &cache, &score, work)?;
            }
            Ok(())
        };
        let ended = catch_unwind(AssertUnwindSafe(run));
        let ended = ended.unwrap_or_else(|_| Err((Vec::new(), "the compute thread panicked".into())));
        let ended = ended.map_err(|(batch, reason): (Vec<Row>, String)| {
            tracing::error!(reason, "nothing is computed any more");
            // Whoever is told so finds the service not ready.
            let waiting = queue.end(&reason);
            refuse(batch, &reason);
            refuse(waiting, &reason);
            Error::Device(format!("nothing is computed any more: {reason}"))
        });
        // Who started it may not wait for its end.
        let _ = to.send(ended);
    })?;
    Ok(Computing(ended))
}

/// Computes a batch; the error is what has no score, and why there can be no other batch.
fn compute(
    queue: &Queue<Row>,
    cache: &ScoreCache,
    score: &Score,
    work: Work<Row>,
) -> Result<(), (Vec<Row>, String)> {
    let Work { batch, expired } = work;
    for (row, _) in expired.into_iter().flat_map(|job| job.rows) {
        row.answer.fail(Problem::deadline());
    }
    if batch.is_empty() {
        return Ok(());
    }
    batch.iter().for_each(|row| row.answer.started());
    let asked: Vec<_> = batch.iter().map(|row| (row.adapter.seat.clone(), row.tokens.clone())).collect();
    let tokens: usize = batch.iter().map(|row| row.tokens.len()).sum();
    let start = Instant::now();
    let reason = match catch_unwind(AssertUnwindSafe(|| score(&asked))) {
        Ok(Ok(scores)) => {
            let time = start.elapsed();
            queue.computed(tokens, time);
            metrics::batch(batch.len(), tokens, time);
            // Whoever has an answer finds its adapters let go of.
            drop(asked);
            for (Row { adapter, tokens, place, answer }, score) in batch.into_iter().zip(scores) {
                cache.insert(adapter.identity, tokens, score);
                drop(adapter);
                answer.put(place, score);
            }
            return Ok(());
        }
        Ok(Err(error)) => format!("scoring failed: {error}"),
        Err(_) => "scoring panicked".into(),
    };
    // A device that failed once gives no more answers, and what panicked may have left anything behind.
    Err((batch, reason))
}

fn refuse(rows: Vec<Row>, reason: &str) {
    rows.iter().for_each(|row| row.answer.fail(Problem::unavailable(reason)));
}
