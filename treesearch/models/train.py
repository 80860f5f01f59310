"""The recipe of the bundled models: `python -m treesearch.models.train --out DIR`.

1. A tokenizer: bytes, and whole numbers up to 99 as single tokens.
2. A proposer (Qwen2ForCausalLM), trained from scratch on legal steps, only some of which lead to a solution.
3. A PRM (Qwen2ForProcessRewardModel), started from the proposer's body and trained on the proposer's own samples,
   wrong arithmetic included; label of a step: all arithmetic so far is right and the target can still be reached.

No test puzzle (indices 900 to 999 of the published benchmark), as a multiset, is in any training data.
Everything is drawn from `--seed`; the model card with data, parameters, time and measured quality is written beside
the weights.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import AddedToken, pre_tokenizers
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from treesearch.models.qwen2_prm import Qwen2ForProcessRewardModel
from treesearch.tasks.arithmetic import Move, Numbers, moves, reachable
from treesearch.tasks.puzzles import TEST_PUZZLES

TARGET, LARGEST = 24, 99
END, STEP, LENGTH = "<|endoftext|>", "<extra_0>", 48
SHAPE: dict[str, Any] = {"hidden_size": 192, "intermediate_size": 576, "num_hidden_layers": 4, "num_attention_heads": 3,
         "num_key_value_heads": 3, "max_position_embeddings": 512, "tie_word_embeddings": True}  # fmt: skip


# Tokenizer


def make_tokenizer() -> Qwen2Tokenizer:
    """All bytes, and whole tokens for " 0" to " 99", "10" to "99", the operators and " (left:".

    transformers gives every Qwen2 model the Qwen2 pre-tokenizer, which splits digits; so the whole numbers are added
    tokens, which are found before it. Their entries in the vocabulary fix their ids.
    """
    pieces = [f" {c}" for c in "0123456789+-*/="]
    pieces += [a + str(n) for n in range(10, 100) for a in ("", " ")]
    pieces += [" (left:"[:k] for k in range(2, 8)]
    vocab = {token: k for k, token in enumerate([*sorted(pre_tokenizers.ByteLevel.alphabet()), *pieces, END, STEP])}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[], model_max_length=512)
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in pieces])
    tokenizer.add_tokens([AddedToken(STEP, special=True, normalized=False)])
    return tokenizer


def encode(tokenizer: Qwen2Tokenizer, texts: Sequence[str]) -> np.ndarray:
    """Token ids [texts, LENGTH] int16, padded at the right with -1."""
    out = np.full((len(texts), LENGTH), -1, np.int16)
    for start in range(0, len(texts), 50_000):
        batch = tokenizer.backend_tokenizer.encode_batch_fast(list(texts[start : start + 50_000]))
        for row, encoding in enumerate(batch, start):
            out[row, : len(encoding.ids)] = encoding.ids[:LENGTH]
    return out


# Data


def training_puzzles() -> list[Numbers]:
    """All multisets of four numbers from 1 to 13 but the test puzzles; the unsolvable ones teach arithmetic."""
    test = {tuple(sorted(p)) for p in TEST_PUZZLES}
    return [m for m in itertools.combinations_with_replacement(range(1, 14), 4) if m not in test]


def question(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))


def render(move: Move) -> str:
    return f"{move.a} {move.op} {move.b} = {move.result} (left: {question(move.left)})"


def random_chain(numbers: Numbers, skill: float, rng: random.Random) -> list[Move]:
    """Legal moves down to one number; each is, with probability `skill`, one that keeps the target in reach."""
    chain: list[Move] = []
    while len(numbers) > 1:
        options = moves(numbers, LARGEST)
        good = [m for m in options if reachable(m.left, TARGET, LARGEST)]
        chain.append(rng.choice(good if good and rng.random() < skill else options))
        numbers = chain[-1].left
    return chain


def shuffled(numbers: Numbers, rng: random.Random) -> list[int]:
    """Half of the questions keep their sorted order, as published; half do not, for other people's puzzles."""
    return list(numbers) if rng.random() < 0.5 else rng.sample(numbers, len(numbers))


def proposer_texts(count: int, skill: float, rng: random.Random) -> list[str]:
    puzzles = training_puzzles()
    solvable = [p for p in puzzles if reachable(p, TARGET, LARGEST)]
    texts = []
    for _ in range(count):
        numbers = rng.choice(solvable if rng.random() < 0.8 else puzzles)
        steps = "\n".join(map(render, random_chain(numbers, skill, rng)))
        texts.append(f"{question(shuffled(numbers, rng))}\n{steps}{END}")
    return texts


