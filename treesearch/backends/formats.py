"""How each family of reward models reads a solution: one table, a row a family. Knows no model class.

A PRM's row says what stands before the first step, before each other step and after each (the mark, whose last token
carries the score). A family of language models names two labels: its score is the probability of the first among the two as
the token after the mark; elsewhere it is that of class 1 (softmax of two, sigmoid of one). More families are more rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from treesearch.errors import ConfigError

QWEN_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."
RIGHT = "+"  # what the assistant says of each step in a family of turns
Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Format:
    """`opening(question, step, tokenizer)` is the text up to and with the first step, without its mark.

    `mark` ends each step, `between` stands before every step but the first. `labels` (right, wrong) are single tokens of a
    language model. `special`: the tokenizer puts its own tokens (a BOS) first. `chat`: it must have a chat template.
    `turns`: mark and between are those of the template, `opening` is the first turn and its label. `architecture` ends the
    names of the family's model classes, `names` are parts of its hub names.
    """

    name: str
    opening: Callable[[str, str, Any], str]
    mark: str
    between: str = ""
    labels: tuple[str, str] | None = None
    special: bool = False
    chat: bool = False
    turns: bool = False
    architecture: str = "ForCausalLM"
    names: tuple[str, ...] = ()

    def begin(self, question: str, step: str, tokenizer: Any) -> str:
        """The text before the first mark."""
        text = self.opening(question, step, tokenizer)
        return text[: text.rindex(self.mark + RIGHT)] if self.turns else text

    def inner(self, text: str) -> str:
        """A step's text as it stands before its mark: a mark inside it becomes a space, so that each step has one."""
        return text.strip().replace(self.mark, " ").strip()

    def fit(self, tokenizer: Any) -> Format:
        """The row for this tokenizer, whose chat template some families need. Raises ConfigError if it has none."""
        if self.chat and getattr(tokenizer, "chat_template", None) is None:
            raise ConfigError(
                f"scorer.family {self.name}: needs a chat template, this model's tokenizer has none; "
                "use the tokenizer that was published with the model"
            )
        if not self.turns:
            return self
        mark, between = _turn(self, tokenizer)
        return replace(self, mark=mark, between=between)


def _turn(form: Format, tokenizer: Any) -> tuple[str, str]:
    """Mark and between of a chat in which the user says the steps and the assistant the label of each."""
    one, two = "the first step", "the second step"
    text = _render(tokenizer, [*_judged(one), *_judged(two)])
    _, _, rest = text.partition(one)
    between, _, end = rest.partition(two)
    mark, label, _ = end.rpartition(RIGHT)
    if not (mark and between.startswith(mark + label)):
        raise ConfigError(
            f"scorer.family {form.name}: this model's chat template does not put its turns one after the other; "
            "use the tokenizer that was published with the model"
        )
    return mark, between.removeprefix(mark)


def _judged(step: str) -> list[Message]:
    return [{"role": "user", "content": step}, {"role": "assistant", "content": RIGHT}]


def _render(tokenizer: Any, messages: list[Message], ask: bool = False) -> str:
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
    return text


def _lines(question: str, step: str, tokenizer: Any) -> str:
    return f"{question}\n{step}"


def _spaced(question: str, step: str, tokenizer: Any) -> str:
    return f"{question} {step}"


def _qwen(question: str, step: str, tokenizer: Any) -> str:
    """Model card of Qwen/Qwen2.5-Math-PRM-7B: chat with the boxed-answer system prompt, steps in the assistant's turn."""
    messages = [{"role": "system", "content": QWEN_SYSTEM}, {"role": "user", "content": question}]
    return _render(tokenizer, messages, ask=True) + step


def _begun(question: str, step: str, tokenizer: Any) -> str:
    """SkyworkAI/skywork-o1-prm-inference, io_utils.py: BOS if there is one, question, a line end; then the steps."""
    return f"{tokenizer.bos_token or ''}{question}\n{step}"


def _versa(question: str, step: str, tokenizer: Any) -> str:
    """VersaPRM's get_rewards_reasoning_step.py (mtzig/MultiDomainPRM): question, " \\n\\n", steps."""
    return f"{question.strip()} \n\n{step}"


def _rlhflow(question: str, step: str, tokenizer: Any) -> str:
    """RLHFlow/RLHF-Reward-Modeling, math-rm/prm_evaluate.py: the first turn holds the question, a space and the step."""
    return _render(tokenizer, _judged(f"{question} {step}".strip()))


