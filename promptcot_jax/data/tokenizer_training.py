"""A small byte-level BPE tokenizer trained on a corpus, for models that start from nothing.

The block markers of the text formats are single tokens, so that a block's boundary never merges with its
text; digits are single tokens, so that a number is copied digit by digit whatever its neighbours; every byte
is in the vocabulary, so that any text can be written.
"""

from collections.abc import Iterable

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from promptcot_jax.data import templates, tokenizer

EOS_TOKEN = "<|endoftext|>"
PAD_TOKEN = "<|pad|>"
SPECIAL_TOKENS = (EOS_TOKEN, PAD_TOKEN, *templates.MARKERS)

_NUM_BYTES = 256


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> tokenizer.Tokenizer:
    """Byte-level BPE of at most `vocab_size` tokens, special tokens first; equal texts give equal bytes.

    Args:
        texts: what to learn merges from, markers left out.
        vocab_size: upper limit; a small corpus may have fewer pairs to merge.

    Raises:
        ValueError: `vocab_size` has no room for the special tokens and the bytes.
    """
    smallest = len(SPECIAL_TOKENS) + _NUM_BYTES
    if vocab_size < smallest:
        raise ValueError(
            f"vocab_size must be at least {smallest} (256 bytes and {len(SPECIAL_TOKENS)} special tokens), "
            f"got {vocab_size}."
        )
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer=trainer)
    return tokenizer.Tokenizer.from_backend(backend, eos_token=EOS_TOKEN, pad_token=PAD_TOKEN)
