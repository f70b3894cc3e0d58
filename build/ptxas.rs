//! What ptxas reports of kernels (`-Xptxas -v`).

/// The lines that tell of something that costs speed: registers spilled to memory, arrays kept in it, and
/// tensor core or register instructions that it gave up on; each with the architecture and the function.
pub fn faults(report: &str) -> Vec<String> {
    let (mut architecture, mut function) = ("", "");
    let mut faults = Vec::new();
    for line in report.lines() {
        if let Some((_, rest)) = line.split_once("' for '") {
            architecture = rest.trim_end_matches('\'');
        }
        if let Some((_, name)) = line.split_once("Function properties for ") {
            function = name;
        }
        let spills = line.contains("bytes stack frame")
            && line.trim_start() != "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads";
        let given_up = line.contains("Potential Performance Loss")
            || line.contains("wgmma") && line.contains("serialized")
            || line.contains("setmaxnreg") && line.contains("ignored");
        if spills || given_up {
            faults.push(format!("{architecture} {function}: {}", line.trim()));
        }
    }
    faults
}

/// The kernels, sorted, each once however many architectures it was compiled for.
pub fn kernels(report: &str) -> Vec<String> {
    let name =
        |line: &str| Some(line.split_once("Compiling entry function '")?.1.split_once('\'')?.0.to_string());
    let mut kernels: Vec<String> = report.lines().filter_map(name).collect();
    kernels.sort();
    kernels.dedup();
    kernels
}
