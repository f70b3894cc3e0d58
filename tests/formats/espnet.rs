//! Decode folders of ESPnet, a real one among them.

use std::fs;
use std::path::{Path, PathBuf};

use lorb_engine::nbest::{Fields, Format, Hypothesis, ListReader, Reading, Utterance, read_all};

use crate::support::cli::{Desk, parsed};

/// Writes `folder/{n}best_recog/file` of `files`, as (n, file, content).
pub fn decode_folder(folder: &Path, files: &[(usize, &str, &str)]) {
    for (n, file, content) in files {
        let folder = folder.join(format!("{n}best_recog"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(file), content).unwrap();
    }
}

fn read(folder: &Path, weight: Option<f64>) -> Result<Vec<Utterance>, String> {
    let reading = Reading { ctc_weight: weight, ..Reading::default() };
    let reader =
        ListReader::open_as(Some(folder), &Fields::default(), &reading).map_err(|e| e.to_string())?;
    reader.collect::<Result<_, _>>().map_err(|e| e.to_string())
}

const SMALL: [(usize, &str, &str); 6] = [
    (1, "text", "u A B\nv C\n"),
    (1, "score", "u tensor(-1.5)\nv -2\n"),
    (
        1,
        "scores",
        "u {'decoder': tensor(-1.), 'ctc': tensor(-3.), 'lm': tensor(-9.)}\nv {\"am\": -9, \"ctc\": -1, \"decoder\": -2}\n",
    ),
    (2, "text", "u \n"),
    (2, "score", "u tensor(-2.5, device='cuda:0')\n"),
    (2, "scores", "u {'decoder': 0, 'ctc': -4, 'lm': -8}\n"),
];

#[test]
fn parts_are_weighed_and_short_lists_stay_short() {
    let dir = tempfile::tempdir().unwrap();
    decode_folder(dir.path(), &SMALL);
    let lists = read(dir.path(), Some(0.25)).unwrap();
    assert_eq!(
        lists.iter().map(|u| (u.id.as_str(), u.hypotheses.len())).collect::<Vec<_>>(),
        [("u", 2), ("v", 1)]
    );
    let scores: Vec<_> =
        lists.iter().flat_map(|u| &u.hypotheses).map(|h| (&h.text[..], h.first_pass, h.lm)).collect();
    assert_eq!(scores, [("A B", -1.5, Some(-9.0)), ("", -1.0, Some(-8.0)), ("C", -1.75, None)]);
    assert_eq!(lists[0].hypotheses[1].fields["score"], -2.5);
    let error = read(dir.path(), None).unwrap_err();
    assert!(error.contains("text:1: hyps[0] has no \"am\"") && error.contains("--ctc-weight"), "{error}");
}

#[test]
fn the_folders_of_jobs_are_one_list() {
    let dir = tempfile::tempdir().unwrap();
    for (job, id) in [(10, "w"), (2, "v"), (1, "u")] {
        let text = format!("{id} A\n");
        let scores = format!("{id} {{'am': -1}}\n");
        decode_folder(
            &dir.path().join(format!("output.{job}")),
            &[(1, "text", &text), (1, "scores", &scores)],
        );
    }
    let ids: Vec<String> = read(dir.path(), None).unwrap().into_iter().map(|u| u.id).collect();
    assert_eq!(ids, ["u", "v", "w"]);
}

#[test]
fn what_is_wrong_is_named_with_file_and_line() {
    for (n, file, content, expected) in [
        (1, "score", "u -1\nw -2\n", "1best_recog/score:2: expected v, found w"),
        (1, "score", "u -1\n", "1best_recog/score:1: expected v, found the end"),
        (1, "score", "u -1\nv nan\n", "1best_recog/score:2: nan is not a finite number"),
        (1, "scores", "u {'am': -1, 'lm': -1}\nv -2\n", "1best_recog/scores:2: expected a dictionary"),
        (2, "text", "w X\n", "2best_recog/text:1: w is not in 1best_recog/text"),
        (2, "text", "v X\nu Y\n", "2best_recog/scores:1: expected v, found u"),
        (2, "score", "u -1\nv -1\n", "2best_recog/score:2: v is not in 1best_recog/text"),
        (3, "text", "u X\n", "3best_recog: it has not the files of 1best_recog"),
        (1, "text", " u A\n", "1best_recog/text:1: the line begins with a space"),
        (1, "text", "", "1best_recog/text: there is no utterance"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        decode_folder(dir.path(), &SMALL);
        decode_folder(dir.path(), &[(n, file, content)]);
        let error = match content {
            "" => fs::remove_dir_all(dir.path().join("2best_recog"))
                .and_then(|()| fs::write(dir.path().join("1best_recog/score"), ""))
                .and_then(|()| fs::write(dir.path().join("1best_recog/scores"), ""))
                .map(|()| read_all(&[dir.path()], &Fields::default()).unwrap_err().to_string())
                .unwrap(),
            _ => read(dir.path(), Some(0.5)).unwrap_err(),
        };
        assert!(error.contains(expected), "{content:?}: {error}");
    }
}

#[test]
fn a_hypothesis_without_the_one_before_it_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let scores = ("scores", "u {'am': -1}\nv {'am': -1}\n");
    decode_folder(dir.path(), &[(1, "text", "u A\nv B\n"), (1, scores.0, scores.1)]);
    decode_folder(dir.path(), &[(2, "text", "v A\nu B\n"), (2, scores.0, "v {'am': -1}\nu {'am': -1}\n")]);
    decode_folder(dir.path(), &[(3, "text", "u A\nv B\n"), (3, scores.0, scores.1)]);
    let error = read(dir.path(), None).unwrap_err();
    assert!(
        error.contains("3best_recog/text:1: u has a hypothesis here, but none in 2best_recog"),
        "{error}"
    );
}

#[test]
fn rescoring_writes_a_folder_in_its_new_order() {
    let desk = Desk::new();
    desk.write("in.jsonl", crate::support::cli::lists(5, 40));
    desk.ok("convert in.jsonl decode --to espnet");
    desk.ok("rescore --model base --adapter adapter --input decode --output rescored");
    let expected = parsed(&desk.ok("rescore --model base --adapter adapter --input in.jsonl"));
    let best: String = expected
        .iter()
        .map(|line| format!("{} {}\n", line["id"].as_str().unwrap(), line["best"].as_str().unwrap()))
        .collect();
    assert_eq!(desk.read("rescored/1best_recog/text"), best);
    let total = |line: &serde_json::Value| {
        line["hyps"][line["order"][0].as_u64().unwrap() as usize]["total"].as_f64().unwrap()
    };
    let scores = desk.read("rescored/1best_recog/score");
    for (line, score) in expected.iter().zip(scores.lines()) {
        assert_eq!(score, format!("{} {}", line["id"].as_str().unwrap(), total(line)));
    }
    desk.refused("rescore --model base --adapter adapter --input decode --output rescored", 2, &["rescored"]);
    desk.refused(
        "rescore --model base --adapter adapter --input decode --output x --prune 1",
        2,
        &["--output-format jsonl"],
    );
    desk.refused(
        "rescore --model base --adapter adapter --input decode --output x --on-error skip",
        2,
        &["jsonl"],
    );
    let piped = desk.ok("rescore --model base --adapter adapter --input decode");
    assert_eq!(parsed(&piped)[0]["best"], expected[0]["best"]);
}

/// A decoding of 100 utterances, and the lists that were made of the same one.
fn real() -> Option<(PathBuf, PathBuf)> {
    let Some(folder) = std::env::var_os("LORB_TEST_DATA").map(PathBuf::from) else {
        eprintln!("skipped: LORB_TEST_DATA does not name the folder that holds espnet-decode/");
        return None;
    };
    let decode = folder.join("espnet-decode/dev_other");
    if !decode.is_dir() {
        eprintln!("skipped: there is no {}", decode.display());
        return None;
    }
    Some((decode, folder.join("librispeech-30best/dev_other.jsonl.gz")))
}

#[test]
fn a_real_decoding_gives_the_lists_that_were_made_of_it() {
    let Some((decode, lists)) = real() else { return };
    let desk = Desk::new();
    let all = read_all(&[&lists], &Fields::default()).unwrap();
    let references: String =
        all.iter().map(|u| format!("{} {}\n", u.id, u.reference.as_deref().unwrap())).collect();
    desk.write("text", references);
    let (decode, out) = (decode.display(), desk.path("out.jsonl"));
    desk.ok(&format!("convert {decode} out.jsonl --ctc-weight 0.4 --ref text"));
    let found = read_all(&[&out], &Fields::default()).unwrap();
    assert_eq!(found.len(), 100);
    for utterance in &found {
        let expected = all.iter().find(|u| u.id == utterance.id).unwrap();
        assert_eq!(utterance.reference, expected.reference);
        assert_eq!(utterance.hypotheses.len(), expected.hypotheses.len());
        for (found, expected) in utterance.hypotheses.iter().zip(&expected.hypotheses) {
            assert_eq!((&found.text, found.lm), (&expected.text, expected.lm));
            // The lists have four decimals, as the parts that am and the score are made of.
            let apart = (found.first_pass - expected.first_pass).abs();
            assert!(apart <= 0.51e-4, "{}: {found:?} is not {expected:?}", utterance.id);
            let score = |h: &Hypothesis| h.fields["score"].as_f64().unwrap();
            assert!((score(found) - score(expected)).abs() < 1.5e-4, "{}: {found:?}", utterance.id);
        }
    }
    let total = |u: &Utterance| u.hypotheses[0].first_pass + 0.6 * u.hypotheses[0].lm.unwrap();
    assert!(
        found.iter().all(|u| (total(u) - u.hypotheses[0].fields["score"].as_f64().unwrap()).abs() < 2e-4)
    );
    assert_eq!(Format::detect(Path::new(&decode.to_string())).unwrap(), Format::Espnet);
}
