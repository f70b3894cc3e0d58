//! Which words of a hypothesis are wrong: the alignment that [`word_errors`](super::word_errors) counts.

/// A word of a reference, of a hypothesis, or one of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edit<'a> {
    Same(&'a str),
    Substituted { said: &'a str, heard: &'a str },
    Deleted(&'a str),
    Inserted(&'a str),
}

/// What was said and what was heard, side by side, with as many errors of each kind as
/// [`word_errors`](super::word_errors::word_errors) counts. It takes memory in proportion to the product of the
/// lengths.
pub fn align<'a>(reference: &[&'a str], hypothesis: &[&'a str]) -> Vec<Edit<'a>> {
    // The total in the upper half orders first; the lower half counts deletions and insertions.
    const SUBSTITUTION: u64 = 1 << 32;
    const INDEL: u64 = SUBSTITUTION + 1;
    let (rows, columns) = (reference.len() + 1, hypothesis.len() + 1);
    let mut cost = vec![0u64; rows * columns];
    (1..columns).for_each(|j| cost[j] = j as u64 * INDEL);
    let apart = |i: usize, j: usize| {
        if reference[i - 1] == hypothesis[j - 1] { 0 } else { SUBSTITUTION }
    };
    for i in 1..rows {
        cost[i * columns] = i as u64 * INDEL;
        for j in 1..columns {
            let diagonal = cost[(i - 1) * columns + j - 1] + apart(i, j);
            let indel = cost[(i - 1) * columns + j].min(cost[i * columns + j - 1]) + INDEL;
            cost[i * columns + j] = diagonal.min(indel);
        }
    }
    let mut edits = Vec::with_capacity(rows.max(columns));
    let (mut i, mut j) = (reference.len(), hypothesis.len());
    while i > 0 || j > 0 {
        let here = cost[i * columns + j];
        if i > 0 && j > 0 && here == cost[(i - 1) * columns + j - 1] + apart(i, j) {
            (i, j) = (i - 1, j - 1);
            let (said, heard) = (reference[i], hypothesis[j]);
            edits.push(if said == heard { Edit::Same(said) } else { Edit::Substituted { said, heard } });
        } else if i > 0 && here == cost[(i - 1) * columns + j] + INDEL {
            i -= 1;
            edits.push(Edit::Deleted(reference[i]));
        } else {
            j -= 1;
            edits.push(Edit::Inserted(hypothesis[j]));
        }
    }
    edits.reverse();
    edits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nbest::word_errors::{Errors, word_errors};
    use proptest::prelude::*;

    #[test]
    fn each_kind_stands_where_it_happened() {
        use Edit::*;
        let words = |text: &'static str| text.split_whitespace().collect::<Vec<_>>();
        assert_eq!(
            align(&words("A B C D E F"), &words("A X D E F G")),
            [
                Same("A"),
                Deleted("B"),
                Substituted { said: "C", heard: "X" },
                Same("D"),
                Same("E"),
                Same("F"),
                Inserted("G"),
            ]
        );
        assert_eq!(align(&[], &["A"]), [Inserted("A")]);
        assert_eq!(align(&["A"], &[]), [Deleted("A")]);
        assert!(align(&[], &[]).is_empty());
    }

    proptest! {
        #[test]
        fn it_reads_as_both_texts_and_counts_as_word_errors(
            reference in proptest::collection::vec(proptest::sample::select(vec!["a", "b", "c"]), 0..9),
            hypothesis in proptest::collection::vec(proptest::sample::select(vec!["a", "b", "c", "d"]), 0..9),
        ) {
            let (mut said, mut heard, mut errors) = (Vec::new(), Vec::new(), Errors::default());
            for edit in align(&reference, &hypothesis) {
                match edit {
                    Edit::Same(word) => {
                        said.push(word);
                        heard.push(word);
                    }
                    Edit::Substituted { said: s, heard: h } => {
                        said.push(s);
                        heard.push(h);
                        errors.substitutions += 1;
                    }
                    Edit::Deleted(word) => {
                        said.push(word);
                        errors.deletions += 1;
                    }
                    Edit::Inserted(word) => {
                        heard.push(word);
                        errors.insertions += 1;
                    }
                }
            }
            prop_assert_eq!((said, heard), (reference.clone(), hypothesis.clone()));
            prop_assert_eq!(errors, word_errors(&reference, &hypothesis));
        }
    }
}
