# Settings of the scripts in this folder. Edit this file; the scripts read it.
# None of these scripts has been run on a TPU by the authors yet: read them before you run them.

PROJECT=my-project          # your Google Cloud project
ZONE=us-central1-a          # a zone where you have TPU quota
TPU_NAME=promptcot          # any name
ACCELERATOR=v5litepod-8     # v4-8, v5litepod-8 or v6e-8 (one host each)
VERSION=v2-alpha-tpuv5-lite # v4-8: tpu-ubuntu2204-base; v5litepod-8: v2-alpha-tpuv5-lite; v6e-8: v2-alpha-tpuv6e

REPOSITORY=https://github.com/OWNER/promptcot_jax   # what the TPU machines clone
COMMIT=main                                         # which version of it

# What runs. The workdir is a directory on the TPU machine; KEEP is where finished files are copied to.
COMMAND="promptcot run --gin_file=configs/runs/quickstart.gin --gin_file=configs/meshes/v5e_8.gin --workdir=\$HOME/run"
KEEP=gs://my-bucket/promptcot/run
