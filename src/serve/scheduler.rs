//! Which hypotheses are scored next. A pure structure: it knows no clock, no thread and no model.
//!
//! - A batch is whatever waits when the device is free, up to a number of tokens: nobody waits for company.
//! - Clients take turns by tokens (deficit round robin, Shreedhar and Varghese 1995), so that none is slower for
//!   what another sends.
//! - Of one client, the utterance with the highest response ratio goes first (Brinch Hansen 1971): the time that it has
//!   waited over the tokens that it has left. A short list passes a long one, which is cut over batches, and gets its
//!   turn as it waits. (Simulated: with the fewest tokens first the slowest of a hundred take twice as long at 85 % load.)

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

/// An utterance with hypotheses to score.
pub(super) struct Job<P> {
    pub client: Arc<str>,
    pub queued: Instant,
    pub deadline: Instant,
    /// What each hypothesis brings along, with its tokens.
    pub rows: VecDeque<(P, usize)>,
}

impl<P> Job<P> {
    pub fn tokens(&self) -> usize {
        self.rows.iter().map(|(_, tokens)| tokens).sum()
    }
}

pub(super) struct Scheduler<P> {
    lanes: HashMap<Arc<str>, Lane<P>>,
    /// The clients, whose turn it is first.
    turns: VecDeque<Arc<str>>,
    tokens: usize,
}

/// What one client waits for.
struct Lane<P> {
    /// Whose turn it is first, once they are in order.
    jobs: VecDeque<Waiting<P>>,
    /// Tokens that it may take before the next has its turn.
    credit: usize,
}

struct Waiting<P> {
    job: Job<P>,
    /// What it has left.
    tokens: usize,
}

impl<P> Scheduler<P> {
    pub fn new() -> Scheduler<P> {
        Scheduler { lanes: HashMap::new(), turns: VecDeque::new(), tokens: 0 }
    }

    /// The tokens that wait.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    pub fn jobs(&self) -> usize {
        self.lanes.values().map(|lane| lane.jobs.len()).sum()
    }

    pub fn push(&mut self, job: Job<P>) {
        let tokens = job.tokens();
        self.tokens += tokens;
        let turns = &mut self.turns;
        let lane = self.lanes.entry(job.client.clone()).or_insert_with(|| {
            turns.push_back(job.client.clone());
            Lane { jobs: VecDeque::new(), credit: 0 }
        });
        lane.jobs.push_back(Waiting { job, tokens });
    }

    /// Removes what nobody needs any more: where the deadline has passed, or `gone` says so.
    pub fn expire(&mut self, now: Instant, gone: impl Fn(&P) -> bool) -> Vec<Job<P>> {
        let mut expired = Vec::new();
        for lane in self.lanes.values_mut() {
            // All rows of a job are for the same answer.
            let is_over = |Waiting { job, .. }: &Waiting<P>| {
                job.deadline <= now || job.rows.front().is_some_and(|(row, _)| gone(row))
            };
            let (over, left): (VecDeque<_>, VecDeque<_>) = lane.jobs.drain(..).partition(is_over);
            lane.jobs = left;
            self.tokens -= over.iter().map(|waiting| waiting.tokens).sum::<usize>();
            expired.extend(over.into_iter().map(|waiting| waiting.job));
        }
        self.forget_idle();
        expired
    }

    /// The next batch, of at most `budget` tokens, but at least one row where any waits.
    pub fn take(&mut self, budget: usize, now: Instant) -> Vec<P> {
        let mut batch = Batch { rows: Vec::new(), tokens: 0 };
        self.lanes.values_mut().for_each(|lane| lane.order(now));
        let share = (budget / self.turns.len().max(1)).max(1);
        while let Some(client) = self.turns.front().cloned() {
            let lane = self.lanes.get_mut(&client).expect("turns and lanes agree");
            if lane.jobs.is_empty() {
                self.lanes.remove(&client);
                self.turns.pop_front();
                continue;
            }
            let taken = lane.take(budget, &mut batch);
            if taken > 0 {
                lane.credit -= taken;
                continue;
            }
            if batch.is_full(budget, lane.next_tokens()) {
                break;
            }
            lane.credit += share;
            self.turns.rotate_left(1);
        }
        self.tokens -= batch.tokens;
        self.forget_idle();
        batch.rows
    }

    /// Everything that waits.
    pub fn drain(&mut self) -> Vec<P> {
        let Scheduler { lanes, .. } = std::mem::replace(self, Scheduler::new());
        let jobs = lanes.into_values().flat_map(|lane| lane.jobs);
        jobs.flat_map(|waiting| waiting.job.rows).map(|(row, _)| row).collect()
    }

    /// Whoever has nothing to wait for keeps no credit.
    fn forget_idle(&mut self) {
        self.lanes.retain(|_, lane| !lane.jobs.is_empty());
        let lanes = &self.lanes;
        self.turns.retain(|client| lanes.contains_key(client));
    }
}

