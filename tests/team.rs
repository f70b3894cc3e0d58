//! Two processes that train one adapter together get what one gets alone, and the same as each other, to the bit.
//! Here they are threads.

mod support;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;
use std::{fs, thread};

use lorb_engine::device::AnyDevice;
use lorb_engine::device::cpu::{Cpu, Isa};
use lorb_engine::hub::Found;
use lorb_engine::train::base::Base;
use lorb_engine::train::job::Job;
use lorb_engine::train::prepared::Trained;
use lorb_engine::train::team::{Exchange, Team};
use lorb_engine::train::{Asked, Observer, StepReport, ValidationLists};
use lorb_engine::{Error, Result};
use support::cli::{Desk, lists};

/// A table that all put their values on, and take everybody's from.
struct Table {
    all_have_put: Barrier,
    all_have_taken: Barrier,
    values: Mutex<Vec<Vec<f32>>>,
}

struct Seat(usize, Arc<Table>);

impl Exchange for Seat {
    fn all_gather(&self, mine: &[f32]) -> Result<Vec<Vec<f32>>> {
        let Seat(rank, table) = self;
        table.values.lock().unwrap()[*rank] = mine.to_vec();
        table.all_have_put.wait();
        let all = table.values.lock().unwrap().clone();
        table.all_have_taken.wait();
        Ok(all)
    }
}

fn team(size: usize) -> Vec<Team> {
    let barrier = || Barrier::new(size);
    let values = Mutex::new(vec![Vec::new(); size]);
    let table = Arc::new(Table { all_have_put: barrier(), all_have_taken: barrier(), values });
    (0..size).map(|rank| Team::new(rank, size, Arc::new(Seat(rank, table.clone()))).unwrap()).collect()
}

/// Keeps the steps, and stops after one.
#[derive(Default)]
struct Watch<'a> {
    steps: Vec<StepReport>,
    stop: Option<(u64, &'a AtomicBool)>,
}

impl Observer for Watch<'_> {
    fn step(&mut self, report: StepReport) {
        self.steps.push(report);
        if let Some((step, stop)) = self.stop {
            stop.store(report.step >= step, Ordering::Relaxed);
        }
    }
}

/// A job on the lists of `train` that goes to `out`. Dropout, so that masks must be those of the whole step.
fn job(desk: &Desk, train: &str, out: &str, team: Team) -> Job {
    Job {
        train: vec![desk.path(train)],
        valid: ValidationLists::Fraction(0.25),
        test: vec![desk.path("test.jsonl")],
        out: desk.path(out),
        resume: false,
        init_adapter: None,
        asked: Asked {
            lr: Some(0.01),
            dropout: Some(0.1),
            epochs: Some(2),
            hyps: Some(4),
            batch_tokens: Some(120),
            fresh_pooler: true,
            ..Asked::default()
        },
        checkpoint_every: Duration::from_secs(3600),
        lists: Default::default(),
        command: None,
        team,
    }
}

/// Runs a job; stops after the step `stop`.
fn run(desk: &Desk, job: Job, stop: Option<u64>) -> Result<(Trained, Vec<StepReport>)> {
    let found = Found { dir: desk.path("base"), name: "base".into(), id: None };
    let base = Base::open(Some(&found), AnyDevice::Cpu(Cpu::new(Isa::available()[0])))?;
    let stopped = AtomicBool::new(false);
    let mut watch = Watch { stop: stop.map(|step| (step, &stopped)), ..Watch::default() };
    let trained = job.prepare(&base)?.train(&stopped, &mut watch)?.expect("it was not done before");
    Ok((trained, watch.steps))
}

