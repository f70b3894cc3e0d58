//! Adapters as PEFT stores them: adapter_config.json and adapter_model.safetensors.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use regex::Regex;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Adapter, Entry, Kind, Layout, LoraConfig, Target, Targets};
use crate::bert::checkpoint::in_classifier;
use crate::bert::tensors::{self, Output, Tensors};
use crate::bert::{self, Checkpoint};
use crate::text::plain;
use crate::{Error, Result, atomic};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// What PEFT writes where nothing is adapted; it does not take an empty list.
const NO_TARGETS: &str = "dummy-target-modules";

/// Keys of adapter_config.json that do not touch the mathematics of a trained adapter.
const HARMLESS: [&str; 7] = [
    "auto_mapping",
    "inference_mode",
    "layers_pattern",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
];

#[derive(Deserialize)]
struct PeftConfig {
    peft_type: String,
    task_type: Option<String>,
    base_model_name_or_path: Option<String>,
    r: usize,
    lora_alpha: f32,
    #[serde(default)]
    lora_dropout: f32,
    #[serde(default)]
    use_rslora: bool,
    target_modules: TargetModules,
    modules_to_save: Option<Vec<String>>,
    init_lora_weights: Option<Value>,
    bias: Option<String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TargetModules {
    Pattern(String),
    Suffixes(Vec<String>),
}

impl Adapter {
    /// Writes both files into `dir`, which is created where missing. Theta is not among them.
    ///
    /// # Errors
    /// [`Error::Io`] where they cannot be written.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        atomic::ensure_directory(dir)?;
        let mut outputs = Vec::new();
        for entry in self.layout.entries() {
            if entry.kind != Kind::Theta {
                let values = &self.values[entry.range()];
                outputs.push(Output {
                    name: key(&entry.name),
                    shape: stored_shape(entry),
                    values: Box::new(move || match entry.kind {
                        Kind::LoraB => Ok(transpose(values, entry.rows, entry.cols).into()),
                        _ => Ok(values.into()),
                    }),
                });
            }
        }
        let bias = Cow::Owned(vec![self.classifier_bias]);
        outputs.push(Output { name: key("classifier.bias"), shape: vec![1], values: Box::new(|| Ok(bias)) });
        tensors::write(dir.join(WEIGHTS), outputs)?;

        let saved: &[&str] = match self.layout.pooler() {
            Some(_) => &["classifier", "pooler"],
            None => &["classifier"],
        };
        // PEFT's own type is an integer, though it takes both.
        let alpha = self.config.alpha;
        let alpha = if alpha.fract() == 0.0 { json!(alpha as i64) } else { json!(plain(alpha)) };
        let config = json!({
            "base_model_name_or_path": self.base_name,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "lora_alpha": alpha,
            "lora_dropout": plain(self.config.dropout),
            "modules_to_save": saved,
            "peft_type": "LORA",
            "r": self.config.rank,
            "target_modules": target_pattern(self.config.targets),
            "task_type": "SEQ_CLS",
            "use_rslora": self.config.rslora,
        });
        atomic::write(dir.join(CONFIG), format!("{config:#}\n").as_bytes())
    }

    /// Reads an adapter of the base that `config` and `checkpoint` describe.
    ///
    /// # Errors
    /// [`Error::Io`] where a file cannot be read; [`Error::File`] where the configuration asks for something
    /// that is not computed here; [`Error::Tensor`] where a tensor is missing, is not of this base, or is one
    /// that would have to be ignored.
    pub fn load(dir: impl AsRef<Path>, config: &bert::Config, checkpoint: &Checkpoint) -> Result<Self> {
        let dir = dir.as_ref();
        let path = dir.join(CONFIG);
        let peft = PeftConfig::open(&path)?;
        let pooler = peft.saves("pooler");
        let lora = LoraConfig {
            rank: peft.r,
            alpha: peft.lora_alpha,
            dropout: peft.lora_dropout,
            rslora: peft.use_rslora,
            targets: peft.targets(config, &path)?,
        };
        lora.check().map_err(|e| Error::file(&path, e.to_string(), "train the adapter again"))?;
        if !pooler && !checkpoint.contains("pooler.dense.weight") {
            let hint = "train with modules_to_save = [\"classifier\", \"pooler\"]";
            return Err(Error::file(&path, "neither the adapter nor its base has a pooler", hint));
        }

        // A server reads adapters while others write new ones.
        let stored = Tensors::read(dir.join(WEIGHTS))?;
        let layout = Layout::new(config, &lora, pooler, false);
        let read = |name: &str, shape: &[usize]| {
            stored.f32(
                name,
                shape,
                "the adapter belongs to another base model, or its configuration to another adapter",
            )
        };
        let mut expected = BTreeSet::from([key("classifier.bias")]);
        // Grows with what the file really holds: its configuration may promise any size.
        let mut values = Vec::new();
        for entry in layout.entries() {
            let name = key(&entry.name);
            let tensor = read(&name, &stored_shape(entry))?;
            match entry.kind {
                Kind::LoraB => values.extend(transpose(&tensor, entry.cols, entry.rows)),
                _ => values.extend_from_slice(&tensor),
            }
            expected.insert(name);
        }
        let classifier_bias = read(&key("classifier.bias"), &[1])?[0];
        if let Some(name) = stored.names().find(|&name| !expected.contains(name)) {
            return Err(Error::Tensor {
                path: stored.path().to_path_buf(),
                tensor: name.to_string(),
                expected: "nothing of this name".into(),
                found: format!("shape {:?}", stored.shape(name).unwrap_or_default()),
                hint: format!(
                    "adapt only {}, and save only classifier and pooler",
                    Target::ALL.map(Target::name).join(", ")
                ),
            });
        }
        let base_name = peft.base_model_name_or_path.unwrap_or_default();
        Ok(Adapter { config: lora, layout, values, classifier_bias, base_name })
    }
}

