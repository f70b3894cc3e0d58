"""Builds and installs what is measured, under target/compare, and says what it was."""

import datetime
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from alternate import cpu_info, cpu_name

from .contenders import BASELINES, Folder, Tools, has_avx512

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "target/compare"
REQUIREMENTS = BASELINES / "requirements.txt"


def run(*command: object, **more) -> None:
    subprocess.run([str(c) for c in command], check=True, stdout=sys.stderr, **more)


def python() -> Path:
    """The interpreter of a virtual environment with the pinned packages, made where it is not there yet."""
    folder = WORK / "venv"
    interpreter, done = folder / "bin/python", folder / "requirements.txt"
    if not done.exists() or done.read_text() != REQUIREMENTS.read_text():
        run(sys.executable, "-m", "venv", folder)
        run(interpreter, "-m", "pip", "install", "--quiet", "-r", REQUIREMENTS)
        shutil.copy(REQUIREMENTS, done)
    return interpreter


def tools(with_candle: bool, with_sets: bool) -> Tools:
    """Builds the engine and candle, each for speed."""
    built = artifacts(ROOT, "build", "--release", "--bin", "lorb-engine")
    bench = artifacts(ROOT, "bench", "--bench", "contender", "--no-run")
    candle: Path | str = "left out"
    if with_candle:
        try:
            # As its authors advise; the engine finds the instruction set by itself.
            native = os.environ | {"RUSTFLAGS": "-C target-cpu=native", "CARGO_TARGET_DIR": str(WORK / "candle")}
            candle = artifacts(BASELINES / "candle", "build", "--release", "--locked", env=native)["candle-contender"]
        except subprocess.CalledProcessError:
            candle = "it did not build"
    return Tools(sys.executable, built["lorb-engine"], bench["contender"], candle, ort_avx2() if with_sets and has_avx512() else "left out")


def ort_avx2() -> Path | str:
    """A folder with ONNX Runtime that takes AVX2 for the best instruction set. It asks the CPU, and no setting says
    otherwise: so its code reads a constant where it read which registers the system saves (XCR0), and that has no
    AVX-512."""
    # xor ecx, ecx; xgetbv; mov eax, eax, and xor ecx, ecx; mov eax, 7: those of SSE and AVX.
    asks, told = bytes.fromhex("31c90f01d089c0"), bytes.fromhex("31c9b807000000")
    out = WORK / "ort-avx2"
    source = Path(importlib.util.find_spec("onnxruntime").origin).parent
    version = importlib.metadata.version("onnxruntime")
    done = out / "version.txt"
    if not done.exists() or done.read_text() != version:
        [library] = source.glob("capi/onnxruntime_pybind11_state*.so")
        code = library.read_bytes()
        if code.count(asks) != 1:
            return f"{version} does not ask for its instruction set as 1.32 does"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(source, out / "onnxruntime")
        (out / "onnxruntime" / library.relative_to(source)).write_bytes(code.replace(asks, told))
        done.write_text(version)
    return out


def artifacts(folder: Path, *command: str, **more) -> dict[str, Path]:
    """The programs that a cargo command makes."""
    cargo = ["cargo", *command, "--message-format=json-render-diagnostics"]
    ran = subprocess.run(cargo, cwd=folder, stdout=subprocess.PIPE, check=True, text=True, **more)
    found = (json.loads(line) for line in ran.stdout.splitlines())
    return {m["target"]["name"]: Path(m["executable"]) for m in found if m.get("executable")}


def folder(name: str, base: Path) -> Folder:
    """An adapter for the model that changes its scores, and all that is exported with it."""
    work = WORK / "models" / f"{name}-{digest(base / 'model.safetensors')[:12]}"
    found = Folder(name, base, work / "adapter", work / "merged", work)
    if not (found.merged / "int8.onnx").exists():
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        fresh = [] if b'"pooler.dense.weight"' in header(base / "model.safetensors") else ["--pooler"]
        run(sys.executable, ROOT / "scripts/check_peft.py", "make", base, found.adapter, *fresh)
        export = [BASELINES / "export.py", "--model", base, "--adapter", found.adapter, "--out", found.merged]
        run(sys.executable, *export)
    return found


def bert_base(tokenizer: Path) -> Path:
    """A model of BERT-base's shape with random weights."""
    out = WORK / "bert-base-random"
    if not (out / "model.safetensors").exists():
        shutil.rmtree(out, ignore_errors=True)
        run(sys.executable, ROOT / "scripts/random_bert.py", "--tokenizer", tokenizer, "--out", out)
    return out


def header(safetensors: Path) -> bytes:
    with open(safetensors, "rb") as file:
        return file.read(int.from_bytes(file.read(8), "little"))


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def output_of(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not known"


def environment(models: list[Folder], data: Path | None, tools: Tools) -> dict[str, str]:
    """What a reader needs to judge the numbers, or to get them again. No paths: they are nobody else's."""
    flags = set(cpu_info("flags").split())
    wanted = ["avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_bf16", "amx_int8"]
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    installed = output_of(sys.executable, "-m", "pip", "freeze").splitlines()
    pinned = {re.split("==", line)[0].lower() for line in REQUIREMENTS.read_text().splitlines()}
    lock = (BASELINES / "candle/Cargo.lock").read_text()
    candle = re.search(r'name = "candle-core"\nversion = "([^"]+)"', lock)
    changes = " with changes" if output_of("git", "status", "--porcelain", "--untracked-files=no") else ""
    found = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "CPU": f"{cpu_name()}, family {cpu_info('cpu family')}, model {cpu_info('model')}",
        "instruction sets": " ".join(f for f in wanted if f in flags),
        "cores": f"{len(os.sched_getaffinity(0))}, caches {caches()}",
        "memory": f"{int(memory.split()[1]) / 2**20:.1f} GiB",
        "load before": f"{os.getloadavg()[0]:.2f}",
        "system": f"{platform.system()} {platform.release()}",
        "engine": output_of("git", "rev-parse", "HEAD") + changes,
        "Rust, C++": f"{output_of('rustc', '--version')}; {output_of('c++', '--version').splitlines()[0]}",
        "Python": platform.python_version(),
        "packages": " ".join(line for line in installed if line.split("==")[0].lower() in pinned),
        "candle": candle[1] if candle and isinstance(tools.candle, Path) else "not built",
    }
    for model in models:
        config = json.loads((model.base / "config.json").read_text())
        sizes = "{num_hidden_layers} layers, {hidden_size} wide, {intermediate_size} inside".format(**config)
        found[f"model {model.name}"] = f"{sizes}, SHA-256 {digest(model.base / 'model.safetensors')[:16]}"
    found["lists"] = f"{data.name}, SHA-256 {digest(data)[:16]}" if data else "random ones, of words of the embedded lists"
    return found


def caches() -> str:
    """Of the first core."""
    levels = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if (index / "type").read_text().strip() != "Instruction":
            levels[(index / "level").read_text().strip()] = (index / "size").read_text().strip()
    return ", ".join(f"L{level} {size}" for level, size in levels.items()) or "not known"


def slug() -> str:
    """The CPU's name, short enough for a folder."""
    name = re.sub(r"\((r|tm)\)|cpu|processor|@.*", " ", cpu_name().lower())
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-")
