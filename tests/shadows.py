"""A folder of files with the names of the standard library's modules: nothing may import them."""

from pathlib import Path

NAMES = ("random", "socket", "struct", "re", "types", "signal", "pathlib", "tempfile", "json")


def shadow_folder(folder: Path) -> Path:
    "Write the files, each of which ends the process that imports it."
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        (folder / f"{name}.py").write_text(f"raise SystemExit('shadowed by {name}.py')\n")
    return folder
