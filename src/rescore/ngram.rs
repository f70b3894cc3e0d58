//! A backoff n-gram model of the words (or characters) of a domain, kept beside an adapter as `ngram.arpa`.
//!
//! Where the sentences of a domain repeat each other, a few hundred references say more about which words follow each
//! other than an adapter learns from as many lists (docs/adaptation.md).

mod arpa;
mod familiarity;

use std::collections::{BTreeMap, HashMap};
use std::f64::consts::LN_10;

pub use familiarity::{Familiarity, Likelihood};

/// An n-gram model, and what it gives lists of its domain.
#[derive(Debug, Clone, PartialEq)]
pub struct DomainModel {
    pub ngram: Ngram,
    pub familiarity: Familiarity,
}

/// An n-gram model with the probabilities of an ARPA file.
#[derive(Debug, Clone, PartialEq)]
pub struct Ngram {
    order: usize,
    /// By word; the reserved ones are not among them.
    numbers: HashMap<Box<str>, u32>,
    /// Of each n-gram, by the numbers of its words.
    grams: HashMap<Box<[u32]>, Gram>,
}

/// Logarithms to base 10.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Gram {
    probability: f32,
    /// What the probabilities of words that were not seen after it are multiplied by.
    backoff: f32,
}

const UNKNOWN: u32 = 0;
const BEGIN: u32 = 1;
const END: u32 = 2;
/// Their names in ARPA files, by number. A text may have them as words: they are unknown there.
const RESERVED: [&str; 3] = ["<unk>", "<s>", "</s>"];

/// The words that a language is taken to have, about as many as BERT's vocabulary: those that were not seen share what
/// is left to new words.
const LANGUAGE: usize = 30_000;

impl Ngram {
    /// Estimates a model of `order` from sentences, by interpolation after Witten and Bell (Chen and Goodman,
    /// TR-10-98, section 2.4): with c the count of w after h, N that of all words after h and T that of different ones,
    /// P(w|h) = (c + T P(w|h')) / (N + T), h' being h without its first word. `None` where there are no words.
    pub fn estimate<'t>(order: usize, sentences: impl IntoIterator<Item = &'t [&'t str]>) -> Option<Ngram> {
        let mut numbers: HashMap<Box<str>, u32> = HashMap::new();
        // What follows each context, in an order that does not depend on chance.
        let mut followers: BTreeMap<Vec<u32>, BTreeMap<u32, u32>> = BTreeMap::new();
        for sentence in sentences {
            let mut words = vec![BEGIN];
            for word in sentence.iter().filter(|word| !RESERVED.contains(word)) {
                let next = (RESERVED.len() + numbers.len()) as u32;
                words.push(*numbers.entry((*word).into()).or_insert(next));
            }
            words.push(END);
            for end in 1..words.len() {
                for n in 0..order.min(end + 1) {
                    let context = words[end - n..end].to_vec();
                    *followers.entry(context).or_default().entry(words[end]).or_default() += 1;
                }
            }
        }
        if numbers.is_empty() {
            return None;
        }
        let mut model = Ngram { order, numbers, grams: HashMap::new() };
        model.add(&[UNKNOWN], 0.0);
        model.add(&[BEGIN], 0.0);
        let mut contexts: Vec<_> = followers.into_iter().collect();
        // Shorter contexts first: longer ones are interpolated with them.
        contexts.sort_by_key(|(context, _)| context.len());
        for (context, words) in contexts {
            let count: u32 = words.values().sum();
            let (count, different) = (f64::from(count), words.len() as f64);
            let left = different / (count + different);
            // Where nothing is known, all words of the language are as likely.
            let language = LANGUAGE.max(words.len() + 1) as f64;
            for (&word, &seen) in &words {
                let gram = [&context[..], &[word]].concat();
                let shorter =
                    if context.is_empty() { 1.0 / language } else { 10f64.powf(model.log10(&gram[1..])) };
                model.add(&gram, f64::from(seen) / (count + different) + left * shorter);
            }
            match model.grams.get_mut(&context[..]) {
                Some(gram) => gram.backoff = left.log10() as f32,
                // All that was not seen at all.
                None => model.add(&[UNKNOWN], left / language),
            }
        }
        Some(model)
    }

    fn add(&mut self, gram: &[u32], probability: f64) {
        // -99 is ARPA's 0, of what is never asked for.
        let probability = if probability > 0.0 { probability.log10() as f32 } else { -99.0 };
        self.grams.insert(gram.into(), Gram { probability, backoff: 0.0 });
    }

