//! Text to token ids: WordPiece as Hugging Face computes it, cut to what the model can take.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{AddedToken, Model};

use super::Config;
use crate::{Error, Result};

/// The tokenizer of a BERT.
pub struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
    cls: u32,
    sep: u32,
}

/// A text as token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// [CLS], the words' pieces, [SEP].
    pub ids: Vec<u32>,
    /// Whether pieces were left out at the end.
    pub truncated: bool,
}

/// What `tokenizer_config.json` says about a vocabulary without `tokenizer.json`.
#[derive(Deserialize)]
struct Options {
    #[serde(default = "yes")]
    do_lower_case: bool,
    /// None follows `do_lower_case`.
    strip_accents: Option<bool>,
    #[serde(default = "yes")]
    tokenize_chinese_chars: bool,
}

fn yes() -> bool {
    true
}

impl Tokenizer {
    /// Reads `dir/tokenizer.json`, else `dir/vocab.txt` with `dir/tokenizer_config.json`.
    ///
    /// # Errors
    /// [`Error::Io`] where a file cannot be read, [`Error::File`] where it is not a BERT tokenizer or has
    /// more tokens than the model.
    pub fn open(dir: impl AsRef<Path>, config: &Config) -> Result<Self> {
        let dir = dir.as_ref();
        let read = |path: &Path| fs::read(path).map_err(|e| Error::io(path, "read it", e));
        let json = dir.join("tokenizer.json");
        let vocab = dir.join("vocab.txt");
        let options = dir.join("tokenizer_config.json");
        if json.exists() {
            Self::from_bytes(&read(&json)?, json, config)
        } else if vocab.exists() {
            let text = if options.exists() { read(&options)? } else { b"{}".to_vec() };
            Self::from_vocabulary(&read(&vocab)?, &text, vocab, config)
        } else {
            Err(Error::file(dir, "it has neither tokenizer.json nor vocab.txt", "copy the model's tokenizer"))
        }
    }

    /// Reads the content of a tokenizer.json; `path` names it in errors.
    ///
    /// # Errors
    /// [`Error::File`], as in [`open`](Self::open).
    pub fn from_bytes(bytes: &[u8], path: impl AsRef<Path>, config: &Config) -> Result<Self> {
        let path = path.as_ref();
        let inner = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|e| Error::file(path, format!("not a tokenizer: {e}"), "copy it again"))?;
        Self::new(inner, path.to_path_buf(), config)
    }

    /// Reads the content of a vocab.txt and of a tokenizer_config.json; `path` names the former in errors.
    ///
    /// # Errors
    /// [`Error::File`], as in [`open`](Self::open).
    pub fn from_vocabulary(
        vocabulary: &[u8],
        options: &[u8],
        path: impl AsRef<Path>,
        config: &Config,
    ) -> Result<Self> {
        let path = path.as_ref();
        let options = serde_json::from_slice(options).map_err(|e| {
            let path = path.with_file_name("tokenizer_config.json");
            Error::file(path, format!("not a tokenizer's options: {e}"), "copy it again")
        })?;
        let inner = word_piece(vocabulary, options)
            .map_err(|e| Error::file(path, e.to_string(), "give a BERT's vocab.txt"))?;
        Self::new(inner, path.to_path_buf(), config)
    }

    /// All that decides its tokens, as a tokenizer.json.
    ///
    /// # Errors
    /// [`Error::File`] where it has no such form.
    pub fn json(&self) -> Result<String> {
        let failed = |e| Error::file(&self.path, format!("no JSON can be made of it: {e}"), "copy it again");
        self.inner.to_string(false).map_err(failed)
    }

    fn new(mut inner: tokenizers::Tokenizer, path: PathBuf, config: &Config) -> Result<Self> {
        // Sentence models store "pad to 128" here; lengths are this engine's own business.
        inner.with_padding(None);
        let refuse = |problem: String, hint: &str| Err(Error::file(&path, problem, hint));
        if let Err(e) = inner.with_truncation(None) {
            return refuse(e.to_string(), "copy it again");
        }
        let largest = inner.get_vocab(true).into_values().max().unwrap_or(0);
        if largest as usize >= config.vocab {
            let problem =
                format!("its largest token is {largest}, but the model has {} tokens", config.vocab);
            return refuse(problem, "it belongs to another model");
        }
        // An empty text is what the tokenizer puts around every text.
        let around = inner.encode_fast("", true).map(|e| e.get_ids().to_vec());
        let Ok(&[cls, sep]) = around.as_deref() else {
            return refuse(
                "it does not put [CLS] before and [SEP] after a text".into(),
                "give a BERT tokenizer",
            );
        };
        Ok(Tokenizer { path, inner, cls, sep })
    }

    /// How many tokens it knows.
    pub fn vocabulary(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The ids of `text`: [CLS], its pieces, [SEP], of which the pieces are cut at the end so that all are at
    /// most `max_tokens`.
    ///
    /// # Errors
    /// [`Error::Usage`] where `max_tokens` has no room for [CLS] and [SEP], [`Error::File`] where the
    /// vocabulary cannot express `text`.
    pub fn encode(&self, text: &str, max_tokens: usize) -> Result<Encoded> {
        if max_tokens < 2 {
            return Err(Error::Usage(format!("{max_tokens} tokens have no room for [CLS] and [SEP]")));
        }
        let encoding = self.inner.encode_fast(text, false).map_err(|e| {
            Error::file(&self.path, format!("cannot tokenize {text:?}: {e}"), "give a BERT tokenizer")
        })?;
        let pieces = encoding.get_ids();
        let kept = &pieces[..pieces.len().min(max_tokens - 2)];
        let ids = [&[self.cls], kept, &[self.sep]].concat();
        Ok(Encoded { ids, truncated: kept.len() < pieces.len() })
    }
}

/// What `BertTokenizer` makes of a vocab.txt, one token a line.
fn word_piece(vocab: &[u8], options: Options) -> tokenizers::Result<tokenizers::Tokenizer> {
    let vocab = WordPiece::read_bytes(vocab)?;
    let model = WordPiece::builder().vocab(vocab).build()?;
    let special = |token: &str| model.token_to_id(token).ok_or(format!("it has no {token}"));
    special("[UNK]")?;
    let processor =
        BertProcessing::new(("[SEP]".into(), special("[SEP]")?), ("[CLS]".into(), special("[CLS]")?));
    // Only those of the vocabulary: a new one would get an id that the model lacks.
    let specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        .into_iter()
        .filter(|token| model.token_to_id(token).is_some())
        .map(|token| AddedToken::from(token, true))
        .collect::<Vec<_>>();
    let Options { do_lower_case, strip_accents, tokenize_chinese_chars } = options;
    let normalizer = BertNormalizer::new(true, tokenize_chinese_chars, strip_accents, do_lower_case);
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_normalizer(Some(normalizer));
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    tokenizer.with_post_processor(Some(processor));
    tokenizer.add_special_tokens(&specials);
    Ok(tokenizer)
}
