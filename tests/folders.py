"""Folders laid out as the owners of data sets do, with files that hold their own name."""

from pathlib import Path

PAIR = ("NORMAL/a.jpeg", "PNEUMONIA/b.jpeg")
SPLITS = tuple(f"{split}/{image}" for split in ("train", "val", "test") for image in PAIR)


def make(root: Path, *names: str) -> Path:
    """Write one small file per name, which holds that name."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def names_in(root: Path) -> set[str]:
    """Return every file below a folder, hidden ones too."""
    return {file.relative_to(root).as_posix() for file in root.rglob("*") if not file.is_dir()}
