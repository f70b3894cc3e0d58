//! Kernels are tried once and the findings kept, whatever the file's state. Trials are made up, but for one.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lorb_emulate::Order;
use lorb_engine::Result;
use lorb_engine::device::cpu::{Cpu, Isa};
use lorb_engine::device::cuda::first_use::{Child, FirstUse, Refused, Trusted, Verdict};
use lorb_engine::device::cuda::selfcheck::Sizes;
use lorb_engine::device::cuda::{Driver, Level, Precision, Trial, Variants};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

/// Of the emulated device in bf16.
const BEST: Variants = Variants { linear: Level::Tensor, attention: Level::Tensor };

use crate::emulated::Emulated;
use crate::faulty::{Fault, faulty};

const LINEAR: &str = "bf16 lora_linear tensor";
const PLAINER: &str = "bf16 lora_linear plain";

/// A cache, and the trials that disagree.
struct Machine {
    folder: PathBuf,
    faulty: Vec<&'static str>,
    tried: RefCell<Vec<String>>,
    _dir: TempDir,
}

impl Machine {
    fn new(faulty: &[&'static str]) -> Machine {
        let dir = tempdir().unwrap();
        let folder = dir.path().join("cache/lorb-engine");
        Machine { folder, faulty: faulty.to_vec(), tried: RefCell::default(), _dir: dir }
    }

    fn examine(&self, precision: Precision) -> Result<Trusted, Refused> {
        self.examine_on(&|| Emulated::new(Order::Forward), precision)
    }

    fn examine_on(&self, device: &dyn Fn() -> Emulated, precision: Precision) -> Result<Trusted, Refused> {
        let attempt = |trial: Trial| {
            self.tried.borrow_mut().push(trial.to_string());
            Ok(match self.faulty.contains(&trial.to_string().as_str()) {
                true => Verdict::Faulty("y, element 3: 1, and 2 on the CPU".into()),
                false => Verdict::Agrees,
            })
        };
        let first_use = FirstUse { folder: Some(self.folder.clone()), attempt: &attempt };
        let open = || Ok(Arc::new(device()) as Arc<dyn Driver>);
        first_use.examine(&open, precision).map(|(_, trusted)| trusted)
    }

    /// What was tried since the last time.
    fn tried(&self) -> Vec<String> {
        self.tried.take()
    }

    fn file(&self) -> PathBuf {
        let mut files = fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap().path());
        let file = files.next().unwrap();
        assert!(files.next().is_none(), "one file for one device");
        file
    }

    /// Changes the file.
    fn edit(&self, change: impl FnOnce(&mut Value)) {
        let mut content = serde_json::from_slice(&fs::read(self.file()).unwrap()).unwrap();
        change(&mut content);
        fs::write(self.file(), content.to_string()).unwrap();
    }
}

#[test]
fn what_agrees_is_tried_once() {
    let machine = Machine::new(&[]);
    let trusted = machine.examine(Precision::Bf16).unwrap();
    assert_eq!((trusted.limits, trusted.findings.len(), trusted.warnings.len()), (BEST, 3, 0));
    assert_eq!(machine.tried(), ["bf16 common", LINEAR, "bf16 attention tensor"]);
    let again = machine.examine(Precision::Bf16).unwrap();
    assert_eq!(again.limits, BEST);
    assert!(machine.tried().is_empty());
    let trusted = machine.examine(Precision::F32).unwrap();
    assert_eq!(trusted.limits, Variants::PLAIN);
    assert_eq!(machine.tried(), ["f32 common", "f32 lora_linear plain", "f32 attention plain"]);
    machine.examine(Precision::F32).unwrap();
    machine.examine(Precision::Bf16).unwrap();
    assert!(machine.tried().is_empty());
}

#[test]
fn what_agrees_on_one_device_is_tried_on_another() {
    let machine = Machine::new(&[]);
    machine.examine(Precision::F32).unwrap();
    machine.tried();
    let others: [&dyn Fn() -> Emulated; 4] = [
        &|| Emulated::new(Order::Forward).named("another"),
        &|| Emulated::new(Order::Forward).with_uuid("another"),
        &|| Emulated::new(Order::Forward).with_multiprocessors(8),
        &|| Emulated::hopper(163 << 10, Order::Forward),
    ];
    for other in others {
        for tries in [3, 0] {
            machine.examine_on(other, Precision::F32).unwrap();
            assert_eq!(machine.tried().len(), tries);
        }
    }
    machine.examine(Precision::F32).unwrap();
    assert!(machine.tried().is_empty());
}

#[test]
fn a_plainer_sibling_replaces_what_disagrees() {
    let machine = Machine::new(&[LINEAR]);
    for tries in [4, 0] {
        let trusted = machine.examine(Precision::Bf16).unwrap();
        assert_eq!(trusted.limits, Variants { linear: Level::Plain, ..BEST });
        let [warning] = &trusted.warnings[..] else { panic!("{:?}", trusted.warnings) };
        let file = machine.file().display().to_string();
        assert!([LINEAR, "element 3", &file].iter().all(|part| warning.contains(part)), "{warning}");
        assert_eq!(machine.tried().len(), tries);
    }
}

