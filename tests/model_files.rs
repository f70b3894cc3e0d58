//! A Hugging Face folder is read whichever way it is stored, and refused with the reason where it is wrong.

mod support;

use std::fs;
use std::path::Path;

use lorb_engine::bert::{Checkpoint, Config, Encoder, Tokenizer};
use lorb_engine::device::cpu::{Cpu, Isa};
use lorb_engine::hub::Found;
use lorb_engine::rescore::head::Head;
use lorb_engine::rescore::settings::ListOptions;
use safetensors::{Dtype, SafeTensors};
use support::{TinyBert, bytes, tiny_bert, vocabulary, write_safetensors};
use tempfile::tempdir;

const QUERY: &str = "encoder.layer.0.attention.self.query.weight";

fn refusal<T>(result: lorb_engine::Result<T>) -> String {
    let error = result.err().expect("it should be refused");
    assert_eq!(error.exit_code(), 2, "{error}");
    error.to_string()
}

#[track_caller]
fn assert_says(refusal: String, words: &[&str]) {
    words.iter().for_each(|w| assert!(refusal.contains(w), "{w:?} is not in: {refusal}"));
}

fn edit_config(dir: &Path, key: &str, value: serde_json::Value) {
    let path = dir.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config[key] = value;
    fs::write(path, config.to_string()).unwrap();
}

#[test]
fn the_configuration_has_the_sizes() {
    let dir = tempdir().unwrap();
    tiny_bert(dir.path(), 1, &TinyBert::default());
    let config = Config::open(dir.path()).unwrap();
    assert_eq!((config.hidden, config.layers, config.heads, config.head_size()), (32, 2, 4, 8));
    assert_eq!((config.intermediate, config.vocab, config.max_positions), (64, vocabulary().len(), 64));
    assert_eq!(config.layer_norm_eps, 1e-12);
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    for (key, value, word) in [
        ("model_type", "roberta".into(), "roberta"),
        ("hidden_act", "gelu_new".into(), "gelu_new"),
        ("hidden_act", "relu".into(), "relu"),
        ("position_embedding_type", "relative_key".into(), "relative_key"),
        ("is_decoder", true.into(), "decoder"),
        ("add_cross_attention", true.into(), "decoder"),
        ("num_attention_heads", 5.into(), "5 heads do not divide 32"),
        ("num_hidden_layers", 0.into(), "num_hidden_layers is 0"),
        ("vocab_size", (1u64 << 60).into(), "vocab_size"),
        ("hidden_size", (-3).into(), "-3"),
        ("layer_norm_eps", 0.0.into(), "layer_norm_eps"),
    ] as [(&str, serde_json::Value, &str); 11]
    {
        let dir = tempdir().unwrap();
        tiny_bert(dir.path(), 1, &TinyBert::default());
        edit_config(dir.path(), key, value);
        assert_says(refusal(Config::open(dir.path())), &["config.json", word]);
    }
    assert_says(refusal(Config::from_bytes(b"{", "embedded")), &["embedded", "not a BERT configuration"]);
    assert_says(refusal(Config::open("/no/such/folder")), &["/no/such/folder"]);
}

#[test]
fn the_epsilon_of_the_norms_is_that_of_the_file() {
    let dir = tempdir().unwrap();
    tiny_bert(dir.path(), 1, &TinyBert::default());
    edit_config(dir.path(), "layer_norm_eps", 1e-5.into());
    assert_eq!(Config::open(dir.path()).unwrap().layer_norm_eps, 1e-5);
}

