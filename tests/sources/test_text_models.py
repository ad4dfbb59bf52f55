"""What several models of a stage cost."""

import logging

import pytest

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.sampling.endpoint import EndpointConfig
from promptcot_jax.sampling.text_model import TextRequest, user_turn
from promptcot_jax.sampling.token_choice import SamplingConfig
from promptcot_jax.sources import text_models

REQUESTS = [TextRequest(id=f"row-{i}", messages=user_turn("1+1?")) for i in range(3)]


def priced(model: str, cost_limit: float | None = None) -> EndpointConfig:
    return EndpointConfig(
        model=model,
        base_url="http://localhost/v1",
        sampling=SamplingConfig(max_new_tokens=10),
        completion_price=1e6,
        cost_limit=cost_limit,
    )


def test_a_limit_is_each_models_own_and_the_log_has_the_sum(tmp_path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    asked = [(priced("a", 30.0), REQUESTS), (None, REQUESTS), (priced("b", 30.0), REQUESTS[:2])]
    text_models.check_costs("verify", asked, str(tmp_path))
    assert "verify: about 50.00 for all models together" in caplog.text
    with pytest.raises(WrongUse, match="a: .*EndpointConfig.cost_limit is 29.00"):
        text_models.check_costs("verify", [(priced("a", 29.0), REQUESTS), *asked[1:]], str(tmp_path))


def test_a_model_that_is_asked_nothing_needs_no_key(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    locked = EndpointConfig(model="c", base_url="http://localhost/v1", api_key_variable="NO_SUCH_KEY")
    text_models.check_costs("verify", [(locked, [])], str(tmp_path))
    with pytest.raises(WrongUse, match="NO_SUCH_KEY"):
        text_models.check_costs("verify", [(locked, REQUESTS)], str(tmp_path))
