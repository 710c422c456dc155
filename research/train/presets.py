"""What is trained, and on what, stage by stage."""

from dataclasses import dataclass, field

from model import Glm, Qwen3


@dataclass(frozen=True)
class Stage:
    """`tokens` a step and GPU, in sequences whose length is drawn from `lengths` (length: share). The stage ends after `steps`, or once
    `goal` of the answers in `goal_tasks` are right. `lr` runs from the first to the second multiple of the base rates."""
    name: str
    steps: int
    tokens: int
    lengths: dict
    mix: dict
    lr: tuple = (1.0, 1.0)
    goal: float = 2.0
    goal_tasks: tuple = ("recall", "stream")
    text: float = 0.3


@dataclass(frozen=True)
class Preset:
    shape: object
    stages: list
    lr: float = 0.02
    adam_lr: float = 3e-3
    warmup: int = 60
    log_every: int = 20
    context: int = 131072


SHORT = {"recall": 0.35, "stream": 0.3, "copy": 0.2, "text": 0.15}
FIRST = {"recall": 0.15, "stream": 0.12, "copy": 0.1, "text": 0.1, "packed": 0.43, "alone": 0.07, "counted": 0.03}
LONG = {"recall": 0.06, "stream": 0.06, "copy": 0.06, "text": 0.1, "packed": 0.6, "alone": 0.09, "counted": 0.03}

HOPS = {"recall": 0.03, "stream": 0.03, "copy": 0.03, "text": 0.09, "packed": 0.2, "hops": 0.5, "alone": 0.12}
LAST = {"recall": 0.03, "stream": 0.03, "copy": 0.04, "text": 0.1, "packed": 0.35, "hops": 0.3, "alone": 0.15}
TASKS = ("multikey", "multivalue", "chain")

QWEN3 = [
    Stage("256", 1500, 65536, {256: 1.0}, SHORT, goal=0.97),
    Stage("1k", 1500, 65536, {512: 0.2, 1024: 0.8}, FIRST, goal=0.97, goal_tasks=TASKS),
    Stage("4k", 700, 131072, {1024: 0.25, 4096: 0.75}, LONG, goal=0.985, goal_tasks=TASKS),
    Stage("8k", 400, 131072, {1024: 0.1, 8192: 0.9}, LONG, lr=(1.0, 0.8)),
    Stage("32k", 550, 131072, {1024: 0.1, 4096: 0.1, 32768: 0.8}, LONG, lr=(0.8, 0.3)),
    Stage("128k", 130, 131072, {4096: 0.1, 32768: 0.2, 65536: 0.2, 131072: 0.5}, LONG, lr=(0.3, 0.02)),
    # Chains and several values were behind: back to where they are cheap, then out again.
    Stage("hops", 950, 131072, {1024: 0.4, 4096: 0.6}, HOPS, lr=(0.7, 0.7)),
    Stage("32k-2", 370, 131072, {4096: 0.2, 16384: 0.2, 32768: 0.6}, LAST, lr=(0.6, 0.3)),
    Stage("128k-2", 165, 131072, {16384: 0.15, 32768: 0.15, 65536: 0.25, 131072: 0.45}, LAST, lr=(0.3, 0.01)),
]

GLM = [
    Stage("256", 1500, 65536, {256: 1.0}, SHORT, goal=0.97),
    Stage("1k", 1100, 65536, {512: 0.2, 1024: 0.8}, FIRST, goal=0.97, goal_tasks=TASKS),
    Stage("4k", 900, 131072, {1024: 0.3, 4096: 0.7}, HOPS, lr=(1.0, 0.9)),
    Stage("32k", 400, 131072, {4096: 0.2, 8192: 0.2, 32768: 0.6}, LAST, lr=(0.8, 0.3)),
    Stage("128k", 120, 131072, {16384: 0.15, 32768: 0.15, 65536: 0.25, 131072: 0.45}, LAST, lr=(0.3, 0.01)),
]

PRESETS = {
    "qwen3": Preset(Qwen3(), QWEN3),
    "glm": Preset(Glm(), GLM),
    # The first hundred steps of these run on a CPU in less than a minute: check_log.py.
    "tiny": Preset(Qwen3(hidden=64, ffn=128, layers=2, heads=4, kv_heads=1, head_dim=32, rope_dim=32, theta=1e4),
                   [Stage("128", 60, 2048, {128: 1.0}, SHORT), Stage("512", 40, 2048, {512: 1.0}, FIRST, lr=(1.0, 0.5))],
                   warmup=10, log_every=10, context=512),
    "tiny-glm": Preset(Glm(hidden=64, ffn=96, layers=2, sparse=1, experts=4, expert_ffn=32, heads=2, q_rank=32, kv_rank=64, nope_dim=32,
                           rope_dim=32, theta=1e4),
                       [Stage("128", 60, 2048, {128: 1.0}, SHORT), Stage("512", 40, 2048, {512: 1.0}, FIRST, lr=(1.0, 0.5))],
                       warmup=10, log_every=10, context=512),
}
