//! Any utterances, through any format and back.

use std::path::{Path, PathBuf};

use lorb_engine::nbest::{Fields, Format, ListReader, ListWriter, Reading, Record};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// What is asked of the utterances of a list.
#[derive(Clone, Copy)]
pub struct Limits {
    /// Ids without spaces, and texts without line breaks.
    pub keyed: bool,
    pub references: bool,
    /// Scores by name.
    pub scores: &'static [&'static str],
}

/// An id, a reference, and hypotheses with their scores.
type Drawn = (String, Option<String>, Vec<(String, Vec<f64>)>);

/// Utterances with ids of their own, any text, and all of the scores.
pub fn utterances(limits: Limits) -> impl Strategy<Value = Vec<Value>> {
    let text = match limits.keyed {
        true => any::<String>().prop_map(|text| text.replace(['\n', '\r'], " ")).boxed(),
        false => any::<String>().boxed(),
    };
    let text = prop_oneof![1 => Just(String::new()), 1 => "[ \t]{0,3}", 1 => "[A-Z' ]{0,20}", 2 => text];
    let number =
        prop_oneof![(-1e4..1e4f64), any::<f64>().prop_filter("finite", |x| x.is_finite()), Just(0.0)];
    let scores = proptest::collection::vec(number, limits.scores.len());
    let hypotheses = proptest::collection::vec((text.clone(), scores), 1..6);
    let id = match limits.keyed {
        true => any::<String>()
            .prop_map(|id| id.replace(|c: char| c.is_whitespace() || c.is_control(), "_"))
            .boxed(),
        false => any::<String>().boxed(),
    };
    let reference = proptest::option::of(text);
    proptest::collection::vec((id, reference, hypotheses), 1..8).prop_map(move |list| {
        let utterance = |(i, (id, reference, hypotheses)): (usize, Drawn)| {
            let hypotheses = hypotheses.into_iter().map(|(text, scores)| {
                let mut fields = Map::from_iter([("text".to_owned(), json!(text))]);
                fields.extend(
                    limits.scores.iter().zip(scores).map(|(name, score)| ((*name).to_owned(), json!(score))),
                );
                Value::Object(fields)
            });
            let mut utterance = json!({"id": format!("{i}{id}"), "hyps": hypotheses.collect::<Vec<_>>()});
            if let Some(reference) = reference.filter(|_| limits.references) {
                utterance["ref"] = json!(reference);
            }
            utterance
        };
        list.into_iter().enumerate().map(utterance).collect()
    })
}

/// Records of JSON lines.
pub fn records(dir: &TempDir, lines: &[Value]) -> Vec<Record> {
    let path = dir.path().join("lists.jsonl");
    std::fs::write(&path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    read(&path, Format::Jsonl)
}

pub fn read(path: &Path, format: Format) -> Vec<Record> {
    let reading = Reading { format: Some(format), ..Reading::default() };
    let mut reader = ListReader::open_as(Some(path), &Fields::default(), &reading).unwrap();
    std::iter::from_fn(|| reader.next_record()).collect::<Result<_, _>>().unwrap()
}

pub fn write(path: &Path, format: Format, records: &[Record]) -> PathBuf {
    let mut writer = ListWriter::create(Some(path), format).unwrap();
    records.iter().for_each(|record| writer.write(record).unwrap());
    let dropped = writer.finish().unwrap();
    assert!(dropped.is_empty(), "{dropped}");
    path.into()
}

/// The lists through a format and back; the order of fields is of no account.
pub fn through(name: &str, format: Format, lines: &[Value]) -> Vec<Value> {
    let dir = tempfile::tempdir().unwrap();
    let path = write(&dir.path().join(name), format, &records(&dir, lines));
    assert!(matches!(Format::detect(&path), Ok(found) if found == format));
    read(&path, format).iter().map(|record| serde_json::to_value(record).unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn json_lines_hold_everything(
        lines in utterances(Limits { keyed: false, references: true, scores: &["am", "lm", "score"] }),
    ) {
        prop_assert_eq!(through("out.jsonl.gz", Format::Jsonl, &lines), lines);
    }

    #[test]
    fn espnet_holds_texts_and_scores(
        lines in utterances(Limits { keyed: true, references: false, scores: &["am", "lm", "decoder", "ctc", "score"] }),
    ) {
        prop_assert_eq!(through("decode", Format::Espnet, &lines), lines);
    }

    #[test]
    fn espnet_does_without_a_score(
        lines in utterances(Limits { keyed: true, references: false, scores: &["am"] }),
    ) {
        prop_assert_eq!(through("decode", Format::Espnet, &lines), lines);
    }

    #[test]
    fn kaldi_holds_texts_and_costs(
        lines in utterances(Limits { keyed: true, references: false, scores: &["am", "lm", "score", "my-2nd_lm"] }),
    ) {
        prop_assert_eq!(through("nbest", Format::Kaldi, &lines), lines);
    }

    #[test]
    fn nemo_holds_texts_one_score_references_and_what_a_manifest_may(
        lines in utterances(Limits { keyed: true, references: true, scores: &["am"] }), speaker: String,
    ) {
        // As many hypotheses for each utterance, and no tabs in them.
        let mut lines = lines;
        for line in &mut lines {
            line["speaker"] = json!(speaker);
            let hypotheses = line["hyps"].as_array_mut().unwrap();
            hypotheses.truncate(1);
            let text = hypotheses[0]["text"].as_str().unwrap().replace(['\t', '\u{feff}'], "");
            hypotheses[0]["text"] = json!(text);
            hypotheses.push(hypotheses[0].clone());
        }
        prop_assert_eq!(through("beams.tsv.gz", Format::Nemo, &lines), lines);
    }

    #[test]
    fn mlm_scoring_holds_everything(
        lines in utterances(Limits { keyed: false, references: true, scores: &["am", "lm", "score"] }),
    ) {
        prop_assert_eq!(through("lists.json", Format::Mlm, &lines), lines);
    }

    #[test]
    fn mlm_scoring_has_one_score_for_lists_that_have_one(
        lines in utterances(Limits { keyed: false, references: true, scores: &["am"] }),
    ) {
        prop_assert_eq!(through("lists.json.zst", Format::Mlm, &lines), lines);
    }

    #[test]
    fn csv_holds_texts_scores_and_references(
        lines in utterances(Limits { keyed: false, references: true, scores: &["am", "lm", "a, \"b\""] }),
    ) {
        // Of all utterances, or of none.
        let mut lines = lines;
        let said = lines[0].get("ref").is_some();
        for line in &mut lines {
            line.as_object_mut().unwrap().remove("ref");
            if said {
                line["ref"] = json!("A");
            }
        }
        prop_assert_eq!(through("lists.csv", Format::Csv, &lines), lines);
    }

    #[test]
    fn parquet_holds_texts_scores_references_and_fields_of_one_type(
        lines in utterances(Limits { keyed: false, references: true, scores: &["am", "lm", "a, \"b\""] }),
        speaker: String, number: i64, flag: bool,
    ) {
        // Some have a field and some do not, but the first has it.
        let mut lines = lines;
        for (i, line) in lines.iter_mut().enumerate().filter(|(i, _)| i % 3 != 1) {
            line["speaker"] = json!(speaker);
            line["number"] = json!(number.wrapping_add(i as i64));
            line["share"] = json!(1.0 / (i + 3) as f64);
            for hypothesis in line["hyps"].as_array_mut().unwrap() {
                hypothesis["flag"] = json!(flag);
                hypothesis["said by"] = json!(speaker);
            }
        }
        prop_assert_eq!(through("lists.parquet", Format::Parquet, &lines), lines);
    }
}
