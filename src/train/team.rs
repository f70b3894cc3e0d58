//! Several processes that train one adapter. Each takes a share of every step's utterances, and of the lists that are
//! scored; the gradients of all are summed in the order of their ranks, so that every process has the same
//! parameters, to the bit, and takes the same decisions. How they reach each other is not known here.

use std::ops::Range;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::step::StepGradient;
use crate::{Error, Result};

/// How the processes of a team reach each other.
pub trait Exchange: Send + Sync {
    /// What every process gave, in the order of their ranks, some perhaps nothing. All make the same calls in the same
    /// order, and wait for each other.
    ///
    /// # Errors
    /// Where a process cannot be reached.
    fn all_gather(&self, mine: &[f32]) -> Result<Vec<Vec<f32>>>;
}

/// A process's place in a team; by default it is alone.
#[derive(Clone, Default)]
pub struct Team(Option<Member>);

#[derive(Clone)]
struct Member {
    rank: usize,
    size: usize,
    exchange: Arc<dyn Exchange>,
}

impl Team {
    /// # Errors
    /// [`Error::Usage`] where `rank` is none of `size`.
    pub fn new(rank: usize, size: usize, exchange: Arc<dyn Exchange>) -> Result<Team> {
        if rank >= size {
            return Err(Error::Usage(format!("rank {rank}: expected one below the team's size, {size}")));
        }
        Ok(Team(Some(Member { rank, size, exchange })))
    }

    pub fn size(&self) -> usize {
        self.0.as_ref().map_or(1, |member| member.size)
    }

    /// Whether it is this process that writes the files.
    pub fn leads(&self) -> bool {
        self.0.as_ref().is_none_or(|member| member.rank == 0)
    }

    /// This process's share of what costs so much: one run of it. The shares follow each other in the order of the
    /// ranks.
    pub fn share(&self, costs: &[usize]) -> Range<usize> {
        let Some(Member { rank, size, .. }) = &self.0 else { return 0..costs.len() };
        let total: usize = costs.iter().sum();
        // An item belongs to the process that its middle lies with.
        let first_of = |rank: usize| {
            let mut before = 0;
            let begins = |cost: &&usize| {
                let middle = before + *cost / 2;
                before += *cost;
                middle * size < total * rank
            };
            if rank == *size { costs.len() } else { costs.iter().take_while(begins).count() }
        };
        first_of(*rank)..first_of(rank + 1)
    }

    /// The values of all processes, one after the other.
    ///
    /// # Errors
    /// As for [`Exchange::all_gather`].
    pub fn concatenate(&self, mine: Vec<f32>) -> Result<Vec<f32>> {
        match &self.0 {
            None => Ok(mine),
            Some(member) => Ok(member.gather(&mine)?.concat()),
        }
    }

    /// The gradient of the whole step, from those of the shares.
    ///
    /// # Errors
    /// As for [`Exchange::all_gather`].
    pub(super) fn sum(&self, mine: StepGradient) -> Result<StepGradient> {
        let Some(member) = &self.0 else { return Ok(mine) };
        let mut values = mine.gradient;
        let parameters = values.len();
        values.extend([mine.mwer as f32, mine.mwer_without as f32]);
        let mut of_ranks = member.gather(&values)?.into_iter();
        let mut sum = of_ranks.next().unwrap_or_default();
        for of_rank in of_ranks {
            if of_rank.len() != sum.len() {
                return Err(member.differs("length of the gradient"));
            }
            sum.iter_mut().zip(of_rank).for_each(|(sum, value)| *sum += value);
        }
        let (mwer, mwer_without) = (sum[parameters].into(), sum[parameters + 1].into());
        sum.truncate(parameters);
        Ok(StepGradient { mwer, mwer_without, gradient: sum, ..mine })
    }

    /// Waits for all, and makes sure that they have the same of each of these.
    ///
    /// # Errors
    /// [`Error::Usage`] with the name of what differs, and as for [`Exchange::all_gather`].
    pub fn agree(&self, on: &[(&str, String)]) -> Result<()> {
        let Some(member) = &self.0 else { return Ok(()) };
        for (name, value) in on {
            let digest: Vec<f32> = Sha256::digest(value).iter().map(|&byte| byte.into()).collect();
            if member.gather(&digest)?.iter().any(|other| *other != digest) {
                return Err(member.differs(name));
            }
        }
        Ok(())
    }
}

impl Member {
    fn gather(&self, mine: &[f32]) -> Result<Vec<Vec<f32>>> {
        let gathered = self.exchange.all_gather(mine)?;
        if gathered.len() != self.size {
            let found = gathered.len();
            return Err(Error::Usage(format!("a team of {} gathered the values of {found}", self.size)));
        }
        Ok(gathered)
    }

    fn differs(&self, what: &str) -> Error {
        Error::Usage(format!(
            "rank {}: the team does not have the same {what}: give all the same options, files and instruction set, and an \
             --out that they share",
            self.rank
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl Exchange for Nobody {
        fn all_gather(&self, _mine: &[f32]) -> Result<Vec<Vec<f32>>> {
            unreachable!("shares are known without asking")
        }
    }

    #[test]
    fn shares_follow_each_other_and_are_even() {
        let costs: Vec<usize> = (0..50).map(|i| 5 + i * 7 % 40).collect();
        for costs in [&costs[..], &[9], &[], &[1, 1000, 1]] {
            for size in [1, 2, 3, 8] {
                let mut end = 0;
                for rank in 0..size {
                    let share = Team::new(rank, size, Arc::new(Nobody)).unwrap().share(costs);
                    assert_eq!(share.start, end);
                    end = share.end;
                    if costs.len() == 50 {
                        let even = costs.iter().sum::<usize>() / size;
                        assert!(costs[share].iter().sum::<usize>().abs_diff(even) <= 44);
                    }
                }
                assert_eq!(end, costs.len());
            }
        }
        assert_eq!(Team::default().share(&costs), 0..50);
        assert!(Team::new(2, 2, Arc::new(Nobody)).is_err());
    }
}
