//! The word error rates of real 30-best lists of LibriSpeech, where they are at hand.

use std::path::PathBuf;

use lorb_engine::nbest::normalise::{NormaliseOptions, Normaliser, Unit};
use lorb_engine::nbest::{Fields, read_all};
use lorb_engine::rescore::tune::{ScoredList, chosen, oracle, total_errors, tune_weights};
use lorb_engine::rescore::weights::Weights;

/// The lists of one set; `None`, with a word on why, where the folder is not given.
fn lists(set: &str) -> Option<Vec<ScoredList>> {
    let Some(folder) = std::env::var_os("LORB_TEST_DATA") else {
        eprintln!("skipped: LORB_TEST_DATA does not name the folder that holds librispeech-30best/");
        return None;
    };
    let path = PathBuf::from(folder).join(format!("librispeech-30best/{set}.jsonl.gz"));
    let utterances = read_all(&[path], &Fields::default()).unwrap();
    let normaliser = Normaliser::new(&NormaliseOptions::default()).unwrap();
    utterances.iter().map(|u| ScoredList::new(u, None, &normaliser, Unit::Word)).collect()
}

fn wer(lists: &[ScoredList], chosen: &[usize]) -> f64 {
    let said: u64 = lists.iter().map(|l| l.reference_units).sum();
    100.0 * total_errors(lists, chosen) as f64 / said as f64
}

fn wer_of(lists: &[ScoredList], lm: f64) -> f64 {
    wer(lists, &chosen(lists, &Weights { lm, ..Weights::default() }))
}

#[test]
fn test_clean_has_the_known_word_error_rates() {
    let Some(lists) = lists("test_clean") else { return };
    assert_eq!(lists.len(), 2620);
    let (first_pass, with_lm) = (wer_of(&lists, 0.0), wer_of(&lists, 0.6));
    let best = wer(&lists, &oracle(&lists));
    eprintln!("test_clean: first pass {first_pass:.3} %, with 0.6 lm {with_lm:.3} %, oracle {best:.3} %");
    assert!((first_pass - 1.92).abs() < 0.01);
    assert!((with_lm - 1.81).abs() < 0.01);
    assert!(best < with_lm);
}

#[test]
fn weights_tuned_on_the_development_sets_serve_the_test_set() {
    let Some(mut dev) = lists("dev_clean") else { return };
    dev.extend(lists("dev_other").unwrap());
    let tuned = tune_weights(&dev, false);
    let test = lists("test_clean").unwrap();
    let found = wer(&test, &chosen(&test, &tuned));
    eprintln!("{tuned:?}: {found:.3} % on test_clean");
    // The weight that the recogniser's makers chose.
    let given = wer_of(&test, 0.6);
    assert!(found <= given, "tuned {found}, with the given weight {given}");
}
