"""Whose fault it is when a server refuses a request for its length: the prompt's, or the setting's.

There is no code for it that all servers send, so their sentences are read: those of OpenAI, vLLM, SGLang,
llama.cpp, TGI, Anthropic, Gemini and DashScope. A prompt that is too long by itself concerns its row; new
tokens that leave no room for prompts would turn every row away.
"""

import re

_OF_CONTEXT = re.compile(
    r"context.?(?:length|window|size|limit)|max_model_len|maximum model length|`inputs`"
    r"|(?:prompt|input|messages)\b.{0,60}(?:too long|longer than|exceeds?\b|length)",
    re.IGNORECASE,
)
_OF_NEW_TOKENS = re.compile(
    r"max\w*tokens\b.*(?:too large|>|at most|maximum|should be|less than|<=)", re.IGNORECASE
)
_CONTEXT_LENGTH = re.compile(
    r"(?:context.?(?:length|window|size)|model length)\D{0,20}(\d+)|(\d+) maximum"
    r"|\+ \d+ > (\d+)|tokens allowed \((\d+)|must be <= (\d+)",
    re.IGNORECASE,
)
_PROMPT_LENGTH = re.compile(
    r"(\d+) (?:input tokens|in the (?:messages|prompt)|tokens from the input|\+ \d+ >)"
    r"|(?:request|input|prompt)(?: has| contains)?(?: at least)? \(?(?:length )?(\d+)"
    r"|(?:too long|resulted in|token count|given):? \(?(\d+)",
    re.IGNORECASE,
)
_SMALL_PROMPT = 1 / 8  # of the context: where so short a prompt finds no room, the new tokens took it


def is_of_prompt(said: str, code: str | int | None, prompt_tokens: int, new_tokens: int | None) -> bool:
    """Whether a refusal is for a prompt that is too long by itself.

    Args:
        said, code: of the server's error.
        prompt_tokens: a guess; what the server says counts where it is more ("at least" stops counting).
        new_tokens: how many the request asks for; None: it does not say.
    """
    if code != "context_length_exceeded" and not _OF_CONTEXT.search(said):
        return False
    context = _number(_CONTEXT_LENGTH, said)
    if context is None or new_tokens is None:
        return True
    prompt = max(_number(_PROMPT_LENGTH, said) or 0, prompt_tokens)
    return prompt >= context or (new_tokens < context and prompt > context * _SMALL_PROMPT)


def is_of_new_tokens(said: str) -> bool:
    """Whether a refusal that is not for its prompt is for the new tokens asked for."""
    return bool(_OF_CONTEXT.search(said) or _OF_NEW_TOKENS.search(said))


def _number(pattern: re.Pattern[str], said: str) -> int | None:
    """What the group that matched says; thousands may be set apart."""
    match = pattern.search(re.sub(r"(?<=\d),(?=\d{3})", "", said))
    return None if match is None else int(next(group for group in match.groups() if group))
