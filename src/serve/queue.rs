//! What waits for the compute thread: bounded, and shared between it and everybody who asks.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::problem::Problem;
use super::scheduler::{Job, Scheduler};

/// A batch that takes longer than this has hung.
const STALLED: Duration = Duration::from_secs(30);

const FULL: &str = "the queue is full";

pub(super) struct Queue<P> {
    state: Mutex<State<P>>,
    /// Something waits, or nothing will any more.
    changed: Condvar,
    limit: usize,
}

struct State<P> {
    scheduler: Scheduler<P>,
    /// When the batch was taken that is being computed.
    computing: Option<Instant>,
    /// Tokens a second of the last batches; 0 before the first.
    rate: f64,
    draining: bool,
    closed: bool,
    /// Why nothing is computed any more.
    ended: Option<String>,
}

/// What the compute thread does next.
pub(super) struct Work<P> {
    pub batch: Vec<P>,
    /// What was given up.
    pub expired: Vec<Job<P>>,
}

/// How full the queue is.
pub(super) struct Depth {
    pub tokens: usize,
    pub jobs: usize,
}

impl<P> Queue<P> {
    pub fn new(limit: usize) -> Queue<P> {
        let state = State {
            scheduler: Scheduler::new(),
            computing: None,
            rate: 0.0,
            draining: false,
            closed: false,
            ended: None,
        };
        Queue { state: Mutex::new(state), changed: Condvar::new(), limit }
    }

