"""Secrets are masked before anything is written down or sent: `hf_***` for a token, `***` for a password.

Known are the values of this process's secret environment variables, the forms that well-known services give their
tokens, passwords in URLs and headers, and what is assigned to a name that says what it holds. Code must come through as
it is: a patch in which a variable was taken for a secret could not be applied again.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

MASK = "***"
SHORTEST = 6  # characters; what is shorter would be found in ordinary words
SHORTEST_WORD = 8  # the same for letters only
NAME_AT_MOST = 80  # characters before a word that are looked at

# Parts of an environment variable's name: HF_TOKEN is secret, HOTKEY and TOKENIZERS_PARALLELISM are not.
SECRET_PART = re.compile(
    r"(?:^|[_.-])(?:TOKENS?|PASSWORDS?|PASSWD|PASSPHRASE|PASS|PWD|SECRETS?|KEYS?|APIKEY|CREDENTIALS?|CREDS|AUTH|COOKIES?)"
    r"(?:[_.-]|\d*$)",
    re.I,
)
ABOUT_SECRET = re.compile(r"^PWD$|[_.-](?:FILE|PATH|DIR|SOCK|NAME|USER|USERNAME|HOST|PORT|TYPE|MODE|LENGTH)$", re.I)
NO_SECRET = re.compile(r"(?:~|\.{0,2})(?:/[\w.@:,-]+){2,}/?|[\d.,:+-]+|\w+://.*", re.S)  # a path, a number, a URL

# How what stands for a value begins: {x}, <password>, %(x)s, ${VAR}, $(command), $VAR. In a URL %24 is a letter, and a
# password may begin with a dollar: a variable's name is in capitals, or has no digit.
STANDS_FOR_ONE = r"[{<*]|%(?![0-9A-Fa-f]{2})|\$(?:[{(]|\d\b|(?:[A-Z][A-Z0-9_]*|[A-Za-z_]+)(?![\w!#%^*?+=]))"
A_VALUE = f"(?!{STANDS_FOR_ONE})"
OPTION = (
    r"--(?:[\w-]{0,40}-)?(?:token|pass(?:word|wd|phrase)|secret|credentials?|(?:api|access|private)-?key)"
    r"(?:[\"'],)? +"  # the second form is that of a list of arguments
)
# What is kept of each is the first group. Its beginning is looked for first, which costs next to nothing.
FORMS = [
    (beginning, re.compile(pattern, re.S))
    for beginning, pattern in (
        ("gh", r"(gh[pousr]_)(?<!\w....)[A-Za-z0-9]{20,}"),
        ("github_pat_", r"(github_pat_)\w{20,}"),
        ("glpat-", r"(glpat-)[\w-]{16,}"),
        ("hf_", r"(hf_)(?<!\w...)[A-Za-z0-9]{20,}"),
        ("sk-", r"(sk-(?:ant-|proj-|svcacct-)?)(?<![\w-]sk-)(?<![\w-]sk-ant-)(?=[\w-]*\d)[\w-]{20,}"),
        ("AKIA", r"(AKIA)(?<!\w....)[A-Z0-9]{16}\b"),
        ("ASIA", r"(ASIA)(?<!\w....)[A-Z0-9]{16}\b"),
        ("xox", r"(xox[abeoprs]-)[A-Za-z0-9-]{10,}"),
        ("AIza", r"(AIza)(?<!\w....)[\w-]{35,}"),
        ("eyJ", r"(eyJ)(?<!\w...)[\w-]{8,}\.eyJ[\w-]{5,}(?:\.[\w-]*)?"),
        ("-----BEGIN", r"(-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----)(?:[\sA-Za-z0-9+/=:,.\\]|-(?!-)){16,}"),
        ("://", rf"(://[^\s/:@'\"]*:){A_VALUE}[^\s/'\"]+(?=@)"),
        ("://", r"(://)(?=[\w.~+-]*\d)[\w.~+-]{16,}(?=@)"),
        ("password=", rf"([?&]password=){A_VALUE}[^\s&'\"]+"),
        ("--", rf"({OPTION}[\"']){A_VALUE}(?=[^\"']*\d)[^\"'\n]{{6,}}(?=[\"'])"),
        ("--", rf"({OPTION}){A_VALUE}(?!--|[/.~\"'])(?=[^\s\"']*\d)(?=[^\s\"']*[A-Za-z])[^\s\"',;)]{{6,}}"),
        ("uthorization", rf"(uthorization\\?[\"']?\s*[:=]\s*\\?[\"']?[A-Za-z]+ ){A_VALUE}[^\s\"',\\]{{6,}}"),
        ("UTHORIZATION", rf"(UTHORIZATION\\?[\"']?\s*[:=]\s*\\?[\"']?[A-Za-z]+ ){A_VALUE}[^\s\"',\\]{{6,}}"),
        ("earer ", r"(earer )(?=[\w.~+/-]*\d)[\w.~+/-]{16,}=*"),
        ("ookie: ", rf"(ookie: +[^\s={{$<%]+=){A_VALUE}[^\r\n]+"),
        ("login ", rf"(login +\S+\s+password +){A_VALUE}\S{{6,}}"),
    )
]

# The end of a name, what stands between, and the value; in quotes (perhaps within a quoted text) or without.
ASSIGNED = re.compile(
    r"""(?P<name>[Tt]oken|TOKEN|[Pp]ass(?:word|wd|phrase)|PASS(?:WORD|WD|PHRASE)|[Ss]ecret|SECRET
          |[Cc]redentials?|CREDENTIALS?|(?:[Aa]pi|[Aa]ccess|[Pp]rivate|[Ss]igning|[Ee]ncryption|[Aa]ccount)[_-]?[Kk]ey
          |APIKEY|_KEY)
        \d*(?P<between>\\?["']?[ \t]*[:=][ \t]*(?!=))
        (?:(?P<quote>\\?["'])(?P<quoted>[^"'\\\r\n]++)(?=(?P=quote))
          |(?P<plain>[^\s"'\\,;(){}\[\]<>&|`]++)(?=[\s"'\\,;)}\]&]|$))""",
    re.X,
)
PASSWORDS = ("pass", "secret")  # words with which letters alone are a secret
PLACEHOLDER = re.compile(
    rf"(?:{STANDS_FOR_ONE}|~).*" r"|\.{0,2}/.*|.*\*\*\*.*|[A-Z][A-Z_]+|[\d.,:+-]+|\w+://.*|.*[({\[<].*"
)
DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+(?:\.\.\.)?")
TYPE = re.compile(r"(?:u?int|b?float|complex|utf-?|sha|md|base)\d+(?:_\w+)?")
LINE_BEFORE = re.compile(r"(?:^|\n)[+\- ]?(?:export )?\w*$")
QUERY_BEFORE = re.compile(r"[?&][\w.-]*$")


def redact(text: str) -> str:
    """The text without secrets; doing it again changes nothing."""
    for value in _of_environment():
        if value in text:
            text = text.replace(value, MASK)
    for word, form in FORMS:
        if word in text:
            text = form.sub(rf"\1{MASK}", text)
    return ASSIGNED.sub(_mask_assigned, text)


def redacted(values: Any) -> Any:
    """Plain values (mappings, lists, texts, numbers) with every text redacted, and what a mapping has as a secret."""
    if isinstance(values, str):
        return redact(values)
    if isinstance(values, Mapping):
        return {key: MASK if _is_kept_secret(key, value) else redacted(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [redacted(value) for value in values]
    return values


def is_secret_name(name: str) -> bool:
    """Whether a variable, setting or tag of that name holds a secret, and not where one is or how long."""
    return SECRET_PART.search(name) is not None and not ABOUT_SECRET.search(name)


def _is_kept_secret(key: Any, value: Any) -> bool:
    is_text = isinstance(key, str) and isinstance(value, str)
    return is_text and is_secret_name(key) and _can_be_masked(value) and not PLACEHOLDER.fullmatch(value)


def _mask_assigned(match: re.Match[str]) -> str:
    whole, value = match[0], match["quoted"] or match["plain"]
    if _is_part_of_a_name(match) and len(value) >= SHORTEST and not PLACEHOLDER.fullmatch(value):
        is_secret = _is_secret_text(match["name"], value) if match["quoted"] else _is_secret_word(match, value)
        if is_secret:
            return whole[: len(whole) - len(value)] + MASK
    return whole


def _is_part_of_a_name(match: re.Match[str]) -> bool:
    """Whether the word is a whole part: api_token and apiToken, and not `broken`."""
    before = match.string[match.start() - 1 : match.start()] if match.start() else ""
    word = match["name"]
    if word == "_KEY":
        return before.isupper() or before.isdigit()
    return not before.isalpha() or (before.islower() and word[0].isupper() and not word.isupper())


def _is_secret_text(name: str, value: str) -> bool:
    """For a value in quotes."""
    has_digit = any(character.isdigit() for character in value)
    is_password, speaks_of_it = name.lower().startswith(PASSWORDS), name.lower() in value.lower()
    if re.search(r"\s", value):  # several words, and not what stands between two texts of code
        return is_password and has_digit and not speaks_of_it and re.fullmatch(r"\w.*\S", value) is not None
    if has_digit:
        return not DOTTED.fullmatch(value) and not TYPE.fullmatch(value)
    if is_password:
        return not speaks_of_it
    return len(value) >= 20 and value.isalpha() and not (value.islower() or value.isupper())


def _is_secret_word(match: re.Match[str], value: str) -> bool:
    """For one without, which in code is the name of something else."""
    name = match["name"].lower()
    if DOTTED.fullmatch(value) or TYPE.fullmatch(value) or value.lower().lstrip("_").startswith(name.lstrip("_")):
        return False
    before = match.string[max(0, match.start() - NAME_AT_MOST) : match.start()]
    if match["between"] == "=" and QUERY_BEFORE.search(before):
        return True
    if match["between"] == "=" and LINE_BEFORE.search(before):
        return match.string[match.end() : match.end() + 1] in ("", "\r", "\n")  # a line of a file of variables
    shortest = SHORTEST_WORD if value.isidentifier() and " =" in match["between"] else SHORTEST
    return any(character.isdigit() for character in value) and len(value) >= shortest


@functools.cache
def _of_environment() -> tuple[str, ...]:
    """What this process's variables hold of secrets, in every form that it may be written in; the longest first."""
    found = {form for value in _values(os.environ) for form in _written(value)}
    return tuple(sorted(found, key=len, reverse=True))


def _values(variables: Mapping[str, str]) -> Iterator[str]:
    for name, value in variables.items():
        if "://" in value:
            value = _password(value)
        elif not is_secret_name(name):
            continue
        for text in {value.strip(), *value.split("\n")}:
            if _can_be_masked(text):
                yield text


def _password(url: str) -> str:
    try:
        return urlsplit(url).password or ""
    except ValueError:
        return ""


def _can_be_masked(value: str) -> bool:
    """Whether it is long enough and strange enough for a text to be readable without it."""
    shortest = SHORTEST_WORD if value.isalpha() else SHORTEST
    return len(value) >= shortest and any(map(str.isalnum, value)) and not NO_SECRET.fullmatch(value)


def _written(value: str) -> set[str]:
    code = base64.b64encode(value.encode(errors="surrogateescape")).decode()
    return {value, quote(value, safe="", errors="surrogateescape"), json.dumps(value)[1:-1], repr(value)[1:-1], code}
