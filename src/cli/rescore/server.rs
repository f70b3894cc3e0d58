//! Rescoring by a service.

use std::path::PathBuf;

use clap::Args;
use lorb_engine::nbest::{Fields, Utterance};
use lorb_engine::rescore::output::{Scores, rescored};
use lorb_engine::rescore::read_ahead::Batch;
use lorb_engine::serve::{
    AnsweredFields, AnsweredHypothesis, AnsweredUtterance, Ask, AskedHypothesis, AskedUtterance, Client,
    Reweighting, read_token,
};
use lorb_engine::{Error, Result};
use serde_json::{Map, Value};

use super::{Compute, Lists, Scoring};

/// Who scores, where not this program.
#[derive(Args)]
pub struct ServerOption {
    /// Let the service at this address score, http://HOST:PORT; --adapter is the name that it has there
    #[arg(long, value_name = "URL", conflicts_with_all = ["prune", "profile"])]
    server: Option<String>,
    /// A file with the service's bearer token
    #[arg(long, value_name = "FILE", requires = "server")]
    token_file: Option<PathBuf>,
}

/// A service, and what to ask it with every utterance.
pub struct Server {
    client: Client,
    adapter: Option<String>,
    weights: Option<Reweighting>,
    /// How lists are read, and which fields of theirs the user named.
    fields: Fields,
    named: [bool; 2],
}

impl ServerOption {
    /// The service, where one is given.
    pub fn open(
        &self,
        scoring: &Scoring,
        lists: &Lists,
        compute: &Compute,
        beta: Option<f64>,
    ) -> Result<Option<Server>> {
        let Some(url) = &self.server else { return Ok(None) };
        let text =
            lists.case.is_some() || lists.noise.is_some() || lists.fillers.is_some() || lists.unit.is_some();
        if text || scoring.model.is_some() || !compute.is_default() {
            return Err(Error::Usage(
                "with --server the service has the model, prepares the text and computes".into(),
            ));
        }
        let client = Client::new(url, self.token_file.as_deref().map(read_token).transpose()?)?;
        let adapter = scoring.adapter.as_ref().map(|name| name.display().to_string());
        let weights = beta.map(|beta| Reweighting { lorb: Some(beta), ..Reweighting::default() });
        let fields = lists.options().over(None).0;
        fields.check_kept_by_rescoring()?;
        let named = [lists.first_pass.is_some(), lists.lm.is_some()];
        Ok(Some(Server { client, adapter, weights, fields, named }))
    }
}

impl Server {
    /// How lists are read for it.
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// Refuses the scores of an adapter that was trained on other fields than were read, unless the user named them.
    fn check(&self, trained_on: &AnsweredFields) -> Result<()> {
        let Fields { first_pass, lm, .. } = &self.fields;
        let fields = [
            ("--first-pass", Some(first_pass), Some(&trained_on.am)),
            ("--lm", lm.as_ref(), trained_on.lm.as_ref()),
        ];
        for ((option, read, trained), named) in fields.into_iter().zip(self.named) {
            if let Some(trained) = trained.filter(|trained| !named && Some(*trained) != read) {
                return Err(Error::Usage(format!(
                    "the service's adapter was trained on the field \"{trained}\": give {option} {trained}, or the \
                     field of these lists that is like it"
                )));
            }
        }
        Ok(())
    }

    /// The rescored lines of a batch.
    pub fn rescore(&self, batch: &Batch) -> Result<Vec<Map<String, Value>>> {
        if batch.utterances.is_empty() {
            return Ok(Vec::new());
        }
        let ask = Ask {
            utterances: batch.utterances.iter().map(asked).collect(),
            adapter: self.adapter.clone(),
            weights: self.weights,
            deadline_ms: None,
        };
        let answer = self.client.rescore(&ask)?;
        if answer.utterances.len() != batch.utterances.len() {
            return Err(Error::Service("the service answered for other utterances".into()));
        }
        let line = |(utterance, answered): (&Utterance, &AnsweredUtterance)| {
            if answered.hyps.len() != utterance.hypotheses.len() {
                return Err(Error::Service("the service answered for other hypotheses".into()));
            }
            self.check(&answered.fields)?;
            let of = |h: &AnsweredHypothesis| Some(Scores { lorb: h.lorb, ngram: h.ngram, total: h.total });
            let scores: Vec<Option<Scores>> = answered.hyps.iter().map(of).collect();
            rescored(utterance, &scores, answered.confidence_scale)
        };
        batch.utterances.iter().zip(&answer.utterances).map(line).collect()
    }
}

fn asked(utterance: &Utterance) -> AskedUtterance {
    let hypothesis = |h: &lorb_engine::nbest::Hypothesis| AskedHypothesis {
        text: h.text.clone(),
        am: h.first_pass,
        lm: h.lm,
    };
    AskedUtterance {
        hyps: utterance.hypotheses.iter().map(hypothesis).collect(),
        ..AskedUtterance::default()
    }
}
