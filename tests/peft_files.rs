//! Adapters in PEFT's files: what is written is read again, and what cannot be computed is refused by name.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use lorb_engine::bert::{Checkpoint, Config};
use lorb_engine::lora::{Adapter, Group, LoraConfig, Target, merge};
use lorb_engine::{Error, Result};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use support::{TinyBert, bytes, tiny_bert, write_safetensors};
use tempfile::{TempDir, tempdir};

struct Base {
    dir: TempDir,
    config: Config,
    checkpoint: Checkpoint,
}

fn base(options: &TinyBert) -> Base {
    let dir = tempdir().unwrap();
    tiny_bert(dir.path(), 3, options);
    let config = Config::open(dir.path()).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    Base { dir, config, checkpoint }
}

impl Base {
    /// An adapter whose every value differs.
    fn adapter(&self, targets: &str) -> Adapter {
        let lora =
            LoraConfig { rank: 4, alpha: 6.5, targets: targets.parse().unwrap(), ..Default::default() };
        let mut adapter = Adapter::initialise(&self.config, &self.checkpoint, lora, None, 5).unwrap();
        adapter.values.iter_mut().enumerate().for_each(|(i, v)| *v = (i as f32 * 0.7).sin() / 8.0);
        adapter.classifier_bias = 0.25;
        adapter
    }

    fn load(&self, dir: &Path) -> Result<Adapter> {
        Adapter::load(dir, &self.config, &self.checkpoint)
    }

    /// Saves an adapter of query and value, changes its files and tells why it is refused then.
    fn refusal_after(&self, change: impl FnOnce(&Path)) -> String {
        let dir = tempdir().unwrap();
        self.adapter("query,value").save(dir.path()).unwrap();
        change(dir.path());
        let error = self.load(dir.path()).expect_err("it should be refused");
        assert_eq!(error.exit_code(), 2, "{error}");
        error.to_string()
    }
}

