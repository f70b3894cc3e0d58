//! Rescoring by a service.

use std::path::PathBuf;

use clap::Args;
use lorb_engine::nbest::Utterance;
use lorb_engine::nbest::jsonl::{Fields, Scores, rescored};
use lorb_engine::rescore::read_ahead::Batch;
use lorb_engine::serve::{
    AnsweredHypothesis, AnsweredUtterance, Ask, AskedHypothesis, AskedUtterance, Client, Reweighting,
    read_token,
};
use lorb_engine::{Error, Result};
use serde_json::{Map, Value};

use super::{Lists, Scoring};

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
}

impl ServerOption {
    /// The service, where one is given.
    pub fn open(&self, scoring: &Scoring, lists: &Lists, beta: Option<f64>) -> Result<Option<Server>> {
        let Some(url) = &self.server else { return Ok(None) };
        let text =
            lists.case.is_some() || lists.noise.is_some() || lists.fillers.is_some() || lists.unit.is_some();
        if text || scoring.model.is_some() {
            return Err(Error::Usage(
                "with --server the service has the model, and prepares the text".into(),
            ));
        }
        let client = Client::new(url, self.token_file.as_deref().map(read_token).transpose()?)?;
        let adapter = scoring.adapter.as_ref().map(|name| name.display().to_string());
        let weights = beta.map(|beta| Reweighting { lorb: Some(beta), ..Reweighting::default() });
        Ok(Some(Server { client, adapter, weights }))
    }

    /// How lists are read for it.
    pub fn fields(lists: &Lists) -> Fields {
        lists.options().over(None).0
    }
}

impl Server {
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
