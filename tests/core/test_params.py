"""Parameters are read once, and whatever cannot be meant is refused by name, value and expectation."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from projects import ROOT
from pydantic import ValidationError

from pneumonia.core.errors import InputError
from pneumonia.core.params_file import load_params

COMMITTED = ROOT / "params.yaml"


def change(tmp_path: Path, key: str, value: Any) -> Path:
    """Write the committed parameters with one value, under a dotted name, changed."""
    tree = yaml.safe_load(COMMITTED.read_text())
    *sections, last = key.split(".")
    section = tree
    for name in sections:
        section = section[name]
    section[last] = value
    changed = tmp_path / "params.yaml"
    changed.write_text(yaml.safe_dump(tree, sort_keys=False))
    return changed


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_params(path)
    return str(caught.value)


def leaves(tree: dict[str, Any], prefix: str = "") -> list[str]:
    return [
        leaf
        for key, value in tree.items()
        for leaf in (leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"])
    ]


def test_the_committed_file_loads():
    assert load_params(COMMITTED).split.seed == 123


@pytest.mark.parametrize("key", ["optimiser", "train.warmup", "split.ratios.holdout"])
def test_an_unknown_key_is_refused_by_name(tmp_path: Path, key: str):
    message = refusal(change(tmp_path, key, 1))
    assert f"{key} is 1" in message
    assert "Extra inputs are not permitted" in message


@pytest.mark.parametrize(
    "text", ["${oc.env:MLFLOW_TRACKING_PASSWORD}", "a/${data.seed}/b", "${oc.decode:${oc.env:HOME}}", "${"]
)
@pytest.mark.parametrize("key", ["data.path", "model.weights", "train.seed", "recipe"])
def test_what_hydra_would_replace_is_refused_wherever_it_stands(tmp_path: Path, key: str, text: str):
    message = refusal(change(tmp_path, key, text))
    assert "params.yaml holds ${" in message and "Expected: plain values" in message


@pytest.mark.parametrize("key", leaves(yaml.safe_load(COMMITTED.read_text())))
def test_no_value_has_a_default(tmp_path: Path, key: str):
    tree = yaml.safe_load(COMMITTED.read_text())
    *sections, last = key.split(".")
    section = tree
    for name in sections:
        section = section[name]
    del section[last]
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    assert f"{key}: Field required" in refusal(path)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("recipe", "My Recipe", "should match pattern"),
        ("data.source", "nih", "'phantom', 'kaggle', 'mendeley' or 'folder'"),
        ("data.images", 47, "greater than or equal to 48"),
        ("data.images", 20_001, "less than or equal to 20000"),
        ("data.seed", -1, "greater than or equal to 0"),
        ("data.seed", 2**31, "less than 2147483648"),
        ("data.path", None, "not a valid path"),
        ("data.patients", "Auto", "auto, folder, dicom, each_image, a table (.csv or .parquet) below data.path"),
        ("data.patients", "patients.xlsx", "a regular expression with a group (?P<patient>...)"),
        ("data.patients", r"(\d+)_\d", "with a group (?P<patient>...)"),
        ("data.patients", r"(?P<patient>\d+", "must be a regular expression: missing )"),
        ("data.patients", "/home/me/patients.csv", "below data.path"),
        ("data.patients", "../patients.parquet", "below data.path"),
        ("data.patients", None, "valid string"),
        ("validate.max_refused_share", 1.01, "less than or equal to 1"),
        ("validate.min_side", 0, "greater than or equal to 1"),
        ("validate.max_aspect", 0.9, "greater than or equal to 1"),
        ("validate.min_contrast", 128, "less than or equal to 127.5"),
        ("validate.min_class_share", 0.51, "less than or equal to 0.5"),
        ("merge.drop_duplicates", "maybe", "valid boolean"),
        ("split.strategy", "random", "'patient', 'stratified' or 'original'"),
        ("split.ratios", {"train": 0.8, "val": 0.1, "test": 0.101}, "sum to 1"),
        ("split.ratios", {"train": 0.9, "val": 0.1, "test": 0.0}, "above 0 each"),
        ("split.ratios.train", -0.1, "greater than or equal to 0"),
        ("split.seed", "abc", "valid integer"),
        ("augment.balance", "smote", "'augment', 'undersample', 'class_weight' or 'none'"),
        ("augment.rotation_degrees", 181, "less than or equal to 180"),
        ("augment.horizontal_flip", 2, "valid boolean"),
        ("augment.brightness", [1.1, 0.9], "the lower factor, then the higher"),
        ("augment.brightness", [0.0, 1.0], "greater than 0"),
        ("augment.brightness", [1.0], "Field required"),
        ("augment.brightness", [0.5, 11.0], "less than or equal to 10"),
        ("augment.views", 0, "greater than or equal to 1"),
        ("augment.presize", 16, "greater than or equal to 32"),
        ("augment.zoom", [1.2, 1.1], "the lower factor, then the higher"),
        ("augment.warp", 0.6, "less than or equal to 0.5"),
        ("augment.crop", 0, "greater than 0"),
        ("augment.affine_probability", 1.1, "less than or equal to 1"),
        ("augment.shift", 1.5, "less than or equal to 1"),
        ("model.dropout", 1.0, "less than 1"),
        ("model.image_size", 31, "greater than or equal to 32"),
        ("model.image_size", "large", "Input should be 'auto'"),
        ("model.backbone", 3, "valid string"),
        ("train.epochs", 0, "greater than or equal to 1"),
        ("train.epochs", True, "valid integer"),
        ("train.epochs", 1.5, "valid integer"),
        ("train.batch_size", 4097, "less than or equal to 4096"),
        ("train.learning_rate", 0.0, "greater than 0"),
        ("train.learning_rate", "fast", "valid number, unable to parse string as a number or Input should be 'auto'"),
        ("train.schedule", "step", "'triangular2', 'exp_range' or 'one_cycle'"),
        ("train.base_share", 0, "greater than 0"),
        ("finetune.cycle_epochs", 0, "greater than 0"),
        ("model.head", "two", "'sigmoid' or 'softmax'"),
        ("train.monitor", "loss", "'val_loss', 'val_auc', 'val_f1' or 'val_accuracy'"),
        ("train.patience", 0, "greater than or equal to 1"),
        ("finetune.from_layer", -1, "greater than or equal to 0"),
        ("evaluate.threshold", 1.0, "less than 1"),
        ("evaluate.threshold", None, "valid number"),
        ("evaluate.threshold", "best", "Input should be 'youden', 'f1' or 'sensitivity_floor'"),
        ("evaluate.heatmap", "lime", "'grad_cam' or 'cam'"),
        ("evaluate.sensitivity_floor", 1.1, "less than or equal to 1"),
        ("evaluate.resamples", 99, "greater than or equal to 100"),
        ("register.gates.min_common_images", 0, "greater than or equal to 1"),
        ("register.gates.min_common_patients", 0, "greater than or equal to 1"),
        ("register.gates.margin_roc_auc", -0.01, "greater than or equal to 0"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_value_and_the_expectation(
    tmp_path: Path, key: str, value: Any, expected: str
):
    what, expectation, remedy = refusal(change(tmp_path, key, value)).split("\n")
    assert key in what
    assert (
        repr({(0.0, 1.0): 0.0, (0.5, 11.0): 11.0}.get(tuple(value), value) if isinstance(value, list) else value)
        in what
    )
    assert key in expectation
    assert expected in expectation
    assert "docs/parameters.md" in remedy


@pytest.mark.parametrize(
    "key",
    ["validate.max_aspect", "split.ratios.train", "augment.shift", "train.learning_rate", "register.gates.min_roc_auc"],
)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_must_be_finite(tmp_path: Path, key: str, value: float):
    assert f"{key}: Input should be" in refusal(change(tmp_path, key, value))


def test_every_problem_is_named_at_once(tmp_path: Path):
    message = refusal(change(tmp_path, "merge", {"drop_duplicates": 7, "cutoff": 8}))
    assert "2 unusable value(s)" in message
    assert "merge.drop_duplicates is 7" in message
    assert "merge.cutoff is 8" in message


def test_a_value_that_may_be_of_two_kinds_is_one_problem(tmp_path: Path):
    message = refusal(change(tmp_path, "train.learning_rate", 2))
    assert "1 unusable value(s): train.learning_rate is 2." in message


def test_an_exponent_without_a_point_is_a_number(tmp_path: Path):
    path = change(tmp_path, "train.learning_rate", 0.25)
    path.write_text(path.read_text().replace("0.25", "1e-4"))  # YAML 1.1 takes it for text
    assert load_params(path).train.learning_rate == 1e-4


@pytest.mark.parametrize("rule", ["auto", "each_image", "a/b.csv", "P.PARQUET", r"^(?P<patient>[^/]+)/"])
def test_what_tells_patients_apart_is_a_word_a_table_or_a_pattern(tmp_path: Path, rule: str):
    assert load_params(change(tmp_path, "data.patients", rule)).data.patients == rule


def test_equal_bounds_switch_brightness_off(tmp_path: Path):
    assert load_params(change(tmp_path, "augment.brightness", [1.0, 1.0])).augment.brightness == (1, 1)


@pytest.mark.parametrize("content", [b"split: [", b"\xff\xd8\xff\xe0", b"\x00"])
def test_a_file_that_is_no_yaml_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    assert f"{path} is not YAML" in refusal(path)


@pytest.mark.parametrize("content", ["", "- 1\n- 2\n", "split"])
def test_a_file_without_sections_is_refused(tmp_path: Path, content: str):
    path = tmp_path / "params.yaml"
    path.write_text(content)
    assert "(all): Input should be a valid dictionary" in refusal(path)


def test_a_missing_file_is_named_with_the_way_to_get_it_back(tmp_path: Path):
    message = refusal(tmp_path / "params.yaml")
    assert f"{tmp_path / 'params.yaml'} does not exist" in message
    assert "git restore params.yaml" in message


def test_a_value_cannot_be_changed_after_loading():
    params = load_params(COMMITTED)
    with pytest.raises(ValidationError, match="frozen"):
        params.train.epochs = 3


def test_flat_lists_every_value_of_the_file_under_its_dotted_name():
    tree = yaml.safe_load(COMMITTED.read_text())
    flat = load_params(COMMITTED).flat()
    assert sorted(flat) == sorted(leaves(tree))
    assert flat["split.ratios.val"] == tree["split"]["ratios"]["val"]
    assert flat["register.gates.margin_roc_auc"] == tree["register"]["gates"]["margin_roc_auc"]
    assert flat["augment.brightness"] == tree["augment"]["brightness"]


def test_only_images_of_the_phantom_carry_a_notice(tmp_path: Path):
    notices = {
        source: load_params(change(tmp_path, "data.source", source)).data.notice
        for source in ("phantom", "kaggle", "mendeley", "folder")
    }
    assert [source for source, notice in notices.items() if notice] == ["phantom"]
