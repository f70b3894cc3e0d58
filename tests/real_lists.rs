//! The word error rates of real 30-best lists of LibriSpeech, where they are at hand.

use std::path::PathBuf;

use lorb_engine::nbest::jsonl::{Fields, read_all};
use lorb_engine::nbest::normalise::{NormaliseOptions, Normaliser, Unit};
use lorb_engine::rescore::tune::{ScoredList, Tunable, chosen, oracle, total_errors, tune};
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
fn tuning_does_as_well_as_a_grid_on_the_development_sets() {
    let Some(mut dev) = lists("dev_clean") else { return };
    dev.extend(lists("dev_other").unwrap());
    let start = std::time::Instant::now();
    let tuned = tune(&dev, Weights::default(), Tunable { lm: true, words: true, lorb: false });
    let took = start.elapsed();
    let found = wer(&dev, &chosen(&dev, &tuned));
    eprintln!("dev: {tuned:?} gives {found:.3} %, found in {took:?}");
    let grid = (0..=20).map(|lm| wer_of(&dev, f64::from(lm) * 0.05)).fold(f64::INFINITY, f64::min);
    assert!(found <= grid, "tuned {found}, grid over lm {grid}");
    let test = lists("test_clean").unwrap();
    eprintln!("test_clean with these weights: {:.3} %", wer(&test, &chosen(&test, &tuned)));
}
