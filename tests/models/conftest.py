"""Kernels for TPUs on a CPU."""

import functools

import pytest
from jax.experimental.pallas.ops.tpu import megablox
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel


@pytest.fixture
def interpreted_kernels(monkeypatch):
    """By Pallas' plain interpreter: that of TPUs cannot be mapped over rows or recomputed (jax 0.10.2)."""
    splash = functools.partial(splash_attention_kernel.make_splash_mha, interpret=True)
    monkeypatch.setattr(splash_attention_kernel, "make_splash_mha", splash)
    gmm = megablox.gmm
    monkeypatch.setattr(megablox, "gmm", lambda *arguments: gmm(*arguments, None, None, False, True))
