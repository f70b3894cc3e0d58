//! candle's BERT with the head of `BertForSequenceClassification(num_labels=1)`.

use std::path::Path;

use anyhow::Result;
use candle_core::{DType, Device, IndexOp, Tensor};
use candle_nn::{Linear, Module, VarBuilder, linear};
use candle_transformers::models::bert::{BertModel, Config};

pub struct Model {
    bert: BertModel,
    pooler: Linear,
    classifier: Linear,
}

impl Model {
    pub fn open(folder: &Path) -> Result<Model> {
        let config: Config = serde_json::from_reader(std::fs::File::open(folder.join("config.json"))?)?;
        let file = folder.join("model.safetensors");
        // SAFETY: nothing changes the file while this runs.
        let weights = unsafe { VarBuilder::from_mmaped_safetensors(&[file], DType::F32, &Device::Cpu)? };
        let h = config.hidden_size;
        Ok(Model {
            bert: BertModel::load(weights.clone(), &config)?,
            pooler: linear(h, h, weights.pp("bert.pooler.dense"))?,
            classifier: linear(h, 1, weights.pp("classifier"))?,
        })
    }

    /// Scores of one padded batch.
    pub fn scores(&self, batch: &[&[u32]]) -> Result<Vec<f32>> {
        let columns = batch.iter().map(|row| row.len()).max().unwrap_or(0);
        let shape = (batch.len(), columns);
        // [PAD] is 0.
        let mut ids = vec![0u32; batch.len() * columns];
        let mut mask = ids.clone();
        for (i, row) in batch.iter().enumerate() {
            let at = i * columns..i * columns + row.len();
            ids[at.clone()].copy_from_slice(row);
            mask[at].fill(1);
        }
        let ids = Tensor::from_vec(ids, shape, &Device::Cpu)?;
        let mask = Tensor::from_vec(mask, shape, &Device::Cpu)?;
        let hidden = self.bert.forward(&ids, &ids.zeros_like()?, Some(&mask))?;
        let cls = hidden.i((.., 0))?.contiguous()?;
        let features = self.pooler.forward(&cls)?.tanh()?;
        Ok(self.classifier.forward(&features)?.flatten_all()?.to_vec1()?)
    }
}
