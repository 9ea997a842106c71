"""Each of the four seed systems runs at full depth by one command."""

import re
from pathlib import Path

import pytest
from projects import copy_project, run

# The fewest pixels that each backbone takes.
SEED_SYSTEMS = {"inception_v3": 75, "densenet121_cyclical": 32, "resnet34_one_cycle": 32, "resnet101_cam": 32}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny project for all seed systems: what they have in common runs once."""
    return copy_project(tmp_path_factory.mktemp("systems") / "project")


@pytest.mark.parametrize("recipe", SEED_SYSTEMS)
def test_one_command_runs_a_seed_system_on_the_phantom_without_any_download(shared: Path, recipe: str) -> None:
    settings = [
        f"recipe={recipe}", "data.images=48", "model.weights=none", f"model.image_size={SEED_SYSTEMS[recipe]}",
        "augment.views=2", "train.epochs=1", "finetune.epochs=1", "finetune.learning_rate=1e-4",
    ]  # fmt: skip
    done = run("dvc", "exp", "run", *(part for s in settings for part in ("-S", s)), cwd=shared)
    assert re.findall(r"Running stage '(\w+)'", done.stdout)[-1] == "register"
    assert (shared / "reports" / "evaluation" / "heatmaps.png").exists()