struct Batch<P> {
    rows: Vec<P>,
    tokens: usize,
}

impl<P> Batch<P> {
    fn is_full(&self, budget: usize, next: usize) -> bool {
        !self.rows.is_empty() && self.tokens + next > budget
    }
}

impl<P> Lane<P> {
    /// The highest response ratio first; of equal ones the fewest tokens, then who came first.
    fn order(&mut self, now: Instant) {
        let ratio = |waiting: &Waiting<P>| {
            now.saturating_duration_since(waiting.job.queued).as_secs_f64() / waiting.tokens as f64
        };
        self.jobs.make_contiguous().sort_by(|a, b| {
            let by_ratio = ratio(b).total_cmp(&ratio(a));
            by_ratio.then(a.tokens.cmp(&b.tokens)).then(a.job.queued.cmp(&b.job.queued))
        });
    }

    /// The tokens of the row that is next.
    fn next_tokens(&self) -> usize {
        self.jobs.front().and_then(|waiting| waiting.job.rows.front()).map_or(0, |(_, tokens)| *tokens)
    }

    /// Moves rows of the first job into the batch while there is room and credit; gives their tokens.
    fn take(&mut self, budget: usize, batch: &mut Batch<P>) -> usize {
        let Some(first) = self.jobs.front_mut() else { return 0 };
        let mut taken = 0;
        while let Some((_, tokens)) = first.job.rows.front() {
            if batch.is_full(budget, *tokens) || taken + tokens > self.credit {
                break;
            }
            let (row, tokens) = first.job.rows.pop_front().expect("it is there");
            batch.rows.push(row);
            batch.tokens += tokens;
            taken += tokens;
        }
        first.tokens -= taken;
        if first.job.rows.is_empty() {
            self.jobs.pop_front();
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    /// A job of `rows` rows of 10 tokens; each row is the job's name.
    fn job(client: &str, name: u32, rows: usize, queued: Instant, patience: u64) -> Job<u32> {
        let deadline = queued + Duration::from_millis(patience);
        Job { client: client.into(), queued, deadline, rows: (0..rows).map(|_| (name, 10)).collect() }
    }

    fn counts(batch: &[u32]) -> BTreeMap<u32, usize> {
        let mut counts = BTreeMap::new();
        batch.iter().for_each(|name| *counts.entry(*name).or_default() += 1);
        counts
    }

    #[test]
    fn clients_share_a_batch_whatever_each_has_sent() {
        let (mut s, now) = (Scheduler::new(), Instant::now());
        (0..50).for_each(|_| s.push(job("greedy", 1, 10, now, 1000)));
        s.push(job("a", 2, 10, now, 1000));
        s.push(job("b", 3, 10, now, 1000));
        let counts = counts(&s.take(300, now));
        assert!(counts[&2] >= 9 && counts[&3] >= 9 && counts[&1] >= 9, "{counts:?}");
    }

    #[test]
    fn a_short_list_passes_a_long_one_which_is_not_put_off_for_ever() {
        let (mut s, now) = (Scheduler::new(), Instant::now());
        s.push(job("a", 1, 1000, now, 1000));
        assert_eq!(counts(&s.take(100, now)), [(1, 10)].into());
        s.push(job("a", 2, 5, now, 1000));
        assert_eq!(counts(&s.take(100, now)), [(1, 5), (2, 5)].into());
        // Short ones come without end: those that have waited for a while pass, those that came just now do not.
        let (then, later) = (now + Duration::from_millis(590), now + Duration::from_millis(600));
        (3..10).for_each(|name| s.push(job("a", name, 5, then, 1000)));
        (10..100).for_each(|name| s.push(job("a", name, 5, later, 1000)));
        let mut batches = (0..6).map(|_| counts(&s.take(100, later)));
        assert!(batches.by_ref().take(3).all(|batch| !batch.contains_key(&1)));
        assert_eq!(batches.next().unwrap(), [(1, 5), (9, 5)].into());
        assert!(batches.all(|batch| batch == [(1, 10)].into()));
    }

    #[test]
    fn what_nobody_needs_is_not_computed() {
        let (mut s, now) = (Scheduler::new(), Instant::now());
        s.push(job("a", 1, 3, now, 10));
        s.push(job("b", 2, 3, now, 100));
        s.push(job("b", 3, 3, now, 100));
        let expired = s.expire(now + Duration::from_millis(20), |&name| name == 3);
        let mut names: Vec<u32> = expired.iter().map(|job| job.rows[0].0).collect();
        names.sort();
        assert_eq!((names, s.tokens(), s.jobs()), (vec![1, 3], 30, 1));
        assert_eq!(s.take(100, now), [2, 2, 2]);
        assert!(s.take(100, now).is_empty() && s.turns.is_empty());
    }

    #[test]
    fn at_its_deadline_a_job_is_over() {
        let (mut s, now) = (Scheduler::new(), Instant::now());
        s.push(job("a", 1, 1, now, 10));
        assert_eq!(s.expire(now + Duration::from_millis(10), |_| false).len(), 1);
    }

    #[test]
    fn a_row_that_is_longer_than_a_batch_is_a_batch() {
        let (mut s, now) = (Scheduler::new(), Instant::now());
        s.push(job("a", 1, 2, now, 1000));
        assert_eq!(s.take(3, now), [1]);
        assert_eq!(s.take(3, now + Duration::from_millis(900)), [1]);
    }

    proptest! {
        /// Whatever comes, every row is scored once, within the budget.
        #[test]
        fn nothing_is_lost(
            jobs in prop::collection::vec((0u8..5, 1usize..40, 1usize..30, 0u64..2000), 1..60),
            budget in 30usize..300,
        ) {
            let (mut s, now) = (Scheduler::new(), Instant::now());
            let later = now + Duration::from_millis(500);
            let mut expected = BTreeMap::new();
            for (name, &(client, rows, tokens, patience)) in jobs.iter().enumerate() {
                let rows: VecDeque<_> = (0..rows).map(|_| ((name, tokens), tokens)).collect();
                expected.insert(name, rows.len());
                let deadline = now + Duration::from_millis(501 + patience);
                s.push(Job { client: client.to_string().into(), queued: now, deadline, rows });
            }
            let mut found = BTreeMap::new();
            while s.tokens() > 0 {
                let batch = s.take(budget, later);
                prop_assert!(!batch.is_empty());
                prop_assert!(batch.iter().map(|(_, tokens)| tokens).sum::<usize>() <= budget);
                batch.iter().for_each(|(name, _)| *found.entry(*name).or_insert(0) += 1);
            }
            prop_assert_eq!(found, expected);
            prop_assert!(s.jobs() == 0 && s.lanes.is_empty() && s.turns.is_empty());
        }
    }
}
