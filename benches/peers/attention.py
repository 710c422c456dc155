"""Times of decode attention in PyTorch, for `asynctls bench attention --peer 'python3 benches/peers/attention.py'`.

Reads one JSON object of shapes from the standard input; writes a JSON object a line: batch, length, name, median_us, p10_us,
p90_us. Grouped-query attention is timed with every backend of `scaled_dot_product_attention` that takes it (cuDNN, flash), latent
attention with matrix products, plain and compiled. Data rotate over copies, so that none is read from a cache; the calls of a sample
are replayed as one CUDA graph, so that no launch shows.
"""

import json
import sys
import warnings

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

warnings.filterwarnings("ignore")
DEVICE = "cuda"
SAMPLES = 12
CALLS = 24


def sample(functions):
    """Microseconds of a call, ascending: replays of a graph that calls each function in turn."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            for function in functions:
                function()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    repeats = max(1, CALLS // len(functions))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            for function in functions:
                function()
    for _ in range(3):
        graph.replay()
    torch.cuda.synchronize()
    times = []
    for _ in range(SAMPLES):
        begin, end = torch.cuda.Event(True), torch.cuda.Event(True)
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / (repeats * len(functions)))
    return sorted(times)


def grouped(shapes, batch, length, copies):
    """Every backend that takes the shape; queries of a group as rows of one head, and as heads of their own."""
    kv_heads, group, dim = shapes["kv_heads"], shapes["group"], shapes["head_dim"]
    keys = [torch.randn(batch, kv_heads, length, dim, device=DEVICE, dtype=torch.float16) for _ in range(copies)]
    values = [torch.randn_like(key) for key in keys]
    rows = torch.randn(batch, kv_heads, group, dim, device=DEVICE, dtype=torch.float16)
    heads = rows.reshape(batch, kv_heads * group, 1, dim)
    ways = [
        ("cudnn", SDPBackend.CUDNN_ATTENTION, lambda k, v: F.scaled_dot_product_attention(heads, k, v, enable_gqa=True)),
        ("cudnn, rows", SDPBackend.CUDNN_ATTENTION, lambda k, v: F.scaled_dot_product_attention(rows, k, v)),
        ("flash, rows", SDPBackend.FLASH_ATTENTION, lambda k, v: F.scaled_dot_product_attention(rows, k, v)),
    ]
    for name, backend, call in ways:
        with sdpa_kernel([backend]):
            yield name, [lambda k=k, v=v: call(k, v) for k, v in zip(keys, values)]


def latent(shapes, batch, length, copies):
    """Products over the latents, plain and compiled."""
    heads, dim, value = shapes["group"], shapes["head_dim"], shapes["value_dim"]
    rows = [torch.randn(batch, length, dim, device=DEVICE, dtype=torch.float16) for _ in range(copies)]
    queries = torch.randn(batch, heads, dim, device=DEVICE, dtype=torch.float16)

    def attend(row):
        logits = torch.matmul(queries, row.transpose(1, 2)).float() * dim**-0.5
        return torch.matmul(torch.softmax(logits, -1).half(), row[:, :, :value])

    compiled = torch.compile(attend)
    for name, call in [("matmul", attend), ("compiled matmul", compiled)]:
        yield name, [lambda row=row: call(row) for row in rows]


def main():
    shapes = json.load(sys.stdin)
    if not torch.cuda.is_available():
        sys.exit("no CUDA device: this peer needs one")
    print(f"peer: torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, {torch.cuda.get_device_name(0)}", file=sys.stderr)
    free = torch.cuda.mem_get_info()[0]
    for batch, length in shapes["cases"]:
        width = shapes["head_dim"] * (1 if shapes["shares_values"] else 2)
        size = 2 * batch * shapes["kv_heads"] * length * width
        copies = max(1, min(-(-shapes["cold_bytes"] // size), int(free * 0.6 // size)))
        ways = latent if shapes["shares_values"] else grouped
        for name, functions in ways(shapes, batch, length, max(2, copies) if 2 * size < free * 0.8 else 1):
            try:
                times = sample(functions)
            except (RuntimeError, NotImplementedError) as error:
                print(f"peer: {name} at {batch} x {length}: {str(error).splitlines()[0]}", file=sys.stderr)
                torch.cuda.synchronize()
                continue
            at = lambda share: times[round((len(times) - 1) * share)]
            found = {"batch": batch, "length": length, "name": name}
            print(json.dumps(found | {"median_us": at(0.5), "p10_us": at(0.1), "p90_us": at(0.9)}), flush=True)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
