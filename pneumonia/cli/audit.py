"""List doubtful labels, near duplicates and outliers among the images; write tables and a page with pictures."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `run`."""
    parser.add_argument(
        "--predictions", type=Path, default=Path("reports/crossval/predictions.csv"), help="of a cross-validation"
    )
    parser.add_argument("--recipe", help="whose predictions; the first one's by default")
    parser.add_argument("--show", dest="shown", type=int, default=40, help="pictures of each kind, 40 by default")
    parser.add_argument("--out", type=Path, default=Path("reports/audit"), help="folder")


def run(predictions: Path, recipe: str | None, shown: int, out: Path) -> None:
    """Audit, and print what was found."""
    from pneumonia.audit.audit_images import audit_images  # TensorFlow is slow to import

    found = audit_images(predictions, recipe, shown, out)
    print(
        f"{found.labels['doubtful'].sum():,} of {len(found.labels):,} labels are doubtful. "
        f"{len(found.pairs):,} pairs are near duplicates, "
        f"{(found.pairs['split'] != found.pairs['other_split']).sum():,} of them across splits. "
        f"{found.outliers['outlier'].sum():,} of {len(found.outliers):,} images are outliers.\n"
        f"Written to {out}: index.html and tables. Corrections are yours to make: docs/audit.md."
    )
