"""Check every image and set aside the files that cannot be read."""

from pathlib import Path

from pneumonia.core.files import write_json
from pneumonia.core.params import DataParams, ValidateParams
from pneumonia.core.stage import run_stage
from pneumonia.core.tables import write_table
from pneumonia.records.check import raise_on_critical
from pneumonia.records.corrections import find_corrected, read_corrections
from pneumonia.records.expectations import check_images
from pneumonia.records.scan import scan_images


def validate(
    raw: Path, corrections: Path, records: Path, refused: Path, results: Path, docs: Path, params: ValidateParams,
    data: DataParams,
) -> str:  # fmt: skip
    """Write what was refused and found in any case, the table of images only if no critical expectation failed."""
    corrected = read_corrections(corrections)
    images, rejected = scan_images(raw, data.patients)
    write_table(rejected, refused)
    for reason, files in rejected["reason"].value_counts().items():
        print(f"  refused: {reason}: {files:,}")
    checks = check_images(images, rejected, params, data, docs, corrected)
    found = {check.name: check.unexpected for check in checks if check.success is False}
    actions = find_corrected(images, corrected)["action"]
    counts = {"relabelled": int(actions.eq("relabel").sum()), "excluded": int(actions.eq("exclude").sum())}
    write_json({"images": len(images), "refused": len(rejected), **counts, "unexpected": found}, results)
    for check in checks:
        if check.severity == "warning" and check.success is False:
            print(f"  warning: {str(check).splitlines()[0]}; {docs}/index.html names them")
    raise_on_critical(checks, docs)
    write_table(images, records)
    return f"{len(images):,} images read, {len(rejected):,} files refused"


if __name__ == "__main__":
    run_stage(validate)
