//! What training takes of a device's memory, on a driver that computes nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lorb_engine::bert::Encoder;
use lorb_engine::device::AnyDevice;
use lorb_engine::device::cuda::{
    Address, Boxes, Cuda, Driver, Fetch, Graph, Launch, Precision, Properties, TensorMap,
};
use lorb_engine::hub::Found;
use lorb_engine::lora::{Adapter, LoraConfig};
use lorb_engine::model::BaseModel;
use lorb_engine::train::TrainOptions;
use lorb_engine::train::base::Base;
use lorb_engine::train::batch::StepBatch;
use lorb_engine::train::learner::{CudaLearner, Learner};
use lorb_engine::train::team::Team;
use lorb_engine::{Error, Result};

use crate::support::{TinyBert, tiny_bert, vocabulary};

/// A GPU that does nothing it is asked for: what is read is 0.
struct Idle {
    properties: Properties,
    next: AtomicU64,
}

/// Where its memory starts.
const START: u64 = 1 << 30;

/// An H100 with as much memory.
fn idle(memory_bytes: u64) -> Arc<Idle> {
    let properties = Properties {
        name: "idle".into(),
        uuid: String::new(),
        compute_capability: (9, 0),
        multiprocessors: 132,
        shared_bytes: 227 << 10,
        memory_bytes,
    };
    Arc::new(Idle { properties, next: AtomicU64::new(START) })
}

impl Driver for Idle {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn allocate(&self, bytes: usize) -> Result<Address> {
        let at = self.next.fetch_add(bytes.next_multiple_of(2 << 20) as u64, Ordering::Relaxed);
        if self.next.load(Ordering::Relaxed) > START + self.properties.memory_bytes {
            self.next.store(at, Ordering::Relaxed);
            return Err(Error::Device("no room".into()));
        }
        Ok(Address(at))
    }

    unsafe fn free(&self, _: Address, _: usize) {}

    unsafe fn write(&self, _: Address, _: &[u8]) -> Result<()> {
        Ok(())
    }

    unsafe fn read(&self, _: Address, data: &mut [u8]) -> Result<()> {
        data.fill(0);
        Ok(())
    }

    unsafe fn fetch(&self, _: Address, _: usize) -> Result<Box<dyn Fetch>> {
        Err(Error::Device("nothing to fetch".into()))
    }

    unsafe fn copy(&self, _: Address, _: Address, _: usize) -> Result<()> {
        Ok(())
    }

    unsafe fn fill(&self, _: Address, _: u8, _: usize) -> Result<()> {
        Ok(())
    }

    fn tensor_map(&self, _: &Boxes) -> Result<TensorMap> {
        Ok(TensorMap([0; 16]))
    }

    unsafe fn launch(&self, _: Launch<'_>) -> Result<()> {
        Ok(())
    }

    fn begin_capture(&self) -> Result<()> {
        Err(Error::Device("nothing to capture".into()))
    }

    fn end_capture(&self) -> Result<Box<dyn Graph>> {
        Err(Error::Device("nothing was captured".into()))
    }
}

/// Four lists of eight hypotheses of `tokens` tokens each, no two of which are the same.
fn batch(tokens: usize) -> StepBatch {
    let (mut batch, words) = (StepBatch::default(), vocabulary().len());
    for utterance in 0..4 {
        batch.push((0..8).map(|hypothesis| {
            let token = |i| (5 + (utterance * 8 + hypothesis + i) % (words - 5)) as u32;
            ((0..tokens).map(token).collect(), -1.0, hypothesis as u32)
        }));
    }
    batch
}

#[test]
fn a_step_keeps_what_its_gradients_need_and_steps_share_it() {
    let shape = TinyBert {
        hidden: 256,
        heads: 4,
        intermediate: 1024,
        layers: 6,
        max_positions: 64,
        ..TinyBert::default()
    };
    let dir = tempfile::tempdir().unwrap();
    tiny_bert(dir.path(), 47, &shape);
    let model = BaseModel::open(dir.path()).unwrap();
    let cuda = Cuda::new(idle(1 << 40), Precision::Bf16);
    let encoder = Encoder::load(&cuda, &model.config, &model.checkpoint, true).unwrap();
    let lora = LoraConfig { rank: 8, targets: "query,value".parse().unwrap(), ..LoraConfig::default() };
    let options = TrainOptions { lora: lora.clone(), ..TrainOptions::default() };
    let adapter = Adapter::initialise(&model.config, &model.checkpoint, lora, None, 1).unwrap();
    let weights = cuda.allocated();
    let mut learner = CudaLearner::new(&cuda, &encoder, &options, adapter);
    let mut taken = |tokens: usize| {
        learner.step(&batch(tokens), 0, 1.0).unwrap();
        learner.losses(true).unwrap();
        cuda.allocated() - weights
    };
    let shorter = taken(24);
    let largest = taken(40);
    assert!(shorter < largest, "{shorter} bytes, {largest} of longer sequences");
    // Of a layer: Q, K, V, the context and both arguments of LayerNorm by two bytes, GELU' by one; the last has the
    // [CLS] rows alone. And what one layer works with, which is not kept.
    let (tokens, h, wide) = (32 * 40, shape.hidden, shape.intermediate);
    let kept = tokens * (2 * 6 * h + wide) * (shape.layers - 1);
    let working = 2 * tokens * (12 * h + 2 * wide);
    println!("{largest} bytes; {kept} kept, {working} worked with");
    assert!(largest < kept + working + (8 << 20), "{largest} bytes; {kept} kept, {working} worked with");
    for tokens in [24, 39, 17, 40, 31] {
        assert_eq!(taken(tokens), largest, "{tokens} tokens a hypothesis");
    }
}

#[test]
fn a_gpu_is_used_until_it_is_full() {
    let cuda = Cuda::new(idle(130 << 20), Precision::F32);
    let mib = |count: usize| cuda.upload_f32(&vec![0.0; count << 18], count << 8, 1 << 10);
    // A piece is a 32nd of what was given, 4 MiB, where there is room for it.
    let taken = [128, 1, 1].map(mib);
    cuda.check().unwrap();
    assert_eq!(cuda.allocated(), 130 << 20);
    mib(1);
    assert_eq!(cuda.check().unwrap_err().to_string(), "no room");
    drop(taken);
}

#[test]
fn a_base_for_which_there_is_no_room_is_refused_before_it_trains() {
    let dir = tempfile::tempdir().unwrap();
    tiny_bert(dir.path(), 48, &TinyBert::default());
    let found = Found { dir: dir.path().into(), name: "base".into(), id: None };
    let cuda = Cuda::new(idle(0), Precision::F32);
    let base = Base::open(Some(&found), AnyDevice::Cuda(cuda)).unwrap();
    let options = TrainOptions::default();
    let (config, checkpoint) = (&base.model.config, &base.model.checkpoint);
    let adapter = Adapter::initialise(config, checkpoint, options.lora.clone(), None, 1).unwrap();
    let refused = base.learner(&options, adapter, &Team::default()).err().unwrap();
    assert!(matches!(&refused, Error::Device(problem) if problem == "no room"), "{refused}");
}

#[test]
fn pieces_are_a_part_of_what_was_given() {
    let cuda = Cuda::new(idle(1 << 40), Precision::F32);
    let mib = |count: usize| cuda.upload_f32(&vec![0.0; count << 18], count << 8, 1 << 10);
    let _taken = [128, 1].map(mib);
    assert_eq!(cuda.allocated(), (128 + 4) << 20);
}