FORMATS = {form.name: form for form in (
    # our own, without a chat
    Format("bundled", _lines, "<extra_0>", architecture="Qwen2ForProcessRewardModel"),
    # Qwen/Qwen2.5-Math-PRM-7B, -72B, Qwen2.5-Math-7B-PRM800K
    Format("qwen2.5-math-prm", _qwen, "<extra_0>", chat=True, architecture="Qwen2ForProcessRewardModel"),
    # Skywork/Skywork-o1-Open-PRM-Qwen-2.5-1.5B, -7B; line ends inside a step as in RyanLiu112/compute-optimal-tts
    Format("skywork-o1-open-prm", _begun, "\n", architecture="Qwen2ForPrmModel"),
    # trl's PRMTrainer.tokenize_row: BOS if there is one, steps and separators tokenised apart
    Format("newline", _begun, "\n", architecture="ForTokenClassification"),
    # peiyi9979/math-shepherd-mistral-7b-prm: a line a step
    Format("math-shepherd", _spaced, " ки", "\n", labels=("+", "-"), special=True, names=("math-shepherd",)),
    # HanningZhang/Llama3.1-Math-PRM (README of hanningzhang/ER-PRM): as Math-Shepherd on one line
    Format("er-prm", _spaced, " ки", labels=(" +", " -"), special=True, names=("llama3.1-math-prm",)),
    # openreasoner/Math-psa (openreasoner/openr, prm/infer_fns.py and reason/inference/rm_call.py)
    Format("math-psa", _spaced, " \n\n\n\n\n", " ", labels=(" +", " -"), names=("math-psa",)),
    # UW-Madison-Lee-Lab/VersaPRM and its kin, Llama-PRM800K
    Format("versaprm", _versa, " \n\n\n\n", labels=("+", "-"), special=True, names=("versaprm", "llama-prm800k")),
    # RLHFlow/Llama3.1-8B-PRM-Mistral-Data, -Deepseek-Data: a step a turn
    Format("rlhflow", _rlhflow, "", labels=(RIGHT, "-"), chat=True, turns=True,
           names=("8b-prm-mistral-data", "8b-prm-deepseek-data")),
)}  # fmt: skip


def form_of(family: str | None, architectures: Iterable[str], names: Iterable[str], has_chat: bool) -> Format:
    """The row that a user named, else that of the model's class, else that of its hub name (`names`: the last two parts of
    any of them). Raises ConfigError if there is none or the class cannot be of that family."""
    classes = list(architectures)
    form = FORMATS[family] if family else _recognise(classes, names, has_chat)
    if form is None:
        raise ConfigError(
            f"architectures {classes}: not a known PRM (a language model is recognised by its hub name); set scorer.family "
            f"to one of {', '.join(FORMATS)}, or use a model of one of them" + _outcome_hint(classes)
        )
    if classes and not any(name.endswith(form.architecture) for name in classes):
        raise ConfigError(
            f"scorer.family {form.name}: its models are *{form.architecture}, this one is {', '.join(classes)}; "
            "use a model of this family, or another family"
        )
    return form


def _recognise(classes: list[str], names: Iterable[str], has_chat: bool) -> Format | None:
    if "Qwen2ForProcessRewardModel" in classes:
        return FORMATS["qwen2.5-math-prm" if has_chat else "bundled"]
    own = [f for f in FORMATS.values() if not f.names and any(name.endswith(f.architecture) for name in classes)]
    ends = ["/".join(name.rstrip("/").split("/")[-2:]).lower() for name in names]
    named = [f for f in FORMATS.values() if any(part in end for part in f.names for end in ends)]
    return next(iter(own + named), None)


def _outcome_hint(classes: list[str]) -> str:
    return "; it judges whole answers: name it as outcome.model" if any(judges_wholes(c) for c in classes) else ""


def check_family(family: str | None) -> None:
    """Raises ConfigError for a family that is no row of the table."""
    if family is not None and family not in FORMATS:
        raise ConfigError(f"scorer.family = {family!r}: unknown; known: {', '.join(FORMATS)}")


# Outcome models: a conversation that the chat template renders with the finished answer, no generation prompt


def judges_wholes(architecture: str) -> bool:
    """Whether a model class gives whole answers one value."""
    return architecture == "Qwen2ForRewardModel" or architecture.endswith("ForSequenceClassification")


def system_of(architectures: Iterable[str]) -> str | None:
    """System prompt of an outcome model by its class: Qwen/Qwen2.5-Math-RM-72B has one, cards of sequence classifiers
    (Skywork/Skywork-Reward-*) have none. Raises ConfigError for a class that is no outcome model."""
    classes = list(architectures)
    if classes and not any(map(judges_wholes, classes)):
        raise ConfigError(
            f"outcome.model: {', '.join(classes)} is no outcome model; use a *ForSequenceClassification or "
            "a Qwen2ForRewardModel, or name a PRM as scorer.model"
        )
    return QWEN_SYSTEM if "Qwen2ForRewardModel" in classes else None
