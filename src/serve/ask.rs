//! From a request to its answer: its texts become token ids, and those the scores that are not known yet.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::compute::{Gather, Row};
use super::metrics;
use super::problem::{Problem, aside};
use super::registry::Loaded;
use super::scheduler::Job;
use super::service::Service;
use super::wire::{
    Answer, AnsweredFields, AnsweredHypothesis, AnsweredUtterance, AskedUtterance, Parsed, Parts,
};
use crate::nbest::normalise::units;
use crate::rescore::output::Scores;
use crate::rescore::weights::{Features, Weights, order, posterior};

/// Who asks, and since when.
pub(super) struct Asker {
    pub name: Arc<str>,
    /// When the head of the request was there, and when its body.
    pub arrived: Instant,
    pub read: Instant,
}

/// An utterance with its adapter.
struct Asked {
    utterance: AskedUtterance,
    adapter: Arc<Loaded>,
    weights: Weights,
    deadline: Instant,
    /// What stands before its fields in the request: "utterances[3].".
    path: String,
}

/// One whose texts are token ids.
struct Prepared {
    asked: Asked,
    hypotheses: Vec<Read>,
    /// Each sequence once, and its score where it is known.
    sequences: Vec<(Arc<[u32]>, Option<f32>)>,
}

struct Read {
    sequence: usize,
    units: usize,
    ngram: f64,
    cut: bool,
}

/// Scores that are on their way: of which sequences, and whence.
struct Pending {
    sequences: Vec<usize>,
    scores: oneshot::Receiver<Result<Vec<f32>, Problem>>,
}

/// Answers a request.
///
/// # Errors
/// Whatever the client should be told instead.
pub(super) async fn answer(
    service: &Arc<Service>,
    parsed: Parsed,
    asker: Asker,
    explain: bool,
) -> Result<Answer, Problem> {
    let start = Instant::now();
    let asked = with_adapters(service, parsed, &asker).await?;
    metrics::stage("adapters", start.elapsed());

    let start = Instant::now();
    let there = service.clone();
    let prepare = move || asked.into_iter().map(|asked| prepare(&there, asked)).collect();
    let mut prepared: Vec<Prepared> = aside("tokenising", prepare).await?;
    service.check_tokens(prepared.iter().map(Prepared::tokens).sum())?;
    metrics::stage("prepare", start.elapsed());

    let pending = enqueue(service, &prepared, &asker)?;
    let mut answered = Vec::with_capacity(prepared.len());
    for (prepared, pending) in prepared.iter_mut().zip(pending) {
        let known = explain.then(|| prepared.known());
        if let Some(Pending { sequences, scores }) = pending {
            let deadline = tokio::time::Instant::from_std(prepared.asked.deadline);
            let scores = tokio::time::timeout_at(deadline, scores).await.map_err(|_| Problem::deadline())?;
            let scores = scores.map_err(|_| Problem::unavailable("the scores were lost"))??;
            sequences.into_iter().zip(scores).for_each(|(i, score)| prepared.sequences[i].1 = Some(score));
        }
        let adapter = &prepared.asked.adapter;
        metrics::scored(adapter.label(), prepared.hypotheses.len(), asker.arrived.elapsed());
        adapter.hypotheses.fetch_add(prepared.hypotheses.len() as u64, Ordering::Relaxed);
        answered.push(prepared.answer(known.as_deref())?);
    }
    Ok(Answer { utterances: answered })
}

/// Finds each utterance's adapter, and what the request as a whole says for it.
async fn with_adapters(service: &Service, mut parsed: Parsed, asker: &Asker) -> Result<Vec<Asked>, Problem> {
    let utterances = std::mem::take(&mut parsed.ask.utterances);
    let mut found: Vec<Asked> = Vec::with_capacity(utterances.len());
    // The memory of their adapters.
    let mut held = 0;
    for (i, utterance) in utterances.into_iter().enumerate() {
        let (path, ask) = (parsed.path(i), &parsed.ask);
        let name = utterance.adapter.as_deref().or(ask.adapter.as_deref());
        let adapter = service.registry.get(name, held).await.map_err(|problem| Problem {
            field: Some(if utterance.adapter.is_some() {
                format!("{path}adapter")
            } else {
                "adapter".into()
            }),
            ..problem
        })?;
        if !found.iter().any(|before| Arc::ptr_eq(&before.adapter, &adapter)) {
            held += adapter.taken();
        }
        let reweighting = utterance.weights.or(ask.weights).unwrap_or_default();
        let weights = reweighting.over(adapter.settings.weights);
        if weights.lm != 0.0 && utterance.hyps.iter().any(|h| h.lm.is_none()) {
            let problem = "it is missing, and its weight is not 0";
            return Err(Problem::field(format!("{path}hyps[0].lm"), problem));
        }
        let latest = asker.read + service.limits.max_wait;
        let deadline = match utterance.deadline_ms.or(ask.deadline_ms) {
            Some(0) => {
                let path = if utterance.deadline_ms.is_some() { &path } else { "" };
                return Err(Problem::field(format!("{path}deadline_ms"), "it must be at least 1"));
            }
            Some(ms) => {
                let own = asker.arrived.checked_add(Duration::from_millis(ms));
                own.map_or(latest, |own| latest.min(own))
            }
            None => latest,
        };
        found.push(Asked { utterance, adapter, weights, deadline, path });
    }
    Ok(found)
}

