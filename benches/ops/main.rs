//! Every operation of the encoder and of training at the shapes of MiniLM and BERT-base, on one core, each beside its
//! own roofline: the larger of its multiply-adds at the measured peak and its bytes at the rate at which this core reads
//! as many over and over, which is its caches' where they fit.
//!
//!     cargo bench --bench ops [-- FILTER]
//!
//! Criterion's "elements" are multiply-adds counted twice: Gelem/s read as GFLOP/s. Softmax, GELU and other elementary
//! functions are not counted, so an operation that is full of them stays below its roofline.

mod attention;
mod lora_linear;
mod losses;
mod roofline;
mod rows;
mod score_head;

use std::time::Duration;

use criterion::Criterion;
use roofline::Machine;

/// A model whose shapes are measured.
#[derive(Clone, Copy)]
struct Model {
    name: &'static str,
    hidden: usize,
    intermediate: usize,
    heads: usize,
    layers: usize,
}

const MODELS: [Model; 2] = [
    Model { name: "MiniLM-L6", hidden: 384, intermediate: 1536, heads: 12, layers: 6 },
    Model { name: "BERT-base", hidden: 768, intermediate: 3072, heads: 12, layers: 12 },
];

/// Tokens of a worker's chunk.
const TOKENS: usize = lorb_engine::rescore::scorer::CHUNK_TOKENS;
/// Of a step: 4 lists of 8.
const HYPOTHESES: usize = 32;
const RANK: usize = 8;

fn main() {
    // Operations run on the thread that calls them, so that is what the roofline is of.
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global().expect("nothing used the pool yet");
    let machine = Machine::measured();
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    for model in MODELS {
        rows::all(&mut criterion, &machine, model);
        lora_linear::all(&mut criterion, &machine, model);
        attention::all(&mut criterion, &machine, model);
        score_head::all(&mut criterion, &machine, model);
        losses::all(&mut criterion, &machine, model);
    }
    criterion.final_summary();
}