#[test]
fn every_spelling_and_type_gives_the_same_weights() {
    let plain = tempdir().unwrap();
    tiny_bert(plain.path(), 7, &TinyBert::default());
    let config = Config::open(plain.path()).unwrap();
    let plain = Checkpoint::open(plain.path()).unwrap();
    for (dtype, tolerance) in [(Dtype::F32, 0.0), (Dtype::F16, 1.2 / 2048.0), (Dtype::BF16, 1.2 / 256.0)] {
        let dir = tempdir().unwrap();
        tiny_bert(dir.path(), 7, &TinyBert { dtype, prefix: true, old_names: true, ..Default::default() });
        let other = Checkpoint::open(dir.path()).unwrap();
        for (name, shape) in config.encoder_tensors() {
            assert!(other.contains(&name));
            let (a, b) = (plain.f32(&name, &shape).unwrap(), other.f32(&name, &shape).unwrap());
            assert_eq!(a.len(), shape.iter().product::<usize>());
            for (a, b) in a.iter().zip(b.iter()) {
                assert!((a - b).abs() <= tolerance, "{name}: {a} {b}");
            }
        }
        let fingerprint = |c: &Checkpoint| c.fingerprint(&config).unwrap();
        assert!(fingerprint(&plain).matches(&fingerprint(&other)), "{dtype:?}");
    }
}

#[test]
fn weights_outlive_their_checkpoint_and_threads() {
    let dir = tempdir().unwrap();
    tiny_bert(dir.path(), 7, &TinyBert::default());
    let weights = Checkpoint::open(dir.path()).unwrap().f32(QUERY, &[32, 32]).unwrap();
    let copy = weights.clone();
    drop(dir);
    let sum = std::thread::spawn(move || copy.iter().sum::<f32>()).join().unwrap();
    assert_eq!(sum, weights.iter().sum::<f32>());
}

#[test]
fn embedded_bytes_need_no_alignment() {
    let dir = tempdir().unwrap();
    tiny_bert(dir.path(), 7, &TinyBert::default());
    let file = Checkpoint::open(dir.path()).unwrap();
    let bytes = fs::read(dir.path().join("model.safetensors")).unwrap();
    for shift in 0..4 {
        let mut shifted = vec![0; shift];
        shifted.extend_from_slice(&bytes);
        let embedded = Checkpoint::from_static(&shifted.leak()[shift..], "embedded").unwrap();
        assert_eq!(*embedded.f32(QUERY, &[32, 32]).unwrap(), *file.f32(QUERY, &[32, 32]).unwrap());
    }
}

