//! Which hypotheses are scored next. A pure structure: it knows no clock, no thread and no model.
//!
//! - A batch is whatever waits when the device is free, up to a number of tokens: nobody waits for company.
//! - Clients take turns by tokens (deficit round robin, Shreedhar and Varghese 1995), so that none is slower for
//!   what another sends.
//! - Of one client, the utterance with the fewest tokens left goes first, and a long one is cut over batches: a
//!   short list does not wait behind it.
//! - Half of each batch is for what has waited for half of its time, the nearest deadline first: so a long list is
//!   not put off for ever.

use std::collections::{BTreeMap, HashMap, VecDeque};
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

    fn is_urgent(&self, now: Instant) -> bool {
        now.duration_since(self.queued) >= self.deadline.duration_since(self.queued) / 2
    }
}

pub(super) struct Scheduler<P> {
    lanes: HashMap<Arc<str>, Lane<P>>,
    /// The clients, whose turn it is first.
    turns: VecDeque<Arc<str>>,
    tokens: usize,
    next: u64,
}

/// What one client waits for: by tokens left, then by age.
struct Lane<P> {
    jobs: BTreeMap<(usize, u64), Job<P>>,
    /// Tokens that it may take before the next has its turn.
    credit: usize,
}

impl<P> Scheduler<P> {
    pub fn new() -> Scheduler<P> {
        Scheduler { lanes: HashMap::new(), turns: VecDeque::new(), tokens: 0, next: 0 }
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
        self.next += 1;
        let turns = &mut self.turns;
        let lane = self.lanes.entry(job.client.clone()).or_insert_with(|| {
            turns.push_back(job.client.clone());
            Lane { jobs: BTreeMap::new(), credit: 0 }
        });
        lane.jobs.insert((tokens, self.next), job);
    }

    /// Removes what nobody needs any more: where the deadline has passed, or `gone` says so.
    pub fn expire(&mut self, now: Instant, gone: impl Fn(&P) -> bool) -> Vec<Job<P>> {
        let mut expired = Vec::new();
        for lane in self.lanes.values_mut() {
            // All rows of a job are for the same answer.
            let is_over =
                |job: &Job<P>| job.deadline <= now || job.rows.front().is_some_and(|(row, _)| gone(row));
            let over: Vec<(usize, u64)> =
                lane.jobs.iter().filter(|(_, job)| is_over(job)).map(|(key, _)| *key).collect();
            expired.extend(over.iter().filter_map(|key| lane.jobs.remove(key)));
        }
        self.tokens -= expired.iter().map(Job::tokens).sum::<usize>();
        self.forget_idle();
        expired
    }

    /// The next batch, of at most `budget` tokens, but at least one row where any waits.
    pub fn take(&mut self, budget: usize, now: Instant) -> Vec<P> {
        let mut batch = Batch { rows: Vec::new(), tokens: 0 };
        let urgent = self.lanes.iter().flat_map(|(client, lane)| {
            let urgent = lane.jobs.iter().filter(|(_, job)| job.is_urgent(now));
            urgent.map(|(key, job)| (job.deadline, client.clone(), *key))
        });
        let mut urgent: Vec<_> = urgent.collect();
        urgent.sort();
        for (_, client, key) in urgent {
            let lane = self.lanes.get_mut(&client).expect("it was there");
            lane.take(key, budget / 2, usize::MAX, &mut batch);
        }
        let share = (budget / self.turns.len().max(1)).max(1);
        while let Some(client) = self.turns.front().cloned() {
            let lane = self.lanes.get_mut(&client).expect("turns and lanes agree");
            if let Some((&key, _)) = lane.jobs.first_key_value() {
                let taken = lane.take(key, budget, lane.credit, &mut batch);
                if taken > 0 {
                    lane.credit -= taken;
                    continue;
                }
                if batch.is_full(budget, lane.next_tokens()) {
                    break;
                }
                lane.credit += share;
                self.turns.rotate_left(1);
            } else {
                self.lanes.remove(&client);
                self.turns.pop_front();
            }
        }
        self.tokens -= batch.tokens;
        self.forget_idle();
        batch.rows
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
    /// The tokens of the row that is next.
    fn next_tokens(&self) -> usize {
        self.jobs.first_key_value().and_then(|(_, job)| job.rows.front()).map_or(0, |(_, tokens)| *tokens)
    }

    /// Moves rows of one job into the batch while there is room and credit; gives their tokens.
    fn take(&mut self, key: (usize, u64), budget: usize, credit: usize, batch: &mut Batch<P>) -> usize {
        let Some(mut job) = self.jobs.remove(&key) else { return 0 };
        let mut taken = 0;
        while let Some((_, tokens)) = job.rows.front() {
            if batch.is_full(budget, *tokens) || taken + tokens > credit {
                break;
            }
            let (row, tokens) = job.rows.pop_front().expect("it is there");
            batch.rows.push(row);
            batch.tokens += tokens;
            taken += tokens;
        }
        if !job.rows.is_empty() {
            self.jobs.insert((key.0 - taken, key.1), job);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
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
        // Short ones come without end: the long one has half of each batch once half of its time is over.
        let later = now + Duration::from_millis(600);
        (3..100).for_each(|name| s.push(job("a", name, 10, later, 1000)));
        assert_eq!(counts(&s.take(100, later))[&1], 5);
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
