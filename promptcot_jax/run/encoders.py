"""The encoder of texts that a setting names: of problems and concepts, for stages that compare them."""

from collections.abc import Sequence

from etils import epath

from promptcot_jax.checkpoints import sentence_encoder
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.models import hashed_tfidf
from promptcot_jax.synthesis.near_duplicates import Encode


def make_encoder(name: str, texts: Sequence[str]) -> Encode:
    """The encoder of that name; word rarities of hashed TF-IDF come from the texts.

    Args:
        name: "hashed_tfidf", "minilm" (its package must be installed), or a directory of a model like it.

    Raises:
        WrongUse: its weights are not there.
    """
    if name == hashed_tfidf.NAME:
        return hashed_tfidf.HashedTfidf(texts)
    if name != sentence_encoder.NAME and not epath.Path(name).exists():
        raise WrongUse(
            f"ENCODER is '{name}': it must be '{hashed_tfidf.NAME}', '{sentence_encoder.NAME}' or the "
            "directory of a model like the latter, and there is no such directory."
        )
    return sentence_encoder.MiniLm(
        sentence_encoder.packaged_minilm() if name == sentence_encoder.NAME else name
    )
