//! `doctor` reports; only a GPU that was asked for must be there.

mod support;

use support::cli::{Desk, Ran};

/// The program where no GPU is visible, whether the machine has one or not.
fn doctor(options: &str) -> Ran {
    let desk = Desk::new();
    desk.shell(&format!("CUDA_VISIBLE_DEVICES= $LORB doctor {options}"))
}

#[test]
fn without_a_gpu_it_says_what_is_missing() {
    let ran = doctor("");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.starts_with("cpu:      "), "{}", ran.stdout);
    assert!(ran.stdout.contains("device:   there is no CUDA device to use: "), "{}", ran.stdout);
    assert_eq!(ran.stderr, "");
}

#[test]
fn a_gpu_that_was_asked_for_must_be_there() {
    let ran = doctor("--device cuda");
    assert_eq!(ran.code, Some(2), "{}", ran.stdout);
    assert!(ran.stderr.contains("there is no CUDA device to use: "), "{}", ran.stderr);
}

#[test]
fn the_cpu_needs_no_gpu() {
    let ran = doctor("--device cpu");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(!ran.stdout.contains("CUDA"), "{}", ran.stdout);
    assert_eq!(doctor("--device tpu").code, Some(2));
}

/// What other commands run to find out whether to trust a GPU.
#[test]
fn kernels_are_checked_on_a_gpu_alone() {
    let desk = Desk::new();
    let check = |of: &str| desk.shell(&format!("CUDA_VISIBLE_DEVICES= $LORB check-kernels {of}"));
    let ran = check("'bf16 lora_linear tensor' small");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("there is no CUDA device to use: "), "{}", ran.stderr);
    for unknown in ["'bf16 lora_linear' small", "'f32 lora_linear tensor' small", "'f32 common' huge"] {
        assert_eq!(check(unknown).code, Some(2), "{unknown}");
    }
    let help = desk.ok("--help");
    assert!(help.contains("doctor") && !help.contains("check-kernels"), "{help}");
}
