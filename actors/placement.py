"""Which replicas lie together on which card. Pure: knows no Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from treesearch.backends.none import NoModel
from treesearch.config import Config, specs_in

ROLES = ("proposer", "scorer", "outcome")
WHOLE = 1 - 1e-9  # shares that add up to less leave room on a card


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of one replica: its role, its number in it, and what it takes. `gpus` below 1 is a share of a card."""

    role: str
    number: int
    gpus: float
    resources: Mapping[str, float]

    @property
    def name(self) -> str:
        return f"{self.role} {self.number}"


@dataclass(slots=True)
class Bundle:
    """Slots that must lie on one machine and, where they take shares, on one card; started one after another."""

    slots: list[Slot] = field(default_factory=list)

    @property
    def gpus(self) -> float:
        return sum(slot.gpus for slot in self.slots)

    def resources(self) -> dict[str, float]:
        """What Ray must find on one machine."""
        total: dict[str, float] = {"GPU": max(1.0, self.gpus)} if self.gpus else {}
        for slot in self.slots:
            for name, amount in slot.resources.items():
                total[name] = total.get(name, 0.0) + amount
        return total


def plan(config: Config) -> list[Bundle]:
    """Bundles for all replicas of a config, proposers and scorers in turn, each in the first card with room for it."""
    slots = [_slots(config, role) for role in ROLES]
    bundles: list[Bundle] = []
    for k in range(max(map(len, slots))):
        for slot in (row[k] for row in slots if k < len(row)):
            home = next(
                (b for b in bundles if 0 < slot.gpus < WHOLE and b.gpus < WHOLE and 0 < b.gpus <= 1 - slot.gpus + 1e-9),
                None,
            )
            if home is None:
                home = Bundle()
                bundles.append(home)
            home.slots.append(slot)
    return bundles


def _slots(config: Config, role: str) -> list[Slot]:
    spec, cluster = getattr(config, role), config.cluster
    if isinstance(spec, NoModel):
        return []
    proposes = role == "proposer"
    gpus = cluster.gpus_per_proposer if proposes else cluster.gpus_per_scorer
    resources = cluster.proposer_resources if proposes else cluster.scorer_resources
    count = cluster.proposers if proposes else cluster.scorers
    return [Slot(role, k, gpus_of(spec, gpus), resources) for k in range(count)]


def gpus_of(spec: object, asked: float) -> float:
    """GPUs of a replica: none for a backend that cannot use one, one for each tensor-parallel rank at least.

    What counts are the models in it: a judge uses a GPU if the model that it asks does.
    """
    engines = [
        inner for inner in specs_in(spec) if hasattr(inner, "gpu_memory_utilization") or hasattr(inner, "device")
    ]
    if not engines or not asked:
        return 0.0
    ranks = max(int(getattr(engine, "tensor_parallel_size", 1)) for engine in engines)
    return float(max(asked, ranks)) if ranks > 1 else asked
