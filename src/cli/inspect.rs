mod adapter;
mod list;
mod model;

use std::path::{Path, PathBuf};

use clap::Args;
use lorb_engine::rescore::weights::RescoringFile;
use lorb_engine::{Error, Result};
use serde_json::{Map, Value, json};

use super::Lists;
use super::output::print;

/// Describe a model, an adapter or a list file
#[derive(Args)]
pub struct Inspect {
    /// The folder of a BERT or of an adapter, or lists
    path: PathBuf,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    lists: Lists,
}

impl Inspect {
    pub fn run(self) -> Result<()> {
        let path = &self.path;
        let description = if path.join("adapter_config.json").exists() {
            adapter::describe(path)?
        } else if path.join("config.json").exists() {
            model::describe(path)?
        } else if path.is_dir()
            && let Err(error @ Error::File { .. }) = self.lists.reading().format_of(Some(path))
        {
            let hint = format!("give the folder of a BERT, of an adapter or of lists ({error})");
            return Err(Error::file(path, "it has neither config.json nor adapter_config.json", hint));
        } else {
            list::describe(path, &self.lists)?
        };
        let mut text = String::new();
        if self.json {
            text = format!("{:#}\n", Value::Object(description));
        } else {
            write_lines(&description, 0, &mut text);
        }
        print(&text)
    }
}

/// The weights that are kept in a folder, if any.
fn rescoring(dir: &Path) -> Result<Value> {
    Ok(match RescoringFile::load(dir)? {
        None => Value::Null,
        Some(file) => json!({
            "weights": file.weights,
            "confidence_scale": file.confidence_scale,
            "tuned_on": file.tuned_on.iter().map(|t| &t.list).collect::<Vec<_>>(),
        }),
    })
}

/// A description for people: a key and its value a line, what is inside of a value indented below it.
fn write_lines(description: &Map<String, Value>, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    let width = description.keys().map(|key| key.chars().count()).max().unwrap_or(0);
    for (key, value) in description {
        let label = key.replace('_', " ");
        if let Value::Object(inner) = value {
            text.push_str(&format!("{indent}{label}\n"));
            write_lines(inner, depth + 1, text);
        } else {
            text.push_str(&format!("{indent}{label:width$}  {}\n", inline(value)));
        }
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::Null => "none".into(),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(inline).collect::<Vec<_>>().join(", "),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => ((float * 1e4).round() / 1e4).to_string(),
            _ => number.to_string(),
        },
        Value::Object(_) => value.to_string(),
    }
}

fn object(value: Value) -> Map<String, Value> {
    let Value::Object(map) = value else { unreachable!("it is made as an object") };
    map
}
