"""A version is registered once, predicts elsewhere what it predicts here, and shows when it was tampered with."""

import ast
import json
import shutil
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.entities.model_registry import ModelVersion
from PIL import Image
from projects import ROOT, run
from pydicom.data import get_testdata_file
from stores import working_in

from pneumonia.core.errors import InputError
from pneumonia.core.files import sha256_file, write_json
from pneumonia.core.params import ModelParams
from pneumonia.core.tables import write_table
from pneumonia.evaluation.novelty import fit_novelty, gather_features
from pneumonia.images.decode import read_image
from pneumonia.inference.operating_point import OperatingPoint
from pneumonia.inference.scores import score_images
from pneumonia.models.classifier import build_model, load_model, save_model
from pneumonia.registry import package as package_module
from pneumonia.registry.package import Package, register_package
from pneumonia.registry.promotion import promote
from pneumonia.registry.verify import find_changes
from pneumonia.registry.versions import (
    MODEL_NAME,
    describe_versions,
    download_version,
    find_version,
    get_version,
    list_versions,
    read_predictions,
)
from pneumonia.tracking.connection import connect

SIZE = 32
NOTICE = "Synthetic radiographs: no clinical meaning."
TAGS = {"recipe": "default", "test_roc_auc": "0.9", "synthetic": "True"}
PREDICTIONS = pd.DataFrame({
    "path": ["test/NORMAL/a.png", "test/PNEUMONIA/b.png"], "sha256": ["0" * 64, "1" * 64], "patient_id": ["007", "008"],
    "label": ["NORMAL", "PNEUMONIA"], "actual": [0, 1], "initial": [0.5, 0.5], "finetuned": [0.2, 0.9],
})  # fmt: skip
# Of import names that differ.
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}

# Run by somebody who has the registry but not the code.
ELSEWHERE = """
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

assert find_spec("pneumonia") is None
before = set(os.listdir())

import mlflow
import pandas as pd

def refuse(table):
    try:
        model.predict(table)
    except Exception as error:
        return f"{type(error).__name__}: {error}"

model = mlflow.pyfunc.load_model("models:/pneumonia-classifier/1")
images = [Path(name).read_bytes() for name in sys.argv[1:]]
answers = model.predict(pd.DataFrame({"image": images}))
print(json.dumps({
    "columns": list(answers), "probability": list(answers["probability"]), "decision": list(answers["decision"]),
    "errors": list(model.predict(pd.DataFrame({"image": [images[0], b"GIF89a", images[0][:500]]}))["error"]),
    "other column": refuse(pd.DataFrame({"file": images})),
    "modules": [module.__file__ for name, module in sys.modules.items() if name.startswith("pneumonia")],
    "left behind": sorted({*os.listdir()} - before),
}))
"""


@pytest.fixture(scope="module")
def images() -> dict[str, bytes]:
    """Return files by name, larger than the model's input: JPEG and PNG files of noise, and a DICOM file."""
    found, rng = {}, np.random.default_rng(0)
    for number in range(6):
        image, buffer = Image.fromarray(rng.integers(0, 256, (50, 40), dtype=np.uint8)), BytesIO()
        kind = ("jpeg", "png")[number % 2]
        image.save(buffer, kind)
        found[f"{number}.{kind}"] = buffer.getvalue()
    found["6.dcm"] = Path(str(get_testdata_file("MR_small.dcm", download=False))).read_bytes()
    return found


@pytest.fixture(scope="module")
def pixels(images: dict[str, bytes]) -> np.ndarray:
    return np.stack([read_image(content, SIZE) for content in images.values()])