    /// Takes all jobs or none.
    ///
    /// # Errors
    /// Where they have no room, or nothing is computed any more.
    pub fn push(&self, jobs: Vec<Job<P>>) -> Result<(), Problem> {
        let mut state = self.lock();
        state.check()?;
        let more: usize = jobs.iter().map(Job::tokens).sum();
        if state.scheduler.tokens() + more > self.limit {
            return Err(state.busy(FULL));
        }
        jobs.into_iter().for_each(|job| state.scheduler.push(job));
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Refuses what would be refused later, before any work is done for it.
    pub fn check_room(&self) -> Result<(), Problem> {
        let state = self.lock();
        state.check()?;
        if state.scheduler.tokens() >= self.limit { Err(state.busy(FULL)) } else { Ok(()) }
    }

    /// The answer to those for whom there is no room elsewhere: `message` says where.
    pub fn busy(&self, message: &str) -> Problem {
        self.lock().busy(message)
    }

    /// Waits for work; `None` once there will be none.
    pub fn next(&self, budget: usize, gone: impl Fn(&P) -> bool) -> Option<Work<P>> {
        let mut state = self.lock();
        state.computing = None;
        loop {
            let now = Instant::now();
            let expired = state.scheduler.expire(now, &gone);
            let batch = state.scheduler.take(budget, now);
            if !batch.is_empty() || !expired.is_empty() {
                state.computing = Some(now);
                return Some(Work { batch, expired });
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Tells how fast a batch was computed.
    pub fn computed(&self, tokens: usize, time: Duration) {
        let rate = tokens as f64 / time.as_secs_f64().max(1e-6);
        let mut state = self.lock();
        state.rate = if state.rate == 0.0 { rate } else { 0.9 * state.rate + 0.1 * rate };
    }

    /// New requests should go elsewhere; those that come are still computed.
    pub fn drain(&self) {
        self.lock().draining = true;
    }

    /// No more requests come: [`next`](Self::next) gives `None` when all is computed.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// Nothing is computed any more; what waits is given back.
    pub fn end(&self, reason: &str) -> Vec<P> {
        let mut state = self.lock();
        state.ended.get_or_insert_with(|| reason.into());
        state.computing = None;
        let everything = state.scheduler.drain();
        self.changed.notify_all();
        everything
    }

    /// Why requests should go elsewhere, if they should.
    pub fn not_ready(&self) -> Option<String> {
        let state = self.lock();
        let stalled = state.computing.is_some_and(|since| since.elapsed() > STALLED);
        match &state.ended {
            Some(reason) => Some(reason.clone()),
            None if state.draining => Some("the service is ending".into()),
            None if stalled => Some("a batch does not end".into()),
            None => None,
        }
    }

    pub fn depth(&self) -> Depth {
        let state = self.lock();
        Depth { tokens: state.scheduler.tokens(), jobs: state.scheduler.jobs() }
    }

    fn lock(&self) -> MutexGuard<'_, State<P>> {
        // Nothing in here leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P> State<P> {
    fn check(&self) -> Result<(), Problem> {
        match &self.ended {
            Some(reason) => Err(Problem::unavailable(reason.clone())),
            None => Ok(()),
        }
    }

    /// When half of what waits will be done.
    fn busy(&self, message: &str) -> Problem {
        let seconds = self.scheduler.tokens() as f64 / 2.0 / self.rate.max(1.0);
        Problem::busy(message, if self.rate == 0.0 { 1 } else { seconds.ceil().clamp(1.0, 60.0) as u64 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(tokens: usize) -> Job<u32> {
        let queued = Instant::now();
        let deadline = queued + Duration::from_secs(5);
        Job { client: "c".into(), queued, deadline, rows: [(7, tokens)].into() }
    }

    #[test]
    fn there_is_a_bound_and_a_request_has_all_its_room_or_none() {
        let queue = Queue::new(100);
        queue.push(vec![job(60)]).unwrap();
        queue.check_room().unwrap();
        let refused = queue.push(vec![job(20), job(30)]).unwrap_err();
        assert_eq!((refused.code, refused.retry_after), ("busy", Some(1)));
        assert_eq!(queue.depth().tokens, 60);
        queue.push(vec![job(40)]).unwrap();
        assert_eq!(queue.check_room().unwrap_err().code, "busy");
        queue.computed(10, Duration::from_secs(1));
        assert_eq!(queue.check_room().unwrap_err().retry_after, Some(5));
        let work = queue.next(1000, |_| false).unwrap();
        assert_eq!((work.batch.len(), queue.depth().tokens), (2, 0));
    }

    #[test]
    fn draining_computes_what_is_there_and_ends() {
        let queue = Queue::new(100);
        queue.push(vec![job(60)]).unwrap();
        queue.drain();
        assert!(queue.not_ready().unwrap().contains("ending"));
        queue.push(vec![job(10)]).unwrap();
        queue.close();
        assert_eq!(queue.next(60, |_| false).unwrap().batch.len(), 1);
        assert_eq!(queue.next(10, |_| false).unwrap().batch, [7]);
        assert!(queue.next(10, |_| false).is_none());
    }

    #[test]
    fn what_a_batch_left_is_given_back_whatever_credit_its_client_has() {
        let queue = Queue::new(1000);
        let mut long = job(7);
        long.rows.extend([(7, 7), (7, 7)]);
        queue.push(vec![long]).unwrap();
        assert_eq!(queue.next(10, |_| false).unwrap().batch, [7]);
        assert_eq!(queue.end("it broke"), [7, 7]);
        assert_eq!((queue.depth().tokens, queue.depth().jobs), (0, 0));
    }

    #[test]
    fn after_the_end_everything_is_refused_and_given_back() {
        let queue = Queue::new(100);
        queue.push(vec![job(60)]).unwrap();
        assert_eq!(queue.not_ready(), None);
        assert_eq!(queue.end("it broke"), [7]);
        assert_eq!(queue.push(vec![job(1)]).unwrap_err().code, "unavailable");
        assert_eq!(queue.not_ready().unwrap(), "it broke");
    }

    #[test]
    fn a_batch_that_does_not_end_is_told_of_until_the_next() {
        let queue = Queue::new(100);
        let hang = || queue.lock().computing = Instant::now().checked_sub(STALLED + Duration::from_secs(1));
        hang();
        assert!(queue.not_ready().unwrap().contains("does not end"));
        queue.push(vec![job(10)]).unwrap();
        queue.next(10, |_| false).unwrap();
        assert_eq!(queue.not_ready(), None);
        hang();
        queue.close();
        assert!(queue.next(10, |_| false).is_none());
        assert_eq!(queue.not_ready(), None, "nothing is computed");
    }

    #[test]
    fn one_fast_batch_promises_little() {
        let queue = Queue::new(100);
        queue.push(vec![job(100)]).unwrap();
        queue.computed(10, Duration::from_secs(1));
        queue.computed(60, Duration::from_secs(1));
        assert_eq!(queue.check_room().unwrap_err().retry_after, Some(4), "50 tokens, 15 a second");
    }

    #[test]
    fn the_first_reason_to_end_is_the_one_that_is_told() {
        let queue = Queue::<u32>::new(100);
        queue.end("it broke");
        queue.end("it ended");
        assert_eq!(queue.not_ready().unwrap(), "it broke");
    }
}
