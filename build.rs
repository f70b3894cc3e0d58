//! With the feature `cuda`: compiles kernels/*.cu with nvcc, each into an image for all architectures, and
//! lists the images for src/device/cuda/images.rs.

use std::ffi::OsStr;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::{env, fs, thread};

#[path = "build/nvcc.rs"]
mod nvcc;
#[path = "build/ptxas.rs"]
mod ptxas;
#[path = "src/device/cuda/tiles.rs"]
#[allow(dead_code, reason = "the build needs only the header")]
mod tiles;

use nvcc::Nvcc;

/// Machine code for A100 and H100 and their like, and PTX for whatever comes after them.
const ARCHITECTURES: &[&str] = &["sm_80", "sm_90", "compute_80"];
/// Of files *_sm90a.cu, which use what Hopper alone has.
const HOPPER: &[&str] = &["sm_90a"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    for watched in ["build", "kernels", "src/device/cuda/tiles.rs"] {
        println!("cargo::rerun-if-changed={watched}");
    }
    for variable in
        ["LORB_KERNELS", "NVCC", "CUDA_HOME", "NVCC_CCBIN", "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"]
    {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let table = match env::var_os("LORB_KERNELS") {
        Some(choice) if choice == "none" => Ok(table(None, &[])),
        Some(choice) => Err(format!("LORB_KERNELS={}: expected none, or unset", choice.display())),
        None => compile(&out),
    };
    match table {
        Ok(table) => fs::write(out.join("images.rs"), table).expect("OUT_DIR is writable"),
        Err(problem) => {
            eprintln!("{problem}");
            std::process::exit(1);
        }
    }
}

/// An image, and what is in it.
struct Image {
    source: String,
    architectures: &'static [&'static str],
    kernels: Vec<String>,
}

/// Compiles all kernels into `out`; the content of images.rs.
fn compile(out: &Path) -> Result<String, String> {
    let nvcc = Nvcc::find()?;
    println!("cargo::rerun-if-changed={}", nvcc.path().display());
    fs::write(out.join("tiles.h"), tiles::header()).expect("OUT_DIR is writable");
    let sources = sources();
    let queue = Mutex::new(sources.iter());
    let images = Mutex::new(Vec::new());
    let jobs = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    thread::scope(|scope| {
        for _ in 0..jobs.min(sources.len()) {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("no thread panics here").next();
                    let Some(source) = next else { return };
                    let image = compile_file(&nvcc, source, out);
                    images.lock().expect("no thread panics here").push(image);
                }
            });
        }
    });
    let (images, problems): (Vec<_>, Vec<_>) =
        images.into_inner().expect("no thread panicked").into_iter().partition(Result::is_ok);
    if !problems.is_empty() {
        return Err(problems.into_iter().filter_map(Result::err).collect::<Vec<String>>().join("\n"));
    }
    let mut images: Vec<Image> = images.into_iter().flatten().collect();
    images.sort_by(|a, b| a.source.cmp(&b.source));
    Ok(table(Some(nvcc.release()), &images))
}

fn compile_file(nvcc: &Nvcc, source: &Path, out: &Path) -> Result<Image, String> {
    let name = source.file_stem().and_then(OsStr::to_str).expect("kernels have plain names").to_string();
    let architectures = if name.ends_with("_sm90a") { HOPPER } else { ARCHITECTURES };
    let report =
        nvcc.compile(source, &["kernels".as_ref(), out], architectures, &out.join(format!("{name}.fatbin")))?;
    let faults = ptxas::faults(&report);
    if !faults.is_empty() {
        return Err(format!("{}: the compiler reports\n{}", source.display(), faults.join("\n")));
    }
    Ok(Image { source: name, architectures, kernels: ptxas::kernels(&report) })
}

/// kernels/*.cu, sorted.
fn sources() -> Vec<PathBuf> {
    let entries = fs::read_dir("kernels").expect("it is part of the repository");
    let mut files: Vec<PathBuf> = entries.map(|e| e.expect("it can be read").path()).collect();
    files.retain(|f| f.extension() == Some(OsStr::new("cu")));
    files.sort();
    files
}

/// What src/device/cuda/images.rs includes.
fn table(toolkit: Option<(u32, u32)>, images: &[Image]) -> String {
    let mut text = format!("pub const TOOLKIT: Option<(u32, u32)> = {toolkit:?};\n");
    if !images.is_empty() {
        text += "/// Images hold structures of 8 bytes' alignment.\n";
        text += "#[repr(C, align(64))]\nstruct Aligned<const N: usize>([u8; N]);\n";
    }
    text += "pub const IMAGES: &[Image] = &[\n";
    for Image { source, architectures, kernels } in images {
        let bytes = format!("&Aligned(*include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{source}.fatbin\"))).0");
        writeln!(
            text,
            "    Image {{ source: \"{source}.cu\", architectures: &{architectures:?}, kernels: &{kernels:?}, bytes: {bytes} }},"
        )
        .expect("a String takes everything");
    }
    text + "];\n"
}
