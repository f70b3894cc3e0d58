//! Lists whose best hypothesis changed, with their errors marked.

use maud::{Markup, html};

use crate::nbest::edits::{Edit, align};
use crate::nbest::normalise::{Unit, units};
use crate::train::summary::{MovedHypothesis, MovedList, SetSummary};

pub fn examples(set: &SetSummary, unit: Unit) -> Markup {
    let moved = set.moved;
    html! {
        h3 { (set.name) }
        p {
            "Another hypothesis than the first pass's is chosen for "
            (moved.better + moved.worse + moved.equal) " of " (set.utterances) " utterances: "
            (moved.better) " with fewer errors, " (moved.worse) " with more, " (moved.equal) " with as many."
            @if !set.examples.is_empty() { " Those that changed most:" }
        }
        @for list in &set.examples { (list_of(list, unit)) }
    }
}

/// How the marks are to be read.
pub fn legend() -> Markup {
    html! {
        p.note {
            span.sub { "another word" } " than was said, " del { "missing" } ", " ins { "too much" }
            ". Places: by the first pass → with LoRB."
        }
    }
}

fn list_of(list: &MovedList, unit: Unit) -> Markup {
    let reference = units(&list.reference, unit);
    let errors = |place: fn(&MovedHypothesis) -> usize| {
        list.hypotheses.iter().find(|h| place(h) == 1).map_or(0, |h| h.errors)
    };
    let (before, after) = (errors(|h| h.before), errors(|h| h.after));
    html! {
        article {
            h4 {
                span.id { (list.id) } " "
                span class=(if after < before { "good" } else { "bad" }) { (before) " → " (after) " errors" }
            }
            p.said { span.what { "said" } " " span { (list.reference) } }
            ol {
                @for hypothesis in &list.hypotheses {
                    li.chosen[hypothesis.after == 1] {
                        span.what {
                            (hypothesis.before) " → " (hypothesis.after)
                            span.count { (hypothesis.errors) @if hypothesis.errors == 1 { " error" } @else { " errors" } }
                        }
                        " " span { (marked(&reference, &hypothesis.text, unit)) }
                    }
                }
            }
            @if list.length > list.hypotheses.len() {
                p.note { (list.length - list.hypotheses.len()) " more hypotheses" }
            }
        }
    }
}

fn marked(reference: &[&str], text: &str, unit: Unit) -> Markup {
    let space = if unit == Unit::Word { " " } else { "" };
    html! {
        @for (i, edit) in align(reference, &units(text, unit)).into_iter().enumerate() {
            @if i > 0 { (space) }
            @match edit {
                Edit::Same(word) => (word),
                Edit::Substituted { said, heard } => span.sub title={ "said: " (said) } { (heard) },
                Edit::Deleted(word) => del { (word) },
                Edit::Inserted(word) => ins { (word) },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_marked_and_text_stays_text() {
        let html = |said: &str, heard: &str, unit| marked(&units(said, unit), heard, unit).into_string();
        assert_eq!(
            html("a b c d e f", "a x d e f g", Unit::Word),
            r#"a <del>b</del> <span class="sub" title="said: c">x</span> d e f <ins>g</ins>"#
        );
        assert_eq!(html("你 好", "你们好", Unit::Char), "你<ins>们</ins>好");
        assert_eq!(
            html("\"quoted\" <i>", "<script>alert(1)</script> <i>", Unit::Word),
            "<span class=\"sub\" title=\"said: &quot;quoted&quot;\">&lt;script&gt;alert(1)&lt;/script&gt;</span> &lt;i&gt;"
        );
    }
}