@pytest.fixture(scope="module")
def package(pixels: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Package:
    """Return a package whose operating point changes every probability and decides for both classes."""
    folder = tmp_path_factory.mktemp("package")
    keras.utils.set_random_seed(1)
    model = build_model(ModelParams(backbone="tiny", weights="none", image_size=SIZE, dropout=0.0, head="sigmoid"))
    kernel, bias = model.get_layer("logit").get_weights()
    factor = 2 / score_images(model, pixels).std()
    model.get_layer("logit").set_weights([factor * kernel, bias])
    save_model(model, folder / "finetuned.keras")
    point = OperatingPoint(image_size=SIZE, flip=True, temperature=1.7, threshold=0.5, rule="youden")
    threshold = float(np.median(point.calibrate(score_images(model, pixels, flip=point.flip))))
    write_json(point.model_copy(update={"threshold": threshold}).model_dump(), folder / "operating_point.json")
    train = np.random.default_rng(0).integers(0, 256, (30, SIZE, SIZE), dtype=np.uint8)
    fit_novelty(*(gather_features(model, part) for part in (train, pixels))).write(folder / "novelty.npz")
    write_table(PREDICTIONS, folder / "predictions.csv")
    (folder / "model_card.md").write_text("# Model card\n")
    names = ("finetuned.keras", "operating_point.json", "novelty.npz", "predictions.csv", "model_card.md")
    return Package(*(folder / name for name in names))


@pytest.fixture(scope="module")
def changed(package: Package, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Package]:
    """Return packages that differ in one file, by its field in a package."""
    found = {}
    for name, path in package._asdict().items():
        other = tmp_path_factory.mktemp(name) / path.name
        content = path.read_text() if path.suffix not in (".keras", ".npz") else ""
        other.write_text(content.replace('"rule": "youden"', '"rule": "f1"').replace("0.9", "0.8").replace("#", "##"))
        assert sha256_file(other) != sha256_file(path)
        found[name] = package._replace(**{name: other})
    return found


def register(package: Package) -> ModelVersion:
    """Register a package as the stage does."""
    with mlflow.start_run(experiment_id=connect()) as made:
        pass
    return register_package(made, package, TAGS, NOTICE)


@pytest.fixture(scope="module")
def registered(
    package: Package, changed: dict[str, Package], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[ModelVersion]]:
    """Return a store and the versions of a package, another threshold, other predictions, and the first again."""
    with working_in(tmp_path_factory.mktemp("registered")) as store:
        versions = [register(p) for p in (package, changed["operating_point"], changed["predictions"], package)]
        return store, versions


@pytest.fixture(autouse=True)
def store(registered: tuple[Path, list[ModelVersion]], home: Path) -> Iterator[Path]:
    with working_in(home, registered[0]) as store:
        yield store


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Path]:
    """Return the files of version 1 in the store, to change; they are restored afterwards."""
    folder = download_version(get_version("1"))
    shutil.copytree(folder, tmp_path / "before")
    yield folder
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "before", folder)


