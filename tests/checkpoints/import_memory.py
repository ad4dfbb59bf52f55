"""The memory that an import takes: 0.7 GB of bfloat16, read as float32 onto eight simulated devices.

    python tests/checkpoints/import_memory.py DIRECTORY

On the CPU the devices' arrays are host memory too, so the bytes of the parameters are taken off. Prints JSON:
the most that was resident beyond what was before and beyond the parameters, the size of the largest tensor
as float32, and that of the largest parameter. Then the same for writing the model out again.
"""

import json
import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import ml_dtypes
import numpy as np
from etils import epath

from promptcot_jax.checkpoints import huggingface, load, safetensors_file
from promptcot_jax.models import config as model_config
from promptcot_jax.models import hf_config, hf_mapping
from promptcot_jax.parallel import mesh as mesh_lib
from tests import toys

MEGABYTE = 1 << 20


def config(num_layers: int, embed_dim: int) -> model_config.DecoderConfig:
    shape = {"embed_dim": embed_dim, "mlp_dim": 4 * embed_dim, "head_dim": embed_dim // 8}
    heads = {"num_heads": 8, "num_kv_heads": 8, "num_layers": num_layers}
    return toys.toy_config("llama", **shape, **heads, vocab_size=512)


def write(directory: epath.Path, of: model_config.DecoderConfig) -> None:
    """A checkpoint whose every page holds something."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(hf_config.to_hf(of, 256, None, 257)))
    toys.byte_tokenizer().save(directory)
    shapes = hf_mapping.expected_tensors(of)
    dtype = np.dtype(ml_dtypes.bfloat16)
    with safetensors_file.writing(directory / huggingface.WEIGHTS, shapes, dtype) as put:
        for i, name in enumerate(sorted(shapes)):
            put(np.full(shapes[name], 1 + i % 7, dtype))


def resident(kind: str) -> int:
    """VmRSS, or VmHWM: the most since `forget_peak`."""
    with open("/proc/self/status") as status:
        (line,) = [line for line in status if line.startswith(kind)]
    return int(line.split()[1]) * 1024


def forget_peak() -> None:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def main(directory: epath.Path) -> None:
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(fsdp=4, tensor=2))
    small, large = config(2, 128), config(20, 1024)
    for name, of in (("small", small), ("large", large)):
        write(directory / name, of)
    warm = load.load_model(directory / "small", mesh=mesh)  # brings what is not this model's
    huggingface.save_hf(directory / "again", warm.lm, warm.params, warm.tokenizer)
    before = resident("VmRSS")
    forget_peak()
    model = load.load_model(directory / "large", mesh=mesh)
    read_peak = resident("VmHWM") - before
    leaves = [leaf.nbytes for leaf in jax.tree.leaves(model.params)]
    before = resident("VmRSS")
    forget_peak()
    huggingface.save_hf(directory / "again", model.lm, model.params, model.tokenizer, max_shard_bytes=10**9)
    written_peak = resident("VmHWM") - before
    tensors = [4 * int(np.prod(shape)) for shape in hf_mapping.expected_tensors(large).values()]
    figures = {
        "parameters": sum(leaves),
        "largest_parameter": max(leaves),
        "largest_tensor": max(tensors),
        "reading": read_peak - sum(leaves),
        "writing": written_peak,
    }
    print(json.dumps({name: size // MEGABYTE for name, size in figures.items()}))


if __name__ == "__main__":
    main(epath.Path(sys.argv[1]))