@cache
def legal_steps(numbers: Numbers) -> dict[str, Move]:
    """All legal moves by their text."""
    return {render(move): move for move in moves(numbers, LARGEST)}


def labels(numbers: Numbers, steps: Sequence[str]) -> list[int]:
    """1 for each step that is legal arithmetic after legal arithmetic and keeps the target in reach, else 0."""
    out: list[int] = []
    for step in steps:
        move = legal_steps(numbers).get(step)
        if move is None or not reachable(move.left, TARGET, LARGEST):
            return out + [0] * (len(steps) - len(out))
        out.append(1)
        numbers = move.left
    return out


def corrupted(chain: list[Move], rng: random.Random) -> list[str]:
    """The chain's steps with one wrong: a wrong result, or a wrong list of what is left. Nothing may follow it."""
    k = rng.randrange(len(chain))
    move = chain[k]
    if rng.random() < 0.6:
        kept = list(move.left)
        kept.remove(move.result)
        wrong = TARGET if rng.random() < 0.5 else max(0, move.result + rng.choice([-10, -3, -2, -1, 1, 2, 3, 10]))
        move = move._replace(result=wrong, left=tuple(sorted([*kept, wrong])))
    else:
        left = list(move.left)
        left[rng.randrange(len(left))] = TARGET if len(left) == 1 else rng.randint(1, 24)
        move = move._replace(left=tuple(sorted(left)))
    return [render(m) for m in chain[:k]] + [render(move)]


# Training


def batches(arrays: Sequence[np.ndarray], size: int, steps: int, seed: int) -> Iterator[list[torch.Tensor]]:
    """`steps` shuffled batches, epoch after epoch, cut to the longest row."""
    rng = np.random.default_rng(seed)
    order = np.empty(0, np.int64)
    for _ in range(steps):
        if len(order) < size:
            order = np.concatenate([order, rng.permutation(len(arrays[0]))])
        rows, order = order[:size], order[size:]
        width = int((arrays[0][rows] >= 0).sum(1).max())
        yield [torch.from_numpy(a[rows][:, :width].astype(np.int64)) for a in arrays]


