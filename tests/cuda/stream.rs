//! What a stream of lists asks of a GPU, and when the host waits for it.

use std::io::Write;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use lorb_emulate::Order;
use lorb_engine::device::AnyDevice;
use lorb_engine::device::cuda::{Cuda, Precision};
use lorb_engine::lora::{Adapter, LoraConfig};
use lorb_engine::model::BaseModel;
use lorb_engine::nbest::normalise::{NormaliseOptions, Normaliser, Unit};
use lorb_engine::nbest::{Fields, Reading, Utterance};
use lorb_engine::rescore::prune::Margin;
use lorb_engine::rescore::read_ahead::ReadAhead;
use lorb_engine::rescore::rescorer::Rescorer;
use lorb_engine::rescore::stream::stream;

use crate::emulated::{Asked, Emulated};
use crate::support::{TinyBert, WORDS, tiny_bert};

#[test]
fn the_next_batch_is_asked_for_before_the_last_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    tiny_bert(dir.path(), 5, &TinyBert { layers: 1, heads: 1, ..TinyBert::default() });
    let model = BaseModel::open(dir.path()).unwrap();
    let adapter =
        Adapter::initialise(&model.config, &model.checkpoint, LoraConfig::default(), None, 1).unwrap();
    let driver = Arc::new(Emulated::new(Order::Forward));
    let log = driver.log();
    let device = AnyDevice::Cuda(Cuda::poisoned(driver, Precision::F32));
    let normaliser = Normaliser::new(&NormaliseOptions::default()).unwrap();
    let rescorer = Rescorer::new(device, model, &adapter, normaliser, Unit::Word).unwrap();

    let mut lists = tempfile::NamedTempFile::new().unwrap();
    for i in 0..300 {
        let (first, second) = (WORDS[i % 5], WORDS[i % 3]);
        writeln!(lists, r#"{{"id":{i},"hyps":[{{"text":"{first} {second}","am":0}}]}}"#).unwrap();
    }
    let mut input = ReadAhead::start(Some(lists.path()), &Fields::default(), &Reading::default());
    // For the reader to be ahead, as it is of a GPU.
    thread::sleep(Duration::from_millis(300));
    let mut batches = 0;
    let (mut utterances, mut found): (Vec<Utterance>, Vec<f64>) = (Vec::new(), Vec::new());
    stream(&rescorer, Margin::NONE, &mut input, |batch, scored| {
        batches += 1;
        found.extend(scored.features.iter().map(|f| f[0].unwrap().lorb));
        utterances.extend(batch.utterances);
        Ok(())
    })
    .unwrap();
    assert_eq!(utterances.len(), 300);
    assert!(utterances.iter().enumerate().all(|(i, u)| u.id == i.to_string()));

    let log = std::mem::take(&mut *log.lock().unwrap());
    let count = |kind: Asked| log.iter().filter(|asked| **asked == kind).count();
    assert!(batches >= 5 && [Asked::Graph, Asked::Fetch, Asked::Wait].map(count) == [batches; 3], "{log:?}");
    let at = |kind: Asked, n: usize| log.iter().enumerate().filter(|(_, a)| **a == kind).nth(n).unwrap().0;
    for n in 1..batches {
        assert!(at(Asked::Fetch, n) < at(Asked::Wait, n - 1), "batch {n} of {batches}: {log:?}");
        assert!(n < 2 || at(Asked::Wait, n - 2) < at(Asked::Graph, n), "one batch ahead, and no more");
    }

    let all = rescorer.score(&utterances, Margin::NONE).unwrap();
    let expected: Vec<f64> = all.features.iter().map(|f| f[0].unwrap().lorb).collect();
    assert_eq!(found, expected);
}
