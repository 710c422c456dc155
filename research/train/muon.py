"""Muon (Jordan 2024) for matrices, Adam for the rest. Matrices of one shape, and those of its transpose, are orthogonalised together."""

import torch


def orthogonal(x, steps=5):
    """Newton and Schulz's iteration on a batch of matrices that are not taller than wide."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x


class Optimizer:
    def __init__(self, parameters, lr=0.02, adam_lr=3e-3, momentum=0.95):
        """`parameters` by name; routers, embeddings and norms go to Adam."""
        self.lr, self.adam_lr, self.momentum = lr, adam_lr, momentum
        is_matrix = lambda name, p: p.ndim >= 2 and not any(part in name for part in ("embed", "lm_head", "mlp.gate."))
        self.matrices = {name: p for name, p in parameters.items() if is_matrix(name, p)}
        self.others = {name: p for name, p in parameters.items() if name not in self.matrices}
        self.m = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.v = {name: torch.zeros_like(p) for name, p in self.others.items()}
        self.groups = {}
        for name, p in self.matrices.items():
            self.groups.setdefault((min(p.shape[-2:]), max(p.shape[-2:])), []).append(name)
        self.steps = 0

    @torch.no_grad()
    def step(self, scale):
        """One step at `scale` times the learning rates."""
        self.steps += 1
        for names in self.groups.values():
            grads = [self.matrices[name].grad for name in names]
            moments = [self.m[name] for name in names]
            torch._foreach_lerp_(moments, grads, 1 - self.momentum)
            # Nesterov's look ahead.
            ahead = torch._foreach_lerp(grads, moments, self.momentum)
            wide = [g.mT if g.shape[-2] > g.shape[-1] else g for g in ahead]
            sizes = [g.shape[0] if g.ndim == 3 else 1 for g in wide]
            batch = torch.cat([g if g.ndim == 3 else g[None] for g in wide])
            batch = orthogonal(batch.bfloat16() if batch.is_cuda else batch)
            for name, update in zip(names, batch.split(sizes)):
                p = self.matrices[name]
                update = update.mT if p.shape[-2] > p.shape[-1] else update
                p.add_(update.reshape(p.shape).to(p.dtype), alpha=-self.lr * scale * max(1, p.shape[-2] / p.shape[-1]) ** 0.5)
        for name, p in self.others.items():
            self.m[name].lerp_(p.grad, 0.1)
            self.v[name].lerp_(p.grad.square(), 0.05)
            m, v = self.m[name] / (1 - 0.9 ** self.steps), self.v[name] / (1 - 0.95 ** self.steps)
            p.sub_(m / (v.sqrt() + 1e-10), alpha=self.adam_lr * scale)

    def state(self):
        return {"m": self.m, "v": self.v, "steps": self.steps}

    def load(self, state):
        """Whether all was there: small checkpoints lack the momentum of matrices."""
        self.steps = state["steps"]
        for mine, theirs in ((self.m, state["m"]), (self.v, state["v"])):
            for name in mine:
                if name in theirs:
                    mine[name].copy_(theirs[name])
        return len(state["m"]) == len(self.m)
