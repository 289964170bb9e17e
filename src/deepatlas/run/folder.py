"""What a run is on disk: names of files, reading and writing them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from deepatlas.data.config import ALIGNED
from deepatlas.data.plan import Plan
from deepatlas.data.reference import Alignment, pack, unpack
from deepatlas.errors import BadInput
from deepatlas.io.atomic import PARTIAL, remove_leftovers, write_bytes, write_json, write_text
from deepatlas.networks.registration import build_registration
from deepatlas.networks.segmentation import build_segmentation
from deepatlas.training.checkpoint import CheckpointStore, plain_tensors
from deepatlas.training.log import Log
from deepatlas.training.recipe import NETWORKS, Recipe, parse_recipe, to_tree

FORMAT = "1"  # of the safetensors files
BEFORE_CONFIG = {  # written in this order
    "lock", "reference.safetensors", "plan.json", "alignment.json", "split.json",
    "environment.json", "started_from.json",
}  # fmt: skip


class RunFolder:
    """A run folder, finished or not.

    Parameters
    ----------
    path : the folder; it need not exist before `create`.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """An existing run; BadInput where the folder is none."""
        run = cls(path)
        if not run.exists():
            raise BadInput(
                f"{run.path}: not a run folder (no config.yaml in it); "
                "give the folder that `deepatlas train COHORT --out RUN` wrote"
            )
        return run

    def exists(self) -> bool:
        """Whether training has ever begun here."""
        return (self.path / "config.yaml").is_file()

    def is_free(self) -> bool:
        """Whether a run may begin here: nothing is here, or what a killed beginning left."""
        if not self.path.exists():
            return True
        if not self.path.is_dir():
            return False
        names = {path.name for path in self.path.iterdir() if not path.name.startswith(PARTIAL)}
        return names <= BEFORE_CONFIG

    def tidy(self) -> None:
        """Remove half-written files of killed processes; for the process that holds the lock."""
        remove_leftovers(self.path, older_than_s=0)

    @property
    def config(self) -> dict[str, Any]:
        """The resolved recipe as plain values."""
        path = self.path / "config.yaml"
        try:
            return yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise BadInput(f"{path}: cannot be read ({error}); restore it or train again") from None

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe."""
        return parse_recipe(self.config, what=str(self.path / "config.yaml"))

    @property
    def plan(self) -> Plan:
        """How scans are prepared."""
        content = self._json("plan.json")
        path = self.path / "reference.safetensors"
        aligned = isinstance(content, dict) and content.get("align") in ALIGNED
        try:
            return Plan.from_json(content, unpack(path) if aligned else None)
        except ValueError as error:
            raise BadInput(f"{self.path / 'plan.json'}: {error}") from None

    def write_plan(self, plan: Plan) -> None:
        """Write the plan, and beside it what scans are aligned to."""
        if plan.reference is not None:
            write_bytes(self.path / "reference.safetensors", pack(plan.reference))
        write_json(self.path / "plan.json", plan.to_json())

    @property
    def alignment(self) -> dict[str, Alignment]:
        """How each scan of the cohort was aligned, by id; empty where none was by its image."""
        if not self._has("alignment.json"):
            return {}
        scans = self._json("alignment.json")["scans"]
        return {identifier: Alignment.from_json(entry) for identifier, entry in scans.items()}

    @property
    def split(self) -> dict[str, Any]:
        """Ids: train, validation, test, labelled (whose labels trained it), unused.

        And `cohort`, its folder; `annotated`, label values by id, where not all were annotated;
        `content` and `label_content`, SHA-256 of its files by id.
        """
        return self._json("split.json")

    @property
    def started_from(self) -> list[dict[str, Any]]:
        """The runs that it started from, the nearest first: `path` and `split`, at that time.

        And `weights` of the first, SHA-256 by network. Empty where nothing is recorded.
        """
        return self._json("started_from.json") if self._has("started_from.json") else []

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, device, threads."""
        return self._json("environment.json")

    @property
    def state(self) -> dict[str, Any]:
        """Stage, step, finished, seconds, and steps of the stages; what `State` has."""
        return self._json("state.json")

    @property
    def checkpoints(self) -> CheckpointStore:
        """Where resuming starts from."""
        return CheckpointStore(self.path / "checkpoint")

    def training_log(self) -> Log:
        """The log, to be written to."""
        return Log(self.path / "log.jsonl")

    def log(self) -> list[dict[str, Any]]:
        """All events of the log."""
        return self.training_log().read()

    def evaluations(self) -> list[dict[str, Any]]:
        """The evaluations made of this run, oldest first."""
        return self._json("evaluations.json") if self._has("evaluations.json") else []

    def add_evaluation(self, entry: Mapping[str, Any]) -> None:
        """Note an evaluation; one of the same folder is replaced."""
        others = [e for e in self.evaluations() if e.get("out") != entry.get("out")]
        write_json(self.path / "evaluations.json", [*others, dict(entry)])

    def write(self, name: str, value: Any) -> None:
        """Write one of the JSON files."""
        write_json(self.path / name, value)

    def write_config(self, recipe: Recipe) -> None:
        """Write the resolved recipe."""
        text = yaml.safe_dump(to_tree(recipe), sort_keys=False)
        write_text(self.path / "config.yaml", text)

    def network_names(self) -> list[str]:
        """Networks that this run has finished weights for."""
        return [name for name in NETWORKS if self._has(f"{name}.safetensors")]

    def write_network(self, name: str, weights: Mapping[str, Tensor], recipe: Recipe) -> None:
        """Write a chosen network with all that building it again needs."""
        plan = self.plan
        facts = {
            "format": FORMAT,
            "kind": name,
            "network": json.dumps(recipe.networks[name]),
            "ndim": str(len(plan.shape)),
            "classes": str(plan.classes),
        }
        content = save(plain_tensors(weights), facts)
        write_bytes(self.path / f"{name}.safetensors", content)

    def network(self, name: str, device: torch.device | str = "cpu") -> nn.Module:
        """A chosen network in eval mode; BadInput where the run has none."""
        path = self.path / f"{name}.safetensors"
        if not path.is_file():
            raise BadInput(
                f"{self.path}: this run has no {name} network ({path.name} is missing); "
                f"finish its training, or use a recipe that trains one"
            )
        try:
            with safe_open(path, "pt", device="cpu") as file:
                facts = file.metadata() or {}
                weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            if facts["format"] != FORMAT:
                raise ValueError(f"format {facts['format']}, expected {FORMAT}")
            network = _built(name, facts)
            network.load_state_dict(weights)
        except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise BadInput(
                f"{path}: not a {name} network that can be read here ({reason}); restore "
                "the file, use the version of deepatlas that wrote it, or train again"
            ) from None
        return network.to(device).eval().requires_grad_(False)

    def segmentation_network(self, device: torch.device | str = "cpu") -> nn.Module:
        """The chosen segmentation network."""
        return self.network("segmentation", device)

    def registration_network(self, device: torch.device | str = "cpu") -> nn.Module:
        """The chosen registration network."""
        return self.network("registration", device)

    def _has(self, name: str) -> bool:
        return (self.path / name).is_file()

    def _json(self, name: str) -> Any:
        path = self.path / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadInput(
                f"{path}: cannot be read ({error}); the run folder is not whole, train again"
            ) from None


def _built(name: str, facts: Mapping[str, str]) -> nn.Module:
    """The network that the facts in a safetensors file describe, with any weights."""
    spec, ndim = json.loads(facts["network"]), int(facts["ndim"])
    if name == "segmentation":
        return build_segmentation(spec, ndim=ndim, classes=int(facts["classes"]))
    return build_registration(spec, ndim=ndim)
