#!/usr/bin/env python3
"""Trains one of presets.py, in pieces: what was begun in --out is gone on with.

    python research/train/train.py --preset qwen3 --texts texts --out runs/qwen3 --minutes 9
    torchrun --nproc-per-node 4 research/train/train.py ...      # several GPUs of one host: each takes a step's tokens
    python research/train/train.py --preset tiny --texts demo --out /tmp/tiny --steps 100
"""

import argparse
import json
import os
import random
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

import checkpoint
import data
from model import Model, attend, describe
from muon import Optimizer
from presets import PRESETS
from texts_read import Library

HARD = {"common", "frequent", "count"}  # weighted less: beyond a model of this size at length


class Steps(torch.utils.data.Dataset):
    """The batches of a stage by step, this rank's share of the rows."""

    def __init__(self, seed, stage, library, rank):
        self.seed, self.stage, self.library, self.rank = seed, stage, library, rank

    def length(self, step):
        lengths = self.stage.lengths
        return random.Random(f"{self.seed} {step} length").choices(list(lengths), list(lengths.values()))[0]

    def __getitem__(self, step):
        length = self.length(step)
        count = self.stage.tokens // length
        mix = self.stage.mix if length > 256 else {k: v for k, v in self.stage.mix.items() if k not in ("packed", "hops", "alone", "counted")}
        tokens, kinds = data.batch(self.seed, step, mix, length, count, self.library, self.rank * count)
        return torch.from_numpy(tokens), torch.from_numpy(kinds)


def objective(losses, kinds, text_weight):
    """Answers, each task weighted by the root of how many tokens of it there are, and text; and sums for the log."""
    kinds = kinds.long()
    sums = torch.zeros(256, device=losses.device).scatter_add_(0, kinds, losses)
    counts = torch.zeros(256, device=losses.device).scatter_add_(0, kinds, torch.ones_like(losses))
    means = sums / counts.clamp(min=1)
    weight = counts.sqrt()
    for task in HARD:
        weight[data.KIND[task]] *= 0.2
    weight[data.TEXT] = 0
    weight[data.GIVEN] = 0
    answers = (means * weight).sum() / weight.sum().clamp(min=1e-6)
    return answers + text_weight * means[data.TEXT], sums.detach(), counts


@torch.no_grad()
def exact(predictions, targets, kinds, before):
    """Answers that are right in every token, and all answers, by task. An answer is a run of tokens of one kind."""
    kinds, before = kinds.long(), before.long()
    is_answer = (kinds != data.TEXT) & (kinds != data.GIVEN)
    start = is_answer & (kinds != before)
    run = start.long().cumsum(0) * is_answer
    wrong = torch.zeros(len(run) + 1, device=run.device).scatter_add_(0, run, (is_answer & (predictions != targets)).float())
    zeros = lambda: torch.zeros(256, device=run.device)
    return zeros().scatter_add_(0, kinds, (start & (wrong[run] == 0)).float()), zeros().scatter_add_(0, kinds, start.float())


def pick_attention(model, batch, length, device):
    """The fastest backend for this shape, by trying."""
    s, times = model.shape, {}
    kv_heads = getattr(s, "kv_heads", s.heads)
    for kind in ("flash", "cudnn", "cudnn-repeat"):
        try:
            q, k, v = (torch.randn(batch, length, h, s.head_dim, device=device, dtype=model.compute).transpose(1, 2).requires_grad_()
                       for h in (s.heads, kv_heads, kv_heads))
            for i in range(3):
                if i == 1:
                    torch.cuda.synchronize()
                    start = time.time()
                attend(q, k, v, kind).sum().backward()
            torch.cuda.synchronize()
            times[kind] = (time.time() - start) / 2
        except RuntimeError as error:
            print(f"attention {kind} at {length}: {str(error)[:120]}", flush=True)
    flops = 7 * batch * s.heads * s.head_dim * length * length
    print(f"attention at {batch} x {length}:", {k: f"{1e3 * t:.1f} ms, {flops / t / 1e12:.0f} TFLOP/s" for k, t in times.items()}, flush=True)
    return min(times, key=times.get)


