//! Memory does not grow with the lists, whatever their format.

use std::fs;

use crate::support::cli::{Desk, lists};

/// Lists of at least `bytes` bytes, all with two hypotheses, as NeMo needs it.
fn write_lists(desk: &Desk, bytes: usize) {
    use std::io::Write;
    let part = lists(7, 2000);
    let two: Vec<&str> = part.lines().filter(|line| line.matches("\"text\"").count() == 2).collect();
    let mut file = std::io::BufWriter::new(fs::File::create(desk.path("in.jsonl")).unwrap());
    let (mut written, mut n) = (0, 0);
    while written < bytes {
        for line in &two {
            let line = line.replacen("\"u", &format!("\"{n}u"), 1);
            writeln!(file, "{line}").unwrap();
            written += line.len() + 1;
        }
        n += 1;
    }
}

fn peaks(bytes: usize) -> Vec<(String, u64)> {
    let desk = Desk::new();
    write_lists(&desk, bytes);
    let mut peaks = Vec::new();
    for (name, format) in TARGETS {
        for arguments in [
            format!("convert in.jsonl {name} --to {format}"),
            format!("convert {name} back.jsonl --from {format}"),
        ] {
            peaks.push((arguments.clone(), desk.peak(&arguments)));
        }
        let path = desk.path(name);
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }
    peaks
}

const TARGETS: [(&str, &str); 7] = [
    ("out.jsonl", "jsonl"),
    ("decode", "espnet"),
    ("nbest", "kaldi"),
    ("out.tsv", "nemo"),
    ("out.json", "mlm"),
    ("out.csv", "csv"),
    ("out.parquet", "parquet"),
];

fn compare(small: usize, large: usize) {
    for ((arguments, small), (_, large)) in peaks(small).into_iter().zip(peaks(large)) {
        eprintln!("{arguments}: {small} KiB, with the large lists {large} KiB");
        assert!(large < small + (8 << 10), "{arguments}: {small} KiB, with the large lists {large} KiB");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_with_the_lists() {
    compare(1 << 20, 16 << 20);
}

/// Takes some minutes and 3 GB of disk: `cargo test --release --test formats gigabyte -- --ignored --nocapture`.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "takes minutes"]
fn a_gigabyte_takes_no_more_memory_than_64_megabytes() {
    // Enough to fill a row group of Parquet, which is in memory until it is written.
    compare(64 << 20, 1 << 30);
}
