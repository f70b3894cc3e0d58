//! The charts of a run.

use maud::{Markup, PreEscaped, html};

use super::curve::{smoothed, thinned};
use super::page::rate_name;
use super::plot::{BLUE, Line, ORANGE, Plot};
use crate::train::metrics::History;
use crate::train::{StepReport, Validation};

/// All that there is something to draw of.
pub fn charts(history: &History) -> Markup {
    let steps = |value: fn(&StepReport) -> f64| {
        smoothed(history.steps.iter().map(move |s| (s.step as f64, value(s))))
    };
    let line = |name, colour, points| Line { name, colour, dashed: false, dots: false, points };
    let dashed = |name, colour, points| Line { dashed: true, ..line(name, colour, points) };
    let rate = history.steps.iter().map(|s| (s.step as f64, s.lr)).collect();
    let correlated = history.steps.iter().any(|s| s.losses.correlation != 0.0);
    html! {
        div.charts {
            (figure(
                "Training loss (MWER), smoothed",
                "How far the loss lies below that of the first pass alone is what has been learned.",
                Plot {
                    x: "step",
                    lines: vec![
                        line("with LoRB", BLUE, steps(|s| s.losses.mwer)),
                        dashed("first pass alone", ORANGE, steps(|s| s.losses.mwer_without)),
                    ],
                    kept: None,
                },
            ))
            (validations(history))
            @if correlated {
                (figure("Correlation loss, smoothed", "", of(line("correlation", BLUE, steps(|s| s.losses.correlation)))))
            }
            (figure("Learning rate of the low-rank matrices", "", of(line("learning rate", BLUE, thinned(rate)))))
            (figure("Norm of the gradient, smoothed", "", of(line("norm", BLUE, steps(|s| s.losses.gradient_norm)))))
        }
    }
}

fn of(line: Line) -> Plot<'static> {
    Plot { x: "step", lines: vec![line], kept: None }
}

/// Errors by epoch, the kept one marked.
fn validations(history: &History) -> Markup {
    let by_epoch = |value: fn(&Validation) -> f64| -> Vec<(f64, f64)> {
        let percent = |v: &Validation| 100.0 * value(v) / v.reference_units.max(1) as f64;
        history.validations.iter().map(|v| (f64::from(v.epoch), percent(v))).collect()
    };
    let line = |name, colour, dashed, points| Line { name, colour, dashed, dots: !dashed, points };
    let expected = by_epoch(|v| v.expected);
    let kept = kept(history).and_then(|kept| expected.iter().copied().find(|(x, _)| *x == f64::from(kept)));
    let plot = Plot {
        x: "epoch",
        lines: vec![
            line("expected errors", BLUE, false, expected),
            line(rate_name(history.setting.unit), ORANGE, false, by_epoch(|v| v.errors as f64)),
            line("expected, first pass alone", BLUE, true, by_epoch(|v| v.expected_without)),
        ],
        kept,
    };
    figure(
        "Validation, % of the reference",
        "A ring marks the epoch that is kept: the one with the fewest expected errors.",
        plot,
    )
}

/// The best epoch so far.
pub fn kept(history: &History) -> Option<u32> {
    let best = history.validations.iter().rev().find(|v| v.best).map(|v| v.epoch);
    history.result.as_ref().map(|r| r.epoch).or(best)
}

fn figure(title: &str, note: &str, plot: Plot) -> Markup {
    let Some(svg) = plot.svg() else { return html! {} };
    let names: Vec<&str> = plot.lines.iter().map(|l| l.name).collect();
    html! {
        figure {
            figcaption { (title) }
            @if plot.lines.len() > 1 {
                p.legend {
                    @for line in &plot.lines {
                        span {
                            svg viewBox="0 0 22 8" width="22" height="8" aria-hidden="true" {
                                line x1="0" y1="4" x2="22" y2="4" stroke-width="2"
                                    stroke-dasharray=[line.dashed.then_some("6 4")]
                                    stroke={ "#" (format!("{:02X}{:02X}{:02X}", line.colour.0, line.colour.1, line.colour.2)) } {}
                            }
                            (line.name)
                        }
                    }
                }
            }
            div role="img" aria-label={ (title) ": " (names.join(", ")) " by " (plot.x) } { (PreEscaped(svg)) }
            @if !note.is_empty() { p.note { (note) } }
        }
    }
}
