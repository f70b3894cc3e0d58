//! The scores are those of `rescore`, bit for bit, whatever shares the batch.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use lorb_engine::lora::Adapter;
use lorb_engine::model::BaseModel;
use lorb_engine::nbest::normalise::{Unit, units};
use lorb_engine::rescore::ngram::{Familiarity, Ngram};
use lorb_engine::rescore::weights::{RescoringFile, Weights};
use serde_json::{Value, json};

use crate::harness::{Server, utterances, write_adapters};
use crate::support::cli::{Desk, lists, parsed};

const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];

/// An answered utterance must be the line that `rescore` wrote.
#[track_caller]
fn same(answered: &Value, line: &Value) {
    for key in ["id", "order", "best", "confidence"] {
        assert_eq!(answered[key], line[key], "{key} of {}", line["id"]);
    }
    let pairs = answered["hyps"].as_array().unwrap().iter().zip(line["hyps"].as_array().unwrap());
    for (answered, line) in pairs {
        let bits = |value: &Value| value.as_f64().unwrap().to_bits();
        assert_eq!(bits(&answered["lorb"]), bits(&line["lorb"]), "{answered} is not {line}");
        assert_eq!(bits(&answered["total"]), bits(&line["total"]), "{answered} is not {line}");
    }
}

#[test]
fn scores_are_those_of_rescore_whatever_the_batch() {
    let desk = Desk::new();
    write_adapters(&desk, &NAMES);
    let text = lists(11, 40);
    desk.write("in.jsonl", &text);
    let expected: Vec<Vec<Value>> = NAMES
        .iter()
        .map(|name| {
            let rescore =
                format!("rescore --model base --adapter adapters/{name} --input in.jsonl --device cpu");
            parsed(&desk.ok(&rescore))
        })
        .collect();
    let utterances = utterances(&text);
    let which = |i: usize| i * 7 % 3;
    let with_adapter = |i: usize| {
        let mut utterance = utterances[i].clone();
        utterance["adapter"] = NAMES[which(i)].into();
        utterance
    };

    for options in ["", "--batch-tokens 16 --cache-memory 0", "--threads 1", "--batch-tokens 200 --threads 3"]
    {
        let server = Server::start(&desk, &format!("--adapters adapters --device cpu {options}"));
        // All of one adapter in one request.
        for (name, lines) in NAMES.iter().zip(&expected) {
            let answer = server.rescore(&json!({"utterances": utterances, "adapter": name}));
            let answered = answer["utterances"].as_array().unwrap();
            answered.iter().zip(lines).for_each(|(answered, line)| same(answered, line));
            assert_eq!(answered.len(), lines.len());
        }
        // All at once, one request each, of mixed adapters: whatever waits together is a batch.
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    loop {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        if i >= utterances.len() {
                            break;
                        }
                        let answer = server.rescore(&with_adapter(i));
                        same(&answer["utterances"][0], &expected[which(i)][i]);
                    }
                });
            }
        });
        // Mixed in one request.
        let mixed: Vec<Value> = (0..utterances.len()).map(with_adapter).collect();
        let answer = server.rescore(&json!({"utterances": mixed}));
        for (i, answered) in answer["utterances"].as_array().unwrap().iter().enumerate() {
            same(answered, &expected[which(i)][i]);
        }
        // Everything was asked for three times: what is not known was computed, and all that is known was not.
        let hits = server.figure("lorb_cache_hits_total", "");
        assert_eq!(hits > 0.0, !options.contains("--cache-memory 0"), "{options}: {hits} hits");
    }
}

#[test]
fn weights_are_the_adapters_unless_given_and_parts_add_up() {
    let desk = Desk::new();
    write_adapters(&desk, &["a"]);
    let server = Server::start(&desk, "--adapters adapters");
    let ask = json!({
        "adapter": "a", "weights": {"lm": 0.5, "words": -0.25},
        "hyps": [{"text": "the of", "am": -1.5, "lm": -4.0}, {"text": "the was of", "am": -1.0, "lm": -6.0}],
    });
    crate::harness::conforms("AskedUtterance", &ask);
    let response = server.ask("POST", "/v1/rescore?explain=1", &ask.to_string());
    let answer = response.json();
    crate::harness::conforms("Answer", &answer);
    let answered = &answer["utterances"][0];
    assert_eq!(
        answered["weights"],
        json!({"first_pass": 1.0, "lm": 0.5, "lorb": 1.0, "words": -0.25, "ngram": 0.0})
    );
    for (i, words) in [2, 3].into_iter().enumerate() {
        let (parts, number) = (&answered["hyps"][i]["parts"], |value: &Value| value.as_f64().unwrap());
        assert_eq!(number(&parts["first_pass"]), number(&ask["hyps"][i]["am"]));
        assert_eq!(number(&parts["lm"]), 0.5 * number(&ask["hyps"][i]["lm"]));
        assert_eq!(number(&parts["words"]), -0.25 * f64::from(words));
        assert_eq!(number(&parts["lorb"]), number(&answered["hyps"][i]["lorb"]));
        assert_eq!((&parts["word_count"], &parts["tokens"]), (&json!(words), &json!(words + 2)));
        assert_eq!((&parts["cut"], &parts["cached"]), (&json!(false), &json!(false)));
        let sum: f64 = ["first_pass", "lm", "words", "lorb"].iter().map(|part| number(&parts[part])).sum();
        assert!((sum - number(&answered["hyps"][i]["total"])).abs() < 1e-12);
    }
    let again = server.ask("POST", "/v1/rescore?explain=1", &ask.to_string()).json();
    assert_eq!(again["utterances"][0]["hyps"][0]["parts"]["cached"], true);
    assert_eq!(again["utterances"][0]["hyps"][0]["total"], answered["hyps"][0]["total"]);
}

