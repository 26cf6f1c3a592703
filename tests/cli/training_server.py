"""Runs `train_gan.py` again and again, each time in a process of its own that need not import torch first.

Started by the tests as a program. Each line of standard input is a job {"argv", "out", "cwd", "env"}; a fork runs it
with stdout in the file `out` and stderr in `out`.err. Answers: its process id, then its exit status. Forking is safe
here: this process itself never computes anything.

The networks of `--cfg tiny` are made smaller still, so that a step takes milliseconds; with FACES_TEST_WIDENING they
are wider at a higher resolution, as the presets `tiny` and `auto` are.
"""

import dataclasses
import faulthandler
import gc
import importlib.util
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HANGS = float(os.environ.get("FACES_TEST_PATIENCE", 100))  # seconds; a job takes a few, a loaded machine some more


def main() -> None:
    sys.path.insert(0, str(ROOT))
    import torch
    import torch.utils.tensorboard  # noqa: F401 - imported here once instead of in every job

    import adversarial.config
    import adversarial.run  # noqa: F401

    torch.set_num_threads(1)
    shrink(adversarial.config)
    spec = importlib.util.spec_from_file_location("train_gan_script", ROOT / "train_gan.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    gc.freeze()  # a job needs not look at all of PyTorch's objects: that copies their memory
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if not pid:
            for stream, name in ((1, job["out"]), (2, job["out"] + ".err")):
                os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), stream)
            faulthandler.dump_traceback_later(HANGS, exit=True)  # a job that hangs tells where
            os.chdir(job["cwd"])
            os.environ.update(job["env"])
            sys.argv = ["train_gan.py", *job["argv"]]
            script.run(script.main, job["argv"])
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def shrink(config) -> None:
    """Presets with next to no channels, through the name by which the module calls them."""
    published = config.preset

    def small(cfg: str, resolution: int, *rest: int):
        base = 12 * resolution if os.environ.get("FACES_TEST_WIDENING") else 128
        return dataclasses.replace(
            published(cfg, resolution, *rest), channel_base=base, channel_max=16, z_dim=16, w_dim=16, mapping_layers=2
        )

    config.preset = small


if __name__ == "__main__":
    main()
