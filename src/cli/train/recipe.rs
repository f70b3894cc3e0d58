//! The recipe, option by option.

use clap::Args;
use lorb_engine::lora::Targets;
use lorb_engine::train::{Asked, Beta};

#[derive(Args)]
pub struct Recipe {
    /// Rank of the low-rank matrices [default: 8]
    #[arg(long, value_name = "R")]
    rank: Option<usize>,
    /// Their product is scaled by alpha / rank [default: 8]
    #[arg(long, value_name = "ALPHA")]
    alpha: Option<f32>,
    /// Adapted layers: all, none, or some of query, key, value, attention.output.dense,
    /// intermediate.dense, output.dense [default: all]
    #[arg(long, value_name = "LAYERS")]
    targets: Option<Targets>,
    /// Dropout before A [default: 0]
    #[arg(long, value_name = "P")]
    dropout: Option<f32>,
    /// Peak learning rate of the low-rank matrices [default: 0.001]
    #[arg(long, value_name = "RATE")]
    lr: Option<f32>,
    /// Peak learning rate of the classifier, a fresh pooler and a learned beta [default: 0.01]
    #[arg(long, value_name = "RATE")]
    head_lr: Option<f32>,
    /// Decoupled weight decay [default: 0.01]
    #[arg(long, value_name = "W")]
    weight_decay: Option<f32>,
    /// Passes over the training lists [default: as many as show about 5,000 utterances, 1 to 8; 2 of the embedded lists]
    #[arg(long, value_name = "N")]
    epochs: Option<u32>,
    /// Stop after N validations in a row without a better epoch; the learning rate still falls over all --epochs
    #[arg(long, value_name = "N")]
    patience: Option<u32>,
    /// Hypotheses of an utterance in a step [default: 16; of fewer than 2,000 lists 8]
    #[arg(long, value_name = "N")]
    hyps: Option<usize>,
    /// Tokens in a step, at most [default: 1600; of fewer than 2,000 lists 800]
    #[arg(long, value_name = "N")]
    batch_tokens: Option<usize>,
    /// Weight of BERT's score in the loss: a number, or "learned" [default: learned]
    #[arg(long, value_name = "B|learned", value_parser = parse_beta)]
    beta: Option<Beta>,
    /// Weight of the first pass's score in the loss [default: chosen from the lists]
    #[arg(long, value_name = "W")]
    first_pass_weight: Option<f64>,
    /// Weight of the first pass's LM score in the loss, relative to the first-pass score's [default: 0]
    #[arg(long, value_name = "W")]
    lm_weight: Option<f64>,
    /// The order of an n-gram model of the training references, at most 5, whose score counts beside the others where
    /// that helps on lists that it has not seen, and in lists that are like those; 0 for none, as there is of fewer than
    /// 10 training lists [default: 3]
    #[arg(long, value_name = "N")]
    ngram_order: Option<usize>,
    /// Train a fresh pooler instead of keeping the base's; one that the base lacks is trained in any case
    #[arg(long)]
    fresh_pooler: bool,
    /// Weight of the correlation loss [default: 0]
    #[arg(long, value_name = "LAMBDA")]
    corr_weight: Option<f64>,
    /// Of everything that is drawn at random [default: 1]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

fn parse_beta(text: &str) -> Result<Beta, String> {
    if text == "learned" {
        return Ok(Beta::Learned(1.0));
    }
    text.parse().map(Beta::Fixed).map_err(|_| "expected a number or \"learned\"".into())
}

impl Recipe {
    pub fn asked(&self) -> Asked {
        Asked {
            rank: self.rank,
            alpha: self.alpha,
            targets: self.targets,
            dropout: self.dropout,
            lr: self.lr,
            head_lr: self.head_lr,
            weight_decay: self.weight_decay,
            epochs: self.epochs,
            patience: self.patience,
            hyps: self.hyps,
            batch_tokens: self.batch_tokens,
            beta: self.beta,
            first_pass_weight: self.first_pass_weight,
            lm_weight: self.lm_weight,
            ngram_order: self.ngram_order,
            fresh_pooler: self.fresh_pooler,
            corr_weight: self.corr_weight,
            seed: self.seed,
        }
    }
}
