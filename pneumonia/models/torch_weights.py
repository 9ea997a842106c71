"""Read tensors from PyTorch's old, non-zip weight files, without PyTorch and without running code from the pickle.

The layout is that of `torch.save` before version 1.6: five pickles (magic number, protocol, machine, the object, the
keys of its storages) followed by the storages, each an int64 count and that many little-endian values.
"""

import pickle
from collections import OrderedDict
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pneumonia.core.errors import InputError
from pneumonia.core.files import sha256_file

_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}

Storage = npt.NDArray[Any]


class _TensorUnpickler(pickle.Unpickler):
    """Accept an ordered dict of tensors and refuse everything else."""

    def __init__(self, file: BufferedReader) -> None:
        super().__init__(file)
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _view
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _STORAGES:
            return name
        raise pickle.UnpicklingError(f"{module}.{name} is not a tensor")

    def persistent_load(self, pid: Any) -> Storage:
        _, kind, key, _, count, _ = pid
        return self.storages.setdefault(key, np.zeros(count, _STORAGES[kind]))


def _view(storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> Storage:
    """Return a tensor as a view of a storage whose values are read later.

    The storage must be one of `persistent_load`: a view's size does not bound the memory behind it.
    """
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if min((offset, *strides), default=0) < 0 or last >= storage.size or storage.base is not None:
        raise pickle.UnpicklingError("a tensor reaches outside its storage")
    steps = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)


def read_torch_weights(path: Path, sha256: str) -> dict[str, npt.NDArray[Any]]:
    """Return the tensors of a weight file, float32 or int64, by name.

    Args:
        path: file in PyTorch's old format.
        sha256: start of its SHA-256.

    Raises:
        InputError: the checksum differs, or the file is damaged or holds anything but tensors.
    """
    if not (digest := sha256_file(path)).startswith(sha256):
        raise InputError(
            f"{path.name} has SHA-256 {digest}.", expected=f"{sha256}...", remedy="reinstall it: make setup"
        )
    try:
        with path.open("rb") as file:
            if pickle_value(file) != _MAGIC:
                raise pickle.UnpicklingError("not a file of PyTorch's old format")
            for _ in ("protocol", "machine"):
                pickle_value(file)
            reader = _TensorUnpickler(file)
            tensors = reader.load()
            if not all(isinstance(tensor, np.ndarray) for tensor in tensors.values()):
                raise pickle.UnpicklingError("a value is not a tensor")
            if set(keys := pickle_value(file)) != set(reader.storages):
                raise pickle.UnpicklingError("the storages differ from those announced")
            for key in keys:
                storage = reader.storages[key]
                size = int.from_bytes(file.read(8), "little")
                if size != storage.size or file.readinto(storage.data) != storage.nbytes:
                    raise pickle.UnpicklingError("the size of a storage differs from the one announced")
            return dict(tensors)
    except Exception as error:  # a damaged pickle may raise anything
        raise InputError(
            f"{path.name} cannot be read: {error!r}.", expected="tensors only", remedy="use the published file"
        ) from error


def pickle_value(file: BufferedReader) -> Any:
    """Read one pickle of plain values."""
    return _TensorUnpickler(file).load()