/// Normalises and tokenises as `rescore` does, and looks up what is known.
fn prepare(service: &Service, asked: Asked) -> Result<Prepared, Problem> {
    let (adapter, model) = (&asked.adapter, &service.model);
    let mut places: HashMap<Arc<[u32]>, usize> = HashMap::new();
    let (mut sequences, mut likelihoods) = (Vec::new(), Vec::new());
    let mut hypotheses = Vec::with_capacity(asked.utterance.hyps.len());
    for (i, hypothesis) in asked.utterance.hyps.iter().enumerate() {
        let text = adapter.normaliser.normalise(&hypothesis.text);
        let encoded = model.tokenizer.encode(&text, model.config.max_positions);
        let encoded = encoded.map_err(|_| {
            Problem::field(format!("{}hyps[{i}].text", asked.path), "the vocabulary cannot express it")
        })?;
        let tokens: Arc<[u32]> = encoded.ids.into();
        let sequence = *places.entry(tokens.clone()).or_insert_with(|| {
            sequences.push((tokens.clone(), service.cache.get(adapter.identity, &tokens)));
            sequences.len() - 1
        });
        let units = units(&text, adapter.settings.unit);
        likelihoods.extend(adapter.ngram.as_ref().map(|domain| domain.ngram.likelihood(&units)));
        hypotheses.push(Read { sequence, units: units.len(), ngram: 0.0, cut: encoded.truncated });
    }
    if let Some(domain) = &adapter.ngram {
        let scores = domain.familiarity.scores(likelihoods.into_iter());
        hypotheses.iter_mut().zip(scores).for_each(|(read, score)| read.ngram = score);
    }
    let hits = sequences.iter().filter(|(_, score)| score.is_some()).count();
    metrics::cache(hits, sequences.len() - hits);
    Ok(Prepared { asked, hypotheses, sequences })
}

/// Asks for what is not known: for all of it, or, where there is no room, for nothing.
fn enqueue(service: &Service, prepared: &[Prepared], asker: &Asker) -> Result<Vec<Option<Pending>>, Problem> {
    let queued = Instant::now();
    let (mut jobs, mut pending) = (Vec::new(), Vec::new());
    for Prepared { asked, sequences, .. } in prepared {
        let unknown = sequences.iter().enumerate().filter(|(_, (_, score))| score.is_none());
        let unknown: Vec<(usize, &Arc<[u32]>)> = unknown.map(|(i, (tokens, _))| (i, tokens)).collect();
        if unknown.is_empty() {
            pending.push(None);
            continue;
        }
        let (gather, scores) = Gather::new(unknown.len());
        let row = |(place, (_, tokens)): (usize, &(usize, &Arc<[u32]>))| {
            let row = Row {
                adapter: asked.adapter.clone(),
                tokens: (*tokens).clone(),
                place,
                answer: gather.clone(),
            };
            (row, tokens.len())
        };
        let rows: VecDeque<_> = unknown.iter().enumerate().map(row).collect();
        jobs.push(Job { client: asker.name.clone(), queued, deadline: asked.deadline, rows });
        let sequences = unknown.into_iter().map(|(i, _)| i).collect();
        pending.push(Some(Pending { sequences, scores }));
    }
    if !jobs.is_empty() {
        service.queue.push(jobs)?;
    }
    Ok(pending)
}

impl Prepared {
    fn tokens(&self) -> usize {
        self.sequences.iter().map(|(tokens, _)| tokens.len()).sum()
    }

    /// Of each sequence, whether its score was known.
    fn known(&self) -> Vec<bool> {
        self.sequences.iter().map(|(_, score)| score.is_some()).collect()
    }

    /// With the parts of each score where it is told what was known before.
    fn answer(&mut self, explain: Option<&[bool]>) -> Result<AnsweredUtterance, Problem> {
        let Asked { utterance, adapter, weights, path, .. } = &mut self.asked;
        let mut hyps = Vec::with_capacity(self.hypotheses.len());
        for (hypothesis, read) in utterance.hyps.iter().zip(&self.hypotheses) {
            let (tokens, score) = &self.sequences[read.sequence];
            let features = Features {
                first_pass: hypothesis.am,
                lm: hypothesis.lm.unwrap_or(0.0),
                lorb: f64::from(score.expect("all scores are there")),
                words: read.units as f64,
                ngram: read.ngram,
            };
            let Scores { lorb, ngram, total } = Scores::new(&features, weights, adapter.ngram.is_some());
            if !(lorb.is_finite() && total.is_finite()) {
                let field = format!("{path}hyps[{}]", hyps.len());
                return Err(Problem::field(field, "the weighted sum of its scores is not finite"));
            }
            let parts = explain.map(|known| {
                let Features { first_pass, lm, lorb, words, ngram } = weights.parts(&features);
                let (cut, cached) = (read.cut, known[read.sequence]);
                Parts {
                    first_pass,
                    lm,
                    lorb,
                    words,
                    ngram,
                    word_count: read.units,
                    tokens: tokens.len(),
                    cut,
                    cached,
                }
            });
            hyps.push(AnsweredHypothesis { lorb, ngram, total, parts });
        }
        let totals: Vec<f64> = hyps.iter().map(|h| h.total).collect();
        let order = order(&totals);
        let scale = adapter.settings.confidence_scale;
        Ok(AnsweredUtterance {
            id: utterance.id.take(),
            adapter: adapter.name.clone(),
            best: std::mem::take(&mut utterance.hyps[order[0]].text),
            confidence: posterior(&totals, scale)[order[0]],
            confidence_scale: scale,
            fields: AnsweredFields {
                am: adapter.settings.fields.first_pass.clone(),
                lm: adapter.settings.fields.lm.clone(),
            },
            weights: *weights,
            hyps,
            order,
        })
    }
}
