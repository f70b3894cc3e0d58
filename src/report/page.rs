//! The page.

use std::fmt::Write;

use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;

use super::charts::{charts, kept};
use super::examples::{examples, legend};
use crate::nbest::normalise::Unit;
use crate::nbest::wer::{percent, relative_text};
use crate::rescore::weights::Weights;
use crate::train::metrics::{Finished, History, Setting};
use crate::train::summary::SetSummary;

/// Nothing from elsewhere, and no script whatever a hypothesis says.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// The page of a run that is called `name`: one file, which needs no other.
pub fn html(history: &History, name: &str) -> String {
    let History { setting, result, .. } = history;
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                title { "Training of " (name) }
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body {
                header {
                    h1 { "Training of " (name) }
                    p.dim { (setting.base) ", started " (setting.started) }
                    (state(history))
                    (tiles(history))
                }
                @if let Some(result) = result {
                    section { h2 { "Word errors" } (errors(result, setting.unit)) }
                }
                section {
                    h2 { "Course" }
                    @if history.steps.is_empty() { p { "No step is done yet." } }
                    (charts(history))
                }
                @if let Some(result) = result {
                    section { h2 { "Weights" } (weights(result)) }
                    section {
                        h2 { "Hypotheses that changed places" }
                        (legend())
                        @for set in &result.sets { (examples(set, setting.unit)) }
                    }
                }
                section { h2 { "Setting" } (facts(setting)) }
            }
        }
    }
    .into_string()
}

fn state(history: &History) -> Markup {
    let planned = history.setting.options["epochs"].as_u64();
    let of_planned = html! { @if let Some(planned) = planned { " of " (planned) } };
    html! {
        p {
            @match (&history.result, history.steps.last()) {
                (Some(result), _) => {
                    span.state.good { "finished" }
                    " epoch " (result.epoch) " kept, " (result.epochs) (of_planned) " trained in "
                    (duration(result.seconds))
                },
                (None, Some(last)) => {
                    span.state.bad { "unfinished" }
                    " step " (last.step) " of " (last.steps) ", epoch " (last.epoch) (of_planned) ", after "
                    (duration(last.seconds))
                },
                (None, None) => span.state.bad { "unfinished" },
            }
        }
    }
}

/// The figures that everybody asks for first.
fn tiles(history: &History) -> Markup {
    let rate = rate_name(history.setting.unit);
    let tile = |title: &str, figure: String, below: String| {
        html! { div { dt { (title) } dd.figure { (figure) } dd.dim { (below) } } }
    };
    let last = history.validations.iter().find(|v| Some(v.epoch) == kept(history));
    html! {
        dl.tiles {
            @match (&history.result, last) {
                (Some(result), _) => @for set in &result.sets {
                    (tile(
                        &format!("{rate}, {}", set.name),
                        format!("{} → {}", of_units(set, set.errors.first_pass), of_units(set, set.errors.rescored)),
                        change(set),
                    ))
                },
                (None, Some(best)) => (tile(
                    &format!("{rate}, validation"),
                    percent(best.errors, best.reference_units).map_or("–".into(), two),
                    format!("after epoch {}, the best so far", best.epoch),
                )),
                (None, None) => {},
            }
            @if let (Some(first), Some(last)) = (history.steps.first(), history.steps.last()) {
                @let tokens: usize = history.steps.iter().map(|s| s.tokens).sum();
                // What was lost before the first line of a file is not counted.
                @let seconds = if first.step == 1 { last.seconds } else { last.seconds - first.seconds };
                (tile(
                    "Speed",
                    format!("{:.0} tokens/s", tokens as f64 / seconds.max(1e-9)),
                    format!("{tokens} tokens in {} steps, validation included", history.steps.len()),
                ))
            }
        }
    }
}

fn errors(result: &Finished, unit: Unit) -> Markup {
    html! {
        div.wide {
            table {
                tr {
                    th { (rate_name(unit)) } th { "utterances" }
                    th { @match unit { Unit::Word => "words", Unit::Char => "characters" } }
                    th { "first pass" } th { "tuned" } th { "with LoRB" } th { "oracle" } th { "change" }
                }
                @for set in &result.sets {
                    @let errors = set.errors;
                    tr {
                        td { (set.name) } td { (set.utterances) } td { (set.reference_units) }
                        @for errors in [errors.first_pass, errors.tuned, errors.rescored, errors.oracle] {
                            td { (of_units(set, errors)) }
                        }
                        td { (change(set)) }
                    }
                }
            }
        }
        p.note {
            "Tuned: the best weights without LoRB. Oracle: the best hypothesis of each list. Change: of LoRB against the "
            "first pass, relative, with the 95 % interval of a paired bootstrap over utterances. The weights and the epoch "
            "were chosen on the validation lists, so that only held-out lists say what others will see."
        }
    }
}

fn weights(result: &Finished) -> Markup {
    let row = |name: &str, weights: &Weights| {
        let Weights { first_pass, lm, lorb, words, ngram } = weights;
        html! { tr { td { (name) } @for w in [first_pass, lm, ngram, lorb, words] { td { (four(*w)) } } } }
    };
    html! {
        div.wide {
            table {
                tr { th { "weight of" } th { "first pass" } th { "lm" } th { "n-gram" } th { "LoRB" } th { "each word" } }
                (row("with LoRB", &result.weights))
                (row("tuned without", &result.weights_without_lorb))
            }
        }
    }
}

fn facts(setting: &Setting) -> Markup {
    let share = 100.0 * setting.trained_parameters as f64 / setting.base_parameters.max(1) as f64;
    html! {
        dl.facts {
            @for lists in &setting.lists {
                dt { (lists.role) }
                dd { (lists.name) ": " (lists.utterances) " utterances, " (lists.hypotheses) " hypotheses" }
            }
            dt { "base" } dd { (setting.base) ": " (setting.base_parameters) " parameters" }
            dt { "trained" } dd { (setting.trained_parameters) " parameters, " (format!("{share:.3}")) " %" }
            dt { "program" } dd { "lorb-engine " (setting.version) }
            dt { "device" } dd { (setting.device) ", " (setting.instruction_set) ", " (setting.threads) " threads" }
            @if let Value::Object(options) = &setting.options {
                @for (name, value) in options {
                    dt { (name) }
                    dd { @match value { Value::Null => "none", Value::String(text) => (text), other => (other) } }
                }
            }
        }
        @if let Some(command) = &setting.command { pre { (command) } }
    }
}

pub(super) fn rate_name(unit: Unit) -> &'static str {
    match unit {
        Unit::Word => "WER",
        Unit::Char => "CER",
    }
}

fn of_units(set: &SetSummary, errors: u64) -> String {
    percent(errors, set.reference_units).map_or("–".into(), two)
}

fn two(percent: f64) -> String {
    format!("{percent:.2} %")
}

fn change(set: &SetSummary) -> String {
    relative_text(set.change.and_then(|c| c.relative))
}

/// To four significant digits.
fn four(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut text = String::new();
    if hours > 0 {
        let _ = write!(text, "{hours} h ");
    }
    if hours > 0 || minutes > 0 {
        let _ = write!(text, "{minutes} min ");
    }
    if hours == 0 {
        let _ = write!(text, "{seconds} s");
    }
    text.trim_end().into()
}
