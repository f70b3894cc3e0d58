//! What both sides must agree on by name.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use lorb_engine::device::cuda::{kernels, tiles};

/// The names that kernels/*.cu declare with KERNEL and its kin, in order.
fn declared() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "cu") {
            let text = fs::read_to_string(&path).unwrap();
            let declares = ["KERNEL(", "KERNEL_AHEAD(", "HOPPER_KERNEL("];
            let kernels = text.lines().filter_map(|line| declares.iter().find_map(|d| line.strip_prefix(d)));
            names.extend(kernels.map(|rest| rest.split(',').next().unwrap().trim().to_string()));
        }
    }
    names
}

#[track_caller]
fn set<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
    let mut set = BTreeSet::new();
    names.into_iter().for_each(|name| assert!(set.insert(name), "{name} is there twice"));
    set
}

#[test]
fn the_table_lists_each_kernel_of_the_files_once() {
    let declared = declared();
    assert!(!declared.is_empty());
    assert_eq!(set(kernels::ALL.iter().map(|k| k.name)), set(declared.iter().map(String::as_str)));
}

#[test]
fn shared_constants_have_names_of_their_own() {
    set(tiles::HEADER.iter().map(|c| c.0));
}

#[test]
fn threads_are_whole_warps() {
    assert!(kernels::ALL.iter().all(|k| k.threads % 32 == 0 && (32..=1024).contains(&k.threads)));
}
