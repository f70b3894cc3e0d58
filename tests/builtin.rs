//! The embedded default.

use std::collections::HashSet;
use std::process::Command;

use lorb_engine::builtin;
use lorb_engine::nbest::Fields;

#[test]
fn the_embedded_lists_are_whole_and_their_sentences_disjoint() {
    let fields = Fields::default();
    let references = |reader: lorb_engine::nbest::ListReader| -> HashSet<String> {
        reader.map(|u| u.unwrap().reference.unwrap()).collect()
    };
    let train = references(builtin::training_lists(&fields).unwrap());
    let held_out = references(builtin::held_out_lists(&fields).unwrap());
    assert!(train.len() > 400 && held_out.len() > 100, "{} {}", train.len(), held_out.len());
    assert!(train.is_disjoint(&held_out));
}

#[test]
fn every_hypothesis_is_in_the_embedded_vocabulary() {
    let model = builtin::model().unwrap();
    let fields = Fields::default();
    for utterance in
        builtin::training_lists(&fields).unwrap().chain(builtin::held_out_lists(&fields).unwrap())
    {
        for hypothesis in utterance.unwrap().hypotheses {
            let ids = model.tokenizer.encode(&hypothesis.text, model.config.max_positions).unwrap().ids;
            let unknown = model.tokenizer.encode("\u{2603}", 3).unwrap().ids[1];
            assert!(!ids.contains(&unknown), "{} has an unknown word", hypothesis.text);
        }
    }
}

/// The main job as a newcomer runs it: it must lower the WER of the held-out lists.
#[test]
fn train_without_an_argument_lowers_the_wer_of_held_out_lists() {
    let dir = tempfile::tempdir().unwrap();
    let run = Command::new(env!("CARGO_BIN_EXE_lorb-engine")).arg("train").current_dir(dir.path()).output();
    let run = run.unwrap();
    let out = String::from_utf8(run.stdout).unwrap();
    assert!(run.status.success(), "{out}{}", String::from_utf8_lossy(&run.stderr));
    let line = out.lines().find_map(|l| l.strip_prefix("held out")).expect("a line for the held-out lists");
    let percents: Vec<f64> = line.split('%').take(4).map(|p| p.trim().parse().unwrap()).collect();
    let [first_pass, tuned, lorb, oracle] = percents[..] else { panic!("{line}") };
    assert!(lorb < first_pass.min(tuned) - 1.0 && oracle < lorb, "{line}");
    assert!(dir.path().join("lorb-adapter/adapter_model.safetensors").is_file());
}
