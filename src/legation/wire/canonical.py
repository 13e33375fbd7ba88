"""Canonical JSON, RFC 8785, for the values that Legation signs and logs.

Floating-point numbers are refused: their canonical form is the one hard part of the
RFC, and nothing that we sign needs them.
"""

import json
from typing import Any

from legation.errors import InvalidInput, LimitExceeded

MAX_SAFE_INTEGER = 2**53 - 1
MAX_DEPTH = 64
_SPACE = " \t\n\r"  # RFC 8259, section 2


def canonical_json(value: object) -> bytes:
    """Render `value` as canonical JSON in UTF-8.

    Raises:
        InvalidInput: it holds a float, an integer beyond 2**53 - 1, a key that is not text,
            a lone surrogate, or a type that JSON does not have.
    """
    _check(value, 0)
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidInput("a lone surrogate has no place in canonical JSON") from None


def parse_json(data: bytes, *, limit: int = 1 << 20) -> Any:
    """Read JSON from a peer, bounded in size and depth.

    UTF-8 only (RFC 8259, section 8.1), without duplicate keys or lone surrogates (RFC 7493).

    Raises:
        LimitExceeded: larger than `limit` bytes, or nested too deep.
        InvalidInput: not JSON, a key twice, a number of thousands of digits, a lone surrogate.
    """
    if len(data) > limit:
        raise LimitExceeded(f"{len(data)} bytes of JSON, at most {limit} bytes are accepted")
    try:
        # Decoded here, because json.loads would guess UTF-16 and UTF-32.
        text = data.decode("utf-8").strip(_SPACE)
        value, end = _decoder.raw_decode(text)
        if end != len(text):
            raise json.JSONDecodeError("Extra data", text, end)
        if "\\" in text:  # an escape, of half a pair perhaps
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise LimitExceeded("JSON nested too deep") from None
    except UnicodeDecodeError:
        raise InvalidInput("JSON that is not UTF-8") from None
    except UnicodeEncodeError:
        raise InvalidInput("a lone surrogate has no place in JSON") from None
    except json.JSONDecodeError as error:
        raise InvalidInput(f"not JSON: {error}") from None
    except ValueError:  # Python itself refuses to convert thousands of digits
        raise InvalidInput("a number in the JSON has too many digits") from None
    # What opens fewer brackets is no deeper; to look at each value takes as long as to read it.
    if text.count("{") + text.count("[") > MAX_DEPTH:
        _check_depth(value, 0)
    return value


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise InvalidInput("a JSON key occurs twice")
    return value


def _no_constant(word: str) -> object:
    raise InvalidInput(f"{word} is not JSON")


# Made once: each `json.loads` with hooks makes one.
_decoder = json.JSONDecoder(object_pairs_hook=_without_duplicates, parse_constant=_no_constant)


def _check_depth(value: object, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise LimitExceeded("JSON nested too deep")
    if isinstance(value, dict):
        for item in value.values():
            _check_depth(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_depth(item, depth + 1)


def _check(value: object, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise LimitExceeded("a value nested too deep for canonical JSON")
    match value:
        case None | bool() | str():
            return
        case int():
            if abs(value) > MAX_SAFE_INTEGER:
                raise InvalidInput(f"{value} is too large for canonical JSON")
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    raise InvalidInput("a key of canonical JSON must be text")
                # RFC 8785 sorts by UTF-16 code units; only ASCII keys sort alike in Python.
                if not key.isascii():
                    raise InvalidInput("a key of canonical JSON must be ASCII here")
                _check(item, depth + 1)
        case list() | tuple():
            for item in value:
                _check(item, depth + 1)
        case _:
            raise InvalidInput(f"{type(value).__name__} has no place in canonical JSON")
