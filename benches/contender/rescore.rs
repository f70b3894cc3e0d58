use std::path::PathBuf;

use clap::Args;
use lorb_engine::Result;
use lorb_engine::bert::floor;
use lorb_engine::rescore::scorer::Scorer;

use crate::rounds::{Call, answer, floors, serve};
use crate::{Inputs, start, write};

#[derive(Args)]
pub struct Rescore {
    #[command(flatten)]
    inputs: Inputs,
    /// Lists that are scored in one call
    #[arg(long, value_name = "LISTS", default_value_t = 1, value_parser = parse_together)]
    together: usize,
    /// Write the scores of the last round there, one list a line
    #[arg(long, value_name = "FILE")]
    scores: Option<PathBuf>,
}

fn parse_together(text: &str) -> std::result::Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "expected a number from 1".into())
}

impl Rescore {
    pub fn run(self, merged: bool) -> Result<()> {
        let what = if merged { "rescore-merged" } else { "rescore" };
        let (device, name) = start(what, self.inputs.device, self.inputs.dtype)?;
        let model = self.inputs.model()?;
        let adapter = self.inputs.adapter(&model, merged)?;
        let examples = self.inputs.examples(&model)?;
        let lists: Vec<&[Vec<u32>]> =
            examples.iter().take(self.inputs.count).map(|e| &e.tokens[..]).collect();
        let calls: Vec<Vec<Vec<u32>>> = lists.chunks(self.together).map(|lists| lists.concat()).collect();
        let of_calls: Vec<_> = calls.iter().map(|call| floor::scoring(&model.config, call)).collect();
        let scorer = Scorer::new(device, &model, &[&adapter])?;
        serve(|| {
            let mut scores = Vec::new();
            let mut one = |call: &Vec<Vec<u32>>| {
                Call::timed(call.iter().map(Vec::len).sum(), || {
                    scores.extend(scorer.scores(call)?);
                    Ok(())
                })
            };
            let timed = calls.iter().map(&mut one).collect::<Result<Vec<_>>>()?;
            if let Some(path) = &self.scores {
                write(path, &lines(&scores, &lists))?;
            }
            let mut answer = answer(&name, &timed);
            answer.append(&mut floors(&of_calls));
            Ok(answer)
        })
    }
}

/// The scores of each list on a line.
fn lines(scores: &[f32], lists: &[&[Vec<u32>]]) -> String {
    let mut scores = scores.iter();
    let line = |list: &&[Vec<u32>]| {
        let of_list: Vec<String> = scores.by_ref().take(list.len()).map(f32::to_string).collect();
        of_list.join(" ") + "\n"
    };
    lists.iter().map(line).collect()
}