#[test]
fn shards_are_one_model() {
    let dir = tempdir().unwrap();
    let one = bytes(&[1.0, 2.0], Dtype::F32);
    let index = |map: &str| {
        fs::write(dir.path().join("model.safetensors.index.json"), format!("{{\"weight_map\": {map}}}"))
            .unwrap();
    };
    write_safetensors(&dir.path().join("1.safetensors"), Dtype::F32, &[("a".into(), vec![2], one.clone())]);
    write_safetensors(&dir.path().join("2.safetensors"), Dtype::F32, &[("b".into(), vec![1, 2], one)]);
    index(r#"{"a": "1.safetensors", "b": "2.safetensors"}"#);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(*checkpoint.f32("b", &[1, 2]).unwrap(), [1.0, 2.0]);
    index(r#"{"a": "1.safetensors", "c": "2.safetensors"}"#);
    assert_says(refusal(Checkpoint::open(dir.path())), &["no shard holds c"]);
    index(r#"{"a": "../1.safetensors"}"#);
    assert_says(refusal(Checkpoint::open(dir.path())), &["../1.safetensors"]);
    index(r#"{"a": "3.safetensors"}"#);
    assert_says(refusal(Checkpoint::open(dir.path())), &["3.safetensors"]);
}

#[test]
fn a_tensor_that_is_wrong_is_named() {
    let dir = tempdir().unwrap();
    tiny_bert(dir.path(), 7, &TinyBert::default());
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let missing = "encoder.layer.0.attention.self.quary.weight";
    assert_says(refusal(checkpoint.f32(missing, &[32, 32])), &[missing, "nothing", "39 tensors", QUERY]);
    assert_says(refusal(checkpoint.f32(QUERY, &[64, 64])), &[QUERY, "[64, 64]", "[32, 32]"]);

    let file = dir.path().join("model.safetensors");
    let bad = [1.0, f32::NAN, 3.0];
    write_safetensors(&file, Dtype::F32, &[(QUERY.into(), vec![3], bytes(&bad, Dtype::F32))]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_says(refusal(checkpoint.f32(QUERY, &[3])), &["finite", "NaN at 1"]);
    write_safetensors(&file, Dtype::F16, &[(QUERY.into(), vec![1], bytes(&[f32::INFINITY], Dtype::F16))]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_says(refusal(checkpoint.f32(QUERY, &[1])), &["inf at 0"]);
    write_safetensors(&file, Dtype::I64, &[(QUERY.into(), vec![1], vec![0; 8])]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_says(refusal(checkpoint.f32(QUERY, &[1])), &["F32, F16 or BF16", "I64"]);
}

#[test]
fn a_damaged_file_is_refused_wherever_it_ends() {
    let dir = tempdir().unwrap();
    tiny_bert(dir.path(), 7, &TinyBert::default());
    let file = dir.path().join("model.safetensors");
    let whole = fs::read(&file).unwrap();
    for length in [0, 1, 7, 8, 9, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&file, &whole[..length]).unwrap();
        assert_says(refusal(Checkpoint::open(dir.path())), &["model.safetensors", "not a whole safetensors"]);
    }
    fs::write(&file, [0xff; 64]).unwrap();
    assert_says(refusal(Checkpoint::open(dir.path())), &["not a whole safetensors"]);
}

#[test]
fn a_folder_without_weights_says_what_to_do() {
    let dir = tempdir().unwrap();
    assert_says(refusal(Checkpoint::open(dir.path())), &["no model.safetensors"]);
    fs::write(dir.path().join("pytorch_model.bin"), b"x").unwrap();
    assert_says(refusal(Checkpoint::open(dir.path())), &["pytorch_model.bin", "python -c", "save_file"]);
    let quoted = dir.path().join("it's");
    fs::create_dir(&quoted).unwrap();
    fs::write(quoted.join("pytorch_model.bin"), b"x").unwrap();
    assert_says(refusal(Checkpoint::open(&quoted)), &[r"it'\''s' && python"]);
    assert_says(refusal(Checkpoint::open("/no/such/folder")), &["/no/such/folder"]);
}

#[test]
fn another_model_has_another_fingerprint() {
    let print = |seed| {
        let dir = tempdir().unwrap();
        tiny_bert(dir.path(), seed, &TinyBert::default());
        let config = Config::open(dir.path()).unwrap();
        Checkpoint::open(dir.path()).unwrap().fingerprint(&config).unwrap()
    };
    let first = print(0);
    for seed in 1..50 {
        assert!(!first.matches(&print(seed)), "{seed}");
    }
    let json = serde_json::to_string(&first).unwrap();
    assert_eq!(serde_json::from_str::<lorb_engine::bert::Fingerprint>(&json).unwrap(), first);
}

/// Of two layers, what is looked at of either.
#[test]
fn another_first_or_last_layer_is_another_fingerprint() {
    let dir = tempdir().unwrap();
    tiny_bert(dir.path(), 0, &TinyBert::default());
    let config = Config::open(dir.path()).unwrap();
    let print = || Checkpoint::open(dir.path()).unwrap().fingerprint(&config).unwrap();
    let (path, before) = (dir.path().join("model.safetensors"), print());
    let file = fs::read(&path).unwrap();
    for name in [QUERY, "encoder.layer.0.output.dense.weight", "encoder.layer.1.attention.self.key.weight"] {
        let tensors = SafeTensors::deserialize(&file).unwrap();
        let data = tensors.tensor(name).unwrap().data();
        let start = data.as_ptr() as usize - file.as_ptr() as usize;
        let mut negated = file.clone();
        // The sign is in the last of an f32's four bytes.
        negated[start..start + data.len()].iter_mut().skip(3).step_by(4).for_each(|byte| *byte ^= 0x80);
        fs::write(&path, negated).unwrap();
        assert!(!before.matches(&print()), "{name}");
    }
}

#[test]
fn a_digest_covers_what_the_configuration_alone_tells() {
    let digest = |key, value| {
        let dir = tempdir().unwrap();
        tiny_bert(dir.path(), 1, &TinyBert { labels: 1, ..TinyBert::default() });
        edit_config(dir.path(), key, value);
        let base = Found { dir: dir.path().into(), name: "base".into(), id: None };
        Head::open(Some(base), None, &ListOptions::default()).unwrap().digest().unwrap()
    };
    let plain = digest("initializer_range", 0.02.into());
    assert_eq!(plain, digest("initializer_range", 0.05.into()), "it changes no score");
    for (key, value) in [
        ("num_attention_heads", 2.into()),
        ("layer_norm_eps", 1e-5.into()),
        ("max_position_embeddings", 32.into()),
    ] {
        assert_ne!(plain, digest(key, value), "{key}");
    }
}

fn tokenizer(dir: &Path) -> Tokenizer {
    Tokenizer::open(dir, &Config::open(dir).unwrap()).unwrap()
}

/// The tokens that `ids` stand for.
fn tokens(ids: &[u32]) -> Vec<String> {
    ids.iter().map(|&id| vocabulary()[id as usize].clone()).collect()
}

#[test]
fn a_text_becomes_pieces_between_cls_and_sep() {
    let dir = tempdir().unwrap();
    tiny_bert(dir.path(), 1, &TinyBert::default());
    let tokenizer = tokenizer(dir.path());
    let encoded = tokenizer.encode("The cat, and  HÉ", 64).unwrap();
    let expected = ["[CLS]", "the", "c", "##a", "##t", "[UNK]", "and", "he", "[SEP]"];
    assert_eq!(tokens(&encoded.ids), expected);
    assert!(!encoded.truncated);
    assert_eq!(tokens(&tokenizer.encode(" ", 64).unwrap().ids), ["[CLS]", "[SEP]"]);
    assert_eq!(tokens(&tokenizer.encode("[MASK]", 64).unwrap().ids), ["[CLS]", "[MASK]", "[SEP]"]);
}

#[test]
fn a_long_text_is_cut_before_sep() {
    let dir = tempdir().unwrap();
    tiny_bert(dir.path(), 1, &TinyBert::default());
    let tokenizer = tokenizer(dir.path());
    let encoded = tokenizer.encode(&"the ".repeat(5000), 64).unwrap();
    assert_eq!(encoded.ids.len(), 64);
    assert_eq!(tokens(&encoded.ids[62..]), ["the", "[SEP]"]);
    assert!(encoded.truncated);
    assert!(!tokenizer.encode(&"the ".repeat(62), 64).unwrap().truncated);
    assert_eq!(tokens(&tokenizer.encode("the", 2).unwrap().ids), ["[CLS]", "[SEP]"]);
    assert_says(refusal(tokenizer.encode("the", 1)), &["no room"]);
}

#[test]
fn the_tokenizers_options_are_honoured() {
    let dir = tempdir().unwrap();
    tiny_bert(dir.path(), 1, &TinyBert::default());
    fs::write(dir.path().join("tokenizer_config.json"), r#"{"do_lower_case": false}"#).unwrap();
    let encoded = tokenizer(dir.path()).encode("The the", 64).unwrap();
    assert_eq!(tokens(&encoded.ids), ["[CLS]", "[UNK]", "the", "[SEP]"]);
    fs::write(dir.path().join("tokenizer_config.json"), r#"{"strip_accents": false}"#).unwrap();
    let encoded = tokenizer(dir.path()).encode("HÉ", 64).unwrap();
    assert_eq!(tokens(&encoded.ids), ["[CLS]", "[UNK]", "[SEP]"]);
    for (option, expected) in
        [("true", &["[CLS]", "a", "[UNK]", "b", "[SEP]"][..]), ("false", &["[CLS]", "[UNK]", "[SEP]"])]
    {
        let options = format!("{{\"tokenize_chinese_chars\": {option}}}");
        fs::write(dir.path().join("tokenizer_config.json"), options).unwrap();
        assert_eq!(tokens(&tokenizer(dir.path()).encode("a\u{4f60}b", 64).unwrap().ids), expected);
    }
}

#[test]
fn tokenizer_json_goes_first_and_its_padding_is_not_used() {
    let dir = tempdir().unwrap();
    tiny_bert(dir.path(), 1, &TinyBert::default());
    let json = r###"{"version": "1.0",
        "truncation": {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {"strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                    "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100,
                  "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "x": 4}}}"###;
    fs::write(dir.path().join("tokenizer.json"), json).unwrap();
    assert_eq!(tokenizer(dir.path()).encode("x y x x", 64).unwrap().ids, [2, 4, 1, 4, 4, 3]);

    let config = Config::open(dir.path()).unwrap();
    let without =
        json.replace(r#"{"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}"#, "null");
    assert_says(refusal(Tokenizer::from_bytes(without.as_bytes(), "t", &config)), &["[CLS]", "[SEP]"]);
    assert_says(refusal(Tokenizer::from_bytes(b"{}", "t", &config)), &["not a tokenizer"]);
}

#[test]
fn a_vocabulary_that_does_not_fit_is_refused() {
    let dir = tempdir().unwrap();
    tiny_bert(dir.path(), 1, &TinyBert::default());
    let config = Config { vocab: 50, ..Config::open(dir.path()).unwrap() };
    let largest = (vocabulary().len() - 1).to_string();
    assert_says(refusal(Tokenizer::open(dir.path(), &config)), &["vocab.txt", &largest, "50 tokens"]);
    fs::write(dir.path().join("vocab.txt"), "[UNK]\n[CLS]\n").unwrap();
    assert_says(refusal(Tokenizer::open(dir.path(), &config)), &["no [SEP]"]);
    fs::remove_file(dir.path().join("vocab.txt")).unwrap();
    assert_says(refusal(Tokenizer::open(dir.path(), &config)), &["neither tokenizer.json nor vocab.txt"]);
}

#[test]
#[cfg(target_os = "linux")]
fn what_was_packed_is_memory_no_more_and_can_be_read_again() {
    let dir = tempdir().unwrap();
    tiny_bert(dir.path(), 1, &TinyBert { hidden: 256, intermediate: 1024, layers: 4, ..TinyBert::default() });
    let (config, checkpoint) = (Config::open(dir.path()).unwrap(), Checkpoint::open(dir.path()).unwrap());
    let file = dir.path().join("model.safetensors");
    let size = fs::metadata(&file).unwrap().len();
    let weight = checkpoint.f32(QUERY, &[256, 256]).unwrap();
    let before = weight.to_vec();
    for name in ["encoder.layer.0.intermediate.dense.weight", "encoder.layer.3.intermediate.dense.weight"] {
        checkpoint.f32(name, &[1024, 256]).unwrap();
    }
    assert!(resident(&file) > size / 4, "{} of {size} bytes were read", resident(&file));
    let cpu = Cpu::new(Isa::available()[0]);
    let encoder = Encoder::load(&cpu, &config, &checkpoint, false).unwrap();
    assert!(resident(&file) < size / 8, "{} of {size} bytes are still there", resident(&file));
    assert_eq!(*weight, before[..]);
    drop(encoder);
}

/// The bytes of a mapped file that are in this process's memory.
#[cfg(target_os = "linux")]
fn resident(file: &Path) -> u64 {
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let of_file = maps.split_once(file.to_str().unwrap()).expect("it is mapped").1;
    let line = of_file.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
    1024 * line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap()
}