@pytest.fixture(scope="module")
def elsewhere(
    registered: tuple[Path, list[ModelVersion]], images: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Return what version 1 does beside a copy of its store, in a process without repository and pickles."""
    folder, empty = tmp_path_factory.mktemp("images"), tmp_path_factory.mktemp("empty")
    (empty / "elsewhere.py").write_text(ELSEWHERE)
    for name, content in images.items():
        (folder / name).write_bytes(content)
    names = [str(folder / name) for name in images]
    shutil.copytree(registered[0].parent, empty / "mlruns")
    uri = "sqlite:///mlruns/mlflow.db"
    done = run("python", "-m", "elsewhere", *names, cwd=empty, MLFLOW_TRACKING_URI=uri,
               MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false")  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def test_registering_a_package_again_keeps_its_version(registered: tuple[Path, list[ModelVersion]]):
    first, *_, again = registered[1]
    assert (first.version, again.version) == (1, 1)


def test_two_runs_that_register_one_package_at_once_make_one_version(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    other = package._replace(predictions=tmp_path / "predictions.csv")
    other.predictions.write_text(package.predictions.read_text() + "\n")
    real, before = package_module._log_model, list_versions()

    def log_slowly(mine: Package) -> Any:
        logged = real(mine)
        monkeypatch.undo()
        mlflow.end_run()
        register(mine)  # meanwhile, in the run beside this one
        return logged

    monkeypatch.setattr(package_module, "_log_model", log_slowly)
    late = register(other)
    assert [version.version for version in list_versions()] == [late.version, *(version.version for version in before)]
    kept = {model.model_id for model in mlflow.search_logged_models([connect()], output_format="list")}
    assert len(kept) == len(before) + 1  # the one that came too late is gone
    assert str(late.source).removeprefix("models:/") in kept


def test_another_threshold_or_other_predictions_make_a_new_version(
    registered: tuple[Path, list[ModelVersion]], changed: dict[str, Package]
):
    assert [version.version for version in registered[1][1:3]] == [2, 3]
    found = find_version(changed["predictions"].sha256)
    assert found and found.version == 3


@pytest.mark.parametrize(
    "name, another",
    [("model", True), ("operating_point", True), ("novelty", True), ("predictions", True), ("model_card", False)],
)
def test_a_package_is_identified_by_all_its_files_but_the_card(
    package: Package, changed: dict[str, Package], name: str, another: bool
):
    assert (changed[name].sha256 != package.sha256) == another


def test_the_challenger_is_what_was_registered_last():
    assert get_version("challenger").version == 1


def test_a_version_has_its_notice_and_tags_and_is_found_by_its_content(package: Package):
    version = find_version(package.sha256)
    assert version and (version.version, version.description) == (1, NOTICE)
    assert version.tags.items() >= (TAGS | {"model_sha256": sha256_file(package.model)}).items()
    assert find_version("0" * 64) is None


def test_a_version_whose_registration_was_killed_gets_its_notice(package: Package):
    mlflow.MlflowClient().update_model_version(MODEL_NAME, "1", "")
    assert register(package).description == NOTICE


def test_registering_leaves_the_tags_it_is_given_alone():
    assert TAGS == {"recipe": "default", "test_roc_auc": "0.9", "synthetic": "True"}


def test_the_run_that_made_a_model_stays_finished():
    run_id = get_version("1").run_id
    assert run_id
    assert mlflow.get_run(run_id).info.status == "FINISHED"


def test_the_signature_of_a_version_and_its_example_take_files():
    info = mlflow.models.get_model_info(f"models:/{MODEL_NAME}/{get_version('1').version}")
    assert info.signature
    assert info.signature.inputs.to_dict() == [{"type": "any", "name": "image", "required": True}]
    assert [(column["name"], column["type"]) for column in info.signature.outputs.to_dict()] == [
        ("probability", "double"), ("decision", "string"), ("novel", "boolean"), ("error", "string"),
    ]  # fmt: skip
    assert info.saved_input_example_info


def test_a_version_holds_the_files_of_its_package_and_no_other(package: Package):
    stored = {path.name: path.read_bytes() for path in (download_version(get_version("1")) / "artifacts").iterdir()}
    assert stored == {path.name: path.read_bytes() for path in package}


@pytest.mark.usefixtures("elsewhere")
def test_a_version_ships_the_code_that_scores_and_nothing_else():
    folder = download_version(get_version("1"))
    scoring = [ROOT / "pneumonia/__init__.py"]
    for part in ("core", "images", "models", "inference"):
        scoring += (ROOT / "pneumonia" / part).glob("*.py")
    shipped = {path for path in (folder / "code").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert {path.relative_to(folder / "code") for path in shipped} == {path.relative_to(ROOT) for path in scoring}
    assert (folder / "mlflow_model.py").read_bytes() == (ROOT / "pneumonia/registry/mlflow_model.py").read_bytes()


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the code that versions are made of, to edit."""
    copy = tmp_path / "pneumonia"
    shutil.copytree(ROOT / "pneumonia", copy, ignore=shutil.ignore_patterns("__pycache__", ".partial*"))
    monkeypatch.setattr(package_module, "SOURCE", copy)
    return copy


@pytest.mark.parametrize(
    "path, another",
    [("images/decode.py", True), ("inference/scores.py", True), ("models/classifier.py", True),
     ("core/runtime.py", True), ("__init__.py", True), ("registry/mlflow_model.py", True),
     ("serving/app.py", False), ("cli/predict.py", False), ("tracking/runs.py", False), ("training/fit.py", False),
     ("evaluation/metrics.py", False), ("registry/gate.py", False), ("reporting/report.py", False)],
)  # fmt: skip
def test_an_edit_makes_a_new_version_if_and_only_if_the_code_is_shipped(
    package: Package, source: Path, path: str, another: bool
):
    before = package.sha256
    with (source / path).open("a") as file:
        file.write("# an edit that changes no prediction\n")
    assert (package.sha256 != before) == another


def test_code_under_another_name_makes_a_new_version(package: Package, source: Path):
    before = package.sha256
    (source / "images/refusal.py").rename(source / "images/refused.py")
    assert package.sha256 != before


def test_a_version_holds_no_pickle():
    files = download_version(get_version("1")).rglob("*")
    assert not [path for path in files if path.suffix in (".pkl", ".pickle")]


def test_a_version_requires_what_its_code_imports_and_nothing_else(elsewhere: dict[str, Any]):
    folder, names = download_version(get_version("1")), set[str]()
    for module in [folder / "mlflow_model.py", *elsewhere["modules"]]:
        for node in ast.walk(ast.parse(Path(module).read_text())):
            names |= {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            names |= {node.module or ""} if isinstance(node, ast.ImportFrom) else set()
    needed = {name.partition(".")[0] for name in names} - {*sys.stdlib_module_names, "pneumonia"}
    lines = (folder / "requirements.txt").read_text().splitlines()
    assert {line.partition("==")[0] for line in lines} == {DISTRIBUTIONS.get(name, name) for name in needed}


def test_a_version_predicts_elsewhere_what_the_pipeline_predicts_at_its_operating_point(
    elsewhere: dict[str, Any], package: Package, pixels: np.ndarray
):
    model, point = load_model(package.model), OperatingPoint.read(package.operating_point)
    expected = point.calibrate(score_images(model, pixels, flip=point.flip))
    assert elsewhere["columns"] == ["probability", "decision", "novel", "error"]
    np.testing.assert_allclose(elsewhere["probability"], expected, rtol=0, atol=1e-6)
    for part in ({"flip": False}, {"temperature": 1.0}):  # else the test would not cover them
        changed = point.model_copy(update=part)
        without = changed.calibrate(score_images(model, pixels, flip=changed.flip))
        assert np.abs(without - expected).max() > 1e-3


def test_a_version_decides_at_its_own_threshold(elsewhere: dict[str, Any], package: Package):
    threshold = OperatingPoint.read(package.operating_point).threshold
    decisions = ["PNEUMONIA" if found >= threshold else "NORMAL" for found in elsewhere["probability"]]
    assert elsewhere["decision"] == decisions
    assert set(decisions) == {"NORMAL", "PNEUMONIA"}


def test_a_version_runs_its_own_code_and_leaves_nothing_behind(elsewhere: dict[str, Any]):
    assert [name for name in elsewhere["modules"] if "/mlruns/artifacts/models/" not in name] == []
    assert elsewhere["left behind"] == []


def test_what_is_no_image_is_a_row_with_the_reason(elsewhere: dict[str, Any]):
    good, other, cut = elsewhere["errors"]
    assert (good, other) == (None, "not a JPEG, PNG, TIFF, WEBP, BMP or DICOM file")
    assert cut.startswith("damaged or truncated")


def test_a_table_without_images_is_refused(elsewhere: dict[str, Any]):
    assert "missing inputs ['image']" in elsewhere["other column"]


def test_predictions_are_read_as_they_were_stored():
    pd.testing.assert_frame_equal(read_predictions(get_version("1")), PREDICTIONS)


def test_missing_predictions_are_an_error_in_three_parts(stored: Path):
    (stored / "artifacts/predictions.csv").unlink()
    with pytest.raises(InputError, match=r"(?s)Version 1 .* no predictions.*Expected: .*Remedy: .*registry verify 1"):
        read_predictions(get_version("1"))


@pytest.mark.usefixtures("elsewhere")
def test_a_version_is_unchanged_after_registration_and_after_loading():
    assert [find_changes(version) for version in list_versions()] == [{}, {}, {}]


@pytest.mark.parametrize(
    "path, named",
    [("artifacts/finetuned.keras", None), ("artifacts/operating_point.json", None), ("artifacts/novelty.npz", None),
     ("MLmodel", None),
     ("mlflow_model.py", None), ("requirements.txt", None), ("code/pneumonia/inference/scores.py", "code")],
)  # fmt: skip
def test_a_flipped_byte_is_found_and_named(stored: Path, path: str, named: str | None):
    content = bytearray((stored / path).read_bytes())
    content[len(content) // 2] ^= 1
    (stored / path).write_bytes(content)
    assert find_changes(get_version("1")) == {named or path: "changed"}


@pytest.mark.parametrize(
    "path, named, kind",
    [("artifacts/weights.bin", "artifacts/weights.bin", "added"), ("code/pneumonia/utils.py", "code", "changed")],
)
def test_a_file_that_was_added_is_found_and_named(stored: Path, path: str, named: str, kind: str):
    (stored / path).touch()
    assert find_changes(get_version("1")) == {named: kind}


@pytest.mark.parametrize(
    "path, named, kind",
    [
        ("artifacts/model_card.md", "artifacts/model_card.md", "missing"),
        ("code/pneumonia/models/tiny.py", "code", "changed"),
    ],
)
def test_a_file_that_was_removed_is_found_and_named(stored: Path, path: str, named: str, kind: str):
    (stored / path).unlink()
    assert find_changes(get_version("1")) == {named: kind}


def test_a_renamed_file_of_the_code_is_found(stored: Path):
    (stored / "code/pneumonia/models/tiny.py").rename(stored / "code/pneumonia/models/tiny2.py")
    assert find_changes(get_version("1")) == {"code": "changed"}


def test_every_changed_file_is_named(stored: Path):
    for path in ("artifacts/predictions.csv", "artifacts/model_card.md"):
        (stored / path).write_text("")
    assert find_changes(get_version("1")) == dict.fromkeys(
        ("artifacts/model_card.md", "artifacts/predictions.csv"), "changed"
    )


def test_a_version_without_digests_is_an_error_in_three_parts():
    version = mlflow.MlflowClient().create_model_version(MODEL_NAME, "file:nowhere")
    with pytest.raises(InputError, match=r"(?s)Version 4 .* no digests.*Expected: .*registered.*Remedy: .*dvc repro"):
        find_changes(version)


def test_a_version_is_found_by_its_number_and_by_its_alias():
    promote("2", None, "", {}, "Ada")
    assert [get_version(name).version for name in ("2", "3", "champion", "challenger")] == [2, 3, 2, 1]


@pytest.mark.parametrize("number", ["9", "0", "-1", "1.5", "latest", "champion", ""])
def test_a_version_that_does_not_exist_is_an_error_that_lists_those_that_do(number: str):
    with pytest.raises(InputError, match=rf"(?s)no version '{number}'.*one of \[1, 2, 3\].*registry list"):
        get_version(number)


def test_a_store_without_a_model_has_no_versions():
    mlflow.MlflowClient().delete_registered_model(MODEL_NAME)
    assert (list_versions(), describe_versions()) == ([], [])


def test_versions_are_listed_the_latest_first():
    assert [version.version for version in list_versions()] == [3, 2, 1]


def test_each_alias_is_described_in_a_line():
    promote("3", None, "", {}, "Ada")
    assert describe_versions() == [
        "champion: version 3, test ROC AUC 0.9, recipe default",
        "challenger: version 1, test ROC AUC 0.9, recipe default",
    ]


def test_a_champion_that_was_registered_by_hand_is_described_too():
    mlflow.MlflowClient().create_model_version(MODEL_NAME, "file:nowhere")
    promote("4", None, "", {}, "Ada")
    assert describe_versions()[0] == "champion: version 4, test ROC AUC unknown, recipe unknown"
