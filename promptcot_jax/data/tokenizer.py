"""The text boundary: one Hugging Face tokenizer with its special ids and chat template.

Everything that turns text into ids or back goes through `Tokenizer`: examples, sampling, checkpoints, seqio.
Special tokens are never added behind the caller's back (`prompt_ids` alone puts a BOS in front, where the
model was trained with one); truncation and padding left on in a `tokenizer.json` are switched off, since they
cut silently. What stands in a turn of a conversation is read as ordinary text, special tokens included: the
template alone begins and ends turns.
"""

import collections
import dataclasses
import datetime
import functools
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
import numpy as np
import tokenizers
from etils import epath
from tokenizers import processors

from promptcot_jax.core import jsonl, manifest
from promptcot_jax.core.arrays import Int
from promptcot_jax.core.errors import WrongUse

# Ends of a chat turn in the model families we read; they stop generation when the chat template writes them.
END_OF_TURN_TOKENS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|return|>")

# What chat templates are told where they ask for today's date: ids must not depend on the day, or a run that
# goes on tomorrow would read other prompts. It is the date that Llama 3's templates fall back on.
CHAT_DATE = datetime.datetime(2024, 7, 26)

# Marks the text of a special token as ordinary: it stands after the first character, and texts are encoded
# apart on its two sides. Noncharacters of Unicode, which are for uses like this one; three, since a text may
# hold one all the same.
_CUT = "\ufdd0\ufdef\ufdd0"

_GENERATION = "generation_config.json"
# Of that file: ids, which the tokenizer has, and what its writer said of itself.
_NOT_DEFAULTS = ("eos_token_id", "pad_token_id", "bos_token_id", "transformers_version", "_from_model_config")

