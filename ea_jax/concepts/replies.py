"""Lists in a language model's reply, read as JSON and never run as code.

Models answer in JSON, in Python's notation (the paper's Table 5 has tuples), in a code block, with
words around it. Brackets and quotes are translated; then it has to be JSON.
"""

from __future__ import annotations

import json
import re
from typing import Any

_TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'|[\[\]()]|[^\[\]()"\']+|["\']')
_TRAILING_COMMA = re.compile(r",\s*$")


def first_list(reply: str) -> list[Any]:
    """The first list in a reply; ValueError if there is none, or it isn't whole."""
    start = reply.find("[")
    if start < 0:
        raise ValueError(f"no list in {reply[:80]!r}")
    return _list_at(reply, start)


def named_list(reply: str, name: str) -> list[Any]:
    """The list after `name:` or `name =`, the name in quotes or bold or with a space for "_".

    Raises:
      ValueError: no such list, or it isn't whole.
    """
    spelled = r"[_\s-]?".join(map(re.escape, name.split("_")))
    mark = r"[\s\"'`*]*"
    found = re.search(rf"(?<!\w){spelled}{mark}[:=]{mark}(?=[\[(])", reply, re.I)
    if not found:
        raise ValueError(f"no list {name!r} in {reply[:80]!r}")
    return _list_at(reply, found.end())


def _list_at(reply: str, start: int) -> list[Any]:
    out: list[str] = []
    depth = 0
    for match in _TOKEN.finditer(reply, start):
        token = match[0]
        if token in "[(":
            depth += 1
            out.append("[")
        elif token in "])":
            depth -= 1
            # Python's notation allows a comma before the end.
            out[-1] = _TRAILING_COMMA.sub("", out[-1])
            out.append("]")
            if depth == 0:
                return _load("".join(out))
        elif token[0] == "'" and len(token) > 1:
            out.append(json.dumps(token[1:-1].replace("\\'", "'")))
        else:
            out.append(token)
    raise ValueError(f"a list that is cut off: {reply[start : start + 80]!r}")


def _load(text: str) -> list[Any]:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"not JSON: {text[:80]!r}") from None
