//! The BERT encoder: configuration, checkpoint, tokenizer, and the one description of the model.
