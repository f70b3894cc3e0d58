//! What a run is: what decides its result, to the last bit. It goes on, and is finished, as the same alone.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::TrainOptions;
use super::examples::Example;
use crate::lora::{Adapter, LoraConfig};
use crate::model::BaseModel;
use crate::text::{hex, plain};
use crate::{Error, Result};

/// What must be the same when a run goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// The recipe, as a JSON object of options.
    pub options: Value,
    /// A digest of the lists.
    pub data: String,
    /// A digest of the base, and of the adapter that training starts from.
    pub start: String,
    /// Sums differ in their last bits from one instruction set to another.
    pub instruction_set: String,
}

impl Identity {
    /// # Errors
    /// [`Error::Usage`] naming the first thing that differs.
    pub(super) fn check(&self, now: &Identity, path: &Path) -> Result<()> {
        let refuse = |what: &str, was: &dyn std::fmt::Display, is: &dyn std::fmt::Display| {
            Err(Error::Usage(format!(
                "{}: the run was started with {what} {was}, not {is}; resume it with the same, or start \
                 another with another --out",
                path.display()
            )))
        };
        if let (Value::Object(was), Value::Object(is)) = (&self.options, &now.options) {
            for (option, is) in is {
                let was = was.get(option).unwrap_or(&Value::Null);
                if was != is {
                    return refuse(&format!("--{option}"), was, is);
                }
            }
        }
        if self.instruction_set != now.instruction_set {
            return refuse("instruction set", &self.instruction_set, &now.instruction_set);
        }
        for (what, was, is) in
            [("lists of digest", &self.data, &now.data), ("a model of digest", &self.start, &now.start)]
        {
            if was != is {
                return refuse(what, was, is);
            }
        }
        Ok(())
    }
}

/// The recipe by the options' names: with w_a, which may have been chosen, and the adapter's configuration, which may
/// not be the options'.
pub(super) fn recipe(o: &TrainOptions, lora: &LoraConfig, w_a: f64, team: usize) -> Value {
    json!({
        "rank": lora.rank,
        "alpha": plain(lora.alpha),
        "targets": lora.targets.to_string(),
        "dropout": plain(lora.dropout),
        "lr": plain(o.lr),
        "head-lr": plain(o.head_lr),
        "weight-decay": plain(o.weight_decay),
        "epochs": o.epochs,
        "hyps": o.hyps,
        "batch-tokens": o.batch_tokens,
        "beta": o.beta,
        "first-pass-weight": w_a,
        "lm-weight": o.lm_weight,
        "ngram-order": o.ngram_order,
        "corr-weight": o.correlation_weight,
        "seed": o.seed,
        "patience": o.patience,
        "fresh-pooler": o.fresh_pooler,
        "threads": rayon::current_num_threads(),
        "team": team,
    })
}

/// A digest of everything in the examples that a run's result depends on; their texts must be there.
pub(super) fn lists(sets: &[&[Example]]) -> String {
    let mut hash = Sha256::new();
    for set in sets {
        hash.update((set.len() as u64).to_le_bytes());
        for example in *set {
            // Of the reference the n-gram model is made, and it scores the hypotheses' texts: their tokens say less.
            hash.update((example.texts.reference.len() as u64).to_le_bytes());
            hash.update(&example.texts.reference);
            hash.update((example.list.hypotheses.len() as u64).to_le_bytes());
            let hypotheses =
                example.list.hypotheses.iter().zip(&example.texts.hypotheses).zip(&example.tokens);
            for ((h, text), tokens) in hypotheses {
                hash.update((text.len() as u64).to_le_bytes());
                hash.update(text);
                hash.update(h.features.first_pass.to_le_bytes());
                hash.update(h.features.lm.to_le_bytes());
                hash.update(h.errors.to_le_bytes());
                hash.update((tokens.len() as u64).to_le_bytes());
                hash.update(bytemuck::cast_slice::<u32, u8>(tokens));
            }
        }
    }
    hex(&hash.finalize())
}

/// A digest of the base and of the adapter that training starts from. Of the base's weights it covers the fingerprint
/// alone, since to read all would cost each start seconds.
pub(super) fn start(model: &BaseModel, adapter: &Adapter) -> Result<String> {
    let mut hash = Sha256::new();
    let fingerprint = model.checkpoint.fingerprint(&model.config)?;
    hash.update(json!([fingerprint, model.config, adapter.config.scale()]).to_string());
    hash.update(bytemuck::cast_slice::<f32, u8>(&adapter.values));
    Ok(hex(&hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::examples::tests::example;

    #[test]
    fn whatever_a_run_depends_on_is_in_the_digest() {
        let changed = |change: fn(&mut Example)| {
            let mut example = example();
            change(&mut example);
            lists(&[&[example]])
        };
        let mut digests = vec![
            changed(|_| {}),
            changed(|e| e.texts.reference = "c".into()),
            changed(|e| e.texts.hypotheses[0] = "B".into()),
            changed(|e| e.list.hypotheses[1].features.first_pass = -1.25),
            changed(|e| e.list.hypotheses[1].features.lm = -3.0),
            changed(|e| e.list.hypotheses[1].errors = 2),
            changed(|e| e.tokens[1][1] = 9),
            lists(&[&[example(), example()]]),
            lists(&[&[example()], &[example()]]),
            lists(&[&[], &[example(), example()]]),
        ];
        assert_eq!(lists(&[&[example()]]), digests[0]);
        let count = digests.len();
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), count);
    }
}