impl PeftConfig {
    /// Reads and refuses by name whatever would change the scores and is not computed here.
    fn open(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(|e| Error::io(path, "read it", e))?;
        let config: PeftConfig = serde_json::from_slice(&bytes).map_err(|e| {
            Error::file(path, format!("not the configuration of a LoRA adapter: {e}"), "give a PEFT folder")
        })?;
        let refuse = |key: &str, value: &dyn std::fmt::Display| {
            let hint = "this engine computes plain LoRA and rsLoRA on BertForSequenceClassification";
            Err(Error::file(path, format!("{key} = {value} is not supported"), hint))
        };
        if config.peft_type != "LORA" {
            return refuse("peft_type", &config.peft_type);
        }
        if let Some(task) = config.task_type.as_ref().filter(|t| *t != "SEQ_CLS") {
            return refuse("task_type", task);
        }
        if let Some(bias) = config.bias.as_ref().filter(|b| *b != "none") {
            return refuse("bias", bias);
        }
        // pissa, olora, corda, loftq and their like rewrite the base weights.
        let init = config.init_lora_weights.as_ref().unwrap_or(&Value::Null);
        if !matches!(init, Value::Null | Value::Bool(_)) && init != "gaussian" && init != "orthogonal" {
            return refuse("init_lora_weights", init);
        }
        // "score" is what PEFT adds for models that call their classifier so; BERT does not.
        let known = ["classifier", "pooler", "score"];
        let saved = config.modules_to_save.iter().flatten();
        if let Some(module) = saved.clone().find(|m| !known.contains(&m.as_str())) {
            return refuse("modules_to_save", module);
        }
        for (key, value) in &config.rest {
            let off = match value {
                Value::Null | Value::Bool(false) => true,
                Value::Array(items) => items.is_empty(),
                Value::Object(items) => items.is_empty(),
                _ => false,
            };
            if !off && !HARMLESS.contains(&key.as_str()) {
                return refuse(key, value);
            }
        }
        Ok(config)
    }

    fn saves(&self, module: &str) -> bool {
        self.modules_to_save.iter().flatten().any(|m| m == module)
    }

    /// The targets that `target_modules` means, which must be the same in every layer.
    fn targets(&self, config: &bert::Config, path: &Path) -> Result<Targets> {
        let refuse = |problem: String, hint: &str| Err(Error::file(path, problem, hint));
        let matches: Box<dyn Fn(&str) -> bool> = match &self.target_modules {
            TargetModules::Pattern(all) if all.eq_ignore_ascii_case("all-linear") => Box::new(|_| true),
            TargetModules::Pattern(pattern) => match Regex::new(&format!("^(?:{pattern})$")) {
                Ok(regex) => Box::new(move |module| regex.is_match(module)),
                Err(e) => {
                    let hint = "write target_modules as a list, or without look-around";
                    return refuse(format!("target_modules cannot be read: {e}"), hint);
                }
            },
            TargetModules::Suffixes(suffixes) => Box::new(move |module| {
                suffixes
                    .iter()
                    .any(|s| module.strip_suffix(s).is_some_and(|m| m.is_empty() || m.ends_with('.')))
            }),
        };
        if !self.saves("pooler") && matches("bert.pooler.dense") {
            return refuse("target_modules adapts pooler.dense".into(), "adapt the encoder's layers only");
        }
        let mut targets = Vec::new();
        for target in Target::ALL {
            let module = |layer: &usize| format!("bert.encoder.layer.{layer}.{}", target.module());
            let adapted = (0..config.layers).filter(|layer| matches(&module(layer))).count();
            if adapted == config.layers {
                targets.push(target);
            } else if adapted > 0 {
                let problem =
                    format!("{} is adapted in {adapted} of {} layers", target.module(), config.layers);
                return refuse(problem, "adapt a module in every layer or in none");
            }
        }
        Ok(targets.into_iter().collect())
    }
}

/// A regular expression for whole module names: the suffix "output.dense" alone would match
/// attention.output.dense as well.
fn target_pattern(targets: Targets) -> String {
    if targets.is_empty() {
        return NO_TARGETS.into();
    }
    let modules: Vec<_> = targets.iter().map(|t| regex::escape(t.module())).collect();
    format!(r"bert\.encoder\.layer\.\d+\.({})", modules.join("|"))
}

/// The name in PEFT's file, where `name` is that of an [`Entry`].
fn key(name: &str) -> String {
    format!("base_model.model.{}", in_classifier(name))
}

/// The shape in PEFT's file, where B is `[output, rank]`.
fn stored_shape(entry: &Entry) -> Vec<usize> {
    match entry.kind {
        Kind::LoraB => vec![entry.cols, entry.rows],
        Kind::PoolerBias => vec![entry.cols],
        _ => vec![entry.rows, entry.cols],
    }
}

/// The transpose of `values`, `[rows, cols]`.
fn transpose(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|col| (0..rows).map(move |row| values[row * cols + col])).collect()
}