#[test]
fn what_an_utterance_says_goes_before_what_its_request_says() {
    let desk = Desk::new();
    write_adapters(&desk, &["a", "b"]);
    let server = Server::start(&desk, "--adapters adapters --cache-memory 0");
    let hyps = json!([{"text": "the of", "am": -1.5}]);
    let own = json!({"hyps": hyps, "adapter": "b", "weights": {"lorb": 2.0}});
    let ask = json!({"adapter": "a", "weights": {"lorb": 3.0}, "utterances": [own, {"hyps": hyps}]});
    let answer = server.rescore(&ask);
    let of = |i: usize| [&answer["utterances"][i]["adapter"], &answer["utterances"][i]["weights"]["lorb"]];
    assert_eq!(of(0), [&json!("b"), &json!(2.0)]);
    assert_eq!(of(1), [&json!("a"), &json!(3.0)]);
    // More than is scored in a millisecond.
    let many: Vec<Value> = (1..60).map(|i| json!({"text": "the ".repeat(i), "am": 0})).collect();
    let patient = json!({"hyps": many, "deadline_ms": 100_000});
    server.rescore(&json!({"adapter": "a", "deadline_ms": 1, "utterances": [patient]}));
}

#[test]
fn an_adapter_with_a_pooler_of_its_own_scores_beside_one_without() {
    let desk = Desk::new();
    write_adapters(&desk, &["a"]);
    let model = BaseModel::open(&desk.path("base")).unwrap();
    let adapter = Adapter::load(desk.path("adapters/a"), &model.config, &model.checkpoint).unwrap();
    adapter.with_fresh_pooler(&model.config, 3).save(desk.path("adapters/b")).unwrap();
    let server = Server::start(&desk, "--adapters adapters --cache-memory 0");
    let ask = |name: &str| json!({"adapter": name, "hyps": [{"text": "the of", "am": -1.5}]});
    let [a, b] = ["a", "b"].map(|name| server.rescore(&ask(name))["utterances"][0].clone());
    assert_ne!(a["hyps"], b["hyps"]);
    let both = server.rescore(&json!({"utterances": [ask("a"), ask("b")]}));
    assert_eq!(both["utterances"], json!([a, b]));
}

#[test]
fn unit_and_ngram_model_of_an_adapter_count_as_in_rescore() {
    let desk = Desk::new();
    let folder = desk.path("adapters/a");
    write_adapters(&desk, &["a"]);
    let text = lists(13, 20);
    let lines = parsed(&text);
    let said: Vec<&str> = lines.iter().map(|line| line["ref"].as_str().unwrap()).collect();
    let characters: Vec<Vec<&str>> = said.iter().map(|text| units(text, Unit::Char)).collect();
    let ngram = Ngram::estimate(2, characters.iter().map(|text| &text[..])).unwrap();
    ngram.save(&folder).unwrap();
    let settings = RescoringFile {
        weights: Weights { words: -0.25, ngram: 0.5, lorb: 1.0, ..Weights::default() },
        confidence_scale: 0.5,
        fields: Default::default(),
        normalise: Default::default(),
        unit: Unit::Char,
        ngram: Some(Familiarity { mean: -2.0, strange: -20.0, usual: -3.0 }),
        tuned_on: Vec::new(),
    };
    settings.save(&folder).unwrap();
    desk.write("in.jsonl", &text);
    let rescored =
        parsed(&desk.ok("rescore --model base --adapter adapters/a --input in.jsonl --device cpu"));
    let server = Server::start(&desk, "--adapters adapters --device cpu");
    let bytes = || server.get("/v1/adapters").json()["bytes"].as_u64().unwrap();
    let answer = server.rescore(&json!({"adapter": "a", "utterances": utterances(&text)}));
    for (answered, line) in answer["utterances"].as_array().unwrap().iter().zip(&rescored) {
        same(answered, line);
        assert!(line["hyps"].as_array().unwrap().iter().all(|h| h["lorb_ngram"] != 0.0));
    }
    // It takes memory too.
    let with = bytes();
    fs::remove_file(folder.join(Ngram::FILE)).unwrap();
    RescoringFile { ngram: None, ..settings }.save(&folder).unwrap();
    assert_eq!(server.ask("PUT", "/v1/adapters/a", "").status, 200);
    assert_eq!(with - bytes(), ngram.bytes() as u64);
}

#[test]
fn without_an_adapter_the_models_own_head_scores() {
    let desk = Desk::new();
    desk.ok("merge --model base --adapter adapter --output merged");
    desk.write("in.jsonl", lists(12, 10));
    let expected = parsed(&desk.ok("rescore --model merged --input in.jsonl --device cpu"));
    std::fs::rename(desk.path("base"), desk.path("unmerged")).unwrap();
    std::fs::rename(desk.path("merged"), desk.path("base")).unwrap();
    let server = Server::start(&desk, "--device cpu");
    let answer = server.rescore(&json!({"utterances": utterances(&lists(12, 10))}));
    answer["utterances"].as_array().unwrap().iter().zip(&expected).for_each(|(a, line)| same(a, line));
    assert_eq!(server.get("/v1/adapters").json()["own_head"], true);
}
