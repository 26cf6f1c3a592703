"""One step of the game: the generator's turn, the discriminator's turn, and the averages that outlive them.

StyleGAN2-ADA as published (Karras et al. 2019, arXiv 1912.04958; 2020, arXiv 2006.06676): non-saturating logistic
loss, lazy R1 and path-length regularisation with the matching Adam corrections, style mixing, running average of w,
exponential moving average of the generator, adaptive augmentation. The verdict head of the hybrid discriminator learns
in the discriminator's turn.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from adversarial.config import GameConfig
from adversarial.feed import Feed, on_cpu
from adversarial.losses import fake_loss, generator_loss, path_length_penalty, path_lengths, r1_penalty, real_loss
from adversarial.optimiser import FusedAdam, adam, lazy_adam
from adversarial.replay import Replay
from common.errors import UserError
from discriminator.hybrid import HybridDiscriminator
from discriminator.network import VerdictOut
from discriminator.verdict_loss import VerdictLossConfig, verdict_loss
from faces.dataset import to_float
from stylegan2_ada.ada import AugmentPipe
from stylegan2_ada.ada_controller import AdaController
from stylegan2_ada.ada_pipes import AUGPIPES
from stylegan2_ada.generator import Generator
from stylegan2_ada.ops.native import use_native
from stylegan2_ada.ops.optimise import norm_of_all
from training.processes import Processes
from training.randomness import seed_torch
from training.rollback import Diverged
from training.stats import Stats

MAX_BAD_STEPS = 50  # non-finite gradients in a row before the run gives up
REPLAY_EVERY, REPLAY_IMAGES = 50, 16  # steps between pushes of averaged-generator fakes into the replay, and how many


class Game:
    """All trained state and the step that advances it; data come from `feed`, randomness from (seed, step)."""

    def __init__(self, cfg: GameConfig, world: Processes, feed: Feed) -> None:
        self.cfg, self.world, self.feed = cfg, world, feed
        device, o = world.device, cfg.options
        seed_torch(o.seed, 0, "init")
        dtype = torch.float16 if cfg.precision == "fp16" else torch.bfloat16
        self.G = Generator(cfg.generator).to(device).train()
        self.D = HybridDiscriminator(cfg.hybrid).to(device).train()
        self.G.lowp_dtype = self.D.lowp_dtype = dtype
        world.broadcast([self.G, self.D])
        self.G_ema = copy.deepcopy(self.G).eval().requires_grad_(False)
        self.D_ema = copy.deepcopy(self.D).eval().requires_grad_(False) if cfg.verdict_batch else None
        self.augment = AugmentPipe(AUGPIPES[o.augpipe]).to(device)
        self.augment.set_p(o.p or 0.0)  # given with `aug` fixed only
        self.ada = AdaController(target=o.target, ada_kimg=cfg.ada_kimg, p_max=o.p_max)
        self.frozen = [p for layer in self.D.trunk.layers_inwards()[: o.freezed] for p in layer.parameters()]
        frozen = {id(p) for p in self.frozen}
        self.adversarial_params = [p for p in self.D.adversarial_parameters() if id(p) not in frozen]
        self.verdict_params = list(self.D.verdict_parameters())
        self._all_params = [
            (net, list(net.parameters())) for net in (self.G, self.D)
        ]  # finding them takes milliseconds
        # lazy regularisation: one Adam per network, its rates corrected for the extra steps (StyleGAN2, appendix B)
        self.opt_G = lazy_adam(self.G.parameters(), cfg.lr, cfg.pl_interval if cfg.pl_weight else None)
        self.opt_D = lazy_adam(self.adversarial_params, cfg.lr, cfg.r1_interval if cfg.gamma else None)
        self.opt_V = adam(self.verdict_params, o.verdict_lr, (0.9, 0.99))
        shape = (cfg.generator.img_channels, cfg.resolution, cfg.resolution)
        self.verdict_cfg = VerdictLossConfig(consistency=o.consistency)
        self.replay = Replay(o.replay_capacity, shape, o.seed)
        self.stats = Stats(device)
        self.pl_mean = torch.zeros((), device=device)
        self.signs = torch.zeros(2, device=device)  # sum of sign(D(real)), count, since the last update of p
        self.step_index = 0
        self.bad_steps = 0
        self._in_a_row = dict.fromkeys("GDV", 0)
        self.factor = 1.0  # of every learning rate
        self._rates = [group["lr"] for opt in self._optimisers() for group in opt.param_groups]
        self.asynchronous = device.type == "cuda"  # the host does not wait for the outcome of an update
        self._skipped: dict[str, Tensor] = {}

    @property
    def detector(self) -> HybridDiscriminator:
        """The detector to be: the averaged discriminator, which is there only where a verdict head learns."""
        if self.D_ema is None:
            raise UserError("`verdict_batch` 0: this run trains no detector")
        return self.D_ema

    @property
    def nimg(self) -> int:
        """Real images shown to the discriminator so far."""
        return self.step_index * self.cfg.batch

    # ---- one step ---------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Advance by `cfg.batch` real images."""
        cfg, it = self.cfg, self.step_index
        self._generator_turn(it)
        if cfg.pl_weight and it % cfg.pl_interval == 0:
            self._path_length_turn(it)
        self._discriminator_turn(it)
        if cfg.gamma and it % cfg.r1_interval == 0:
            self._r1_turn(it)
        self._average()
        if cfg.verdict_batch and it % REPLAY_EVERY == 0:
            self.remember(self.sample_ema(REPLAY_IMAGES, "replay", it))
        self.step_index += 1
        if cfg.options.aug == "ada" and self.step_index % cfg.ada_interval == 0:
            sums = self.world.sum(self.signs)
            p = self.ada.update(float(sums[0]), int(sums[1]), cfg.batch * cfg.ada_interval)
            self.augment.set_p(p)
            self.signs.zero_()

    def parts(self) -> range:
        """This process's micro-batches, by their number among all."""
        return range(self.world.rank, self.cfg.micro_batches, self.world.size)

    def _latents(self, count: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """ws [count, num_ws, w_dim] with style mixing, the mean of w before mixing, and the classes (None: none)."""
        G, device = self.G, self.world.device
        z = torch.randn(count, self.cfg.generator.z_dim, device=device)
        c = self._on_device(self.feed.random_classes(count))
        ws = G.mapping(z, c)
        mean = ws[:, 0].detach().float().mean(dim=0)
        if torch.rand(()).item() < self.cfg.style_mixing_prob:
            cutoff = int(torch.randint(1, G.num_ws, ()).item())
            other = G.mapping(torch.randn_like(z), c)
            ws = torch.cat([ws[:, :cutoff], other[:, cutoff:]], dim=1)
        return ws, mean, c

    def _on_device(self, x: Tensor | None) -> Tensor | None:
        return None if x is None else x.to(self.world.device)

    def _reals(self, position: int) -> tuple[Tensor, Tensor | None]:
        """One micro-batch of reals in [-1, 1] and their classes."""
        count = self.cfg.batch_gpu
        reals = to_float(self.feed.reals_at(position, count).to(self.world.device, non_blocking=True))
        return reals, self._on_device(self.feed.classes_at(position, count))

    def _critic(self, images: Tensor, c: Tensor | None) -> Tensor:
        return self.D.adversarial(self.augment(images), c)

    def _generator_turn(self, it: int) -> None:
        cfg, o = self.cfg, self.cfg.options
        self._learn(self.G)
        w_sum = torch.zeros(cfg.generator.w_dim, device=self.world.device)
        for m in self.parts():
            seed_torch(o.seed, it, "Gmain", m)
            ws, w_mean, c = self._latents(cfg.batch_gpu)
            images = self.G.synthesis(ws, noise_mode="random")
            logits = self._critic(images, c)
            loss = generator_loss(logits)
            if o.generator_verdict_weight:
                # Towards «real»: the verdict's positive class is fake. The generator is to fool all of it; what
                # spares the trunk, which does not learn in this turn, would only spoil the direction.
                logit = self.D.verdict(images, into_trunk=1.0).logit
                loss = loss + o.generator_verdict_weight * nn.functional.softplus(logit).mean()
            (loss / cfg.micro_batches).backward()
            w_sum += w_mean / cfg.micro_batches
            self.stats.report("Loss/G/loss", loss)
            self.stats.report("Loss/scores/fake", logits)
            self.stats.report("Loss/signs/fake", logits.sign())
        self.update("G", self.opt_G, self.G.parameters(), extra=w_sum)
        self._track_w(w_sum)

    def _path_length_turn(self, it: int) -> None:
        cfg = self.cfg
        self._learn(self.G)
        mean = torch.zeros(1, device=self.world.device)
        for m in self.parts():
            seed_torch(cfg.options.seed, it, "Greg", m)
            ws, _, _ = self._latents(max(1, cfg.batch_gpu // cfg.pl_batch_shrink))
            images = self.G.synthesis(ws, noise_mode="random")
            lengths = path_lengths(images, ws, torch.randn_like(images))
            penalty, length = path_length_penalty(lengths, self.pl_mean, cfg.pl_decay)
            (penalty * (cfg.pl_weight * cfg.pl_interval / cfg.micro_batches)).backward()
            mean += length / cfg.micro_batches
            self.stats.report("Loss/pl_penalty", penalty)
            self.stats.report("Loss/G/path_length", length)
        self.update("G", self.opt_G, self.G.parameters(), extra=mean, label="Greg")
        # a step that is skipped for its gradient leaves the mean alone, too: no later one would get it out again
        self.pl_mean.lerp_(torch.where(mean[0].isfinite(), mean[0], self.pl_mean), cfg.pl_decay)

    def _discriminator_turn(self, it: int) -> None:
        cfg = self.cfg
        self._learn(self.D)
        w_sum = torch.zeros(cfg.generator.w_dim, device=self.world.device)
        n_verdict = cfg.verdict_part
        for m in self.parts():
            w_sum += self._discriminator_part(it, m, n_verdict) / cfg.micro_batches
        self.update("D", self.opt_D, self.adversarial_params, extra=w_sum)
        if n_verdict:
            self.update("V", self.opt_V, self.verdict_params)
        self._track_w(w_sum)

    def _discriminator_part(self, it: int, m: int, n_verdict: int) -> Tensor:
        """Gradients of one micro-batch of the discriminator's turn; returns the mean of w."""
        cfg, o, device = self.cfg, self.cfg.options, self.world.device
        seed_torch(o.seed, it, "Dmain", m)
        with torch.no_grad():
            ws, w_mean, c = self._latents(cfg.batch_gpu)
            fakes = self.G.synthesis(ws, noise_mode="random")
        reals, real_c = self._reals(it * cfg.batch + m * cfg.batch_gpu)
        if use_native(fakes) and fakes.is_cpu:
            # One pass for both: weights are made ready for a convolution once, and their gradients come as one sum.
            images = torch.cat([self.augment(fakes), self.augment(reals)])
            classes = None if c is None or real_c is None else torch.cat([c, real_c])
            fake_logits, real_logits = self.D.adversarial(images, classes, batches=2).chunk(2)
            of_fakes, of_reals = fake_loss(fake_logits), real_loss(real_logits)
            ((of_fakes + of_reals) / cfg.micro_batches).backward()
        else:  # elsewhere there is nothing to make ready, and one after the other takes half of the memory
            fake_logits = self._critic(fakes, c)
            of_fakes = fake_loss(fake_logits)
            (of_fakes / cfg.micro_batches).backward()
            real_logits = self._critic(reals, real_c)
            of_reals = real_loss(real_logits)
            (of_reals / cfg.micro_batches).backward()
        signs = real_logits.detach().sign()
        self.signs += torch.stack([signs.sum(), torch.full((), float(signs.numel()), device=device)])
        self.stats.report("Loss/D/loss", of_fakes + of_reals)
        self.stats.report("Loss/scores/real", real_logits)
        self.stats.report("Loss/signs/real", signs)
        if n_verdict:
            self.verdict_backward(it, m, n_verdict, on_cpu(fakes))
        return w_mean

    def verdict_backward(self, it: int, m: int, count: int, current: np.ndarray) -> None:
        """Gradients of the verdict's losses for one micro-batch; `current`: uint8 fakes just made."""
        cfg, o, device = self.cfg, self.cfg.options, self.world.device
        clean, degraded, labels = self.feed.verdict(it, m, count, current, self.replay)
        both = bool(o.consistency)
        images = torch.cat([clean, degraded]) if both else degraded
        out = self.D.verdict(to_float(images.to(device, non_blocking=True)))
        labels = labels.to(device, non_blocking=True)
        views = [VerdictOut(*view) for view in zip(*(_chunks(x, len(labels)) for x in out), strict=False)]
        losses = verdict_loss(views[0], labels, degraded=views[1] if both else None, cfg=self.verdict_cfg)
        (losses.total * (o.verdict_weight / cfg.micro_batches)).backward()
        logit = views[-1].logit.detach()
        self.stats.report("Loss/verdict", losses.verdict)
        self.stats.report("Loss/verdict_patch", losses.patch)
        self.stats.report("Loss/verdict_consistency", losses.consistency)
        self.stats.report("Verdict/accuracy", ((logit > 0).float() == labels).float())
        self.stats.report("Verdict/logit_real", logit[labels == 0])
        self.stats.report("Verdict/logit_fake", logit[labels == 1])

    def _r1_turn(self, it: int) -> None:
        cfg = self.cfg
        self._learn(self.D)
        for m in self.parts():
            seed_torch(cfg.options.seed, it, "Dreg", m)
            reals, c = self._reals(it * cfg.batch + m * cfg.batch_gpu)
            loss, square = r1_penalty(functools.partial(self._critic, c=c), reals, cfg.gamma)
            (loss * (cfg.r1_interval / cfg.micro_batches)).backward()
            self.stats.report("Loss/r1_penalty", square)
        self.update("D", self.opt_D, self.adversarial_params, label="Dreg")

    # ---- parts of a turn --------------------------------------------------------------------------------------

    def _learn(self, net: nn.Module) -> None:
        """Only `net` collects gradients in this turn."""
        for of, params in self._all_params:
            for p in params:
                p.requires_grad_(of is net)
                if of is net:
                    p.grad = None
        for p in self.frozen:  # Freeze-D (Mo et al. 2020)
            p.requires_grad_(False)

    def update(
        self,
        name: str,
        opt: FusedAdam | torch.optim.Adam,
        params: Iterable[nn.Parameter],
        extra: Tensor | None = None,
        label: str | None = None,
    ) -> None:
        """Sum the gradients over ranks and step; a step with a non-finite gradient is skipped, counted and reported."""
        params = list(params)
        self.world.sum_gradients(params, extra)
        grads = [p.grad for p in params if p.grad is not None]
        if not grads:
            return
        norm = norm_of_all(grads)
        finite = torch.isfinite(norm)
        if self.asynchronous and isinstance(opt, FusedAdam):
            opt.found_inf = bad = 1 - finite.float()  # the kernel looks at it, and the host need not wait for it
            opt.step()
            counts = self._skipped.setdefault(name, torch.zeros(2, device=norm.device))  # since settled; in a row
            counts[0] += bad
            counts[1] = (counts[1] + 1) * bad
            self._report_once(f"Gradients/{label or name}", norm)
        elif finite:
            self._report_once(f"Gradients/{label or name}", norm)
            opt.step()
            self._in_a_row[name] = 0
            self.bad_steps = max(self._in_a_row.values())
        else:
            count = sum(int((~torch.isfinite(g)).sum()) for g in grads)
            self._report_once(f"Gradients/nonfinite_{name}", float(count))
            self._report_once(f"Gradients/skipped_{name}", 1.0)
            self._in_a_row[name] += 1  # of its own: the other network's good steps say nothing about this one
            self.bad_steps = max(self._in_a_row.values())
            self._give_up_at_last(name)
            return
        for p in params:
            p.grad = None  # not kept through the other network's turn

    def settle(self) -> None:
        """Read what a GPU was not waited for; to be called by all processes, where statistics are read.

        Raises Diverged, as `update` does where it waits."""
        worst, of = 0, ""
        for name, counts in self._skipped.items():
            skipped, in_a_row = counts.tolist()
            counts[0] = 0
            if skipped:
                self._report_once(f"Gradients/nonfinite_{name}", skipped)
                self._report_once(f"Gradients/skipped_{name}", skipped)
            self._in_a_row[name] = int(in_a_row)
            worst, of = max((worst, of), (int(in_a_row), name))
        if self._skipped:
            self.bad_steps = worst
            self._give_up_at_last(of)

    def _report_once(self, name: str, value: Tensor | float) -> None:
        """Count what is the same on all processes, being of their summed gradients, on one of them alone; the others
        have the name, too, or their tables could not be added up."""
        self.stats.report(name, value if self.world.is_main else torch.empty(0))

    def _give_up_at_last(self, name: str) -> None:
        if self.bad_steps >= MAX_BAD_STEPS:
            raise Diverged(
                f"{self.bad_steps} steps in a row had non-finite gradients (last of {name} at {self.nimg / 1000:.1f}"
                " kimg)"
            )

    def _optimisers(self) -> list[FusedAdam | torch.optim.Adam]:
        return [self.opt_G, self.opt_D, self.opt_V]

    def set_rates(self, factor: float) -> None:
        """The configured learning rates, times `factor`, whatever the optimisers' states say."""
        self.factor = factor
        groups = [group for opt in self._optimisers() for group in opt.param_groups]
        for group, rate in zip(groups, self._rates, strict=True):
            group["lr"] = rate * factor

    def _track_w(self, mean: Tensor) -> None:
        """Running average of w over the joined batch, for truncation (StyleGAN, appendix B)."""
        self.G.mapping.w_avg.lerp_(mean.to(self.G.mapping.w_avg.dtype), 1 - self.cfg.w_avg_beta)

    @torch.no_grad()
    def _average(self) -> None:
        """Exponential moving averages of both networks with the published ramp-up."""
        cfg = self.cfg
        span = cfg.ema_kimg * 1000
        if cfg.ema_rampup is not None:
            span = min(span, self.nimg * cfg.ema_rampup)
        beta = 0.5 ** (cfg.batch / max(span, 1e-8))
        for ema, net in ((self.G_ema, self.G), (self.D_ema, self.D)):
            if ema is None:
                continue
            torch._foreach_lerp_(list(ema.parameters()), list(net.parameters()), 1 - beta)
            for kept, new in zip(ema.buffers(), net.buffers(), strict=True):
                kept.copy_(new)

    @torch.no_grad()
    def sample_ema(self, count: int, phase: str, step: int) -> np.ndarray:
        """uint8 [count, C, H, W] of the averaged generator, each with its own psi in [0.5, 1], as users sample it."""
        device = self.world.device
        images = []
        for part in range(0, count, 16):
            seed_torch(self.cfg.options.seed, step, phase, part)
            z = torch.randn(min(16, count - part), self.cfg.generator.z_dim, device=device)
            psi = 0.5 + 0.5 * torch.rand(len(z), 1, 1, device=device)
            c = self._on_device(self.feed.random_classes(len(z)))
            w_avg = self.G_ema.mapping.w_avg
            ws = w_avg.lerp(self.G_ema.mapping(z, c), psi)
            images.append(on_cpu(self.G_ema.synthesis(ws, noise_mode="random")))
        return np.concatenate(images)

    def remember(self, images: np.ndarray) -> None:
        """Offer uint8 fakes [n, C, H, W] of today's generator to the replay."""
        self.replay.push(images, self.nimg / 1000)

    # ---- state ------------------------------------------------------------------------------------------------

    _MODULES = ("G", "D", "G_ema", "D_ema", "augment")
    _OPTIMISERS = ("opt_G", "opt_D", "opt_V")

    def _parts(self) -> list[str]:
        return [name for name in self._MODULES + self._OPTIMISERS if getattr(self, name) is not None]

    def own_counts(self) -> dict:
        """What each process counts for itself until all of them sum it up."""
        return {"signs": self.signs.cpu(), "stats": self.stats.state_dict()}

    def state_dict(self, ranks: Sequence[dict] = ()) -> dict:
        """Everything a step depends on besides the data and the configuration. ranks: `own_counts` of all processes."""
        self.settle()
        return {
            **{name: getattr(self, name).state_dict() for name in self._parts()},
            "ada": self.ada.state_dict(),
            "replay": self.replay.state_dict(),
            "stats": self.stats.state_dict(),
            "pl_mean": self.pl_mean.cpu(),
            "signs": self.signs.cpu(),
            "step_index": self.step_index,
            "bad_steps": self.bad_steps,
            "in_a_row": dict(self._in_a_row),
            "ranks": list(ranks),
        }

    def load_state_dict(self, state: dict) -> None:
        try:
            for name in (*self._parts(), "ada", "replay", "stats"):
                getattr(self, name).load_state_dict(state[name])
        except (KeyError, ValueError, RuntimeError) as e:
            reason = str(e).splitlines()[0].strip()
            raise UserError(
                f"the checkpoint holds another architecture ({reason}); resume with its own `cfg`"
            ) from None
        self.pl_mean.copy_(torch.nan_to_num(state["pl_mean"], nan=0.0, posinf=0.0))  # a skipped step once could lose it
        self.signs.copy_(state["signs"])
        self._load_counts(state.get("ranks") or [state])
        self.step_index = int(state["step_index"])
        self.bad_steps = int(state["bad_steps"])
        self._in_a_row = dict(state.get("in_a_row") or dict.fromkeys("GDV", self.bad_steps))
        self._skipped = {
            name: torch.tensor([0.0, float(count)], device=self.world.device)
            for name, count in self._in_a_row.items()
            if self.asynchronous
        }

    def _load_counts(self, ranks: list[dict]) -> None:
        """This process's own counts; of another number of processes, all of them to the first."""
        if len(ranks) == self.world.size:
            self.signs.copy_(ranks[self.world.rank]["signs"])
            self.stats.load_state_dict(ranks[self.world.rank]["stats"])
            return
        self.signs.zero_()
        self.stats.load_state_dict({})
        if self.world.is_main:
            for counts in ranks:
                self.signs += counts["signs"].to(self.signs.device)
                self.stats.add_state_dict(counts["stats"])


def _chunks(x: Tensor | None, size: int) -> list:
    """The views in a stacked output of the verdict head (an absent patch map stays absent in each)."""
    return [None, None] if x is None else list(x.split(size))
