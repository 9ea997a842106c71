"""Schema of params.yaml: every section frozen, every number bounded, no defaults, unknown keys refused."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from pneumonia.core.names import check_rule

# Whole numbers are strict, or YAML's `yes` would be 1; floats are not: YAML 1.1 reads `1e-4` as text.
Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31, strict=True)]
Monitor = Literal["val_loss", "val_auc", "val_f1", "val_accuracy"]
Schedule = Literal["constant", "cosine", "triangular", "triangular2", "exp_range", "one_cycle"]
ThresholdRule = Literal["youden", "f1", "sensitivity_floor"]
Factor = Annotated[float, Field(gt=0, le=10)]
PHANTOM_NOTICE = "Synthetic radiographs: no clinical meaning."


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataParams(Section):
    """Where raw images come from, and whose they are."""

    source: Literal["phantom", "kaggle", "mendeley", "folder"]
    path: Path
    patients: Annotated[str, AfterValidator(check_rule)]
    images: Annotated[int, Field(ge=48, le=20_000, strict=True)]
    seed: Seed

    @property
    def notice(self) -> str:
        """What every figure, run and model made from synthetic images has to say; empty for real images."""
        return PHANTOM_NOTICE if self.source == "phantom" else ""


class ValidateParams(Section):
    """What a folder of images must look like."""

    max_refused_share: Share
    min_side: Annotated[int, Field(ge=1, strict=True)]
    max_aspect: Annotated[float, Field(ge=1)]
    min_contrast: Annotated[float, Field(ge=0, le=127.5)]
    min_class_share: Annotated[float, Field(ge=0, le=0.5)]


class MergeParams(Section):
    """How the owner's folders become one table."""

    drop_duplicates: bool


class SplitRatios(Section):
    """Shares of train, val and test; they sum to one."""

    train: Share
    val: Share
    test: Share

    @model_validator(mode="after")
    def _sum_to_one(self) -> Self:
        if abs(self.train + self.val + self.test - 1) > 1e-9 or min(self.train, self.val, self.test) == 0:
            raise ValueError("must be above 0 each and sum to 1")
        return self


class SplitParams(Section):
    """Who goes to train, val and test."""

    strategy: Literal["patient", "stratified", "original"]
    ratios: SplitRatios
    group_near_duplicates: bool
    seed: Seed


class AugmentParams(Section):
    """How the training split is balanced, and what its variants look like."""

    balance: Literal["augment", "undersample", "class_weight", "none"]
    views: Annotated[int, Field(ge=1, le=1000, strict=True)]
    presize: Annotated[int, Field(ge=32, le=4096, strict=True)] | None
    horizontal_flip: bool
    affine_probability: Share
    rotation_degrees: Annotated[float, Field(ge=0, le=180)]
    zoom: tuple[Factor, Factor]
    shift: Share
    warp: Annotated[float, Field(ge=0, le=0.5)]
    crop: Annotated[float, Field(gt=0, le=1)]
    lighting_probability: Share
    brightness: tuple[Factor, Factor]
    contrast: tuple[Factor, Factor]
    seed: Seed

    @field_validator("zoom", "brightness", "contrast")
    @classmethod
    def _low_to_high(cls, factors: tuple[float, float]) -> tuple[float, float]:
        if factors[0] > factors[1]:
            raise ValueError("must be the lower factor, then the higher")
        return factors


class ModelParams(Section):
    """Backbone and head."""

    backbone: str
    weights: str
    head: Literal["sigmoid", "softmax"]
    image_size: Annotated[int, Field(ge=32, le=1024, strict=True)] | Literal["auto"]
    dropout: Annotated[float, Field(ge=0, lt=1)]


class FitParams(Section):
    """What both training phases have in common."""

    epochs: Annotated[int, Field(ge=1, le=1000, strict=True)]
    batch_size: Annotated[int, Field(ge=1, le=4096, strict=True)]
    learning_rate: Annotated[float, Field(gt=0, le=1)] | Literal["auto"]
    schedule: Schedule
    cycle_epochs: Annotated[float, Field(gt=0, le=1000)]
    base_share: Annotated[float, Field(gt=0, le=1)]
    monitor: Monitor
    patience: Annotated[int, Field(ge=1, strict=True)] | None
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    ema_momentum: Annotated[float, Field(gt=0, lt=1)] | None
    seed: Seed


class TrainParams(FitParams):
    """Training of the head on the frozen backbone."""


class FinetuneParams(FitParams):
    """Training of the layers from `from_layer` on, with the head."""

    from_layer: Annotated[int, Field(ge=0, strict=True)] | str
    batch_norm: Literal["frozen", "train"]


class EvaluateParams(Section):
    """How log odds become decisions, and how these are measured on the test split.

    Attributes:
        threshold: lowest probability that is called pneumonia, or the rule that chooses it on validation.
        sensitivity_floor: least sensitivity on validation under the rule of that name.
        flip: average the log odds of each image and its mirror image.
        resamples, seed: bootstrap resamples of the patients.
        heatmap: how heat maps are computed.
    """

    threshold: Annotated[float, Field(gt=0, lt=1)] | ThresholdRule
    sensitivity_floor: Share
    flip: bool
    resamples: Annotated[int, Field(ge=100, le=100_000, strict=True)]
    seed: Seed
    heatmap: Literal["grad_cam", "cam"]


class Gates(Section):
    """What a model has to reach on the test split to be promoted."""

    min_roc_auc: Share
    min_sensitivity: Share
    min_specificity: Share
    max_calibration_error: Share
    margin_roc_auc: Share
    margin_sensitivity: Share
    margin_specificity: Share
    min_common_images: Annotated[int, Field(ge=1, strict=True)]
    min_common_patients: Annotated[int, Field(ge=1, strict=True)]


class RegisterParams(Section):
    """Who becomes champion."""

    gates: Gates


class ComputeParams(Section):
    """How models are run: a matter of time; of results only where bfloat16 rounds coarser."""

    precision: Literal["float32", "bfloat16"]
    batch_size: Annotated[int, Field(ge=16, le=4096, strict=True)]  # in smaller ones an image's place changes last bits
    threads: Annotated[int, Field(ge=1, le=1024, strict=True)] | Literal["auto"]


class CacheParams(Section):
    """What may be kept of what was computed once."""

    max_gb: Annotated[float, Field(gt=0)]


class Params(Section):
    """The whole of params.yaml."""

    recipe: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    data: DataParams
    validate_: Annotated[ValidateParams, Field(alias="validate")]
    merge: MergeParams
    split: SplitParams
    augment: AugmentParams
    model: ModelParams
    train: TrainParams
    finetune: FinetuneParams
    evaluate: EvaluateParams
    register_: Annotated[RegisterParams, Field(alias="register")]
    compute: ComputeParams
    cache: CacheParams

    def flat(self) -> dict[str, Any]:
        """Return all values under dotted names, as `dvc params` and MLflow show them."""
        return _flatten(self.model_dump(mode="json", by_alias=True))


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    parts = (_flatten(v, f"{prefix}{k}.") if isinstance(v, dict) else {f"{prefix}{k}": v} for k, v in tree.items())
    return {name: value for part in parts for name, value in part.items()}