/// A job in two threads; `change` makes a rank's job.
fn run_two(
    desk: &Desk,
    stop: Option<u64>,
    change: impl Fn(usize, Team) -> Job + Sync,
) -> Vec<Result<(Trained, Vec<StepReport>)>> {
    let change = &change;
    thread::scope(|scope| {
        let teams = team(2).into_iter().enumerate();
        let threads: Vec<_> =
            teams.map(|(rank, team)| scope.spawn(move || run(desk, change(rank, team), stop))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn desk() -> Desk {
    let desk = Desk::new();
    desk.write("train.jsonl", lists(30, 120));
    desk.write("test.jsonl", lists(31, 20));
    desk
}

fn bytes(folder: PathBuf) -> Vec<u8> {
    fs::read(folder.join("adapter_model.safetensors")).unwrap()
}

#[test]
fn two_get_what_one_gets() {
    let desk = desk();
    let (alone, steps) = run(&desk, job(&desk, "train.jsonl", "alone", Team::default()), None).unwrap();
    let two = run_two(&desk, None, |rank, team| job(&desk, "train.jsonl", ["two", "none"][rank], team));
    let [(first, first_steps), (second, second_steps)] =
        two.try_into().map(|two: [_; 2]| two.map(Result::unwrap)).ok().unwrap();
    assert!(first.adapter.values == second.adapter.values);
    assert_eq!(first.result.sets, second.result.sets);
    assert_eq!(first_steps.len(), steps.len());
    assert!(steps.len() > 20);
    for ((a, b), c) in steps.iter().zip(&first_steps).zip(&second_steps) {
        assert_eq!((b.losses, b.tokens), (c.losses, c.tokens));
        assert_eq!(a.tokens, b.tokens);
    }
    // Before any update only the order of the sums differs; later AdamW makes more of it.
    let near = |a: f64, b: f64, tolerance: f64| assert!((a - b).abs() <= tolerance * a.abs(), "{a} {b}");
    near(steps[0].losses.gradient_norm, first_steps[0].losses.gradient_norm, 1e-6);
    near(steps[0].losses.mwer, first_steps[0].losses.mwer, 1e-6);
    let distance =
        |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
    let values = &alone.adapter.values;
    let apart = distance(values, &first.adapter.values) / distance(values, &vec![0.0; values.len()]);
    assert!(apart <= 1e-4, "{apart}");
    assert_eq!(alone.result.sets, first.result.sets);
    // The second writes nothing.
    assert_eq!(fs::read_dir(desk.path("none")).unwrap().count(), 0);
    let files = |name: &str| {
        let mut files: Vec<_> =
            fs::read_dir(desk.path(name)).unwrap().map(|f| f.unwrap().file_name()).collect();
        files.sort();
        files
    };
    assert_eq!(files("two"), files("alone"));
}

#[test]
fn two_that_were_stopped_go_on_to_the_same_bytes() {
    let desk = desk();
    let whole = run_two(&desk, None, |_, team| job(&desk, "train.jsonl", "whole", team));
    assert!(whole.iter().all(Result::is_ok));
    let stopped = run_two(&desk, Some(5), |_, team| job(&desk, "train.jsonl", "two", team));
    let [first, second] = [0, 1].map(|rank| match &stopped[rank] {
        Err(Error::Interrupted(said)) => said,
        _ => panic!("rank {rank} was not stopped"),
    });
    assert!(first.starts_with("stopped after step 5, saved in "), "{first}");
    // Who wrote nothing does not say so.
    assert!(second.starts_with("stopped after step 5; rank 0 saves in "), "{second}");
    // Alone it cannot go on: its sums would be others.
    let resumed = Job { resume: true, ..job(&desk, "train.jsonl", "two", Team::default()) };
    let error = run(&desk, resumed, None).err().unwrap().to_string();
    assert!(error.contains("the run was started with --team 2, not 1"), "{error}");
    let resumed = |_, team| Job { resume: true, ..job(&desk, "train.jsonl", "two", team) };
    let steps = run_two(&desk, None, resumed).into_iter().map(|ended| ended.unwrap().1[0].step);
    assert_eq!(steps.collect::<Vec<_>>(), [6, 6]);
    assert!(bytes(desk.path("two")) == bytes(desk.path("whole")));
}

#[test]
fn a_team_that_disagrees_is_refused() {
    let desk = desk();
    desk.write("other.jsonl", lists(32, 120));
    let ended =
        run_two(&desk, None, |rank, team| job(&desk, ["train.jsonl", "other.jsonl"][rank], "out", team));
    for (rank, ended) in ended.into_iter().enumerate() {
        let error = ended.err().unwrap();
        assert_eq!(error.exit_code(), 2);
        let expected = format!("rank {rank}: the team does not have the same lists: ");
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
    let mut correlated = job(&desk, "train.jsonl", "out", team(2).remove(0));
    correlated.asked.corr_weight = Some(0.01);
    assert!(run(&desk, correlated, None).err().unwrap().to_string().contains("--corr-weight"));
}
