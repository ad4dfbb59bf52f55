"""Our own model checkpoints: what cold start, EM rounds and solver training leave for later stages.

A checkpoint is a directory: `config.json` (Hugging Face's form; of a user's own model `model.json`, which
names its class and settings), the tokenizer's files, `provenance.json`, `params/` (Orbax) and, written last,
`COMPLETE`, which lists every file with its size and, on a local disk, its checksum (Orbax stores none of the
arrays' bytes: a flipped bit would load as another number). A directory without the marker, or not as the
marker says, is never loaded. On a local disk the whole is written aside, flushed and renamed; in a bucket,
where objects appear whole and are checked by the store itself but directories do neither, the marker alone
decides.
"""

import dataclasses
import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from promptcot_jax.core import building, file_sets, jsonl
from promptcot_jax.core.arrays import Array, Params
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import tokenizer as tokenizer_lib
from promptcot_jax.models import hf_config, lora, own_model
from promptcot_jax.models.causal_lm import CausalLM
from promptcot_jax.models.language_model import LanguageModel
from promptcot_jax.parallel import hosts, launching

MARKER = "COMPLETE"
PROVENANCE = "provenance.json"
ADAPTER = "adapter.json"
MODEL = "model.json"
_PARAMS = "params"
_DIGEST_SEEDS = (0x9E3779B9, 0x7F4A7C15)
_PATTERN_CHARACTERS = "*?["  # Orbax globs inside its directory and then silently misses its own files


def location(path: epath.PathLike) -> epath.Path:
    """`path`, absolute where it is local, as Orbax wants it.

    Raises:
        WrongUse: it contains a character that Orbax takes for a pattern.
    """
    text = os.fspath(path)
    text = text if not is_local(text) else os.path.abspath(os.path.expanduser(text))
    if any(character in text for character in _PATTERN_CHARACTERS):
        raise WrongUse(
            f"{text}: a checkpoint's path may not contain any of '{_PATTERN_CHARACTERS}'; rename it."
        )
    return epath.Path(text)


def is_local(path: epath.PathLike) -> bool:
    """Whether the path is on a file system (with renames and flushes) rather than in a bucket."""
    return "://" not in os.fspath(path)


def mark_complete(directory: epath.Path) -> None:
    """Flushes every file of a finished directory to disk and then writes its marker."""
    files = {
        os.path.relpath(os.fspath(file), os.fspath(directory)): file
        for file in file_sets.files_below(directory)
    }
    if is_local(directory):
        for path in (*files.values(), *{file.parent for file in files.values()}):
            building.flush_to_disk(path)
    entries = {name: _entry(file) for name, file in sorted(files.items()) if name != MARKER}
    jsonl.write_json(directory / MARKER, {"files": entries})


def is_complete(directory: epath.PathLike) -> bool:
    """Whether the directory was finished and every file is there in its size of then."""
    directory = epath.Path(directory)
    entries = _marker_entries(directory)
    if entries is None:
        return False
    files = {name: directory / name for name in entries}
    return all(file.exists() and file.stat().length == entries[name]["size"] for name, file in files.items())


def is_complete_for_all(directory: epath.PathLike) -> bool:
    """`is_complete` as the first host of the run sees it: the same answer on all."""
    return hosts.decided_by_first("is complete", lambda: is_complete(directory))


def damaged_file(directory: epath.Path) -> epath.Path | None:
    """The first file of a complete directory whose bytes are not those that were written, by checksum."""
    for name, entry in (_marker_entries(directory) or {}).items():
        if "crc32" in entry and _entry(directory / name) != entry:
            return directory / name
    return None


def _entry(file: epath.Path) -> dict[str, Any]:
    """What the marker says of one file."""
    entry: dict[str, Any] = {"size": file.stat().length}
    if is_local(file):
        checksum = 0
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                checksum = zlib.crc32(block, checksum)
        entry["crc32"] = f"{checksum:08x}"
    return entry