fn edit(dir: &Path, key: &str, value: Value) {
    let path = dir.join("adapter_config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config[key] = value;
    fs::write(path, config.to_string()).unwrap();
}

type Tensor = (String, Vec<usize>, Vec<u8>);

fn edit_tensors(dir: &Path, dtype: Dtype, edit: impl FnOnce(&mut Vec<Tensor>)) {
    let path = dir.join("adapter_model.safetensors");
    let file = fs::read(&path).unwrap();
    let mut tensors = SafeTensors::deserialize(&file).unwrap().iter().map(own).collect();
    edit(&mut tensors);
    write_safetensors(&path, dtype, &tensors);
}

fn own((name, view): (&str, safetensors::tensor::TensorView)) -> Tensor {
    (name.to_string(), view.shape().to_vec(), view.data().to_vec())
}

#[track_caller]
fn assert_says(refusal: String, words: &[&str]) {
    words.iter().for_each(|w| assert!(refusal.contains(w), "{w:?} is not in: {refusal}"));
}

#[test]
fn a_saved_adapter_is_read_again() {
    for pooler in [true, false] {
        let base = base(&TinyBert { pooler, ..Default::default() });
        for targets in ["query,value", "all", "attention.output.dense", "output.dense", "none"] {
            let mut adapter = base.adapter(targets);
            adapter.config.rslora = targets == "all";
            adapter.config.dropout = 0.1;
            let dir = tempdir().unwrap();
            adapter.save(dir.path()).unwrap();
            assert_eq!(base.load(dir.path()).unwrap(), adapter, "{targets}, pooler {pooler}");
        }
    }
}

#[test]
fn the_names_and_shapes_are_those_of_peft() {
    let base = base(&TinyBert { pooler: false, ..Default::default() });
    let dir = tempdir().unwrap();
    let adapter = base.adapter("intermediate.dense").learn_beta(&base.config, 2.0).unwrap();
    adapter.save(dir.path()).unwrap();
    let file = fs::read(dir.path().join("adapter_model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let mut found: Vec<_> = tensors.iter().map(|(name, t)| (name.to_string(), t.shape().to_vec())).collect();
    found.sort();
    let expected = [
        ("bert.encoder.layer.0.intermediate.dense.lora_A.weight", vec![4, 32]),
        ("bert.encoder.layer.0.intermediate.dense.lora_B.weight", vec![64, 4]),
        ("bert.encoder.layer.1.intermediate.dense.lora_A.weight", vec![4, 32]),
        ("bert.encoder.layer.1.intermediate.dense.lora_B.weight", vec![64, 4]),
        ("bert.pooler.dense.bias", vec![32]),
        ("bert.pooler.dense.weight", vec![32, 32]),
        ("classifier.bias", vec![1]),
        ("classifier.weight", vec![1, 32]),
    ];
    assert_eq!(found, expected.map(|(name, shape)| (format!("base_model.model.{name}"), shape)));
    let config = fs::read(dir.path().join("adapter_config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["base_model_name_or_path"], base.dir.path().display().to_string());
    assert_eq!(config["target_modules"], r"bert\.encoder\.layer\.\d+\.(intermediate\.dense)");
    // B lies transposed in the flat vector.
    let b = tensors.tensor("base_model.model.bert.encoder.layer.1.intermediate.dense.lora_B.weight").unwrap();
    let at = |i: usize| f32::from_le_bytes(b.data()[4 * i..4 * i + 4].try_into().unwrap());
    let slot = adapter.layout.lora(1, Target::Intermediate).unwrap();
    assert_eq!(at(10 * 4 + 3), adapter.values[slot.b.start + 3 * 64 + 10]);
}

#[test]
fn target_modules_may_be_written_in_every_way_of_peft() {
    let base = base(&TinyBert::default());
    for (targets, spelled) in [
        ("query,value", json!(["query", "value"])),
        ("query,value", json!(["attention.self.value", "self.query"])),
        ("query,value", json!(".*(query|value)")),
        ("attention.output.dense,output.dense", json!(["output.dense"])),
        ("output.dense", json!(r".*\d\.output\.dense")),
    ] {
        let dir = tempdir().unwrap();
        let adapter = base.adapter(targets);
        adapter.save(dir.path()).unwrap();
        edit(dir.path(), "target_modules", spelled);
        assert_eq!(base.load(dir.path()).unwrap(), adapter);
    }
    let pooled = self::base(&TinyBert { pooler: false, ..Default::default() });
    let dir = tempdir().unwrap();
    pooled.adapter("all").save(dir.path()).unwrap();
    for spelled in [json!("all-linear"), json!(["query", "key", "value", "dense"])] {
        edit(dir.path(), "target_modules", spelled);
        assert_eq!(pooled.load(dir.path()).unwrap().config.targets, "all".parse().unwrap());
    }
}

#[test]
fn half_precision_is_read() {
    let base = base(&TinyBert::default());
    let dir = tempdir().unwrap();
    let adapter = base.adapter("query");
    for dtype in [Dtype::F16, Dtype::BF16] {
        adapter.save(dir.path()).unwrap();
        edit_tensors(dir.path(), dtype, |tensors| {
            for (_, _, data) in tensors {
                let values: Vec<f32> =
                    data.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
                *data = bytes(&values, dtype);
            }
        });
        let read = base.load(dir.path()).unwrap();
        for (a, b) in adapter.values.iter().zip(&read.values) {
            assert!((a - b).abs() <= a.abs() / 256.0 + 1e-7, "{a} {b}");
        }
    }
}

#[test]
fn what_changes_the_mathematics_is_refused_by_name() {
    let base = base(&TinyBert::default());
    for (key, value) in [
        ("use_dora", json!(true)),
        ("bias", json!("all")),
        ("rank_pattern", json!({"query": 4})),
        ("alpha_pattern", json!({"query": 4})),
        ("layers_to_transform", json!([0])),
        ("layers_to_transform", json!(0)),
        ("modules_to_save", json!(["classifier", "embeddings"])),
        ("fan_in_fan_out", json!(true)),
        ("lora_bias", json!(true)),
        ("init_lora_weights", json!("pissa")),
        ("init_lora_weights", json!("pissa_niter_4")),
        ("init_lora_weights", json!("olora")),
        ("init_lora_weights", json!("corda")),
        ("init_lora_weights", json!("loftq")),
        ("peft_type", json!("ADALORA")),
        ("task_type", json!("CAUSAL_LM")),
        ("exclude_modules", json!(["layer.0"])),
        ("trainable_token_indices", json!([1])),
        ("layer_replication", json!([[0, 1]])),
        ("use_qalora", json!(true)),
        ("something_new", json!("on")),
    ] {
        let said = base.refusal_after(|dir| edit(dir, key, value));
        assert_says(said, &["adapter_config.json", key]);
    }
}

#[test]
fn what_is_off_is_not_refused() {
    let base = base(&TinyBert::default());
    let dir = tempdir().unwrap();
    base.adapter("query,value").save(dir.path()).unwrap();
    for (key, value) in [
        ("use_dora", json!(false)),
        ("rank_pattern", json!({})),
        ("layers_to_transform", Value::Null),
        ("megatron_core", json!("megatron.core")),
        ("qalora_group_size", json!(16)),
        ("init_lora_weights", json!("gaussian")),
        ("modules_to_save", json!(["classifier", "score"])),
        ("peft_version", json!("0.21.2")),
    ] {
        edit(dir.path(), key, value);
    }
    base.load(dir.path()).unwrap();
}

#[test]
fn a_configuration_that_contradicts_the_tensors_is_refused() {
    let base = base(&TinyBert::default());
    let said = base.refusal_after(|dir| edit(dir, "target_modules", json!(["query"])));
    assert_says(said, &["attention.self.value.lora_A", "nothing of this name"]);
    let said = base.refusal_after(|dir| edit(dir, "target_modules", json!(["query", "key", "value"])));
    assert_says(said, &["attention.self.key.lora_A", "found nothing"]);
    let said = base.refusal_after(|dir| edit(dir, "target_modules", json!(r".*layer\.0\..*(query|value)")));
    assert_says(said, &["attention.self.query is adapted in 1 of 2 layers"]);
    let said = base.refusal_after(|dir| edit(dir, "target_modules", json!("all-linear")));
    assert_says(said, &["pooler.dense"]);
    let said = base.refusal_after(|dir| edit(dir, "target_modules", json!("(")));
    assert_says(said, &["target_modules"]);
    let said = base.refusal_after(|dir| edit(dir, "target_modules", Value::Null));
    assert_says(said, &["adapter_config.json"]);
    let said = base.refusal_after(|dir| edit(dir, "r", json!(8)));
    assert_says(said, &["lora_A", "[8, 32]", "[4, 32]"]);
    for rank in [json!(0), json!(1u64 << 60), json!(-1)] {
        let said = base.refusal_after(|dir| edit(dir, "r", rank));
        assert_says(said, &["adapter_config.json"]);
    }
    let said = base.refusal_after(|dir| edit(dir, "modules_to_save", json!(["classifier", "pooler"])));
    assert_says(said, &["pooler.dense.weight", "found nothing"]);
}

#[test]
fn damaged_files_are_refused() {
    let base = base(&TinyBert::default());
    let classifier = "base_model.model.classifier.weight";
    let said = base.refusal_after(|dir| {
        edit_tensors(dir, Dtype::F32, |tensors| tensors.retain(|(name, ..)| name != classifier));
    });
    assert_says(said, &[classifier, "found nothing"]);
    let said = base.refusal_after(|dir| fs::write(dir.join("adapter_config.json"), "{").unwrap());
    assert_says(said, &["not the configuration of a LoRA adapter"]);
    let said = base.refusal_after(|dir| {
        let path = dir.join("adapter_model.safetensors");
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 4]).unwrap();
    });
    assert_says(said, &["not a whole safetensors file"]);
    let said = base.refusal_after(|dir| fs::remove_file(dir.join("adapter_model.safetensors")).unwrap());
    assert_says(said, &["adapter_model.safetensors"]);
}

#[test]
fn an_adapter_of_another_base_is_refused() {
    let (small, wide) = (base(&TinyBert::default()), base(&TinyBert { hidden: 64, ..Default::default() }));
    let dir = tempdir().unwrap();
    small.adapter("query").save(dir.path()).unwrap();
    let error = wide.load(dir.path()).unwrap_err();
    assert!(matches!(error, Error::Tensor { .. }));
    assert_says(error.to_string(), &["[4, 64]", "[4, 32]", "another base"]);

    let headless = base(&TinyBert { pooler: false, ..Default::default() });
    assert_says(headless.load(dir.path()).unwrap_err().to_string(), &["pooler"]);
}

#[test]
fn a_saved_pooler_replaces_that_of_the_base() {
    let (with, without) =
        (base(&TinyBert::default()), base(&TinyBert { pooler: false, ..Default::default() }));
    let dir = tempdir().unwrap();
    without.adapter("query").save(dir.path()).unwrap();
    let adapter = with.load(dir.path()).unwrap();
    assert_eq!(adapter.layout.count(Group::Pooler), 32 * 32 + 32);
}

#[test]
fn a_fresh_adapter_starts_as_peft_does() {
    let base = base(&TinyBert { pooler: false, ..Default::default() });
    let fresh = |targets: &str, seed| {
        let lora = LoraConfig { targets: targets.parse().unwrap(), ..Default::default() };
        Adapter::initialise(&base.config, &base.checkpoint, lora, None, seed).unwrap()
    };
    let adapter = fresh("query,output.dense", 1);
    for (target, input) in [(Target::Query, 32), (Target::Output, 64)] {
        let slot = adapter.layout.lora(1, target).unwrap();
        let a = &adapter.values[slot.a.clone()];
        let bound = 1.0 / (input as f32).sqrt();
        assert!(a.iter().all(|x| x.abs() <= bound));
        // The standard deviation of a uniform variable is bound / sqrt(3); 256 draws or more.
        let std = (a.iter().map(|x| x * x).sum::<f32>() / a.len() as f32).sqrt();
        assert!((std * 3f32.sqrt() / bound - 1.0).abs() < 0.12, "{std}");
        assert!(adapter.values[slot.b.clone()].iter().all(|&x| x == 0.0));
    }
    let (weight, bias) = adapter.layout.pooler().unwrap();
    let std = (adapter.values[weight].iter().map(|x| x * x).sum::<f32>() / 1024.0).sqrt();
    assert!((std - 0.02).abs() < 0.002, "{std}");
    assert!(adapter.values[bias].iter().all(|&x| x == 0.0));

    // More targets and another seed.
    let (more, other) = (fresh("all", 1), fresh("query,output.dense", 2));
    let a =
        |adapter: &Adapter| adapter.values[adapter.layout.lora(1, Target::Query).unwrap().a.clone()].to_vec();
    assert_eq!(a(&more), a(&adapter));
    assert_ne!(a(&other), a(&adapter));
    assert_eq!(more.values[more.layout.classifier()], adapter.values[adapter.layout.classifier()]);
    assert_ne!(a(&more), more.values[more.layout.lora(0, Target::Query).unwrap().a.clone()].to_vec());
}

#[test]
fn a_classifier_of_one_label_is_kept() {
    let one = base(&TinyBert { labels: 1, prefix: true, ..Default::default() });
    let adapter =
        Adapter::initialise(&one.config, &one.checkpoint, LoraConfig::default(), Some(0.5), 1).unwrap();
    let classifier = one.checkpoint.f32("classifier.weight", &[1, 32]).unwrap();
    assert_eq!(adapter.values[adapter.layout.classifier()], *classifier);
    assert_eq!(adapter.classifier_bias, one.checkpoint.f32("classifier.bias", &[1]).unwrap()[0]);
    assert!((adapter.beta().unwrap() - 0.5).abs() < 1e-6);
    assert!(adapter.learn_beta(&one.config, 0.0).is_err());

    let two = base(&TinyBert { labels: 2, ..Default::default() });
    let adapter = Adapter::initialise(&two.config, &two.checkpoint, LoraConfig::default(), None, 1).unwrap();
    assert_eq!((adapter.classifier_bias, adapter.beta()), (0.0, None));
}

/// The folder of a merged model, in `parent`.
fn merged(base: &Base, adapter: &Adapter, parent: &TempDir) -> PathBuf {
    let out = parent.path().join("merged");
    merge(&base.checkpoint, &base.config, base.dir.path(), Some(adapter), &out, |_| Ok(())).unwrap();
    out
}

#[test]
fn a_merged_model_is_base_plus_update() {
    let base = base(&TinyBert { dtype: Dtype::BF16, prefix: true, ..Default::default() });
    let mut adapter = base.adapter("query,output.dense");
    adapter.config.rslora = true;
    let parent = tempdir().unwrap();
    let out = merged(&base, &adapter, &parent);

    let merged = Checkpoint::open(&out).unwrap();
    for (name, shape) in base.config.encoder_tensors() {
        let (before, after) =
            (base.checkpoint.f32(&name, &shape).unwrap(), merged.f32(&name, &shape).unwrap());
        let target = match name.strip_prefix("encoder.layer.1.") {
            Some("attention.self.query.weight") => Target::Query,
            Some("output.dense.weight") => Target::Output,
            _ if name.ends_with("query.weight") || name.ends_with(".0.output.dense.weight") => continue,
            _ => {
                assert_eq!(*before, *after, "{name}");
                continue;
            }
        };
        let slot = adapter.layout.lora(1, target).unwrap();
        let (a, b) = (&adapter.values[slot.a.clone()], &adapter.values[slot.b.clone()]);
        for (i, (before, after)) in before.iter().zip(after.iter()).enumerate() {
            let (row, col) = (i / slot.input, i % slot.input);
            let product: f64 = (0..4)
                .map(|r| f64::from(b[r * slot.output + row]) * f64::from(a[r * slot.input + col]))
                .sum();
            let expected = f64::from(*before) + 6.5 / 2.0 * product;
            assert!((expected - f64::from(*after)).abs() < 1e-6, "{name} {i}");
        }
    }
    assert_eq!(*merged.f32("classifier.bias", &[1]).unwrap(), [0.25]);
    let config: Value = serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["architectures"], json!(["BertForSequenceClassification"]));
    assert_eq!(config["id2label"], json!({"0": "LABEL_0"}));
    assert_eq!(config["hidden_size"], 32);
    assert!(out.join("vocab.txt").exists());

    // The merged folder is a base itself, and needs no adapter to be merged once more.
    let again = parent.path().join("again");
    merge(&merged, &base.config, &out, None, &again, |_| Ok(())).unwrap();
    let file = "model.safetensors";
    assert_eq!(fs::read(out.join(file)).unwrap(), fs::read(again.join(file)).unwrap());
}

#[test]
fn a_merged_model_has_the_pooler_that_was_trained() {
    let base = base(&TinyBert::default());
    let adapter = base.adapter("query").with_fresh_pooler(&base.config, 7);
    let parent = tempdir().unwrap();
    let out = merged(&base, &adapter, &parent);
    let merged = Checkpoint::open(&out).unwrap();
    let (weight, bias) = adapter.layout.pooler().unwrap();
    assert_eq!(*merged.f32("pooler.dense.weight", &[32, 32]).unwrap(), adapter.values[weight]);
    assert_eq!(*merged.f32("pooler.dense.bias", &[32]).unwrap(), adapter.values[bias]);
}

#[test]
fn a_merged_model_forgets_the_labels_and_the_type_of_another_task() {
    let base = base(&TinyBert::default());
    let path = base.dir.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["num_labels"] = json!(3);
    config["torch_dtype"] = json!("bfloat16");
    fs::write(&path, config.to_string()).unwrap();
    let adapter = base.adapter("query");
    let parent = tempdir().unwrap();
    let out = merged(&base, &adapter, &parent);
    let config: Value = serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
    assert_eq!((&config["num_labels"], &config["torch_dtype"]), (&Value::Null, &Value::Null));
    assert_eq!(config["dtype"], "float32");
}

#[test]
fn a_merge_that_cannot_be_done_leaves_nothing() {
    let base = base(&TinyBert::default());
    let parent = tempdir().unwrap();
    let out = parent.path().join("merged");
    // The base has no classifier.
    let refused = merge(&base.checkpoint, &base.config, base.dir.path(), None, &out, |_| Ok(())).unwrap_err();
    assert_says(refused.to_string(), &["classifier.weight"]);
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);

    fs::create_dir(&out).unwrap();
    fs::write(out.join("mine"), "x").unwrap();
    let adapter = base.adapter("query");
    let refused =
        merge(&base.checkpoint, &base.config, base.dir.path(), Some(&adapter), &out, |_| Ok(())).unwrap_err();
    assert_says(refused.to_string(), &["exists already"]);
    fs::remove_file(out.join("mine")).unwrap();
    merge(&base.checkpoint, &base.config, base.dir.path(), Some(&adapter), &out, |_| Ok(())).unwrap();
    fs::remove_dir_all(&out).unwrap();

    // What is wrong with values is seen when they are written.
    let file = base.dir.path().join("model.safetensors");
    let stored = fs::read(&file).unwrap();
    let mut tensors: Vec<Tensor> = SafeTensors::deserialize(&stored).unwrap().iter().map(own).collect();
    tensors[0].2[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    write_safetensors(&file, Dtype::F32, &tensors);
    let damaged = Checkpoint::open(base.dir.path()).unwrap();
    let refused =
        merge(&damaged, &base.config, base.dir.path(), Some(&adapter), &out, |_| Ok(())).unwrap_err();
    assert_says(refused.to_string(), &[&tensors[0].0, "NaN at 0"]);
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
}