#[test]
fn nothing_is_used_where_none_agrees() {
    for faulty in [&["bf16 common"][..], &[LINEAR, PLAINER]] {
        let machine = Machine::new(faulty);
        for again in [false, true] {
            let Err(Refused::Untrusted(error)) = machine.examine(Precision::Bf16) else {
                panic!("{faulty:?}")
            };
            assert_eq!(error.exit_code(), 1);
            assert!(faulty.iter().all(|name| error.to_string().contains(name)), "{error}");
            assert_eq!(machine.tried().is_empty(), again);
        }
    }
}

#[test]
fn a_fault_is_looked_at_again_after_a_day() {
    let mut machine = Machine::new(&[LINEAR]);
    machine.examine(Precision::Bf16).unwrap();
    machine.edit(|content| {
        for finding in content["findings"].as_object_mut().unwrap().values_mut() {
            finding["checked"] = (finding["checked"].as_u64().unwrap() - 25 * 60 * 60).into();
        }
    });
    machine.faulty.clear();
    machine.tried();
    assert_eq!(machine.examine(Precision::Bf16).unwrap().limits, BEST);
    assert_eq!(machine.tried(), [LINEAR]);
}

#[test]
fn a_file_that_is_not_as_it_should_be_counts_for_nothing() {
    let machine = Machine::new(&[]);
    machine.examine(Precision::Bf16).unwrap();
    let spoil: [&dyn Fn(); 5] = [
        &|| fs::write(machine.file(), "{\"key\": ").unwrap(),
        &|| fs::write(machine.file(), [0xff; 9]).unwrap(),
        &|| machine.edit(|content| content["key"]["driver"] = "CUDA 99.0".into()),
        &|| machine.edit(|content| content["key"]["program"] = env!("CARGO_PKG_VERSION").into()),
        &|| machine.edit(|content| content["findings"][LINEAR]["checked"] = u64::MAX.into()),
    ];
    for (spoil, tries) in spoil.into_iter().zip([3, 3, 3, 3, 1]) {
        machine.tried();
        spoil();
        assert_eq!(machine.examine(Precision::Bf16).unwrap().limits, BEST);
        assert_eq!(machine.tried().len(), tries);
        machine.examine(Precision::Bf16).unwrap();
        assert!(machine.tried().is_empty(), "the file is mended");
    }
}

#[test]
fn a_cache_that_cannot_be_written_is_no_failure() {
    let mut machine = Machine::new(&[]);
    let file = machine._dir.path().join("file");
    fs::write(&file, "").unwrap();
    machine.folder = file.join("lorb-engine");
    for _ in 0..2 {
        let trusted = machine.examine(Precision::Bf16).unwrap();
        assert_eq!((trusted.limits, machine.tried().len()), (BEST, 3));
        assert!(trusted.warnings[0].contains("will be checked again"), "{:?}", trusted.warnings);
    }
}

/// The checks themselves, in this process, on a device with a bad kernel.
#[test]
fn a_faulty_kernel_is_found_and_done_without() {
    let cpu = Cpu::new(Isa::detect().unwrap());
    let attempt = |trial: Trial| {
        let driver = faulty("linear_down", Fault::Signs);
        let checks = trial.subject.checks().iter();
        let wrong = checks.map(|check| check.run(&driver, &cpu, trial, &Sizes::SMALL)).find_map(Result::err);
        Ok(wrong.map_or(Verdict::Agrees, |error| Verdict::Faulty(error.to_string())))
    };
    let first_use = FirstUse { folder: None, attempt: &attempt };
    let open = || Ok(Arc::new(Emulated::new(Order::Forward)) as Arc<dyn Driver>);
    let (_, trusted) = first_use.examine(&open, Precision::Bf16).ok().unwrap();
    assert_eq!(trusted.limits, Variants { linear: Level::Plain, ..BEST });
    assert!(trusted.warnings[0].contains(LINEAR), "{:?}", trusted.warnings);
}

/// A script in the place of the program.
#[cfg(unix)]
#[test]
fn a_process_tells_by_its_end() {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda/child.sh");
    let child = Child { program, limit: Duration::from_millis(500) };
    let run = |trial: &str| child.run(trial.parse().unwrap(), "small");
    let agrees = run("f32 common").unwrap();
    assert_eq!((agrees.verdict, agrees.report.as_str()), (Verdict::Agrees, "adamw: small\n"));
    let fault = |trial| match run(trial).unwrap().verdict {
        Verdict::Faulty(reason) => reason,
        Verdict::Agrees => panic!("{trial} is faulty"),
    };
    assert_eq!(fault("f32 lora_linear plain"), "adamw: v, element 3: 1, and 2 on the CPU");
    assert!(fault("f32 attention plain").contains("killed after 500ms"));
    assert!(fault(LINEAR).contains("signal: 9"));
    assert!(run("bf16 common").err().unwrap().to_string().contains("no CUDA device"));
    let missing = Child { program: "/no/such/program".into(), ..child };
    assert!(missing.run("f32 common".parse().unwrap(), "small").is_err());
}
