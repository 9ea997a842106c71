"""Cross-validate a head that tells normal, bacterial and viral apart. Evaluation only: no model of it is kept."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
from keras import layers
from scipy.special import softmax
from sklearn.metrics import ConfusionMatrixDisplay
from sklearn.utils.class_weight import compute_class_weight
from tqdm import tqdm

from pneumonia.augment.build import read_split
from pneumonia.core.errors import EXAMPLES, InputError
from pneumonia.core.figure import drawing
from pneumonia.core.names import CLASSES, parse_kind
from pneumonia.core.params import EvaluateParams, Params
from pneumonia.core.tables import tell_apart, write_table
from pneumonia.crossval.folds import deal_folds
from pneumonia.evaluation.intervals import draw_weights, find_bounds
from pneumonia.evaluation.metrics import METRICS, Floats, prepare_meter
from pneumonia.models.activations import ActivationCache
from pneumonia.models.backbones import find_image_size
from pneumonia.models.classifier import build_model
from pneumonia.models.cut import cut_model
from pneumonia.training.batches import Batches
from pneumonia.training.fit import make_deterministic
from pneumonia.training.schedules import build_optimizer

KINDS = ("normal", "bacteria", "virus")
PROBABILITIES = [f"probability_{kind}" for kind in KINDS]


def name_kinds(records: pd.DataFrame) -> pd.DataFrame:
    """Return the images with a kind of KINDS as their label, as file names state it.

    Raises:
        InputError: the name of an image of pneumonia states none.
    """
    kinds = records["path"].map(parse_kind).where(records["label"] == CLASSES[1], KINDS[0])
    if (unknown := kinds.isna()).any():
        raise InputError(
            f"The names of {unknown.sum():,} images state no kind of pneumonia, such as "
            f"{', '.join(records.loc[unknown, 'path'].head(EXAMPLES))}.",
            expected="bacteria or virus in the name, as in Kermany's data set",
            remedy="cross-validate without --target kind",
        )
    return records.assign(label=kinds)


def cross_validate_kinds(
    recipes: dict[str, Params], records: pd.DataFrame, raw: Path, alike: pd.DataFrame | None, folds: int, seeds: int,
    out: Path,
) -> pd.DataFrame:  # fmt: skip
    """Train a head with three outputs on every fold, on images as they are, and return the table of metrics.

    The head is that of `model` and `train`: dropout, then a linear layer on the pooled activations of the frozen
    backbone. Classes are weighted as `class_weight` does. Validation chooses the epoch.

    Args:
        recipes: from `compose_recipes`.
        records: images that take part, columns as in DTYPES.
        raw: folder that their paths start from.
        alike: as for `deal_folds`.
        folds: how many.
        seeds: how many trainings of each fold.
        out: folder for predictions.csv, metrics.csv, confusion.csv and confusion.png.

    Raises:
        InputError: a kind is unknown, folds cannot be dealt, or a recipe searches its learning rate.
    """
    named = name_kinds(records)
    first, *_ = recipes.values()
    dealt = deal_folds(named, folds, first.split, first.data.patients == "each_image", alike, KINDS)
    predictions = pd.concat([
        predicted.assign(recipe=name)
        for name, params in recipes.items() for predicted in _run(name, params, records, dealt, raw, seeds)
    ], ignore_index=True)  # fmt: skip
    patients = tell_apart(records).set_axis(records["path"])
    metrics = pd.concat([
        measure_kinds(part, patients, first.evaluate).assign(recipe=name)
        for name, part in predictions.groupby("recipe", sort=False)
    ], ignore_index=True)  # fmt: skip
    called = predictions[PROBABILITIES].to_numpy().argmax(axis=1)
    confusion = predictions.assign(called=np.array(KINDS)[called]).groupby(["recipe", "label", "called"], sort=False)
    counts = (confusion.size() / seeds).rename("images").reset_index()
    for name, table in (("predictions", predictions), ("metrics", metrics), ("confusion", counts)):
        write_table(table.round(6), out / f"{name}.csv")
    _draw(out / "confusion.png", counts, first.data.notice)
    return metrics


def _run(
    name: str, params: Params, records: pd.DataFrame, folds: Sequence[pd.DataFrame], raw: Path, seeds: int
) -> Iterator[pd.DataFrame]:
    """Yield the predictions on what each fold of `name_kinds` holds out."""
    if params.train.learning_rate == "auto":
        raise InputError(
            f"{name} searches its learning rate.", expected="a number", remedy="-S train.learning_rate=5e-4"
        )
    make_deterministic(params.train.seed)
    images = read_split(records, raw, find_image_size(params.model)).images
    frozen = cut_model(build_model(params.model)).frozen
    features = ActivationCache(params.compute, params.cache).read(frozen, images)[:]
    named = folds[0][["path", "sha256", "patient_id", "label"]]
    kinds = named["label"].map(KINDS.index).to_numpy()
    shown = named.rename(columns={"path": "image", "patient_id": "patient"})
    with tqdm(total=seeds * len(folds), desc=name, unit=" folds", disable=None) as progress:
        for seed in range(params.train.seed, params.train.seed + seeds):
            for number, fold in enumerate(folds, start=1):
                parts = {part: np.flatnonzero(fold["split"] == part) for part in ("train", "val", "test")}
                head, held_out = fit_head(features, kinds, parts["train"], parts["val"], params, seed), parts["test"]
                probabilities = softmax(np.asarray(head(features[held_out], training=False)), axis=1)
                table = shown.iloc[held_out].assign(**dict(zip(PROBABILITIES, probabilities.T, strict=True)))
                yield table.assign(fold=number, seed=seed)
                progress.update()


class _Shuffled(Batches):
    """Batches in another order each epoch."""

    def __init__(self, x: Floats, y: npt.NDArray[Any], batch_size: int, seed: int) -> None:
        super().__init__(x, y, batch_size)
        self.rng = np.random.default_rng(seed)
        self.on_epoch_end()

    def on_epoch_end(self) -> None:
        self.rows = self.rng.permutation(len(self.y))


def fit_head(
    features: Floats, kinds: npt.NDArray[Any], train: npt.NDArray[Any], val: npt.NDArray[Any], params: Params, seed: int
) -> keras.Model:
    """Train a head, from pooled activations (n, c) to logits (n, kinds), on some rows of them."""
    make_deterministic(seed)
    head = keras.Sequential([layers.Dropout(params.model.dropout), layers.Dense(len(KINDS))])
    steps, rate = -(-len(train) // params.train.batch_size), params.train.learning_rate
    head.compile(
        build_optimizer(params.train, float(rate), steps), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    weights = compute_class_weight("balanced", classes=np.arange(len(KINDS)), y=kinds[train])
    best = keras.callbacks.EarlyStopping("val_loss", patience=params.train.epochs, restore_best_weights=True)
    batches = _Shuffled(features[train], kinds[train], params.train.batch_size, seed)
    head.fit(
        batches, epochs=params.train.epochs, validation_data=Batches(features[val], kinds[val], 1024), shuffle=False,
        class_weight=dict(enumerate(weights)), callbacks=[best], verbose=0,  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    return head


def measure_kinds(predictions: pd.DataFrame, patients: "pd.Series[str]", params: EvaluateParams) -> pd.DataFrame:
    """Return accuracy and macro ROC AUC (one against the rest): mean over seeds, spread, interval by patient.

    Args:
        predictions: of one recipe: image, label, PROBABILITIES and seed; each seed has the same images.
        patients: indexed by image.
        params: resamples and their seed.
    """
    order = predictions["image"].unique()
    of_seeds = [part.set_index("image").loc[order] for _, part in predictions.groupby("seed")]
    meters = [_prepare(part) for part in of_seeds]
    everyone = np.ones((1, len(order)))
    values = pd.DataFrame([meter(everyone)[:, 0] for meter in meters], columns=["accuracy", "macro_roc_auc"])
    drawn = np.hstack([
        np.mean([meter(weights) for meter in meters], axis=0)
        for weights in draw_weights(patients.loc[order].to_numpy(), params.resamples, params.seed)
    ])  # fmt: skip
    bounds = pd.DataFrame([find_bounds(row) for row in drawn], index=values.columns, columns=["low", "high"])
    table = pd.DataFrame({"mean": values.mean(), "spread": values.std(), "seeds": len(values), "images": len(order)})
    return table.join(bounds).rename_axis("metric").reset_index()


def _prepare(part: pd.DataFrame) -> Any:
    """Return what measures accuracy and macro ROC AUC of weighted images, (2, draws)."""
    actual, probabilities = part["label"].map(KINDS.index).to_numpy(), part[PROBABILITIES].to_numpy()
    right = (probabilities.argmax(axis=1) == actual).astype(np.float64)
    singles = [prepare_meter(actual == kind, probabilities[:, kind], 0.5) for kind in range(len(KINDS))]
    place = list(METRICS).index("roc_auc")

    def meter(weights: Floats) -> Floats:
        areas = np.mean([single(weights)[place] for single in singles], axis=0)
        return np.stack([weights @ right / weights.sum(axis=1), areas])

    return meter


def _draw(path: Path, counts: pd.DataFrame, notice: str) -> None:
    recipes = list(counts["recipe"].unique())
    with drawing(
        path, 1, len(recipes), (4.5 * len(recipes) + 0.5, 4.5), "Held-out folds, mean over seeds", notice
    ) as axes:
        for axis, name in zip(axes.flat, recipes, strict=True):
            table = counts[counts["recipe"] == name].pivot_table("images", "label", "called", fill_value=0)
            table = table.reindex(index=KINDS, columns=KINDS, fill_value=0)
            ConfusionMatrixDisplay(table.to_numpy(), display_labels=KINDS).plot(
                ax=axis, cmap="Blues", colorbar=False, values_format=".0f"
            )
            axis.set_title(name)
