"""What a training does where nobody said so: rates, the frozen phase, seed and number format."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch

from discriminator.training.options import TrainerOptions
from discriminator.training.recipe import Recipe
from training.precision import resolve_precision

# Learning rates of networks that have no batch normalisation, or would saturate.
RATES = {"custom_cnn": 1e-3, "blur_noise_cnn": 1e-3, "capsnet": 3e-4, "vgg16": 1e-4, "vggface": 1e-4}
USUAL_RATE = 2e-3
BORROWED_RATE = 5e-4  # at most, where layers came with weights
SEED, SEED_OF_FOLDS = 0, 42


def settled(
    o: TrainerOptions, asked: Mapping[str, Any], written: Collection[str] = (), *, folds: bool = False
) -> tuple[Recipe, str]:
    """The recipe of a training, and a note for people ("" for none).

    asked: values of `Recipe`'s fields, None for what is to be found here. written: the fields that were asked for by
    name; what `o.recipe_file` sets beside them is the file's.
    """
    values = dict(asked)
    rate, note = RATES.get(o.model, USUAL_RATE), ""
    file = {} if o.recipe_file is None else {k.replace("-", "_"): v for k, v in o.recipe_file["options"].items()}
    files = set(file) - set(written)  # said by the file alone
    if "frozen_epochs" in files and values["frozen_epochs"]:
        if not o.borrows:
            # the phase is for layers that come with weights: without any, all learn at its rate at once
            values["frozen_epochs"] = 0.0
            if "lr" in files:
                values["lr"] = min(values["head_lr"], rate)
            at = "" if values["lr"] is None else f" at {values['lr']:g}"
            note = f"no weights to begin from: no frozen phase, everything learns{at}"
        elif "epochs" not in files:  # it keeps its share of fewer epochs
            values["frozen_epochs"] *= min(1.0, values["epochs"] / float(file.get("epochs", Recipe.epochs)))
    frozen = 1.0 if o.borrows and values["epochs"] > 1 else 0.0
    found = {
        "lr": min(rate, BORROWED_RATE) if o.borrows else rate,
        "frozen_epochs": frozen,
        "seed": SEED_OF_FOLDS if folds else SEED,
    }
    values |= {name: value for name, value in found.items() if values[name] is None}
    values["precision"] = resolve_precision(values["precision"], torch.device(o.device))
    return Recipe(**values), note
