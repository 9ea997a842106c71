"""Measure other engines for the frozen part and for scoring: `python -m benchmarks.engines data`.

ONNX Runtime and OpenVINO are not dependencies of the project; docs/engines.md says how to install them.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ENGINES = ("tensorflow", "tensorflow bfloat16", "onnxruntime", "openvino", "openvino bfloat16")
BACKBONES = {"efficientnet_lite0": "imagenet", "inception_v3": "none"}
BATCH_SIZE = 32
Run = Callable[[np.ndarray], np.ndarray]


def compile_model(model: Any, engine: str) -> Run:
    """Compile a Keras model to a function from a batch of images (BATCH_SIZE, side, side, 1) to its output."""
    import tensorflow as tf

    function = tf.function(lambda images: model(images, training=False))
    signature = tf.TensorSpec((BATCH_SIZE, *model.input_shape[1:]), tf.float32)
    name, _, precision = engine.partition(" ")
    if name == "openvino":
        ov: Any = import_module("openvino")

        hint = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "bf16" if precision else "f32"}
        compiled = ov.compile_model(ov.convert_model(function.get_concrete_function(signature)), "CPU", hint)
        return lambda images: compiled(images)[0]
    if name == "onnxruntime":
        onnxruntime: Any = import_module("onnxruntime")
        tf2onnx: Any = import_module("tf2onnx")
        converted, _ = tf2onnx.convert.from_function(function, [signature], opset=17)
        session = onnxruntime.InferenceSession(converted.SerializeToString(), providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        return lambda images: np.asarray(session.run(None, {given.name: images})[0])
    if precision:
        tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": True})
    return lambda images: function(tf.constant(images)).numpy()


def measure(engine: str, backbone: str, dataset: Path, number: int) -> dict[str, Any]:
    """Return images/s of the frozen part, and the seconds, imports included, and probabilities of scoring."""
    started = time.perf_counter()
    import keras

    from pneumonia.augment.build import read_split
    from pneumonia.core.params import ModelParams
    from pneumonia.models.classifier import build_model
    from pneumonia.models.cut import cut_model, freeze_below

    keras.utils.set_random_seed(1)
    params = ModelParams(backbone=backbone, weights=BACKBONES[backbone], image_size="auto", dropout=0.5, head="sigmoid")
    model = build_model(params)
    records = pd.read_csv(dataset / "merged.csv").sample(number, random_state=1)
    images = read_split(records, dataset / "raw", model.input_shape[1]).images[..., None].astype(np.float32)
    score = compile_model(model, engine)
    batches = [images[start : start + BATCH_SIZE] for start in range(0, number, BATCH_SIZE)]
    logits = np.concatenate([score(batch) for batch in batches])[:, 0]
    scored = time.perf_counter() - started
    freeze_below(model, None)
    frozen = compile_model(cut_model(model).frozen[0], engine)
    frozen(batches[0])
    rates = []
    for batch in batches[:10]:
        begin = time.perf_counter()
        frozen(batch)
        rates.append(BATCH_SIZE / (time.perf_counter() - begin))
    return {"frozen": float(np.median(rates)), "scoring": scored, "probabilities": (1 / (1 + np.exp(-logits))).tolist()}


def main() -> None:
    """Measure each engine in a separate process and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="the project's data folder after `dvc repro augment`")
    parser.add_argument("--images", type=int, default=512, help="a multiple of 32")
    parser.add_argument("--one", nargs=2, metavar=("ENGINE", "BACKBONE"), help="print its figures as JSON")
    arguments = parser.parse_args()
    if arguments.one:
        engine, backbone = arguments.one
        print(json.dumps(measure(engine, backbone, arguments.data, arguments.images)))
        return
    print("| backbone | engine | frozen part, radiographs/s | ratio | scoring, s | ratio | probability differs by |")
    print("|---|---|---|---|---|---|---|")
    for backbone in BACKBONES:
        plain: dict[str, Any] = {}
        for engine in ENGINES:
            command = [
                sys.executable,
                "-m",
                "benchmarks.engines",
                str(arguments.data),
                "--images",
                str(arguments.images),
            ]
            done = subprocess.run([*command, "--one", engine, backbone], capture_output=True, text=True)
            if done.returncode:
                print(f"| {backbone} | {engine} | {done.stderr.strip().splitlines()[-1]} | | | | |")
                continue
            found = json.loads(done.stdout.splitlines()[-1])
            plain = plain or found
            differs = np.abs(np.subtract(found["probabilities"], plain["probabilities"])).max()
            rates = [found["frozen"], found["frozen"] / plain["frozen"]]
            times = [found["scoring"], plain["scoring"] / found["scoring"]]
            cells = [backbone, engine, *(f"{value:.3g}" for value in rates + times), f"{differs:.1g}"]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
