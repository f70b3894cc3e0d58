//! Scores of a list that streams by. While a GPU has one batch, the next is tokenised and sent after it, so that
//! the GPU need not wait for the host.

use super::prune::Margin;
use super::read_ahead::{Batch, ReadAhead};
use super::rescorer::{Rescorer, Scored, Started};
use crate::Result;

/// Scores `input` batch by batch, what lies within `margin`, and gives each with its scores to `done`, in order.
/// Whoever sends an utterance and waits for its answer gets it: no batch waits for another that is not there yet.
///
/// # Errors
/// Where the vocabulary cannot express a text, or the device fails; or what `done` gives. Batches before that one
/// are done.
pub fn stream(
    rescorer: &Rescorer,
    margin: Margin,
    input: &mut ReadAhead,
    mut done: impl FnMut(Batch, Scored) -> Result<()>,
) -> Result<()> {
    let mut started: Option<(Batch, Started)> = None;
    loop {
        let next = if started.is_none() { input.next_batch() } else { input.batch_that_is_there() };
        let ended = started.is_none() && next.is_none();
        let next = next.map(|batch| rescorer.start(&batch.utterances, margin).map(|s| (batch, s)));
        if let Some((batch, of_batch)) = started.take() {
            let scored = rescorer.finish(&batch.utterances, of_batch)?;
            done(batch, scored)?;
        }
        if ended {
            return Ok(());
        }
        started = next.transpose()?;
    }
}
