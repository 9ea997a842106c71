"""Choose each model's operating point on validation and measure the models on the test split."""

from pathlib import Path

from pneumonia.core.dataset import read_dataset
from pneumonia.core.files import write_digests, write_json
from pneumonia.core.params import CacheParams, ComputeParams, DataParams, EvaluateParams
from pneumonia.core.stage import run_stage
from pneumonia.core.tables import read_records
from pneumonia.evaluation.figures import draw_learning_curves
from pneumonia.evaluation.metrics import describe_metrics
from pneumonia.evaluation.novelty import fit_images
from pneumonia.evaluation.outputs import evaluate_models, write_evaluation
from pneumonia.models.activations import ActivationCache
from pneumonia.models.classifier import load_model


def evaluate(
    dataset: Path, splits: Path, initial: Path, finetuned: Path, train_history: Path, finetune_history: Path,
    metrics: Path, point: Path, novelty: Path, out: Path, params: EvaluateParams, data: DataParams,
    compute: ComputeParams, limits: CacheParams,
) -> str:  # fmt: skip
    """Write the metrics, the fine-tuned model's operating point and novelty, and tables and figures into `out`."""
    images, cache = read_dataset(dataset), ActivationCache(compute, limits)
    models = {path.stem: load_model(path) for path in (initial, finetuned)}
    used = (dataset, splits, initial, finetuned, train_history, finetune_history)
    found = evaluate_models(models, images.val, images.test, read_records(splits), params, cache)
    draw_learning_curves(out / "learning_curves.png", train_history, finetune_history, data.notice)
    write_evaluation(out, found, params, data.notice)
    fit_images(models["finetuned"], images.train, images.val, cache).write(novelty)
    write_json(found.points["finetuned"].bind(finetuned, novelty, data.notice).model_dump(), point)
    write_json(measured := found.measure(), metrics)
    write_digests((*used, point, novelty, metrics, out / "predictions.csv"), out / "digests.json")
    return f"{len(images.test.labels):,} test images, {describe_metrics(measured['finetuned'])}"


if __name__ == "__main__":
    run_stage(evaluate)
