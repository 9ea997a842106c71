"""Check every film and set aside those that cannot be read."""

from pathlib import Path

from pneumonia.expectations import check_films, raise_on_critical
from pneumonia.files import write_json
from pneumonia.params import DataParams, ValidateParams
from pneumonia.records import scan_films, write_table
from pneumonia.stage import run_stage


def validate(
    raw: Path, records: Path, refused: Path, results: Path, docs: Path, params: ValidateParams, data: DataParams
) -> None:
    """Write what was refused and found in any case, the table of films only when nothing critical was found."""
    films, rejected = scan_films(raw)
    write_table(rejected, refused)
    print(f"{len(films):,} films, {len(rejected):,} files refused")
    for reason, files in rejected["reason"].value_counts().items():
        print(f"  {reason}: {files:,}")
    checks = check_films(films, rejected, params, data, docs)
    found = {check.name: check.unexpected for check in checks if check.success is False}
    write_json({"films": len(films), "refused": len(rejected), "unexpected": found}, results)
    for check in checks:
        if check.severity == "warning" and not check.success:
            print(f"  {'not checked' if check.success is None else 'warning'}: {check}")
    raise_on_critical(checks, docs)
    write_table(films, records)


if __name__ == "__main__":
    run_stage(validate)
