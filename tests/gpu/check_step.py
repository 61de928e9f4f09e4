"""The training step on a GPU: is it right, does it wait for the host, where does its time go, how fast is it.

    PYTHONPATH=CHECKOUT python CHECKOUT/tests/gpu/check_step.py [SECTION ...]

Needs torch, numpy and safetensors, and no pytest. Prints as it goes, and writes step.json, step.txt and a trace into
the folder OUT, where that is set. A section that fails says so, and the others go on. Takes about three minutes.
"""

from __future__ import annotations

import gzip
import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from hrm_lab.config import ModelConfig, OptimConfig
from hrm_lab.model import fused as fused_module
from hrm_lab.model.fused import DifferentiableStack, FusedStack, Rows
from hrm_lab.model.layers import CastedLinear, rms_norm
from hrm_lab.optim.adam_atan2 import AdamATan2, atan2_rule, build_adam_atan2
from hrm_lab.training import step as step_module
from hrm_lab.training.throughput import device_peak, step_flops
from tests.bench.our_step import OurLoop, seconds, spread
from tests.bench.plain_loop import PlainLoop
from tests.model.golden import CASES, replay, replay_bfloat16

CUDA = torch.device("cuda")
OUT = Path(os.environ["OUT"]) if os.environ.get("OUT") else None
FULL = ModelConfig()
SMALL = ModelConfig(H_layers=1, L_layers=1, hidden_size=256, num_heads=4, puzzle_emb_ndim=256, halt_max_steps=3)
BATCHES = (384, 768)
BACKENDS = (
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.MATH,
)
results: dict[str, Any] = {}
lines: list[str] = []


def say(line: str) -> None:
    lines.append(line)
    print(line, flush=True)


def keep() -> None:
    """What there is so far, in case that there will be no more."""
    if OUT is not None:
        (OUT / "step.json").write_text(json.dumps(results, indent=1))
        (OUT / "step.txt").write_text("\n".join(lines))


def device_ms(work: Callable[[], object], repeats: int = 30, warm_up: int = 5) -> float:
    """Median milliseconds of a work by the device's own clock."""
    for _ in range(warm_up):
        work()
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for before, after in marks:
        before.record()
        work()
        after.record()
    torch.cuda.synchronize()
    return statistics.median(before.elapsed_time(after) for before, after in marks)


def graphed_ms(work: Callable[[], object], times: int = 10, stream: torch.cuda.Stream | None = None) -> float:
    """The same of what is taken in a CUDA graph, so that launches cost nothing.

    Args:
        stream: to take it on; for a gradient that on which its leaves were made.
    """
    stream = stream or torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(times):
            work()
    return device_ms(graph.replay, 10, 2) / times


