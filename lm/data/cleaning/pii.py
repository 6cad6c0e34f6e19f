"""Personal and secret strings: masked, counted, and never shown as examples."""

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from lm.data.cleaning.base import Base, TextJudge, Verdict

PiiKind = Literal["email", "ip", "phone", "key"]
KEY = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36,}\b"
    r"|\bgithub_pat_\w{22,}\b|\bxox[abeoprs]-[A-Za-z0-9-]{10,}|\bAIza[\w-]{35}"
    r"|\bsk-[A-Za-z0-9_-]{20,}\b",
    re.DOTALL,
)
KEY_PARTS = (
    *("PRIVATE KEY", "AKIA", "ASIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
    *("xox", "AIza", "sk-"),
)
"""Without one of these in a text there is no key in it."""
# These begin with what they must begin with, and look back from there: the search is then for
# one character, and costs little where there is none.
AT = re.compile(r"@(?:[\w-]{1,63}\.)+[^\W\d_]{2,24}\b")
LOCAL = re.compile(r"(?<![\w.+%-])[\w.+%-]{1,64}$")
IP4 = re.compile(r"\d(?<![\w.]\d)\d{0,2}(?:\.\d{1,3}){3}(?!\w|\.\d)")
# Those of the public internet begin with 2000 to 3fff.
IP6 = re.compile(
    r"[23](?<![\w:][23])[0-9A-Fa-f]{3}:(?:[0-9A-Fa-f]{0,4}:){1,6}[0-9A-Fa-f]{0,4}(?![\w:])"
)
PHONE = re.compile(
    r"\+(?<![\w.+-]\+)\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?"
    r"\d{1,4}(?:[ .-]?\d{2,4}){2,4}(?![\w-]|\.\d)"
)
PHONE_HERE = re.compile(
    r"[(\d](?<![\w.+-][(\d])(?:(?<=\()\d{3}\) ?|(?<=\d)\d\d[.-])\d{3}[ .-]\d{4}(?![\w-]|\.\d)"
)


class Pii(Base, frozen=True, tag="pii"):
    """Masks e-mail addresses, IP addresses, phone numbers and keys, by what they look like.

    Phone numbers are those with a + or in North America's form: a number alone may be anything.
    Addresses of private networks, of this machine and of documentation are left, and so is what
    is no address, as a version of four parts beyond 255. No pattern finds all; names and street
    addresses are not looked for.
    """

    rules: ClassVar = {
        "email": "e-mail addresses become <EMAIL> (as ROOTS, Laurençon et al. 2022,"
        " arXiv:2303.03915, and FineWeb, arXiv:2406.17557, do)",
        "ip": "public IP addresses become <IP> (there)",
        "phone": "phone numbers with +, or as 555-123-4567, become <PHONE>",
        "key": "private keys and access tokens in their services' forms become <KEY> (as"
        " StarCoder, Li et al. 2023, arXiv:2305.06161, section 4, does)",
    }

    kinds: Annotated[tuple[PiiKind, ...], Meta(min_length=1, description="that are masked")] = (
        "key",
        "email",
        "ip",
        "phone",
    )

    def applied(self) -> Mapping[str, str]:
        return {kind: about for kind, about in self.rules.items() if kind in self.kinds}

    def open(self) -> TextJudge:
        def judge(texts: Sequence[str]) -> list[Verdict]:
            return [self._judge(text) for text in texts]

        return judge

    def _judge(self, text: str) -> Verdict:
        """A text with what is found masked, and how many there were.

        >>> found = Pii()._judge("Mail a.b@c.org or call +1 555 123 4567 from 8.8.8.8.")
        >>> found.text, dict(found.changes)
        ('Mail <EMAIL> or call <PHONE> from <IP>.', {'email': 1, 'ip': 1, 'phone': 1})
        >>> Pii()._judge("Python 3.11.4 on 127.0.0.1, 1999-2003, pi 3.14159").changes
        {}
        """
        changes: dict[str, int] = {}
        for kind, masked in _MASKS.items():
            if kind in self.kinds:
                text, number = masked(text)
                if number:
                    changes[kind] = number
        return Verdict(text, changes=changes)


def _keys(text: str) -> tuple[str, int]:
    return KEY.subn("<KEY>", text) if any(part in text for part in KEY_PARTS) else (text, 0)


def _emails(text: str) -> tuple[str, int]:
    """What stands before an @ is looked for from there, not from each letter on.

    >>> _emails("to a.b@c.org, @twitter and x@y")
    ('to <EMAIL>, @twitter and x@y', 1)
    """
    parts, end, number = [], 0, 0
    for found in AT.finditer(text) if "@" in text else ():
        before = text[max(end, found.start() - 65) : found.start()]
        if local := LOCAL.search(before):
            parts += [text[end : found.start() - len(local[0])], "<EMAIL>"]
            end = found.end()
            number += 1
    return "".join([*parts, text[end:]]) if number else text, number


def _addresses(text: str) -> tuple[str, int]:
    number = 0

    def mask(found: re.Match[str]) -> str:
        nonlocal number
        if not _is_public(found[0]):
            return found[0]
        number += 1
        return "<IP>"

    return IP6.sub(mask, IP4.sub(mask, text)), number


def _phones(text: str) -> tuple[str, int]:
    number = 0
    if "+" in text:
        text, number = PHONE.subn("<PHONE>", text)
    text, more = PHONE_HERE.subn("<PHONE>", text)
    return text, number + more


_MASKS: dict[PiiKind, Callable[[str], tuple[str, int]]] = {
    "key": _keys,  # first, as they may hold what looks like a number
    "email": _emails,
    "ip": _addresses,
    "phone": _phones,
}


def _is_public(address: str) -> bool:
    """Whether this is an address of the public internet.

    >>> [_is_public(a) for a in ("8.8.8.8", "10.0.0.1", "1.2.3.999", "2001:4860:4860::8888")]
    [True, False, False, True]
    """
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False