Message = Mapping[str, Any]  # {"role": ..., "content": ...}, further keys as the template of the model wants


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Tokenizer:
    """A `tokenizers.Tokenizer` and what a language model needs to know beside it."""

    backend: tokenizers.Tokenizer
    eos_id: int
    pad_id: int  # equal to `eos_id` where the model has no padding token: padding is told by segment ids
    bos_id: int | None = None
    adds_bos: bool = False  # prompts begin with `bos_id`
    stop_ids: tuple[int, ...] = ()  # end generation; always holds `eos_id`
    chat_template: str | None = None
    # What the source's generation_config.json says beyond ids (temperature, top_p, ...): nothing here reads
    # it, but a model that is trained further and exported recommends what its base did.
    generation_defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.adds_bos and self.bos_id is None:
            raise ValueError("adds_bos needs a bos_id.")
        object.__setattr__(self, "stop_ids", tuple(dict.fromkeys((self.eos_id, *self.stop_ids))))
        self.backend.no_truncation()
        self.backend.no_padding()

    @classmethod
    def from_backend(
        cls,
        backend: tokenizers.Tokenizer,
        *,
        eos_token: str,
        pad_token: str | None = None,
        bos_token: str | None = None,
        adds_bos: bool = False,
        stop_ids: Iterable[int] = (),
        chat_template: str | None = None,
        generation_defaults: Mapping[str, Any] | None = None,
        where: str = "tokenizer",
    ) -> "Tokenizer":
        """Wraps a backend whose special tokens are given by their text.

        Raises:
            WrongUse: a special token is not in the vocabulary; the message starts with `where`.
        """

        def id_of(role: str, token: str) -> int:
            token_id = backend.token_to_id(token)
            if token_id is None:
                raise WrongUse(f"{where}: the {role} '{token}' is not in the vocabulary of the tokenizer.")
            return token_id

        eos_id = id_of("eos_token", eos_token)
        turn_ends = [
            token_id
            for token in END_OF_TURN_TOKENS
            if chat_template
            and token in chat_template
            and (token_id := backend.token_to_id(token)) is not None
        ]
        return cls(
            backend=backend,
            eos_id=eos_id,
            pad_id=eos_id if pad_token is None else id_of("pad_token", pad_token),
            bos_id=None if bos_token is None else id_of("bos_token", bos_token),
            adds_bos=adds_bos,
            stop_ids=(*stop_ids, *turn_ends),
            chat_template=chat_template,
            generation_defaults=generation_defaults or {},
        )

    @classmethod
    def from_directory(cls, directory: epath.PathLike) -> "Tokenizer":
        """Reads the tokenizer files of a Hugging Face model directory.

        Raises:
            WrongUse: a file is missing, malformed, or names tokens that the vocabulary lacks.
        """
        directory = epath.Path(directory)
        backend = _read_backend(directory / "tokenizer.json")
        config_path = directory / "tokenizer_config.json"
        config = _read_object(config_path, required=True)
        special = _read_object(directory / "special_tokens_map.json") | config
        generation = _read_object(directory / _GENERATION)
        where = os.fspath(config_path)
        eos_token, bos_token, pad_token = (
            _token_text(special.get(name), f"{where}: '{name}'")
            for name in ("eos_token", "bos_token", "pad_token")
        )
        if eos_token is None:
            raise WrongUse(
                f"{where}: 'eos_token' is missing; generation could never stop. Name the end token there."
            )
        return cls.from_backend(
            backend,
            eos_token=eos_token,
            bos_token=bos_token,
            pad_token=pad_token,
            adds_bos=_adds_bos(backend, config, bos_token, where),
            stop_ids=_stop_ids(generation, directory / _GENERATION),
            chat_template=_read_chat_template(directory, config, where),
            generation_defaults={k: v for k, v in generation.items() if k not in _NOT_DEFAULTS},
            where=where,
        )

    def save(self, directory: epath.PathLike) -> None:
        """Writes `tokenizer.json`, `tokenizer_config.json`, `generation_config.json` and a chat template."""
        directory = epath.Path(directory)
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": self.token_text(self.eos_id),
            "pad_token": self.token_text(self.pad_id),
            "bos_token": None if self.bos_id is None else self.token_text(self.bos_id),
            "add_bos_token": self.adds_bos,
            "clean_up_tokenization_spaces": False,
        }
        generation = dict(self.generation_defaults) | {
            "eos_token_id": list(self.stop_ids),
            "pad_token_id": self.pad_id,
            "bos_token_id": self.bos_id,
        }
        jsonl.write_atomically(
            directory / "tokenizer.json", self._backend_for_export().to_str(pretty=True).encode()
        )
        jsonl.write_json(directory / "tokenizer_config.json", config)
        jsonl.write_json(directory / _GENERATION, generation)
        if self.chat_template is not None:
            jsonl.write_atomically(directory / "chat_template.jinja", self.chat_template.encode())

    def _backend_for_export(self) -> tokenizers.Tokenizer:
        """The backend, its post-processor made to agree with `adds_bos`: `transformers` 5 asks it alone."""
        bos_token = None if self.bos_id is None else self.token_text(self.bos_id)
        if self.adds_bos == _post_processor_adds(self.backend, bos_token):
            return self.backend
        backend = tokenizers.Tokenizer.from_str(self.backend.to_str())
        backend.post_processor = (
            processors.TemplateProcessing(single=f"{bos_token} $A", special_tokens=[(bos_token, self.bos_id)])
            if self.adds_bos
            else processors.ByteLevel(trim_offsets=False)  # leaves ids as they are
        )
        return backend

    @functools.cached_property
    def vocab_size(self) -> int:
        """One more than the largest id; a model's embedding table may be longer."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    @functools.cached_property
    def digest(self) -> str:
        """Short digest of all that decides ids and rendered chats."""
        backend = json.loads(self.backend.to_str())
        for unused in ("post_processor", "truncation", "padding"):
            backend.pop(unused, None)
        rest = [self.eos_id, self.pad_id, self.bos_id, self.adds_bos, self.stop_ids, self.chat_template]
        return manifest.text_digest(json.dumps([backend, rest]))

    def token_text(self, token_id: int) -> str:
        """The vocabulary entry of one id."""
        text = self.backend.id_to_token(token_id)
        if text is None:
            raise ValueError(f"Token id {token_id} is not in the vocabulary.")
        return text

    @functools.cached_property
    def _special_texts(self) -> dict[str, str]:
        """The special tokens by the names that chat templates have for them."""
        tokens = {"eos_token": self.eos_id, "pad_token": self.pad_id, "bos_token": self.bos_id}
        return {name: "" if i is None else self.token_text(i) for name, i in tokens.items()}

    @functools.cached_property
    def _starts_of_special(self) -> re.Pattern[str] | None:
        """Matches the first character of every special token in a text, also of those that overlap."""
        rests = collections.defaultdict(list)
        for token_id, token in self.backend.get_added_tokens_decoder().items():
            if (token.special or token_id in self.stop_ids) and len(token.content) > 1:
                rests[token.content[0]].append(re.escape(token.content[1:]))
        # Most texts are searched for first characters alone: some vocabularies have hundreds of tokens.
        starts = [f"{re.escape(first)}(?={'|'.join(some)})" for first, some in rests.items()]
        return re.compile("|".join(starts)) if starts else None

    def quoted(self, text: str) -> str:
        """The text, special tokens in it marked for `encode` to read as ordinary text; else unchanged."""
        starts = self._starts_of_special
        return text if starts is None else starts.sub(rf"\g<0>{_CUT}", text)

    def _quoted_all(self, value: Any) -> Any:
        """A message, or a part of one, with all of its texts quoted."""
        if isinstance(value, Mapping):
            return {name: self._quoted_all(part) for name, part in value.items()}
        if isinstance(value, list | tuple):
            return [self._quoted_all(part) for part in value]
        return self.quoted(value) if isinstance(value, str) else value

    def encode(self, text: str) -> list[int]:
        """Ids of a text; adds nothing, and recognises the text of special tokens that is not `quoted`."""
        parts = [self.backend.encode(part, add_special_tokens=False) for part in text.split(_CUT)]
        return parts[0].ids if len(parts) == 1 else [token_id for part in parts for token_id in part.ids]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts, in parallel."""
        parts = [text.split(_CUT) for text in texts]
        encodings = self.backend.encode_batch_fast(  # no offsets
            [part for own in parts for part in own], add_special_tokens=False
        )
        if len(encodings) == len(parts):
            return [encoding.ids for encoding in encodings]
        rest = iter(encodings)
        return [[token_id for _ in own for token_id in next(rest).ids] for own in parts]

    def prompt_ids(self, text: str) -> list[int]:
        """Ids of a text that begins a sequence: with a BOS in front where the model was trained with one."""
        return self._after_bos(self.encode(text))

    def prompt_ids_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`prompt_ids` of many texts, in parallel."""
        return [self._after_bos(ids) for ids in self.encode_many(texts)]

    def _after_bos(self, ids: list[int]) -> list[int]:
        if not self.adds_bos or self.bos_id is None or ids[:1] == [self.bos_id]:
            return ids  # a rendered chat has its own BOS
        return [self.bos_id, *ids]

    def decode(self, ids: Iterable[int] | Int[np.ndarray, " T"], skip_special: bool = False) -> str:
        """Text of ids; special tokens appear as their text unless skipped."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=skip_special)

    def decode_many(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Texts of many rows of ids, in parallel; special tokens appear as their text."""
        return self.backend.decode_batch(list(rows), skip_special_tokens=False)

    def render_chat(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        settings: Mapping[str, Any] | None = None,
    ) -> str:
        """The conversation as the model's chat template writes it; today is always `CHAT_DATE` for it.

        Special tokens in the messages are `quoted`.

        Args:
            settings: further variables of the template, such as Qwen3's {'enable_thinking': False}.

        Raises:
            WrongUse: the tokenizer has no chat template, or the template fails on these messages.
        """
        if self.chat_template is None:
            raise WrongUse(
                "This tokenizer has no chat template (a base model?); use the plain prompt, "
                "or put a chat_template.jinja beside tokenizer.json."
            )
        try:
            return _compile_template(self.chat_template).render(
                messages=self._quoted_all(list(messages)),
                add_generation_prompt=add_generation_prompt,
                **self._special_texts | dict(settings or {}),
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise WrongUse(f"The chat template refuses these messages: {error}") from error


def _read_backend(path: epath.Path) -> tokenizers.Tokenizer:
    """Parses `tokenizer.json`."""
    if not path.exists():
        raise WrongUse(
            f"{os.fspath(path)}: no such file. A directory with a SentencePiece model alone is converted by "
            "transformers.AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)."
        )
    try:
        return tokenizers.Tokenizer.from_str(path.read_text())
    except Exception as error:  # the tokenizers library raises bare Exception
        raise WrongUse(f"{os.fspath(path)}: not a tokenizer of the `tokenizers` library ({error}).") from None


def _read_object(path: epath.Path, required: bool = False) -> dict[str, Any]:
    """A JSON object; empty where an optional file is missing."""
    if not required and not path.exists():
        return {}
    value = jsonl.read_json(path)
    if not isinstance(value, dict):
        raise WrongUse(f"{os.fspath(path)}: expected a JSON object, got {type(value).__name__}.")
    return value


def _token_text(value: Any, where: str) -> str | None:
    """A special token, written as its text or as an `AddedToken` object."""
    if isinstance(value, Mapping):
        value = value.get("content")
    if value is not None and not isinstance(value, str):
        raise WrongUse(
            f"{where} must be a text, an object with 'content', or null; got {type(value).__name__}."
        )
    return value


def _adds_bos(
    backend: tokenizers.Tokenizer, config: Mapping[str, Any], bos_token: str | None, where: str
) -> bool:
    """Whether prompts begin with BOS: the config says so, or is silent and the post-processor adds it."""
    stated = config.get("add_bos_token")
    if stated and bos_token is None:
        raise WrongUse(f"{where}: 'add_bos_token' is true but 'bos_token' is not set.")
    if stated is not None:
        return bool(stated)
    return _post_processor_adds(backend, bos_token)


def _post_processor_adds(backend: tokenizers.Tokenizer, bos_token: str | None) -> bool:
    """Whether the backend would put this token in front of a text by itself."""
    return bos_token is not None and backend.encode("", add_special_tokens=True).tokens[:1] == [bos_token]


def _stop_ids(generation: Mapping[str, Any], path: epath.Path) -> tuple[int, ...]:
    """The `eos_token_id` of a generation config: absent, one id or a list."""
    stated = generation.get("eos_token_id")
    ids = stated if isinstance(stated, list) else [] if stated is None else [stated]
    if not all(isinstance(i, int) for i in ids):
        raise WrongUse(
            f"{os.fspath(path)}: 'eos_token_id' must be an integer or a list of integers, got {stated!r}."
        )
    return tuple(ids)


def _read_chat_template(directory: epath.Path, config: Mapping[str, Any], where: str) -> str | None:
    """The default chat template: its own file, else the config's string or list of named templates."""
    file = directory / "chat_template.jinja"
    if file.exists():
        return file.read_text()
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        raise WrongUse(f"{where}: 'chat_template' must be a text or a list of named templates.")
    return template


class _GenerationBlock(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}` marks assistant text in some templates; here it is inert."""

    tags = {"generation"}

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


@functools.lru_cache(maxsize=8)
def _compile_template(template: str) -> jinja2.Template:
    """Compiles a chat template in a sandbox, with the filters and functions that such templates expect."""

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)  # jinja's own filter escapes for HTML

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = CHAT_DATE.strftime
    return environment.from_string(template)
