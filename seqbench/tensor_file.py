"""Tensors with a text in one safetensors file, and a digest over both, so that damage is noticed when they are read.

Nothing that is read can run code.
"""

import errno
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from seqbench.errors import SeqbenchError, out_of_memory
from seqbench.files import replacing

TEXT = "text"
DIGEST = "sha256"


class DamagedFile(SeqbenchError):
    """A file whose content is not what was written."""


def write(path: Path, tensors: Mapping[str, Tensor], text: str) -> None:
    """Store tensors and a text atomically.

    Raises:
        StorageError: the disk is full or the folder cannot be written to.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    metadata = {TEXT: text, DIGEST: _digest(contiguous, text)}
    with replacing(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata=metadata)
        except SafetensorError as error:
            raise _os_error(error) from error


def read(path: Path, device: torch.device, hint: str) -> tuple[dict[str, Tensor], str]:
    """Read what `write` stored, onto a device.

    Args:
        hint: what to do if the file is damaged.

    Raises:
        DamagedFile: the file is no such file, or its content does not have the digest that was stored with it.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if not path.is_file():
            raise ValueError("it is not a file")
        with safe_open(path, framework="pt", device="cpu") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            metadata = stored.metadata() or {}
        text = metadata.get(TEXT)
        if text is None or DIGEST not in metadata:
            raise ValueError("it has no digest")
        if _digest(tensors, text) != metadata[DIGEST]:
            raise ValueError("its content has changed since it was written")
    except (SafetensorError, RuntimeError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if out_of_memory(error):
            raise
        raise damaged(path, error, hint) from error
    return {name: tensor.to(device) for name, tensor in tensors.items()}, text


def stored_digest(path: Path) -> str:
    """Return the digest that a file says it has, which `read` compares with its content."""
    from safetensors import safe_open

    with safe_open(path, framework="pt", device="cpu") as stored:
        return str((stored.metadata() or {}).get(DIGEST))


def damaged(path: Path, reason: Exception, hint: str) -> DamagedFile:
    """Return the error for a file whose content cannot be used for that reason."""
    first = str(reason).partition("\n")[0]
    return DamagedFile(f"{path} is damaged ({first}).", hint=hint)


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    """Return the SHA-256 of the text and of every tensor's name, type, shape and values, as hexadecimal digits."""
    found = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"\n{name}\n{tensor.dtype}\n{tuple(tensor.shape)}\n".encode())
        if tensor.numel():
            found.update(tensor.cpu().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _os_error(error: Exception) -> OSError:
    """Return what the operating system said; safetensors only repeats it in words, such as "… (os error 28)"."""
    found = re.search(r"os error (\d+)", str(error))
    code = int(found[1]) if found else errno.EIO
    return OSError(code, os.strerror(code))
