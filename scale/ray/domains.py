"""The domains that a folder of lists holds. Without Ray, so that it can be tested without."""

from __future__ import annotations

from pathlib import Path

COMPRESSED = (".gz", ".zst")
LISTS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


def domains(folder: Path) -> dict[str, list[str]]:
    """The files of each domain: NAME.jsonl, or those in a folder NAME. A name may have dots."""
    found: dict[str, list[str]] = {}
    # By the name in lower case, since some file systems tell no case.
    seen: dict[str, Path] = {}
    for path in visible(folder):
        name = path.name if path.is_dir() else without_endings(path.name)
        before = seen.setdefault(name.lower(), path)
        if before != path:
            hint = f"rename one, or put both in a folder {name}"
            raise ValueError(f"{path}: the domain {name} is {before.name} too: {hint}")
        found[name] = [str(file) for file in (visible(path) if path.is_dir() else [path])]
    return found


def visible(folder: Path) -> list[Path]:
    """What is in a folder, but for what is hidden or somebody's own business, such as _SUCCESS."""
    return [path for path in sorted(folder.iterdir()) if path.name[0] not in "._"]


def without_endings(name: str) -> str:
    for endings in [COMPRESSED, LISTS]:
        for ending in endings:
            # What is only an ending is a name.
            if len(name) > len(ending):
                name = name.removesuffix(ending)
    return name