def _marker_entries(directory: epath.Path) -> dict[str, dict[str, Any]] | None:
    """File entries of the marker; None where it is absent or unreadable."""
    marker = directory / MARKER
    if not marker.exists():
        return None
    try:
        return json.loads(marker.read_bytes())["files"]
    except (ValueError, KeyError, TypeError):
        return None


def remove(directory: epath.Path) -> None:
    """Deletes a checkpoint, its marker first: an interrupted deletion leaves nothing that looks whole."""
    (directory / MARKER).unlink(missing_ok=True)
    if directory.exists():
        if is_local(directory):
            building.flush_to_disk(directory)
        directory.rmtree()


def named_leaves(tree: Any) -> dict[str, Any]:
    """Leaves of any pytree by their path, written with dots ("layers.mlp.up_proj.kernel")."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def params_digest(params: Params) -> str:
    """Digest of paths, shapes, dtypes and all numbers, the same however the arrays are sharded.

    Each array is summed up where it lies, in integers, so that no array need come to one host.
    """
    sums = {name: _bits_summed(leaf) for name, leaf in named_leaves(params).items()}
    digest = hashlib.sha256()
    for name, pair in sorted(jax.device_get(sums).items()):
        leaf = named_leaves(params)[name]
        digest.update(f"{name} {leaf.shape} {leaf.dtype} {pair.tolist()}\n".encode())
    return digest.hexdigest()[:16]


@launching.serialized
@jax.jit
def _bits_summed(array: Array) -> Array:
    """Two sums over the bits of an array, each bit pattern mixed with its index; order does not matter."""
    bits = jax.lax.bitcast_convert_type(array, jnp.dtype(f"uint{8 * array.dtype.itemsize}"))
    bits, index = bits.astype(jnp.uint32), jnp.zeros(array.shape, jnp.uint32)
    for axis, size in enumerate(array.shape):
        index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis)
    return jnp.stack([jnp.sum(_mixed(_mixed(index + jnp.uint32(seed)) ^ bits)) for seed in _DIGEST_SEEDS])


def _mixed(x: Array) -> Array:
    """A bijection of 32-bit numbers in which each bit depends on all (the finalizer of MurmurHash3)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def stored_leaves(directory: epath.Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of every array in an Orbax directory, by its path written with dots."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = checkpointer.metadata(directory).item_metadata.tree
    return {name: (tuple(leaf.shape), str(np.dtype(leaf.dtype))) for name, leaf in named_leaves(tree).items()}


def restore_arrays(directory: epath.Path, like: Mapping[str, Any]) -> dict[str, Any]:
    """Reads an Orbax directory straight into the dtypes and shardings of `like`, a nested dict of arrays.

    Leaves of `like` are arrays or `jax.ShapeDtypeStruct`s; one without a sharding goes to the default device.
    The caller has compared names and shapes: Orbax itself would cut or pad.
    """
    default = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    restore_args = jax.tree.map(
        lambda leaf: ocp.ArrayRestoreArgs(
            dtype=leaf.dtype, sharding=getattr(leaf, "sharding", None) or default, global_shape=leaf.shape
        ),
        like,
    )
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        return checkpointer.restore(
            directory, args=ocp.args.PyTreeRestore(item=like, restore_args=restore_args)
        )


def aside(directory: epath.Path) -> epath.Path:
    """Where `save_model` puts a model together before it gets its name; in a bucket, its own path."""
    return directory.parent / f"{directory.name}.part" if is_local(directory) else directory


def save_model(
    directory: epath.PathLike,
    lm: LanguageModel,
    params: Params,
    tokenizer: tokenizer_lib.Tokenizer,
    provenance: Mapping[str, Any],
    adapter: Any = None,
) -> None:
    """Writes a model so that it is there in full or not at all; replaces what `directory` held.

    Of several hosts each writes its part of the arrays, and the first the rest.

    Args:
        provenance: what the model was made from, as JSON; the digest of the parameters is added.
        adapter: of an adapted model its `adapters.Adapter`; only the adapter's arrays are written then.
    """
    directory = location(directory)
    unfinished = aside(directory)
    if adapter is not None:
        params = lora.adapter_of(params)
    facts = dict(provenance) | {"params_digest": params_digest(params)}

    def begin() -> None:
        remove(unfinished)
        unfinished.mkdir(parents=True)
        jsonl.write_json(*_described(unfinished, lm, tokenizer))
        jsonl.write_json(unfinished / PROVENANCE, facts)
        if adapter is not None:
            jsonl.write_json(unfinished / ADAPTER, dataclasses.asdict(adapter))
        tokenizer.save(unfinished)

    def finish() -> None:
        mark_complete(unfinished)
        if unfinished != directory:
            remove(directory)
            os.rename(unfinished, directory)
            building.flush_to_disk(directory.parent)

    hosts.wait_for_first(f"begin {directory.name}", begin)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save(unfinished / _PARAMS, args=ocp.args.PyTreeSave(params))
    hosts.wait_for_first(f"finish {directory.name}", finish)


def _described(
    directory: epath.Path, lm: LanguageModel, tokenizer: tokenizer_lib.Tokenizer
) -> tuple[epath.Path, Any]:
    """The file that says which model a checkpoint is of, and its content."""
    if type(lm) is not CausalLM:
        return directory / MODEL, own_model.described(lm, type(lm).__name__)
    config = hf_config.to_hf(lm.config, tokenizer.eos_id, tokenizer.bos_id, tokenizer.pad_id)
    return directory / "config.json", config


def load_provenance(directory: epath.PathLike) -> dict[str, Any]:
    """What a complete checkpoint was made from, with `params_digest`."""
    directory = location(directory)
    require_complete(directory)
    return jsonl.read_json(directory / PROVENANCE)


def require_complete(directory: epath.Path) -> None:
    """Refuses a directory that was not finished, or whose files have another size now.

    Raises:
        WrongUse: names the directory and what is wrong with it.
    """
    if is_complete(directory):
        return
    if not (directory / MARKER).exists():
        raise WrongUse(incomplete_message(directory))
    raise WrongUse(
        f"{os.fspath(directory)}: a damaged checkpoint (a file that {MARKER} lists is missing or has "
        "another size). Copy it again in full, or run the stage that writes it again."
    )


def incomplete_message(directory: epath.Path) -> str:
    """The message about a checkpoint without a marker."""
    return (
        f"{os.fspath(directory)}: an incomplete checkpoint (no {MARKER} file; its writer was interrupted). "
        "Run the stage that writes it again."
    )


def load_params(directory: epath.PathLike, like: Params) -> Params:
    """Parameters of a complete checkpoint, in the dtypes and shardings of `like` (arrays or
    `ShapeDtypeStruct`s).

    Raises:
        WrongUse: the checkpoint is incomplete, damaged, or holds other parameters than `like`.
    """
    directory = location(directory)
    require_complete(directory)
    if damaged := damaged_file(directory):
        raise WrongUse(
            f"{os.fspath(damaged)}: damaged (its checksum is not the one in {MARKER}). "
            "Copy the checkpoint again in full, or run the stage that writes it again."
        )
    stored = stored_leaves(directory / _PARAMS)
    expected = {name: tuple(leaf.shape) for name, leaf in named_leaves(like).items()}
    for name in sorted(expected.keys() | stored.keys()):
        found = stored[name][0] if name in stored else None
        if found != expected.get(name):
            raise WrongUse(
                f"{os.fspath(directory / _PARAMS)}: parameter '{name}': {_shape_text(expected.get(name))} "
                f"expected from {_description_file(directory)}, {_shape_text(found)} found."
            )
    return restore_arrays(directory / _PARAMS, like)


def _description_file(directory: epath.Path) -> str:
    return MODEL if (directory / MODEL).exists() else "config.json"


def _shape_text(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else f"shape {list(shape)}"