    /// How likely a sentence is.
    pub fn likelihood(&self, sentence: &[&str]) -> Likelihood {
        let mut words = vec![BEGIN];
        words.extend(sentence.iter().map(|word| self.numbers.get(*word).copied().unwrap_or(UNKNOWN)));
        words.push(END);
        let of = |end: usize| self.log10(&words[(end + 1).saturating_sub(self.order)..=end]);
        let log_probability = (1..words.len()).map(of).sum::<f64>() * LN_10;
        Likelihood { log_probability, words: words.len() - 1 }
    }

    /// log10 P of the last word after the others, from as many of them as it was seen after.
    fn log10(&self, words: &[u32]) -> f64 {
        let (mut backoff, last) = (0.0, words.len() - 1);
        for start in 0..words.len() {
            if let Some(gram) = self.grams.get(&words[start..]) {
                return backoff + f64::from(gram.probability);
            }
            backoff += self.grams.get(&words[start..last]).map_or(0.0, |gram| f64::from(gram.backoff));
        }
        // A word that no unigram is of: as unknown.
        backoff + self.grams.get(&[UNKNOWN][..]).map_or(-99.0, |gram| f64::from(gram.probability))
    }

    /// What it takes in memory, about.
    pub fn bytes(&self) -> usize {
        let words: usize = self.numbers.keys().map(|word| word.len() + 32).sum();
        words + self.grams.keys().map(|gram| size_of_val(&gram[..]) + 48).sum::<usize>()
    }

    /// Words of its longest n-grams.
    pub fn order(&self) -> usize {
        self.order
    }

    /// The words that it knows.
    pub fn words(&self) -> usize {
        self.numbers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(order: usize, text: &[&str]) -> Ngram {
        let sentences: Vec<Vec<&str>> = text.iter().map(|s| s.split(' ').collect()).collect();
        Ngram::estimate(order, sentences.iter().map(|s| &s[..])).unwrap()
    }

    fn probability(model: &Ngram, context: &[&str], word: &str) -> f64 {
        let number = |word: &str| match RESERVED.iter().position(|r| *r == word) {
            Some(number) => number as u32,
            None => model.numbers.get(word).copied().unwrap_or(UNKNOWN),
        };
        let words: Vec<u32> = context.iter().chain([&word]).map(|w| number(w)).collect();
        10f64.powf(model.log10(&words))
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-6 * b.abs()
    }

    #[test]
    fn probabilities_are_those_of_witten_and_bell() {
        let model = model(2, &["a b", "a c"]);
        // Words: a a b c </s> </s>: 6, of which 4 differ.
        let one = |count: f64| (count + 4.0 / 30_000.0) / 10.0;
        assert!(near(probability(&model, &[], "a"), one(2.0)));
        assert!(near(probability(&model, &[], "b"), one(1.0)));
        assert!(near(probability(&model, &[], "?"), one(0.0)));
        // After a, two words, which differ.
        assert!(near(probability(&model, &["a"], "b"), (1.0 + 2.0 * one(1.0)) / 4.0));
        assert!(near(probability(&model, &["a"], "a"), 2.0 * one(2.0) / 4.0));
        assert!(near(probability(&model, &["<s>"], "a"), (2.0 + one(2.0)) / 3.0));
        let sentence = [("<s>", "a"), ("a", "b"), ("b", "</s>")];
        let product: f64 = sentence.iter().map(|(h, w)| probability(&model, &[h], w)).product();
        let likelihood = model.likelihood(&["a", "b"]);
        assert!(near(likelihood.log_probability, product.ln()));
        assert_eq!((likelihood.words, model.likelihood(&[]).words), (3, 1));
    }

    #[test]
    fn probabilities_after_any_context_sum_to_one() {
        let model = model(3, &["a b c", "a b d", "b c", "c a b c"]);
        let words = ["a", "b", "c", "d", "</s>"];
        let contexts: [&[&str]; 6] = [&[], &["a"], &["<s>", "a"], &["a", "b"], &["d", "d"], &["?", "b"]];
        for context in contexts {
            let seen: f64 = words.iter().map(|w| probability(&model, context, w)).sum();
            let unseen = (LANGUAGE - words.len()) as f64 * probability(&model, context, "?");
            assert!(near(seen + unseen, 1.0), "{} after {context:?}", seen + unseen);
        }
    }

    #[test]
    fn reserved_names_are_no_words() {
        let model = model(3, &["a </s> b"]);
        assert_eq!(model.words(), 2);
        assert_eq!(model.likelihood(&["<s>"]), model.likelihood(&["x"]));
        let log_probability = |text: &[&str]| model.likelihood(text).log_probability;
        assert!(log_probability(&["a", "b"]) > log_probability(&["b", "a"]));
    }

    #[test]
    fn without_words_there_is_no_model() {
        assert_eq!(Ngram::estimate(3, [&[][..]]), None);
        assert_eq!(Ngram::estimate(3, []), None);
    }
}
