"""One step as a rank of a distributed launch; rank 0 writes what all ranks kept, the loss and a projection of the gradient."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from selbench.config import Cell, load_protocol
from selbench.loop import Backbone, distil_step
from selbench.models import PAIRS, load_pair
from selbench.provenance import Clock
from selbench.strategy import STRATEGIES
from tests.test_invariants import kept_tokens, reordered, rollouts_of


def main(out: Path) -> None:
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    protocol = load_protocol("tiny", ["training.micro_batch=4"])
    strategy = STRATEGIES.get("tip_softor")
    cell = Cell(
        protocol=protocol, pair=protocol.pairs[0], strategy=strategy.name, version=1, budget=0.2, seed=0, role="contender", source=""
    )
    pair = load_pair(PAIRS.get("tiny"), protocol.model.model_dump(), "cpu")
    whole = rollouts_of(pair)
    mine = reordered(whole, range(accelerator.process_index, len(whole), accelerator.num_processes))
    body, optimiser = accelerator.prepare(Backbone(pair.student), torch.optim.SGD(pair.student.parameters(), lr=0.0))
    step = distil_step(accelerator, cell, pair, body, optimiser, mine, Clock(), 1)
    kept = gather_object([sorted(kept_tokens(step))])
    if accelerator.is_main_process:
        gradient = torch.cat([p.grad.flatten() for p in pair.student.parameters() if p.grad is not None])
        direction = torch.linspace(-1, 1, len(gradient))
        facts = {
            "ranks": accelerator.num_processes, "kept": sorted(tuple(t) for rank in kept for t in rank), "loss": step.record["loss"],
            "gradient": [float(gradient.norm()), float(gradient @ direction)],
        }  # fmt: skip
        out.write_text(json.dumps(facts))
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