def fit(
    model: torch.nn.Module, loss_of: Any, data: Iterator[list[torch.Tensor]], steps: int, rate: float, name: str
) -> float:
    """AdamW with warm-up and cosine decay; returns the wall time in seconds."""
    start = time.monotonic()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.05)
    model.train()
    recent: list[float] = []
    for k, batch in enumerate(data, 1):
        with torch.autocast("cpu", torch.bfloat16):  # twice as fast as fp32 on a processor with AVX-512 BF16
            loss = loss_of(model, *batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        recent.append(loss.item())
        if k % 50 == 0 or k == steps:
            seconds = time.monotonic() - start
            print(f"{name} {k}/{steps} loss {sum(recent) / len(recent):.4f} {seconds:.0f} s", flush=True)
            recent.clear()
    model.eval()
    return time.monotonic() - start


def proposer_loss(model: Qwen2ForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the steps; the question (the first five tokens) is given, not predicted."""
    hidden = model.model(input_ids=ids.clamp(min=0)).last_hidden_state[:, 4:-1]
    targets = ids[:, 5:]
    keep = targets >= 0
    return F.cross_entropy(model.lm_head(hidden[keep]), targets[keep])


def prm_loss(model: Qwen2ForProcessRewardModel, ids: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Two-class cross-entropy at the step tokens; `target` is -1 elsewhere."""
    hidden = model.model(input_ids=ids.clamp(min=0)).last_hidden_state
    keep = target >= 0
    return F.cross_entropy(model.score(hidden[keep]), target[keep])


@torch.inference_mode()
def sample(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, questions: Sequence[str], temperature: float,
           generator: torch.Generator) -> list[list[str]]:  # fmt: skip
    """One chain a question: its steps as texts."""
    texts: list[list[str]] = []
    for start in range(0, len(questions), 1024):
        prompts = [f"{q}\n" for q in questions[start : start + 1024]]
        ids = torch.tensor(tokenizer(prompts)["input_ids"])
        width = ids.shape[1]
        step, cache = ids, None
        done = torch.zeros(len(prompts), dtype=torch.bool)
        while not done.all() and ids.shape[1] < LENGTH:
            out = model(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, logits = out.past_key_values, out.logits[:, -1]
            if temperature == 0:
                step = logits.argmax(-1, keepdim=True)
            else:
                step = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
            step[done] = tokenizer.eos_token_id
            done |= step[:, 0] == tokenizer.eos_token_id
            ids = torch.cat([ids, step], 1)
        texts += [t.split("\n") for t in tokenizer.batch_decode(ids[:, width:], skip_special_tokens=True)]
    return texts


def prm_arrays(tokenizer: Qwen2Tokenizer, rows: Sequence[tuple[str, Sequence[str], Sequence[int]]]):
    """(ids, targets) [rows, LENGTH]: `question \\n step <extra_0> step <extra_0> ...`, labels at the step tokens."""
    ids = encode(tokenizer, [f"{q}\n" + "".join(s + STEP for s in steps) for q, steps, _ in rows])
    targets = np.full_like(ids, -1)
    step_id = tokenizer.convert_tokens_to_ids(STEP)
    for k, (_, _, label) in enumerate(rows):
        at = np.flatnonzero(ids[k] == step_id)
        targets[k, at] = label[: len(at)]
    return ids, targets


def prm_rows(model, tokenizer, count: int, sampled: int, rng: random.Random, generator: torch.Generator):
    """`sampled` of the proposer's own chains at temperatures 0.7 to 1.5; the rest random legal ones, some corrupted."""
    puzzles = training_puzzles()
    solvable = [p for p in puzzles if reachable(p, TARGET, LARGEST)]
    rows = []
    for temperature in (0.7, 1.0, 1.0, 1.2, 1.5):
        chosen = [rng.choice(solvable if rng.random() < 0.85 else puzzles) for _ in range(sampled // 5)]
        asked = [question(shuffled(n, rng)) for n in chosen]
        for numbers, q, steps in zip(
            chosen, asked, sample(model, tokenizer, asked, temperature, generator), strict=True
        ):
            steps = [s for s in steps if s][:4]
            if steps:
                rows.append((q, steps, labels(numbers, steps)))
    while len(rows) < count:
        numbers = rng.choice(solvable)
        chain = random_chain(numbers, rng.choice([0.2, 0.5, 0.8]), rng)
        steps = corrupted(chain, rng) if rng.random() < 0.2 else [render(m) for m in chain]
        rows.append((question(shuffled(numbers, rng)), steps, labels(numbers, steps)))
    return rows


# Quality, measured on the test puzzles


def auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Area under the ROC curve: P(a right step scores above a wrong one), ties count half."""
    from scipy.stats import rankdata

    good = int(truth.sum())
    bad = len(truth) - good
    return (
        float((rankdata(scores)[truth == 1].sum() - good * (good + 1) / 2) / (good * bad))
        if good and bad
        else float("nan")
    )


def measure_proposer(model, tokenizer, generator: torch.Generator) -> dict[str, float]:
    def graded(repeat: int, temperature: float) -> tuple[float, float]:
        puzzles = [tuple(sorted(p)) for p in TEST_PUZZLES for _ in range(repeat)]
        solved = illegal = steps_seen = 0
        for numbers, steps in zip(
            puzzles, sample(model, tokenizer, [question(p) for p in puzzles], temperature, generator), strict=True
        ):
            solved += len(steps) == 3 and labels(numbers, steps)[-1] == 1
            for step in steps:
                move = legal_steps(numbers).get(step)
                steps_seen += 1
                if move is None:
                    illegal += 1
                    break
                numbers = move.left
        return solved / len(puzzles), illegal / steps_seen

    greedy, greedy_illegal = graded(1, 0.0)
    sampled, illegal = graded(64, 1.0)
    return {
        "greedy_accuracy": greedy,
        "greedy_illegal_steps": greedy_illegal,
        "sample_accuracy": sampled,
        "illegal_steps": illegal,
    }


@torch.inference_mode()
def measure_prm(model, ids: np.ndarray, targets: np.ndarray, depth_of: np.ndarray) -> dict[str, float]:
    """AUC at each depth; `depth_of` [rows, LENGTH] numbers the step tokens from 1."""
    probability = np.zeros(ids.shape)
    for start in range(0, len(ids), 2048):
        block = torch.from_numpy(ids[start : start + 2048].astype(np.int64)).clamp(min=0)
        probability[start : start + 2048] = model(block).softmax(-1)[..., 1].numpy()
    return {f"auc_step_{d}": auc(probability[depth_of == d], targets[depth_of == d]) for d in (1, 2, 3)}


def depths(targets: np.ndarray) -> np.ndarray:
    return np.where(targets >= 0, np.cumsum(targets >= 0, axis=1), 0)


def save(model, tokenizer, folder: Path, card: dict[str, Any], text: str) -> None:
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model.float()
    lines = "\n".join(
        f"- {key}: {value:.4g}" if isinstance(value, float) else f"- {key}: {value}" for key, value in card.items()
    )
    (folder / "README.md").write_text(f"---\nlicense: apache-2.0\n---\n{text}\n\n## Measured\n\n{lines}\n")
    (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n")


PROPOSER_CARD = """# treesearch bundled proposer

A small Qwen2ForCausalLM that proposes steps for the Game of 24, trained from scratch by `python -m treesearch.models.train`.
Data: random legal moves in whole numbers up to 99 on the multisets of four numbers from 1 to 13 without the 100 test
puzzles; each move keeps the target in reach with the probability `skill`, else it is drawn from all legal moves. So it is
a fair, weak reasoner. It knows no other task. `illegal_steps` is the share of wrong steps at temperature 1."""
PRM_CARD = """# treesearch bundled PRM

A small Qwen2ForProcessRewardModel for the Game of 24: `question \\n step <extra_0> step <extra_0> ...`, probability of
class 1 at each `<extra_0>`. Started from the bundled proposer's body; trained on that proposer's samples (wrong
arithmetic included) and on random chains, some corrupted, of the training puzzles. Label of a step: all arithmetic so far
is right and 24 can still be reached in whole numbers up to 99. `auc_step_k` is measured on samples for the test puzzles."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skill", type=float, default=0.4)
    parser.add_argument("--proposer-steps", type=int, default=900)
    parser.add_argument("--prm-steps", type=int, default=1300)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--prm-rows", type=int, default=350_000)
    parser.add_argument("--prm-sampled", type=int, default=60_000)
    parser.add_argument("--only", choices=["proposer", "prm"], default=None)
    args = parser.parse_args()
    rng, generator = random.Random(args.seed), torch.Generator().manual_seed(args.seed)
    torch.manual_seed(args.seed)
    tokenizer = make_tokenizer()
    config = Qwen2Config(vocab_size=-(-len(tokenizer) // 64) * 64, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
                         pad_token_id=tokenizer.pad_token_id, **SHAPE)  # fmt: skip
    if args.only != "prm":
        data = encode(tokenizer, proposer_texts(args.proposer_steps * args.batch // 2, args.skill, rng))
        proposer = Qwen2ForCausalLM(config)
        seconds = fit(
            proposer,
            proposer_loss,
            batches([data], args.batch, args.proposer_steps, args.seed),
            args.proposer_steps,
            3e-3,
            "proposer",
        )
        card = {"parameters": sum(p.numel() for p in proposer.parameters()), "seed": args.seed, "skill": args.skill,
                "training_chains": len(data), "training_tokens": int((data >= 0).sum()) * 2, "seconds": seconds,
                "threads": torch.get_num_threads(), **measure_proposer(proposer, tokenizer, generator)}  # fmt: skip
        print(json.dumps(card, indent=1), flush=True)
        save(proposer, tokenizer, args.out / "proposer", card, PROPOSER_CARD)
    if args.only != "proposer":
        proposer = Qwen2ForCausalLM.from_pretrained(args.out / "proposer", dtype=torch.float32).eval()
        ids, targets = prm_arrays(
            tokenizer, prm_rows(proposer, tokenizer, args.prm_rows, args.prm_sampled, rng, generator)
        )
        prm = Qwen2ForProcessRewardModel(config)
        prm.model.load_state_dict(proposer.model.state_dict())
        seconds = fit(
            prm, prm_loss, batches([ids, targets], args.batch, args.prm_steps, args.seed), args.prm_steps, 1.5e-3, "prm"
        )
        asked = [tuple(sorted(p)) for p in TEST_PUZZLES for _ in range(64)]
        chains = sample(proposer, tokenizer, [question(p) for p in asked], 1.0, generator)
        rows = [(question(p), s, labels(p, s)) for p, s in zip(asked, chains, strict=True)]
        test_ids, test_targets = prm_arrays(tokenizer, rows)
        card = {"parameters": sum(p.numel() for p in prm.parameters()), "seed": args.seed, "training_chains": len(ids),
                "training_tokens": int(args.prm_steps * args.batch * (ids >= 0).sum(1).mean()), "seconds": seconds,
                "threads": torch.get_num_threads(),
                **measure_prm(prm, test_ids, test_targets, depths(test_targets))}  # fmt: skip
        print(json.dumps(card, indent=1), flush=True)
        save(prm, tokenizer, args.out / "prm", card, PRM_CARD)


if __name__ == "__main__":
    main()
