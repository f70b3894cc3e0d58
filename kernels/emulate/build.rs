//! Compiles ../*.cu as C++, with the shim that gives CUDA's names a meaning on the CPU.

use std::path::{Path, PathBuf};
use std::{env, fs};

#[path = "../../src/device/cuda/tiles.rs"]
#[allow(dead_code, reason = "the build needs only the header")]
mod tiles;

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    fs::write(out.join("tiles.h"), tiles::header()).expect("OUT_DIR is writable");
    // Cargo looks into a folder, but expands no pattern.
    for watched in ["..", "../../src/device/cuda/tiles.rs"] {
        println!("cargo::rerun-if-changed={watched}");
    }
    // CUDA's language, in C++: pragmas for its compiler, kernels in files of another name.
    let mut kernels = compiler(&out);
    kernels.opt_level(1).flag("-Wno-unknown-pragmas").flag("-fno-strict-aliasing").flag("-ffp-contract=off");
    // Calls before each access: shim/access.cpp has them, not the libraries of the sanitizers.
    kernels
        .flag("-fsanitize=thread,alignment")
        .flag_if_supported("--param=tsan-instrument-func-entry-exit=0");
    for file in files("..", "cu").into_iter().chain(files("planted", "cu")) {
        // GCC goes by the name of the file: each is included from one of its own.
        let name = file.file_stem().expect("it has a name").to_string_lossy().into_owned();
        let wrapper = out.join(format!("{name}.cpp"));
        let path = file.canonicalize().expect("it exists");
        fs::write(&wrapper, format!("#include \"{}\"\n", path.display())).expect("OUT_DIR is writable");
        kernels.file(wrapper);
    }
    // Kernels register themselves: nothing else refers to their objects.
    kernels.link_lib_modifier("+whole-archive").compile("lorb_emulated_kernels");

    let mut shim = compiler(&out);
    shim.opt_level(2).files(files("shim", "cpp")).compile("lorb_emulator");
}

fn compiler(out: &Path) -> cc::Build {
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").debug(true).define("LORB_EMULATE", None);
    build.include("..").include("shim").include(out);
    // Linked into programs only: no call to find a variable of the thread.
    build.flag("-ftls-model=initial-exec");
    build
}

/// The files in `folder` with this extension, sorted.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("it is part of the repository");
    let mut files: Vec<PathBuf> = entries.map(|e| e.expect("it can be read").path()).collect();
    files.retain(|f| f.extension() == Some(Path::new(extension).as_os_str()));
    files.sort();
    files
}