class Training:
    def __init__(self, args):
        self.args, self.preset = args, PRESETS[args.preset]
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.cuda = torch.cuda.is_available() and not args.cpu
        if self.world > 1:
            dist.init_process_group("nccl" if self.cuda else "gloo")
        self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if self.cuda else torch.device("cpu")
        if self.cuda:
            torch.cuda.set_device(self.device)
        torch.set_float32_matmul_precision("high")
        torch.manual_seed(args.seed)
        self.stages = [replace(stage, steps=args.stage_steps.get(stage.name, stage.steps)) for stage in self.preset.stages]
        self.model = Model(self.preset.shape, args.seed, torch.bfloat16 if self.cuda else torch.float32, compiled=self.cuda and not args.eager).to(self.device)
        self.optimizer = Optimizer(self.model.named(), args.lr or self.preset.lr, args.adam_lr or self.preset.adam_lr)
        self.library = Library(args.texts)
        self.step, self.stage, self.stage_step, self.warm_from, self.backends = 0, 0, 0, 0, {}
        if (state := checkpoint.load(args.out, self.device) or (args.resume and checkpoint.load(args.resume, self.device))):
            self.restore(state)
        self.log_file = None
        if self.rank == 0:
            Path(args.out).mkdir(parents=True, exist_ok=True)
            # What was logged after the checkpoint is done again.
            path = Path(args.out) / "log.jsonl"
            lines = path.read_text().splitlines() if path.exists() else []
            kept = [line for line in lines if json.loads(line)["step"] <= self.step] if self.step else []
            path.write_text("".join(line + "\n" for line in kept))
            self.log_file = path.open("a")

    def state(self):
        s = {"step": self.step, "stage": self.stage, "stage_step": self.stage_step, "preset": self.args.preset, "seed": self.args.seed,
             "shape": describe(self.preset.shape), "random": torch.get_rng_state()}
        tensors = dict(self.model.named()) | dict(self.model.named_buffers())
        return s | {"model": {k: v.detach() for k, v in tensors.items()}, "optimizer": self.optimizer.state()}

    def restore(self, state):
        assert state["preset"] == self.args.preset and state["seed"] == self.args.seed, "another preset or seed"
        self.step, self.stage, self.stage_step = state["step"], state["stage"], state["stage_step"]
        with torch.no_grad():
            for name, tensor in (dict(self.model.named()) | dict(self.model.named_buffers())).items():
                tensor.copy_(state["model"][name])
        if not self.optimizer.load(state["optimizer"]):
            self.warm_from = self.step
        torch.set_rng_state(state["random"].cpu())
        print(f"goes on at step {self.step}, stage {self.stage}", flush=True)

    def save(self):
        if self.rank == 0:
            checkpoint.save(self.args.out, self.state())
            if self.args.copy:
                copy = Path(self.args.copy)
                checkpoint.save(copy, self.state(), small=True)
                (copy / "log.jsonl").write_bytes((Path(self.args.out) / "log.jsonl").read_bytes())

    def loader(self, stage):
        steps = Steps(self.args.seed, stage, self.library, self.rank)
        # A multiple of what may be asked for: the loader is left when the stage ends.
        order = range(self.step, self.step + stage.steps - self.stage_step)
        workers = self.args.workers
        return torch.utils.data.DataLoader(steps, batch_size=None, sampler=order, num_workers=workers, pin_memory=self.cuda,
                                           prefetch_factor=4 if workers else None)

    def one(self, tokens, kinds, stage, rate):
        tokens, kinds = tokens.to(self.device, non_blocking=True).long(), kinds.to(self.device, non_blocking=True)
        batch, length = tokens.shape[0], tokens.shape[1] - 1
        if self.cuda:
            if (batch, length) not in self.backends:
                self.backends[batch, length] = pick_attention(self.model, batch, length, self.device)
            self.model.attention = self.backends[batch, length]
        targets = tokens[:, 1:].flatten()
        losses, predictions = self.model(tokens[:, :-1].contiguous(), targets)
        loss, sums, counts = objective(losses, kinds[:, 1:].flatten(), stage.text)
        loss.backward()
        grads = [p.grad for p in self.model.parameters()]
        if self.world > 1:
            flat = torch.cat([g.flatten() for g in grads])
            dist.all_reduce(flat)
            flat /= self.world
            for g, part in zip(grads, flat.split([g.numel() for g in grads])):
                g.copy_(part.view_as(g))
            for measured in [*self.model.loads.values(), *self.model.sizes.values()]:
                dist.all_reduce(measured)
                measured /= self.world
        self.optimizer.step(rate)
        self.model.tame(self.args.tame)
        self.model.balance()
        self.model.zero_grad(set_to_none=False)
        right, answers = exact(predictions, targets, kinds[:, 1:].flatten(), kinds[:, :-1].flatten())
        return loss.detach(), torch.stack((sums, counts, right, answers))

    def report(self, stage, sums, losses, seconds, tokens, rate):
        """A line of the log; the share of right answers in the tasks that end the stage."""
        if self.world > 1:
            for values in sums.values():
                dist.all_reduce(values)
        lines = {length: values.cpu() for length, values in sums.items()}
        total = sum(lines.values())
        named = lambda a, b: {t: round((a[i] / b[i]).item(), 4) for i, t in enumerate(data.TASKS) if b[i] > 0}
        out = {"step": self.step, "stage": stage.name, "loss": round(torch.stack(losses).mean().item(), 4), "lr": round(rate, 4),
               "losses": named(total[0], total[1]),
               "accuracy": {length: named(values[2], values[3]) for length, values in sorted(lines.items())},
               "answers": {length: {t: int(values[3][i]) for i, t in enumerate(data.TASKS) if values[3][i] > 0}
                           for length, values in sorted(lines.items())}}
        timing = {"tokens_s": round(tokens * self.world / seconds), "seconds": round(time.time() - self.began, 1)}
        if self.rank == 0:
            self.log_file.write(json.dumps(out | timing) + "\n")
            self.log_file.flush()
            top = {t: round(v, 3) for t, v in out["accuracy"][max(out["accuracy"])].items()}
            print(f"{self.step} {stage.name} {out['loss']:.3f} text {out['losses'].get('text', 0):.3f} {top} {timing}", flush=True)
        self.shares = out["accuracy"][max(lines)]
        goal = [data.KIND[t] for t in stage.goal_tasks]
        longest = lines[max(lines)]
        enough = all(longest[3][i] >= 20 for i in goal)
        return min((longest[2][i] / longest[3][i]).item() for i in goal) if enough else 0.0

    def is_late(self, end):
        """Whether the time is up, on which all ranks agree."""
        if self.world == 1:
            return time.time() > end
        if self.step % 10:
            return False
        late = torch.tensor(float(time.time() > end), device=self.device)
        dist.all_reduce(late)
        return late.item() > 0

    def run(self):
        self.began = saved = time.time()
        end = self.began + 60 * self.args.minutes
        good = 0
        while self.stage < len(self.stages):
            stage = self.stages[self.stage]
            sums, losses, start, seen, done, late = {}, [], time.time(), 0, False, False
            for tokens, kinds in self.loader(stage):
                share = self.stage_step / max(1, stage.steps)
                rate = stage.lr[0] + (stage.lr[1] - stage.lr[0]) * share
                rate *= min(1.0, (self.step - self.warm_from + 1) / self.preset.warmup)
                loss, numbers = self.one(tokens, kinds, stage, rate)
                self.step += 1
                self.stage_step += 1
                length = tokens.shape[1] - 1
                sums[length] = sums[length] + numbers if length in sums else numbers
                losses.append(loss)
                seen += length * tokens.shape[0]
                if self.step % self.preset.log_every == 0:
                    share = self.report(stage, sums, losses, time.time() - start, seen, rate)
                    good = good + 1 if share >= stage.goal else 0
                    sums, losses, start, seen = {}, [], time.time(), 0
                    if self.args.save_every and time.time() - saved > self.args.save_every:
                        self.save()
                        saved = time.time()
                # A synchronisation now and then, so that the time limit holds although the GPU runs behind.
                if self.cuda and self.step % 5 == 0:
                    torch.cuda.synchronize()
                done = self.step >= self.args.steps if self.args.steps else False
                late = self.is_late(end)
                if done or late or good >= 2:
                    break
            if good >= 2 or self.stage_step >= stage.steps:
                self.stage, self.stage_step, good = self.stage + 1, 0, 0
                if stage.name == "1k" and self.shares.get("multikey", 1.0) < self.args.least:
                    print(f"keys are not told apart: {self.shares}", flush=True)
                    break
            if done or late:
                break
        self.save()
        if self.cuda:
            print(f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB at most", flush=True)
        print("done" if self.stage >= len(self.stages) else f"stopped at step {self.step}, stage {self.stage}", flush=True)
        if self.world > 1:
            dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, required=True)
    parser.add_argument("--texts", required=True, help="a folder of texts: see texts.py")
    parser.add_argument("--out", required=True, help="checkpoint and log; gone on with where there is one")
    parser.add_argument("--resume", help="a checkpoint to go on from where --out has none")
    parser.add_argument("--copy", help="another folder for a small checkpoint, in pieces below 16 MiB, and the log")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--steps", type=int, help="stop at this step")
    parser.add_argument("--stage-steps", default="", help="other numbers of steps, such as 256=800,1k=900")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--adam-lr", type=float)
    parser.add_argument("--least", type=float, default=0.0, help="give up where fewer multikey answers are right after stage 1k")
    parser.add_argument("--tame", type=float, default=1.4, help="latent attention: the most that queries and keys grow to (rms)")
    parser.add_argument("--workers", type=int, default=0, help="processes that make data")
    parser.add_argument("--save-every", type=float, default=90, help="seconds")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    args = parser.parse_args()
    args.stage_steps = {k: int(v) for k, v in (pair.split("=") for pair in args.stage_steps.split(",") if pair)}
    Training(args).run()


if __name__ == "__main__":
    main()
