//! candle as a contender: what ../rescore.py and ../first_score.py do, with candle's own BERT.
//!
//!     candle-contender rescore MODEL LISTS [--lists N] [--together N] [--batch-tokens N] [--workers N] [--scores FILE]
//!     candle-contender first MODEL TEXT
//!
//! MODEL is a folder that ../export.py wrote. RAYON_NUM_THREADS is the number of threads of each worker.

mod batches;
mod lists;
mod model;

use std::io::BufRead;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use batches::Batched;
use clap::Parser;
use lists::{Tokens, read_lists};
use model::Model;
use serde_json::json;

#[derive(Parser)]
enum Work {
    Rescore(Rescore),
    First { model: PathBuf, text: String },
}

#[derive(clap::Args)]
struct Rescore {
    model: PathBuf,
    data: PathBuf,
    #[arg(long, default_value_t = 100)]
    lists: usize,
    /// Lists of a call
    #[arg(long, default_value_t = 1)]
    together: usize,
    /// Of a padded batch [default: one batch a worker]
    #[arg(long)]
    batch_tokens: Option<usize>,
    /// Batches at once
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Write the scores of the last round there, one list a line
    #[arg(long)]
    scores: Option<PathBuf>,
}

fn main() -> Result<()> {
    match Work::parse() {
        Work::Rescore(work) => work.run(),
        Work::First { model, text } => {
            let tokens = lists::tokenizer(&model)?.encode(text, true).map_err(anyhow::Error::msg)?;
            println!("{}", Model::open(&model)?.scores(&[tokens.get_ids()])?[0]);
            Ok(())
        }
    }
}

impl Rescore {
    fn run(self) -> Result<()> {
        let mut lists = read_lists(&self.data, &self.model)?;
        lists.truncate(self.lists);
        let calls: Vec<Vec<Tokens>> = lists.chunks(self.together).map(<[_]>::concat).collect();
        let tokens: Vec<usize> = calls.iter().map(|call| call.iter().map(Vec::len).sum()).collect();
        let batched = Batched::new(Model::open(&self.model)?, self.batch_tokens, self.workers)?;
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            match line.as_str() {
                "quit" => break,
                "go" => println!("{}", self.round(&batched, &lists, &calls, &tokens)?),
                _ => {}
            }
        }
        Ok(())
    }

    fn round(
        &self,
        batched: &Batched,
        lists: &[Vec<Tokens>],
        calls: &[Vec<Tokens>],
        tokens: &[usize],
    ) -> Result<serde_json::Value> {
        let (mut seconds, mut scores) = (Vec::new(), Vec::new());
        let (mut real, mut computed) = (0, 0);
        for call in calls {
            let start = Instant::now();
            let scored = batched.scores(call)?;
            seconds.push(start.elapsed().as_secs_f64());
            scores.extend(scored.scores);
            real += scored.real;
            computed += scored.computed;
        }
        if let Some(path) = &self.scores {
            let mut scores = scores.iter();
            let line = |list: &Vec<Tokens>| {
                let of_list: Vec<String> = scores.by_ref().take(list.len()).map(f32::to_string).collect();
                of_list.join(" ") + "\n"
            };
            std::fs::write(path, lists.iter().map(line).collect::<String>())?;
        }
        Ok(json!({
            "contender": "candle-fp32",
            "tokens_per_s": (tokens.iter().sum::<usize>() as f64 / seconds.iter().sum::<f64>()).round(),
            "peak_rss_mb": peak_rss_mb(),
            "padding": 1.0 - real as f64 / computed as f64,
            "seconds": seconds,
            "tokens": tokens,
        }))
    }
}

/// VmHWM of /proc/self/status; none elsewhere.
fn peak_rss_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<f64>().ok()? / 1024.0)
}