def versions() -> None:
    """What this is measured on."""
    root = Path(__file__).parents[2]
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True)
    results["versions"] = {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "device": torch.cuda.get_device_name(),
        "commit": git.stdout.strip(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    say(json.dumps(results["versions"]))


def golden() -> None:
    """The published trajectories, computed in every way."""
    found = results["golden"] = {}
    ways = [("float32", way) for way in ("eager", "compiled", "captured")]
    for dtype, way in [*ways, ("bfloat16", "eager"), ("bfloat16", "captured")]:
        for path in CASES:
            try:
                said = replay(path, way, "cuda", 5.0) if dtype == "float32" else replay_bfloat16(path, way, "cuda")
                verdict = "ok"
            except Exception as error:
                said, verdict = f"{type(error).__name__}: {str(error).strip()[:600]}", "FAILED"
            found[f"{dtype} {way} {path.stem}"] = f"{verdict}: {said}"
            say(f"{dtype} {way} {path.stem}: {verdict}: {said}")


def _state(loop: OurLoop) -> dict[str, torch.Tensor]:
    carry = loop.compute.carry
    moments = {
        f"{place}/{name}": m
        for place, own in loop.compute.optimizer.state_dict()["state"].items()
        for name, m in own.items()
    }
    return {
        **loop.model.state_dict(),
        **moments,
        **carry.latents._asdict(),
        **carry.data._asdict(),
        "steps": carry.steps,
        "halted": carry.halted,
    }


def capture() -> None:
    """A captured run is that of its parts: equal bits, also where it is taken up in the middle."""
    found = results["capture"] = {}
    # Boards of one puzzle: the sums of their gradients are of the same bits only where they are asked to be.
    torch.use_deterministic_algorithms(True)
    try:
        _capture(found)
    finally:
        torch.use_deterministic_algorithms(False)
        for key, value in found.items():
            say(f"{key}: {value}")


def _capture(found: dict[str, Any]) -> None:
    loops = {way: OurLoop(SMALL, 32, CUDA, way) for way in ("compiled", "captured")}
    for _ in range(12):
        for loop in loops.values():
            loop.step()
    one, two = (_state(loop) for loop in loops.values())
    found["captured equals compiled after 12 steps"] = all(torch.equal(one[name], two[name]) for name in one)
    resumed, whole = OurLoop(SMALL, 32, CUDA, "captured"), loops["captured"]
    kept = {name: tensor.clone() for name, tensor in _state(whole).items()}
    optimizer = whole.compute.optimizer.state_dict()
    resumed.model.load_state_dict({name: kept[name] for name in resumed.model.state_dict()})
    resumed.compute.optimizer.load_state_dict(optimizer)
    carry = resumed.compute.carry
    for name, own in {
        **carry.latents._asdict(),
        **carry.data._asdict(),
        "steps": carry.steps,
        "halted": carry.halted,
    }.items():
        own.copy_(kept[name])
    resumed.number = whole.number
    for _ in range(8):
        whole.step()
        resumed.step()
    one, two = _state(whole), _state(resumed)
    found["resumed equals whole"] = all(torch.equal(one[name], two[name]) for name in one)
    spoilt = whole.model.lm_head.weight
    with torch.no_grad():
        spoilt[0, 0] = float("nan")
    whole.step()
    found["divergence is noted in a replay"] = str(whole.compute.vitals.damage())


def syncs() -> None:
    """Nothing in a step waits for the device, be it called, compiled or replayed."""
    found = results["syncs"] = {}
    for way in ("eager", "compiled", "captured"):
        loop = OurLoop(SMALL, 32, CUDA, way)
        for _ in range(6):
            loop.step()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(3):
                loop.step()
            found[way] = "none"
        except RuntimeError as error:
            found[way] = str(error)[:300]
            traceback.print_exc(limit=-6)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        say(f"host waits in a step, {way}: {found[way]}")


def attention() -> None:
    """Every backend of attention at this model's shape, in milliseconds."""
    found = results["attention"] = {}
    for batch in BATCHES:
        heads, length, size = FULL.num_heads, 82, FULL.hidden_size // FULL.num_heads
        qkv = torch.randn(batch, length, 3 * heads, size, device=CUDA, dtype=torch.bfloat16)
        gradient = torch.randn(batch, heads, length, size, device=CUDA, dtype=torch.bfloat16)
        for backend in BACKENDS:
            for bound in (False, True):
                torch.use_deterministic_algorithms(bound)
                row = []
                for with_grad in (False, True):
                    leaf = qkv.clone().requires_grad_(with_grad)

                    def work(
                        leaf: torch.Tensor = leaf, gradient: torch.Tensor | None = gradient if with_grad else None
                    ) -> None:
                        q, k, v = (part.transpose(1, 2) for part in leaf.chunk(3, dim=2))
                        out = F.scaled_dot_product_attention(q, k, v)
                        if gradient is not None:
                            torch.autograd.grad(out, leaf, gradient)

                    try:
                        with sdpa_kernel(backend):
                            row.append(device_ms(work, 20, 3))
                    except Exception as error:
                        row.append(f"{type(error).__name__}: {str(error).splitlines()[0][:90]}")
                torch.use_deterministic_algorithms(False)
                name = f"{batch} {backend.name}{' deterministic' if bound else ''}"
                found[name] = row
                say(
                    f"{name}: forward, forward and backward: "
                    + ", ".join(f"{x:.3f} ms" if isinstance(x, float) else x for x in row)
                )


def layer() -> None:
    """One layer pass against its matrix products alone, whole and in chunks of the batch."""
    found = results["layer"] = {}
    D, inner = FULL.hidden_size, 1536
    model = OurLoop(FULL, 8, CUDA, "eager").model
    shapes = ((3 * D, D), (D, D), (2 * inner, D), (D, inner))
    weights = [torch.randn(n, k, device=CUDA, dtype=torch.bfloat16) / k**0.5 for n, k in shapes]
    block = torch.compile(model.L_level.layers[0], fullgraph=True, dynamic=False)
    for batch in (48, 96, 192, 384):
        tokens = batch * 82
        x, wide = (torch.randn(tokens, k, device=CUDA, dtype=torch.bfloat16) for k in (D, inner))

        def products(x: torch.Tensor = x, wide: torch.Tensor = wide) -> None:
            for w, given in zip(weights, (x, x, x, wide), strict=True):
                F.linear(given, w)

        state = torch.randn(batch, 82, D, device=CUDA, dtype=torch.bfloat16)

        def once(state: torch.Tensor = state) -> None:
            with torch.no_grad():
                block(state, model.rotary_emb)

        with model.weights_cast_once():
            row = {"products": graphed_ms(products), "layer": graphed_ms(once)}
        flops = tokens * 2 * (4 * D * D + 3 * D * inner)
        each = {
            f"{n}x{k}": graphed_ms(lambda w=w, given=(wide if k == inner else x): F.linear(given, w))
            for w, (n, k) in zip(weights, shapes, strict=True)
        }
        found[str(batch)] = row | {"each": each}
        say(
            f"batch {batch}: products {row['products'] * 1e3:.0f} us ({flops / row['products'] / 1e9:.0f} TFLOP/s), "
            f"layer pass {row['layer'] * 1e3:.0f} us, {row['layer'] / batch * 1e3:.3f} us a slot; "
            + ", ".join(f"{name} {ms * 1e3:.0f} us" for name, ms in each.items())
        )


class Stack:
    """What the four parts of a block are given in a full step at some batch, by part."""

    def __init__(self, batch: int) -> None:
        D, inner, eps = FULL.hidden_size, 1536, FULL.rms_norm_eps
        self.model = OurLoop(FULL, 2, CUDA, "eager").model
        tokens, rotary = batch * 82, self.model.rotary_emb
        torch.manual_seed(0)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, device=CUDA, dtype=torch.bfloat16)

        sums, mixed, opened = draw(tokens, D) * 2, draw(tokens, D), draw(tokens, inner)
        waiting = Rows(sums, sums.float().square().view(tokens, 2, -1).sum(-1).t().contiguous())
        ready = Rows(rms_norm(sums, eps))
        qkv, out, gate_up, down = (draw(n, k) / k**0.5 for n, k in ((3 * D, D), (D, D), (2 * inner, D), (D, inner)))
        shape = (82, FULL.num_heads, rotary, eps)
        self.given: dict[str, Callable[[Rows], tuple[Any, ...]]] = {
            "attention": lambda rows: (rows, qkv, *shape),
            "attention_out": lambda rows: (mixed, out, rows, eps),
            "swiglu": lambda rows: (rows, gate_up, eps),
            "mlp_out": lambda rows: (opened, down, rows, eps),
        }
        self.waiting, self.ready, self.eps = waiting, ready, eps


def _candidates() -> dict[str, dict[str, Callable[..., Any]]]:
    """What may compute each part."""
    kernels = importlib.import_module("hrm_lab.model.kernels")
    found = {part: {"kernels": own} for part, own in kernels.PARTS.items()}
    try:
        hopper = importlib.import_module("hrm_lab.model.hopper")
    except ImportError as error:
        say(f"hopper.py cannot be imported: {error}")
        return found
    for part, own in hopper.PARTS.items():
        for slots in (4, 3) if part in ("attention", "swiglu") else (3, 2):
            found[part][f"hopper, {slots} slots"] = partial(own, slots=slots)
    return found


PLAIN = {"attention": "attention", "attention_out": "residual", "swiglu": "swiglu", "mlp_out": "residual"}


def fused() -> None:
    """Each kernel against what the compiler makes: right, and how fast; what is faster is used from here on."""
    found = results["fused"] = {}
    torch._dynamo.config.recompile_limit = 64
    stacks = {batch: Stack(batch) for batch in BATCHES}
    parts = {}
    for part, candidates in _candidates().items():
        plain = torch.compile(getattr(fused_module, PLAIN[part]), fullgraph=True, dynamic=False)
        try:
            parts[part] = _fastest(part, candidates, plain, stacks, found)
        except Exception:
            parts[part] = plain
            say(f"{part} FAILED, the compiled one is used: {traceback.format_exc(limit=-4)}")
        keep()
    fused_module.parts_for = lambda model, positions: parts
    for batch in BATCHES:
        _stack(batch, parts, found)


def _fastest(
    part: str,
    candidates: dict[str, Callable[..., Any]],
    plain: Callable[..., Any],
    stacks: dict[int, Stack],
    found: dict[str, Any],
) -> Callable[..., Any]:
    """The kernel that is fastest at the smaller batch, or the compiled one."""
    normalised = importlib.import_module("hrm_lab.model.kernels").normalised

    def result(work: Callable[..., Any], given: tuple[Any, ...]) -> torch.Tensor:
        out = work(*given)
        return normalised(out, FULL.rms_norm_eps) if isinstance(out, Rows) else out

    def us(work: Callable[..., Any], batch: int, rows: Rows) -> float:
        given = stacks[batch].given[part](rows)
        return graphed_ms(lambda: work(*given)) * 1e3

    small, large = BATCHES
    expected = result(plain, stacks[small].given[part](stacks[small].ready)).float()
    times = {}
    for name, work in candidates.items():
        try:
            off = result(work, stacks[small].given[part](stacks[small].waiting)).float() - expected
            off = float(off.norm() / expected.norm())
            times[name] = us(work, small, stacks[small].waiting) if off < 0.01 else float("inf")
            say(f"{part}, {name}: {times[name]:.1f} us, off by {off:.1e}{'' if off < 0.01 else ' WRONG'}")
        except Exception as error:
            say(f"{part}, {name} FAILED: {type(error).__name__}: {str(error)[:300]}")
    best = min(times, key=lambda name: times[name])
    unfused = {batch: us(plain, batch, stacks[batch].ready) for batch in BATCHES}
    work = candidates[best]
    fast = {small: times[best], large: us(work, large, stacks[large].waiting)}
    found[part] = {"us": times, "best": fast, "unfused": unfused}
    say(
        f"-> {part}: {best}, "
        + ", ".join(f"at {batch}: {fast[batch]:.1f} us against {unfused[batch]:.1f} us unfused" for batch in BATCHES)
        + ("" if fast[small] < unfused[small] else "; SLOWER, the compiled one is used")
    )
    return work if fast[small] < unfused[small] else plain


def _stack(batch: int, parts: dict[str, Callable[..., Any]], found: dict[str, Any]) -> None:
    """A module of four layers, fused and not, by one layer pass."""
    model = OurLoop(FULL, 2, CUDA, "eager").model
    module = model.L_level
    state, injection = (torch.randn(batch, 82, FULL.hidden_size, device=CUDA, dtype=torch.bfloat16) for _ in range(2))
    for block in module.layers:
        block.compile(fullgraph=True, dynamic=False)
    stack = FusedStack(module, model.rotary_emb, parts)
    with torch.no_grad(), model.weights_cast_once():
        one, other = stack(state, injection), module(state, injection, model.rotary_emb)
        off = float((one.float() - other.float()).norm() / other.float().norm())
        us = {
            "fused": graphed_ms(lambda: stack(state, injection)) * 250,
            "compiled": graphed_ms(lambda: module(state, injection, model.rotary_emb)) * 250,
        }
    found[f"layer pass {batch}"] = us
    say(f"a layer pass at {batch}: fused {us['fused']:.0f} us, compiled {us['compiled']:.0f} us, apart by {off:.1e}")


def gradient() -> None:
    """The gradients of a module, written out and compiled, beside those in float32; how fast, and each kernel."""
    found = results["gradient"] = {}
    torch._dynamo.config.recompile_limit = 64
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        model = OurLoop(FULL, 2, CUDA, "eager").model
        module = model.L_level
        with torch.no_grad():
            for p in module.parameters():
                p.copy_(p.bfloat16())
        written_out = DifferentiableStack(module, model.rotary_emb)
        torch.manual_seed(0)
        exact = _gradients(model, lambda *given: module(*given, model.rotary_emb), 16, torch.float32)
        for block in module.layers:
            block.compile(fullgraph=True, dynamic=False)
        ways = {"written out": written_out, "compiled": lambda *given: module(*given, model.rotary_emb)}
        for name, way in ways.items():
            offs = {}
            for key, own in _gradients(model, way, 16, torch.bfloat16).items():
                offs[key] = float((own.double() - exact[key].double()).norm() / exact[key].double().norm())
            found[f"{name}, off"] = offs
            worst = max(offs, key=lambda key: offs[key])
            say(f"{name}: off by {sum(offs.values()) / len(offs):.2e} on average, by {offs[worst]:.2e} in {worst}")
        for batch in BATCHES:
            for name, way in ways.items():
                found[f"{name}, us a layer at {batch}"] = us = _layer_us(model, way, batch, stream)
                say(f"{name} at {batch}: a layer's forward {us[0]:.0f} us, its backward {us[1]:.0f} us")
    for batch in BATCHES:
        for name, us in _gradient_kernels(Stack(batch), batch).items():
            found[f"{name} {batch}"] = us
            say(f"{name} at {batch}: {us:.1f} us")


def _gradients(model: Any, way: Callable[..., torch.Tensor], batch: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """By the injection and the weights of the low-level module, of the same numbers each time."""
    torch.manual_seed(1)
    shape = (batch, 82, FULL.hidden_size)
    state, injection, d_out = (torch.randn(shape, device=CUDA).bfloat16().to(dtype) for _ in range(3))
    leaves = {"x": injection.requires_grad_(), **dict(model.L_level.named_parameters())}
    found = torch.autograd.grad(way(state, injection), list(leaves.values()), d_out)
    return dict(zip(leaves, found, strict=True))


def _layer_us(
    model: Any, way: Callable[..., torch.Tensor], batch: int, stream: torch.cuda.Stream
) -> tuple[float, float]:
    shape = (batch, 82, FULL.hidden_size)
    state, injection, d_out = (torch.randn(shape, device=CUDA, dtype=torch.bfloat16) for _ in range(3))
    injection.requires_grad_()
    with model.weights_cast_once():
        weights = [
            weight
            for layer in model.L_level.modules()
            if isinstance(layer, CastedLinear) and layer.in_use is not None
            for weight in layer.in_use.values()
        ]
        forward = graphed_ms(lambda: way(state, injection), 2, stream)
        both = graphed_ms(lambda: torch.autograd.grad(way(state, injection), [injection, *weights], d_out), 2, stream)
    return forward * 250, (both - forward) * 250


def _gradient_kernels(stack: Stack, batch: int) -> dict[str, float]:
    """Microseconds of each kernel of a backward, and of the forward's that keep what it needs."""
    kernels = importlib.import_module("hrm_lab.model.gradient_kernels")
    rows, eps, shape = stack.waiting, stack.eps, (82, FULL.num_heads, stack.model.rotary_emb, stack.eps)
    d_rows = torch.randn_like(rows.values)
    qkv_proj, gate_up_proj = stack.given["attention"](rows)[1], stack.given["swiglu"](rows)[1]
    down_proj = stack.given["mlp_out"](rows)[1]
    mixed, qkv, log_sums = kernels.attention(rows, qkv_proj, *shape)
    _, gate_up = kernels.swiglu(rows, gate_up_proj, eps)
    works = {
        "attention that keeps": lambda: kernels.attention(rows, qkv_proj, *shape),
        "swiglu that keeps": lambda: kernels.swiglu(rows, gate_up_proj, eps),
        "attention_backward": lambda: kernels.attention_backward(d_rows, mixed, qkv, log_sums, rows, *shape),
        "swiglu_backward": lambda: kernels.swiglu_backward(d_rows, down_proj, gate_up, rows, eps),
        "norm_backward": lambda: kernels.norm_backward(d_rows, mixed, rows, eps),
    }
    found = {}
    for name, work in works.items():
        try:
            found[name] = graphed_ms(work) * 1e3
        except Exception as error:
            say(f"{name} FAILED: {type(error).__name__}: {str(error)[:300]}")
    return found


def optimizer() -> None:
    """The update of all parameters on its own: compiled, and by the package's kernels where they are installed."""
    model = OurLoop(FULL, 2, CUDA, "eager").model
    numbers = sum(p.numel() for p in model.parameters())
    for p in model.parameters():
        p.grad = torch.randn_like(p)

    def took(name: str, ms: float) -> None:
        results.setdefault("optimizer", {})[name] = ms
        say(f"{name}: {ms:.3f} ms, {numbers * 28 / ms / 1e9:.2f} TB/s of {numbers / 1e6:.1f} M parameters")

    ours = AdamATan2(model.parameters(), lr=1e-4)
    factors = torch.tensor(ours.next_factors(), device=CUDA)
    ours.rule = torch.compile(atan2_rule, fullgraph=True, dynamic=False)
    took("compiled for each size", graphed_ms(lambda: ours.apply(factors)))
    if importlib.util.find_spec("adam_atan2_backend") is None:
        say("the package adam-atan2 is not installed with its kernels: not compared")
        return
    package = importlib.import_module("adam_atan2").AdamATan2(model.parameters(), lr=1e-4)
    took("the package", device_ms(package.step))  # no graph takes it: its learning rate is a number of the host
    _apart(model)


def _apart(model: torch.nn.Module) -> None:
    """Ten updates by the package and by our rule: how far apart the weights are."""
    start, ended = [p.detach().clone() for p in model.parameters()], []
    for backend in ("fused", "torch"):
        rows = [torch.nn.Parameter(p.clone()) for p in start]
        chosen = build_adam_atan2(rows, OptimConfig(lr=1e-4, backend=backend), CUDA)
        generator = torch.Generator(CUDA).manual_seed(0)
        for _ in range(10):
            for row in rows:
                row.grad = torch.randn(row.shape, device=CUDA, generator=generator)
            chosen.step()
        ended.append(rows)
    apart = max(float((a - b).abs().max()) for a, b in zip(*ended, strict=True))
    say(f"after ten updates the package's weights and ours are {apart:.1e} apart")
    results["optimizer"]["apart"] = apart


def golden16() -> None:
    """The golden cases in bfloat16, captured; and one step of the full model in each way beside the eager one."""
    found = results["golden16"] = {}
    for path in CASES:
        try:
            verdict = f"ok: {replay_bfloat16(path, 'captured', 'cuda')}"
        except Exception as error:
            verdict = f"FAILED: {type(error).__name__}: {str(error).strip()[:600]}"
        found[path.stem] = verdict
        say(f"bfloat16 captured {path.stem}: {verdict}")
    config = replace(FULL, forward_dtype="bfloat16")
    loops = {way: OurLoop(config, 32, CUDA, way) for way in ("eager", "captured")}
    loops |= {"gradient compiled": no_gradient_kernels(config, 32), "unfused": unfused(config, 32, "captured")}
    given: dict[str, tuple[torch.Tensor, ...]] = {}
    for name, loop in loops.items():
        loop.step()
        gradient = torch.cat([p.grad.double().flatten() for p in loop.model.parameters()])
        given[name] = loop.compute.carry.latents.z_H.double(), loop.compute.carry.latents.z_L.double(), gradient
        pairs = zip(given[name], given["eager"], strict=True)
        offs = [float((own - eager).norm() / eager.norm()) for own, eager in pairs]
        sums = [float(x) for x in loop.compute.sums]
        found[f"full model, {name}"] = {"z_H, z_L, gradient": offs, "sums": sums}
        words = ", ".join(f"{x:.2e}" for x in offs)
        say(f"full model, {name}: z_H, z_L, gradient off by {words}, sums {' '.join(f'{x:.5g}' for x in sums)}")


def unfused(config: ModelConfig, batch: int, execution: str) -> OurLoop:
    """The step without the kernels."""
    own, step_module.fuse = step_module.fuse, lambda model, positions: False
    try:
        return OurLoop(config, batch, CUDA, execution)
    finally:
        step_module.fuse = own


def no_gradient_kernels(config: ModelConfig, batch: int) -> OurLoop:
    """The captured step with kernels for the passes without a gradient alone."""
    own, fused_module.is_differentiable = fused_module.is_differentiable, lambda model, positions: False
    try:
        return OurLoop(config, batch, CUDA, "captured")
    finally:
        fused_module.is_differentiable = own


def _blocks(loop: OurLoop) -> list[torch.nn.Module]:
    return [*loop.model.L_level.layers, *loop.model.H_level.layers]


def whole(loop: OurLoop) -> OurLoop:
    """The segment and its loss as one graph, in place of module by module."""
    for block in _blocks(loop):
        block._compiled_call_impl = None
    loop.compute.forward = torch.compile(step_module.forward, fullgraph=True, dynamic=False)
    loop.compute.refill = torch.compile(step_module.refill, fullgraph=True, dynamic=False)
    return loop


def autotuned(loop: OurLoop) -> OurLoop:
    """Matrix products chosen by trying, with what comes after them fused into them."""
    for block in _blocks(loop):
        block.compile(fullgraph=True, dynamic=False, mode="max-autotune-no-cudagraphs")
    return loop


def eager_captured(loop: OurLoop) -> OurLoop:
    """A CUDA graph of what is not compiled."""
    for block in _blocks(loop):
        block._compiled_call_impl = None
    loop.compute.optimizer.rule = step_module.atan2_rule
    return loop


WAYS: dict[str, Callable[[int, Path], Any]] = {
    "plain loop": lambda batch, folder: PlainLoop(FULL, batch, folder, CUDA, compiled=False),
    "eager": lambda batch, folder: OurLoop(FULL, batch, CUDA, "eager"),
    "eager captured": lambda batch, folder: eager_captured(unfused(FULL, batch, "captured")),
    "compiled": lambda batch, folder: OurLoop(FULL, batch, CUDA, "compiled"),
    "captured": lambda batch, folder: OurLoop(FULL, batch, CUDA, "captured"),
    "captured, gradient compiled": lambda batch, folder: no_gradient_kernels(FULL, batch),
    "captured unfused": lambda batch, folder: unfused(FULL, batch, "captured"),
    "captured whole": lambda batch, folder: whole(unfused(FULL, batch, "captured")),
    "captured autotuned": lambda batch, folder: autotuned(unfused(FULL, batch, "captured")),
    "plain loop compiled": lambda batch, folder: PlainLoop(FULL, batch, folder, CUDA, compiled=True),
}


def _measure(name: str, way: str, batch: int, steps: int = 20) -> None:
    began = time.perf_counter()
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"rows{os.getpid()}"
    folder.mkdir(exist_ok=True)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    loop = WAYS[way](batch, folder)
    first = seconds(loop.step, CUDA)
    for _ in range(5):
        loop.step()
    each = [seconds(loop.step, CUDA) for _ in range(steps)]
    together = seconds(lambda: repeat(loop.step, steps), CUDA) / steps
    middle, low, high = spread(each)
    flops = step_flops(FULL, 81, batch)
    peak = device_peak(torch.cuda.get_device_name(), "bfloat16")
    row = {
        "ms": middle * 1e3,
        "quartiles_ms": [low * 1e3, high * 1e3],
        "ms_back_to_back": together * 1e3,
        "samples_per_s": batch / together,
        "tflops": flops / together / 1e12,
        "mfu": flops / together / peak if peak else None,
        "peak_memory_gb": torch.cuda.max_memory_allocated() / 1e9,
        "first_step_s": first,
    }
    results.setdefault("steps", {})[name] = row
    mfu = f"MFU {row['mfu']:.1%}" if row["mfu"] else "peak of this device not known"
    say(
        f"{name}: {row['ms']:.2f} ms ({low * 1e3:.2f} to {high * 1e3:.2f}), back to back "
        f"{row['ms_back_to_back']:.2f} ms, {row['samples_per_s']:.0f} samples/s, {row['tflops']:.0f} TFLOP/s, {mfu}, "
        f"{row['peak_memory_gb']:.1f} GB, first step {first:.1f} s, in all {time.perf_counter() - began:.1f} s"
    )
    keep()


def repeat(work: Callable[[], object], times: int) -> None:
    for _ in range(times):
        work()


def _try(name: str, way: str, batch: int) -> None:
    try:
        _measure(name, way, batch)
    except Exception as error:
        say(f"{name} FAILED: {type(error).__name__}: {str(error)[:1500]}")
        traceback.print_exc(limit=-8)


def steps() -> None:
    """Every quick way to compute a step."""
    for way, batch in (("captured", 384), ("plain loop", 384), ("captured", 768), ("eager captured", 384)):
        _try(f"{way} {batch}", way, batch)
    for way, batch in (("eager", 384), ("compiled", 384), ("plain loop", 768)):
        _try(f"{way} {batch}", way, batch)


def speed() -> None:
    """Captured steps with and without the kernels, and the plain loop."""
    for way in ("captured", "captured, gradient compiled", "captured unfused", "plain loop"):
        _try(f"{way} 384", way, 384)
    _try("captured 768", "captured", 768)


def deterministic() -> None:
    """What it costs to get the same bits every time."""
    torch.use_deterministic_algorithms(True)
    try:
        _try("captured 384 deterministic", "captured", 384)
    finally:
        torch.use_deterministic_algorithms(False)
    _try("captured 384 again", "captured", 384)


def profile() -> None:
    """The kernels of captured steps."""
    _profile("captured")


def _profile(way: str) -> None:
    loop = WAYS[way](384, Path())
    repeat(loop.step, 8)
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        repeat(loop.step, 2)
        torch.cuda.synchronize()
    kernels = [event for event in profiler.key_averages() if event.self_device_time_total > 0]
    kernels.sort(key=lambda event: -event.self_device_time_total)
    total = sum(event.self_device_time_total for event in kernels)
    say(f"--- {way}: {total / 2e3:.2f} ms of kernels a step")
    rows = [(event.key, event.count / 2, event.self_device_time_total / 2e3) for event in kernels]
    results.setdefault("kernels", {})[way] = rows
    for name, count, ms in rows[:40]:
        say(f"{ms:8.3f} ms {ms * 2e3 / total:6.1%} {count:6.1f} times  {name[:110]}")
    if OUT is not None:
        trace = OUT / f"{way.replace(' ', '_')}.json"
        profiler.export_chrome_trace(str(trace))
        with gzip.open(f"{trace}.gz", "wb", 6) as packed:
            packed.write(trace.read_bytes())
        trace.unlink()


def segment() -> None:
    """The whole segment as one compiled graph."""
    for batch in BATCHES:
        _try(f"captured whole {batch}", "captured whole", batch)
    _profile("captured whole")


def autotune() -> None:
    """Matrix products by Triton where they are faster."""
    _try("captured autotuned 384", "captured autotuned", 384)
    _profile("captured autotuned")


def slow() -> None:
    """The plain loop compiled, as the published one is run; it compiles for long."""
    for batch in BATCHES:
        _try(f"plain loop compiled {batch}", "plain loop compiled", batch)


SECTIONS = [
    versions,
    fused,
    gradient,
    optimizer,
    golden,
    capture,
    syncs,
    attention,
    layer,
    steps,
    deterministic,
    profile,
]
MORE = [golden16, speed, segment, autotune, slow]


def main(wanted: list[str]) -> None:
    """Run the sections asked for, in that order, or all but some."""
    if not torch.cuda.is_available():
        sys.exit("there is no CUDA device here: nothing was checked")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for determinism; read when cuBLAS is first used
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    known = {section.__name__: section for section in SECTIONS + MORE}
    for section in [known[name] for name in wanted] or SECTIONS:
        began = time.perf_counter()
        say(f"== {section.__name__}: {section.__doc__}")
        try:
            section()
        except Exception:
            say(f"FAILED: {traceback.format_exc(limit=-6)}")
        say(f"== {section.__name__} took {time.perf_counter() - began:.1f} s")
        keep()


if __name__ == "__main__":
    main(sys.argv[1:])
