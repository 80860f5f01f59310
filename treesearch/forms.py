"""The canonical forms that answers of one problem have, and which of them are one answer. Pure: asks nobody.

Whether two forms are equal is found out as chains arrive; the label that a form is delivered under is decided as they are
delivered: the first delivered form that it is equal to. So what votes together depends on the order of delivery alone.
"""

from __future__ import annotations

import re

_LOWEST = re.compile(r"-?(?:0|[1-9][0-9]*)(?:/[1-9][0-9]*)?")  # a whole number, or a fraction in lowest terms


class Forms:
    """Forms of one problem. A pair is to be compared before either of its forms is delivered after the other."""

    def __init__(self) -> None:
        self._known: dict[str, None] = {}  # that arrived or were delivered, in this order
        self._equal: dict[str, set[str]] = {}
        self._heads: dict[str, None] = {}  # delivered forms that are their own label
        self._labels: dict[str, str] = {}

    def arrive(self, form: str) -> list[str]:
        """The forms that a new one must be compared with; none for one that is known.

        Two plain numbers that are written differently are different, so nobody need be asked about them.
        """
        if form in self._known:
            return []
        others = [known for known in self._known if not (_LOWEST.fullmatch(form) and _LOWEST.fullmatch(known))]
        self._known[form] = None
        return others

    def join(self, one: str, other: str) -> None:
        """These two were found to be equal."""
        self._equal.setdefault(one, set()).add(other)
        self._equal.setdefault(other, set()).add(one)

    def label(self, form: str) -> str:
        """The form that stands for this one from its first delivery on."""
        if form not in self._labels:
            equal = self._equal.get(form, ())
            self._labels[form] = next((head for head in self._heads if head in equal), form)
            if self._labels[form] == form:
                self._heads[form] = None
                self._known.setdefault(form)  # of a journal: it never arrived
        return self._labels[form]
