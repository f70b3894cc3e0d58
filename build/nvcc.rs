//! NVIDIA's compiler: where it is, and how kernels are compiled.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Where scripts/get-nvcc.sh puts it.
const FETCHED: &str = "target/nvcc/nvidia/cu13/bin/nvcc";

pub struct Nvcc {
    path: PathBuf,
    release: (u32, u32),
}

impl Nvcc {
    /// The first of: NVCC, that in CUDA_HOME, that in PATH, the one that scripts/get-nvcc.sh fetched.
    pub fn find() -> Result<Nvcc, String> {
        let given = |name| env::var_os(name).filter(|value| !value.is_empty());
        let path = match (given("NVCC"), given("CUDA_HOME")) {
            (Some(path), _) => PathBuf::from(path),
            (None, Some(home)) => Path::new(&home).join("bin/nvcc"),
            (None, None) => {
                let path = env::var_os("PATH").unwrap_or_default();
                let mut places = env::split_paths(&path).map(|folder| folder.join("nvcc"));
                let fetched = || Some(PathBuf::from(FETCHED)).filter(|p| p.is_file());
                places.find(|p| p.is_file()).or_else(fetched).ok_or(
                    "the feature cuda needs nvcc (CUDA 12 or later), which is neither in NVCC, CUDA_HOME, nor PATH: \
                     run scripts/get-nvcc.sh, or set LORB_KERNELS=none to build without kernels",
                )?
            }
        };
        let version = run(Command::new(&path).arg("--version"))?;
        let release =
            release(&version).ok_or(format!("{}: of no known version:\n{version}", path.display()))?;
        if release < (12, 0) {
            return Err(format!(
                "{}: of CUDA {}.{}; CUDA 12 or later is needed",
                path.display(),
                release.0,
                release.1
            ));
        }
        Ok(Nvcc { path, release })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// CUDA's version, major and minor.
    pub fn release(&self) -> (u32, u32) {
        self.release
    }

    /// Compiles `source` for `architectures` into one image; what the compiler reports.
    pub fn compile(
        &self,
        source: &Path,
        include: &[&Path],
        architectures: &[&str],
        image: &Path,
    ) -> Result<String, String> {
        let mut command = Command::new(&self.path);
        command.args(["-std=c++17", "-O3", "-lineinfo", "-Xptxas", "-v", "--fatbin"]);
        include.iter().for_each(|folder| {
            command.arg("-I").arg(folder);
        });
        for code in architectures {
            // compute_80 stands for PTX, sm_80 for machine code of it.
            command.arg(format!("-gencode=arch={},code={code}", code.replace("sm_", "compute_")));
        }
        let report = run(command.arg("-o").arg(image).arg(source))?;
        match fs::metadata(image) {
            Ok(_) => Ok(report),
            Err(e) => Err(format!("{}: {e}\n{report}", image.display())),
        }
    }
}

/// "… release 13.0, V13.0.88" as (13, 0).
fn release(version: &str) -> Option<(u32, u32)> {
    let (major, rest) = version.split_once("release ")?.1.split_once('.')?;
    let minor = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// What a command says, on both outputs.
fn run(command: &mut Command) -> Result<String, String> {
    let ran = command.output().map_err(|e| format!("cannot run {}: {e}", command.get_program().display()))?;
    let text = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
    if ran.status.success() { Ok(text) } else { Err(format!("{command:?}: {}\n{text}", ran.status)) }
}
