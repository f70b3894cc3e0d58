//! How build.rs reads the compiler's report.

#[path = "../../build/ptxas.rs"]
mod ptxas;

const REPORT: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'second' for 'sm_80'
ptxas info    : Function properties for second
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 0 barriers
ptxas info    : Compiling entry function 'first' for 'sm_80'
ptxas info    : Function properties for first
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers
ptxas info    : Compiling entry function 'first' for 'sm_90'
";

#[test]
fn kernels_are_listed_once() {
    assert_eq!(ptxas::kernels(REPORT), ["first", "second"]);
}

#[test]
fn what_costs_speed_is_a_fault() {
    assert!(ptxas::faults(REPORT).is_empty());
    let spill = "    8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads";
    let report = format!("{REPORT}ptxas info    : Function properties for first\n{spill}\n");
    assert_eq!(ptxas::faults(&report), [format!("sm_90 first: {}", spill.trim())]);
    for line in [
        "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to \
         insufficient register resources for the wgmma pipeline in function 'first'",
        "ptxas info    : (C7508) Potential Performance Loss: 'setmaxnreg' ignored to maintain minimum register \
         requirements in 'first'",
        "ptxas warning : setmaxnreg is ignored",
    ] {
        assert_eq!(ptxas::faults(&format!("{REPORT}{line}\n")), [format!("sm_90 first: {line}")]);
    }
}
