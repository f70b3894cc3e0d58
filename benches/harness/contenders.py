"""Who is measured, and how each is started."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from alternate import cpu_info

BASELINES = Path(__file__).resolve().parents[1] / "baselines"


@dataclass(frozen=True)
class Setting:
    """How a contender cuts a call or a step: chosen for each by measuring."""

    workers: int = 1
    batch_tokens: int | None = None
    pieces: int = 1

    def name(self, threads: int) -> str:
        batches = f", {self.batch_tokens} tokens a batch" if self.batch_tokens else ""
        pieces = f", {self.pieces} pieces" if self.pieces > 1 else ""
        return f"{self.workers} x {max(1, threads // self.workers)} threads{batches}{pieces}"


@dataclass
class Job:
    """What there is to do: `count` lists of a file, or steps."""

    data: Path
    count: int
    together: int
    threads: int
    scores: Path | None = None


@dataclass
class Tools:
    """The programs, and the folder of an ONNX Runtime that knows AVX2 alone. A sentence says why where there is none."""

    python: str
    engine: Path
    contender: Path
    candle: Path | str
    ort_avx2: Path | str


@dataclass
class Folder:
    """A model: as it was given, the adapter, both merged by PEFT, and a place for what is made of it."""

    name: str
    base: Path
    adapter: Path
    merged: Path
    work: Path


@dataclass
class Contender:
    name: str
    command: Callable[[Job, Setting], list[str]]
    # What it multiplies in: f32 unless said.
    precision: str = "fp32"
    settings: bool = False
    # Takes the setting that was best for this one, as trying all of them would take too long.
    setting_of: str | None = None
    # Why it cannot run, where that is known.
    missing: str = ""
    # What a reader should know of it on this machine.
    note: str = ""
    environment: dict[str, str] = field(default_factory=dict)

    def variables(self, job: Job, setting: Setting) -> dict[str, str]:
        threads = str(max(1, job.threads // setting.workers))
        return {"RAYON_NUM_THREADS": threads, "OMP_NUM_THREADS": threads, **self.environment}


def peak(tools: Tools, folder: Folder, isa: str | None = None) -> Contender:
    command = [str(tools.contender), "peak", str(folder.base)]
    return Contender("peak", lambda job, setting: command, environment=forced(isa))


def engine(
    tools: Tools, name: str, work: str, model: Path, *more: str, precision: str = "fp32", isa: str | None = None
) -> Contender:
    def command(job: Job, setting: Setting) -> list[str]:
        together = ["--together", str(job.together)]
        return [str(tools.contender), work, str(model), *data(job), *together, *scores(job), *more]

    return Contender(name, command, precision, environment=forced(isa))


def instruction_sets(tools: Tools, folder: Folder) -> list[Contender]:
    """On less than this CPU has: this engine with AVX2 alone, which the others are compared with, and portable code; and
    others with AVX2 alone, where that is not all that there is."""

    def of(name: str, isa: str, dtype: str) -> Contender:
        more = ["--adapter", str(folder.adapter), "--dtype", dtype]
        return engine(tools, f"lorb-engine {name}", "rescore", folder.base, *more, precision=precision_of(dtype), isa=isa)

    def other(name: str, environment: dict[str, str], precision: str = "fp32", missing: str = "") -> Contender:
        return python(tools, folder, name, precision, name=f"{name} avx2", missing=missing, environment=environment)

    torch = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
    ort, without = {"PYTHONPATH": str(tools.ort_avx2)}, why_missing(tools.ort_avx2)
    others = [
        other("torch-fp32", torch),
        other("ort-fp32", ort, missing=without),
        other("ort-int8", ort, "int8", missing=without),
    ]
    return [
        of("avx2", "avx2", "f32"),
        of("avx2 bf16", "avx2", "bf16"),
        of("avx2 int8", "avx2", "int8"),
        of("portable", "portable", "f32"),
        *(others if has_avx512() else []),
    ]


def python(tools: Tools, folder: Folder, scorer: str, precision: str, name: str = "", **more) -> Contender:
    def command(job: Job, setting: Setting) -> list[str]:
        script = [tools.python, str(BASELINES / "rescore.py"), scorer, "--model", str(folder.merged)]
        lists = ["--data", str(job.data), "--lists", str(job.count), "--together", str(job.together)]
        return [*script, *lists, "--threads", str(job.threads), *cut(setting), *scores(job)]

    return Contender(name or scorer, command, precision, settings=True, **more)


def rescoring(tools: Tools, folder: Folder) -> list[Contender]:
    """The first is what the others are compared with."""
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(folder.work / "inductor")}

    def of(name: str, precision: str = "fp32", **more) -> Contender:
        return python(tools, folder, name, precision, environment=cache, **more)

    def candle(job: Job, setting: Setting) -> list[str]:
        model, lists = [str(folder.merged), str(job.data)], ["--lists", str(job.count)]
        return [str(tools.candle), "rescore", *model, *lists, "--together", str(job.together), *cut(setting), *scores(job)]

    def ours(dtype: str) -> list[Contender]:
        """With the adapter beside the base, and folded in as the others have it."""
        suffix, precision = "" if dtype == "f32" else f" {dtype}", precision_of(dtype)
        as_dtype = ["--dtype", dtype]
        adapted = ["--adapter", str(folder.adapter), *as_dtype]
        return [
            engine(tools, f"lorb-engine{suffix}", "rescore", folder.base, *adapted, precision=precision),
            engine(tools, f"lorb-engine merged{suffix}", "rescore-merged", folder.merged, *as_dtype, precision=precision),
        ]

    # Emulated, it takes too long to try settings with.
    bf16 = {} if has_bf16() else {"setting_of": "torch-fp32", "note": "no bf16 instructions"}
    return [
        *ours("f32"),
        *ours("bf16"),
        *ours("int8"),
        of("torch-fp32"),
        of("torch-bf16", "bf16", **bf16),
        of("torch-compile", setting_of="torch-fp32"),
        of("ort-fp32"),
        of("ort-int8", "int8"),
        Contender("candle-fp32", candle, settings=True, missing=why_missing(tools.candle)),
    ]


def training(tools: Tools, folder: Folder) -> list[Contender]:
    def engine(name: str, dtype: str, precision: str) -> Contender:
        def command(job: Job, setting: Setting) -> list[str]:
            adapter = ["--adapter", str(folder.adapter), "--dtype", dtype]
            return [str(tools.contender), "step", str(folder.base), *data(job), *adapter]

        return Contender(name, command, precision)

    def python(name: str, *more: str) -> Contender:
        def command(job: Job, setting: Setting) -> list[str]:
            steps = ["--data", str(job.data), "--steps", str(job.count), "--threads", str(job.threads)]
            pieces = ["--pieces", str(setting.pieces)]
            return [tools.python, str(BASELINES / "step.py"), *steps, *pieces, *more]

        return Contender(name, command, settings=True)

    return [
        engine("lorb-engine", "f32", "fp32"),
        engine("lorb-engine bf16", "bf16", "bf16"),
        python("torch-peft", "--model", str(folder.base), "--adapter", str(folder.adapter)),
        python("torch-full", "--model", str(folder.merged), "--full-finetune"),
    ]


def starting(tools: Tools, folder: Folder, one: Path, text: str, threads: int) -> dict[str, list[str]]:
    """Programs that print a score and end: the engine's is the one that people use."""
    script = [tools.python, str(BASELINES / "first_score.py")]
    more = ["--model", str(folder.merged), "--threads", str(threads), text]
    engine = [str(tools.engine), "rescore", "--model", str(folder.base), "--adapter", str(folder.adapter)]
    found = {
        "lorb-engine": [*engine, "--device", "cpu", "--threads", str(threads), "--input", str(one)],
        "torch-fp32": [*script, "torch-fp32", *more],
        "ort-fp32": [*script, "ort-fp32", *more],
    }
    if isinstance(tools.candle, Path):
        found["candle-fp32"] = [str(tools.candle), "first", str(folder.merged), text]
    return found


def forced(isa: str | None) -> dict[str, str]:
    return {"LORB_ISA": isa} if isa else {}


def has_avx2() -> bool:
    return {"avx2", "fma"} <= set(cpu_info("flags").split())


def has_avx512() -> bool:
    return "avx512f" in cpu_info("flags").split()


def has_bf16() -> bool:
    """Whether this CPU multiplies bf16 by instructions of its own."""
    return any(flag in cpu_info("flags").split() for flag in ("avx512_bf16", "amx_bf16"))


def precision_of(dtype: str) -> str:
    return "fp32" if dtype == "f32" else dtype


def why_missing(tool: Path | str) -> str:
    return tool if isinstance(tool, str) else ""


def data(job: Job) -> list[str]:
    return [str(job.data), str(job.count)]


def scores(job: Job) -> list[str]:
    return ["--scores", str(job.scores)] if job.scores else []


def cut(setting: Setting) -> list[str]:
    tokens = ["--batch-tokens", str(setting.batch_tokens)] if setting.batch_tokens else []
    return ["--workers", str(setting.workers), *tokens]
