"""Arithmetic expressions as text: parsed, valued exactly, made canonical. Knows no puzzle; runs nothing as code."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_TOKEN = re.compile(r"\s*([0-9]+|[-+*/()])")
LONGEST = 500  # characters
DEEPEST = 50  # nested brackets and signs


@dataclass(frozen=True, slots=True)
class Expression:
    """A number (`op` None), a negation (`op` "neg", left only) or two operands under + - * /."""

    op: str | None
    number: int = 0
    left: Expression | None = None
    right: Expression | None = None


def parse(text: str) -> Expression | None:
    """The expression a text says, in whole numbers, + - * / and brackets; None if it is none, too long or too deep."""
    tokens = _tokens(text.strip())
    return None if tokens is None else _Parser(tokens).whole()


def _tokens(text: str) -> list[str] | None:
    if len(text) > LONGEST:
        return None
    tokens, at = [], 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            return None
        tokens.append(found.group(1))
        at = found.end()
    return tokens


class _Parser:
    """Recursive descent; every method gives None where the text fits no rule."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.at, self.depth = tokens, 0, 0

    def whole(self) -> Expression | None:
        found = self.chain("+-")
        return found if self.at == len(self.tokens) else None

    def take(self, choices: str) -> str | None:
        if self.at < len(self.tokens) and self.tokens[self.at] in choices:
            self.at += 1
            return self.tokens[self.at - 1]
        return None

    def chain(self, ops: str) -> Expression | None:
        """Operands between operators of one strength, leaning left: sums of products of factors."""
        left = self.chain("*/") if ops == "+-" else self.factor()
        while left is not None and (op := self.take(ops)):
            right = self.chain("*/") if ops == "+-" else self.factor()
            left = None if right is None else Expression(op, left=left, right=right)
        return left

    def factor(self) -> Expression | None:
        self.depth += 1
        if self.depth > DEEPEST or self.at == len(self.tokens):
            return None
        if self.take("-"):
            inner = self.factor()
            found = None if inner is None else Expression("neg", left=inner)
        elif self.take("("):
            inner = self.chain("+-")
            found = inner if self.take(")") else None
        else:
            found = self.numeral()
        self.depth -= 1
        return found

    def numeral(self) -> Expression | None:
        token = self.tokens[self.at]
        if not token.isdigit():
            return None
        self.at += 1
        return Expression(None, number=int(token))


def numbers(expression: Expression) -> list[int]:
    """The numbers written in an expression, sorted."""
    pending, found = [expression], []
    while pending:
        node = pending.pop()
        if node.op is None:
            found.append(node.number)
        pending.extend(part for part in (node.left, node.right) if part is not None)
    return sorted(found)


def value(expression: Expression) -> Fraction | None:
    """The exact value; None where it divides by zero."""
    if expression.op is None:
        return Fraction(expression.number)
    left = value(expression.left) if expression.left else None
    if left is None or expression.op == "neg":
        return None if left is None else -left
    right = value(expression.right) if expression.right else None
    if right is None or (expression.op == "/" and right == 0):
        return None
    match expression.op:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case _:
            return left / right


def canonical(expression: Expression) -> str:
    """One text for all orders and brackets of the same sums and products: a - b is a + (-b), a / b is a * (1 / b)."""
    terms: list[str] = []
    _terms(expression, "+", terms)
    return "".join(sorted(terms)).removeprefix("+")


def _terms(node: Expression, sign: str, out: list[str]) -> None:
    """Collect the signed terms of a sum."""
    other = "-" if sign == "+" else "+"
    if node.op in ("+", "-") and node.left and node.right:
        _terms(node.left, sign, out)
        _terms(node.right, sign if node.op == "+" else other, out)
    elif node.op == "neg" and node.left:
        _terms(node.left, other, out)
    else:
        factors: list[str] = []
        negative = _factors(node, "*", factors)
        out.append((other if negative else sign) + "".join(sorted(factors)).removeprefix("*"))


def _factors(node: Expression, op: str, out: list[str]) -> bool:
    """Collect the factors and divisors of a product; says whether their signs make it negative."""
    if node.op in ("*", "/") and node.left and node.right:
        left = _factors(node.left, op, out)
        return left != _factors(node.right, op if node.op == "*" else "/" if op == "*" else "*", out)
    if node.op == "neg" and node.left:
        return not _factors(node.left, op, out)
    out.append(op + (str(node.number) if node.op is None else f"({canonical(node)})"))
    return False
