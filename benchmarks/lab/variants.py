#!/usr/bin/env python3
"""What variants of attention cost in Hopper's prefill kernel, and whether they are right.

  variants.py check                               the working tree's kernels against an fp64 oracle
  variants.py time --cases 32/8x128 --names cap   time over that of the same kernel without a variant, all in turn
  variants.py time --version old=/path/to/kernels --version new=../../kernels:SOME_MACRO=1

Options as prefill.py. A version's `none` is the first version's, so that versions compare.
"""
import argparse
import datetime
import math
import struct
import sys

from dataclasses import replace

import torch

import gpu
from prefill import GRAPH_US, LAUNCH_TOKENS, Config, Data, Launch, compile_configs, versions_of

LOG2E = math.log2(math.e)
CAP, WINDOW = 30.0, 1023  # a window sees so many tokens before the query token's own


class Variant:
    """The CUDA text, as the runtime or the generator writes it; the arguments; and what the oracle does to logits of a sequence, and to its
    query and output, [heads, tokens, dim]."""

    def __init__(self, text, arguments=None, shape=None, causal=True, window=None, sinks=False, turn=None, query=None, output=None):
        self.text, self.make, self.shape, self.causal, self.window, self.sinks, self.turn = text, arguments, shape, causal, window, sinks, turn
        self.query, self.output = query, output

    def arguments(self, data, causal):
        """The bytes, and the tensors that they point at."""
        pieces = self.make(data, causal) if self.make else []
        kept, packed = [], b""
        for piece in pieces:
            if isinstance(piece, torch.Tensor):
                kept.append(piece)
                packed += bytes(-len(packed) % 8) + struct.pack("<qii", piece.data_ptr(), piece.numel(), 0)
            elif piece is None:  # the next component of several begins at a multiple of 16 bytes
                packed += bytes(-len(packed) % 16)
            else:
                packed += struct.pack("<f" if isinstance(piece, float) else "<i", piece)
        return packed, kept


def slopes(data):
    heads = data.config.heads
    return torch.tensor([2.0 ** (-8.0 * (h + 1) / heads) for h in range(heads)], device="cuda")


def sinks(data):
    return torch.linspace(-2.0, 6.0, data.config.heads, device="cuda")


def visible(queries, length, causal):
    q, k = torch.arange(queries, device="cuda")[:, None], torch.arange(length, device="cuda")[None]
    return k <= q + length - queries if causal else torch.ones(queries, length, dtype=torch.bool, device="cuda")


def masks(data, causal):
    """Those that causality makes; for a check some bits are missing."""
    return [visible(q, n, causal) & ((torch.arange(q, device="cuda")[:, None] * 7 + torch.arange(n, device="cuda")[None] * 3) % data.holes != 0)
            if getattr(data, "holes", 0) else visible(q, n, causal) for q, n in zip(data.queries, data.lengths)]


def packed_mask(data, causal):
    weights = torch.tensor([1 << i for i in range(8)], dtype=torch.uint8, device="cuda")
    starts, at, found = [], 0, []
    for mask in masks(data, causal):
        flat = mask.flatten()
        flat = torch.nn.functional.pad(flat.to(torch.uint8), (0, -flat.numel() % 8)).view(-1, 8)
        found.append((flat * weights).sum(1, dtype=torch.uint8))
        starts.append(at)
        at += found[-1].numel()
    return [torch.tensor(starts, dtype=torch.int32, device="cuda"), torch.cat(found + [torch.zeros(64, dtype=torch.uint8, device="cuda")])]


def bool_mask(data, causal):
    starts, at, found = [], 0, []
    for mask in masks(data, causal):
        starts.append(at)
        found.append(mask.flatten())
        at += mask.numel()
    return [torch.tensor(starts, dtype=torch.int32, device="cuda"), torch.cat(found)]


def hook(arguments, flag, signature, body):
    struct_text = f"  struct Arguments {{ {arguments} }};\n" if arguments else ""
    return f"""namespace csharp = flashinfer::csharp;
struct Variant : flashinfer::NoVariant {{
{struct_text}  static constexpr bool {flag} = true;
  static __device__ __forceinline__ {signature} {{ {body} }}
}};"""


def parts(arguments, **functions):
    """A transform in parts, as the generator writes it."""
    heads = {"before": f"{AT}, {A}", "bend": f"float logit, {AT}, {A}", "after": A}
    bends = "" if functions.keys() == {"after"} else "  static constexpr bool kBends = true;\n"
    bodies = "".join(f"  static __device__ __forceinline__ float {name}({heads[name]}) {{ return {body}; }}\n" for name, body in functions.items())
    return f"""namespace csharp = flashinfer::csharp;
struct Variant : flashinfer::TransformInParts<Variant> {{
  struct Arguments {{ {arguments} }};
{bends}{bodies}}};"""


AT, A = "const flashinfer::LogitsContext& at", "const Arguments& a"
TRANSFORM = "float transform(float logit, const flashinfer::LogitsContext& at, const Arguments& a)"
KEEP = "bool keep(const flashinfer::LogitsContext& at, const Arguments& a)"
FIRST = "int first_key(const flashinfer::LogitsContext& at, const Arguments& a)"


def using(*names):
    text = ", ".join("flashinfer::" + n for n in names)
    return f"using Variant = flashinfer::Compose<{text}>;" if len(names) > 1 else f"using Variant = {text};"


def cap(x, c):
    return CAP * torch.tanh(x / CAP)


def alibi(x, c):
    return x + c.slopes[:, None, None] * (c.k - c.q)[None]


def windowed(x, c):
    return x.masked_fill((c.k < c.position - WINDOW)[None], -math.inf)


def items(data):
    """A quarter of each sequence is a prefix; behind it items of so many tokens, each with its delimiter before it: prefixes and places."""
    prefixes = [n // 4 for n in data.lengths]
    return prefixes, [torch.arange(n - p, device="cuda", dtype=torch.int32) % getattr(data, "item", 128) for n, p in zip(data.lengths, prefixes)]


def item_arguments(data, causal):
    prefixes, places = items(data)
    counts = [p.numel() for p in places]
    starts = [sum(counts[:i]) for i in range(len(counts))]
    return [torch.tensor(x, dtype=torch.int32, device="cuda") for x in (prefixes, starts)] + [torch.cat(places)]


def itemised(x, c):
    prefix, places = c.prefix, c.places
    behind = (c.position - prefix).clamp(min=0)
    delimiter = c.position - (places[behind.clamp(max=max(0, places.numel() - 1))] if places.numel() else 0)
    return x.masked_fill(((c.position >= prefix) & (c.k >= prefix) & (c.k <= delimiter))[None], -math.inf)


def scales(config):
    return torch.linspace(0.5, 1.5, config.heads * config.dim, device="cuda")


def gates(data):
    """[query tokens, heads]"""
    rows = sum(data.queries)
    return torch.sin(torch.arange(rows * data.config.heads, device="cuda").float()) * 3


def gate_arguments(data, _):
    starts = [sum(data.queries[:i]) for i in range(len(data.queries))]
    return [gates(data), torch.tensor(starts, dtype=torch.int32, device="cuda"), data.config.heads]


def frequencies(dim):
    return 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64, device="cuda") / dim)


def angles(data, dim):
    """In 2^-32 turns."""
    turns = (frequencies(dim or data.config.dim) / (2 * math.pi) * 2.0**32).round().long() % 2**32
    return torch.where(turns >= 2**31, turns - 2**32, turns).to(torch.int32)


def turned(x, first, dtype, dim, neighbours):
    """Rows at positions from `first` on, rounded as the kernel rounds them."""
    dim = dim or x.shape[2]
    angle = (torch.arange(x.shape[0], device="cuda") + first).double()[:, None, None] * frequencies(dim)
    pairs = (slice(0, dim, 2), slice(1, dim, 2)) if neighbours else (slice(0, dim // 2), slice(dim // 2, dim))
    a, b = (x[..., pair] for pair in pairs)
    y = x.clone()
    y[..., pairs[0]], y[..., pairs[1]] = a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()
    return y.to(dtype).double()


def rope(dim=0, neighbours=False, others=(), arguments=None, **more):
    text = using(f"Rope<{dim}, {str(neighbours).lower()}>", *others)
    return Variant(text, lambda d, c: [angles(d, dim), *((None, *arguments(d, c)) if arguments else ())], turn=(dim, neighbours), **more)


VARIANTS = {
    "none": Variant("using Variant = flashinfer::NoVariant;"),
    "identity": Variant(hook("", "kTransformsLogits", TRANSFORM, "return logit;")),
    "cap": Variant(using("SoftCap"), lambda d, _: [CAP], cap),
    "alibi": Variant(using("Alibi"), lambda d, _: [slopes(d)], alibi),
    "sinks": Variant(using("Sinks"), lambda d, _: [sinks(d)], sinks=True),
    "window": Variant(using("SlidingWindow"), lambda d, _: [WINDOW], windowed, window=WINDOW),
    "wide window": Variant(using("SlidingWindow"), lambda d, _: [1 << 20]),
    "cap window": Variant(using("SoftCap", "SlidingWindow"), lambda d, _: [CAP, None, WINDOW], lambda x, c: windowed(cap(x, c), c), window=WINDOW),
    "packed": Variant(using("PackedMask"), packed_mask, lambda x, c: x.masked_fill(~c.mask[None], -math.inf), causal=False),
    "bool": Variant(using("BoolMask"), bool_mask, lambda x, c: x.masked_fill(~c.mask[None], -math.inf), causal=False),
    "alibi cap": Variant(using("Alibi", "SoftCap"), lambda d, _: [slopes(d), None, CAP], lambda x, c: cap(alibi(x, c), c)),
    "cap sinks": Variant(using("SoftCap", "Sinks"), lambda d, _: [CAP, None, sinks(d)], cap, sinks=True),
    "user cap": Variant(hook("float cap; float inverse;", "kTransformsLogits", TRANSFORM, "return a.cap * csharp::tanh(logit * a.inverse);"),
                        lambda d, _: [CAP, 1 / CAP], cap),
    "user alibi": Variant(hook("flashinfer::Span<float> slopes;", "kTransformsLogits", TRANSFORM,
                               "return logit + a.slopes[at.head] * float(at.kv_position - at.qo_index);"), lambda d, _: [slopes(d)], alibi),
    "user fast cap": Variant(f"""struct Variant : flashinfer::TransformByCap<Variant> {{
  struct Arguments {{ float cap; float inverse; }};
  static __device__ __forceinline__ float before({AT}, {A}) {{ return a.inverse; }}
  static __device__ __forceinline__ float after({A}) {{ return a.cap; }}
}};""", lambda d, _: [CAP, 1 / CAP], cap),
    "user line": Variant(f"""struct Variant : flashinfer::TransformByLine<Variant> {{
  struct Arguments {{ flashinfer::Span<float> slopes; }};
  static __device__ __forceinline__ flashinfer::Line line({AT}, {A}) {{ return {{a.slopes[at.head], at.qo_index}}; }}
}};""", lambda d, _: [slopes(d)], alibi),
    "user head temperature": Variant(parts("flashinfer::Span<float> sharpness;", before="a.sharpness[at.head]"),
                                     lambda d, _: [slopes(d) + 0.5], lambda x, c: x * (c.slopes + 0.5)[:, None, None]),
    "user window": Variant(hook("", "kBoundsKeys", FIRST, "return csharp::max(0, at.qo_position - 1023);"), None, windowed, window=WINDOW),
    "user mask": Variant(hook("", "kMasksLogits", KEEP, "return (at.kv_position & 63) < 32 || at.qo_position - at.kv_position < 128;"), None,
                         lambda x, c: x.masked_fill(((c.k % 64 >= 32) & (c.position - c.k >= 128))[None], -math.inf)),
    "items": Variant(using("MultiItem"), item_arguments, itemised),
    "cap packed": Variant(using("SoftCap", "PackedMask"), lambda d, c: [CAP, None, *packed_mask(d, c)], lambda x, c: cap(x, c).masked_fill(~c.mask[None], -math.inf), causal=False),
    "items packed cap": Variant(using("SoftCap", "PackedMask", "MultiItem"), lambda d, c: [CAP, None, *packed_mask(d, c), None, *item_arguments(d, c)],
                                lambda x, c: itemised(cap(x, c).masked_fill(~c.mask[None], -math.inf), c), causal=False),
    "items window": Variant(using("SlidingWindow", "MultiItem"), lambda d, c: [WINDOW, None, *item_arguments(d, c)], lambda x, c: itemised(windowed(x, c), c), window=WINDOW),
    "items alibi": Variant(using("Alibi", "MultiItem"), lambda d, c: [slopes(d), None, *item_arguments(d, c)], lambda x, c: itemised(alibi(x, c), c)),
    "items cap": Variant(using("SoftCap", "MultiItem"), lambda d, c: [CAP, None, *item_arguments(d, c)], lambda x, c: itemised(cap(x, c), c)),
    "items bool": Variant(using("BoolMask", "MultiItem"), lambda d, c: [*bool_mask(d, c), None, *item_arguments(d, c)],
                          lambda x, c: itemised(x.masked_fill(~c.mask[None], -math.inf), c), causal=False),
    "bool alibi": Variant(using("Alibi", "BoolMask"), lambda d, c: [slopes(d), None, *bool_mask(d, c)], lambda x, c: alibi(x, c).masked_fill(~c.mask[None], -math.inf), causal=False),
    "rope items": rope(0, False, ("MultiItem",), item_arguments, shape=itemised),
    "rope": rope(),
    "rope neighbours": rope(neighbours=True),
    "rope 32": rope(32),
    "rope 24": rope(24),
    "rope 40 neighbours": rope(40, True),
    "rope 48": rope(48),
    "rope 88": rope(88),
    "rope 184": rope(184),
    "rope 64 neighbours": rope(64, True),
    "rope cap window": rope(0, False, ("SoftCap", "SlidingWindow"), lambda d, _: [CAP, None, WINDOW], shape=lambda x, c: windowed(cap(x, c), c), window=WINDOW),
    "rope alibi": rope(0, True, ("Alibi",), lambda d, _: [slopes(d)], shape=alibi),
    "rope cap": rope(0, False, ("SoftCap",), lambda d, _: [CAP], shape=cap),
    "rope bool": rope(0, False, ("BoolMask",), bool_mask, shape=lambda x, c: x.masked_fill(~c.mask[None], -math.inf), causal=False),
    "rope packed": rope(0, False, ("PackedMask",), packed_mask, shape=lambda x, c: x.masked_fill(~c.mask[None], -math.inf), causal=False),
}


# By 0 and less the softmax cannot scale.
for name, factor in {"user temperature": 0.7, "user temperature below 0": -0.7, "user temperature 0": 0.0}.items():
    VARIANTS[name] = Variant(parts("float sharpness;", after="a.sharpness"), lambda d, _, f=factor: [f],
                             lambda x, c, f=factor: x * f)
VARIANTS["user cap below 0"] = Variant(VARIANTS["user fast cap"].text, lambda d, _: [-CAP, 1 / CAP], lambda x, c: -cap(x, c))
for name, factor in {"user sloped": 0.7, "user sloped below 0": -0.7, "user sloped 0": 0.0}.items():
    VARIANTS[name] = Variant(f"""struct Variant : flashinfer::TransformByScaledLine<Variant> {{
  struct Arguments {{ flashinfer::Span<float> slopes; float sharpness; }};
  static __device__ __forceinline__ flashinfer::Line line({AT}, {A}) {{ return {{a.slopes[at.head], at.qo_index}}; }}
  static __device__ __forceinline__ float after({A}) {{ return a.sharpness; }}
}};""", lambda d, _, f=factor: [slopes(d), f], lambda x, c, f=factor: alibi(x * f, c))
VARIANTS["user sloped hook"] = Variant(parts("flashinfer::Span<float> slopes; float sharpness;", before="a.sharpness",
                                             bend="logit + a.slopes[at.head] * float(at.kv_position - at.qo_index)"),
                                       lambda d, _: [slopes(d), 0.7], lambda x, c: alibi(x * 0.7, c))
VARIANTS["user scale"] = Variant(
    hook("flashinfer::Span<float> scales; int dim;", "kTransformsQuery", "float transform_query(float element, const flashinfer::ElementContext& at, const Arguments& a)",
         "return element * a.scales[csharp::add(csharp::multiply(at.head, a.dim), at.element)];"),
    lambda d, _: [scales(d.config), d.config.dim], query=lambda q, c: q * scales(c.config).double().view(c.config.heads, 1, c.config.dim))
OUTPUT = "float transform_output(float element, float lse2, const flashinfer::ElementContext& at, const Arguments& a)"
VARIANTS["user gate"] = Variant(
    hook("flashinfer::Span<float> gates; flashinfer::Span<int> starts; int heads;", "kTransformsOutput", OUTPUT,
         "return element * csharp::fast_sigmoid(a.gates[csharp::add(csharp::multiply(csharp::add(a.starts[at.sequence], at.qo_index), a.heads), at.head)]);"),
    gate_arguments, output=lambda o, lse, c: o * torch.sigmoid(c.gates.double()).transpose(0, 1)[..., None])
VARIANTS["user quiet"] = Variant(hook("", "kTransformsOutput", OUTPUT, "return csharp::divide(element, 1.f + csharp::fast_exp2(-lse2));"),
                                 output=lambda o, lse, c: o * torch.sigmoid(lse)[..., None])


class Context:
    pass


def oracle(variant, data, causal, turned_dtype=None):
    """fp64; LSE in base 2. A row that sees nothing gives zeros and -inf. turned_dtype: of what turned; if left out, the kernel's that prepares keys."""
    c = data.config
    q, k, v = (x.double() for x in data.sets[0][:3])
    at = Context()
    at.slopes = slopes(data).double()
    sink = sinks(data).double()
    outputs, lses, row, token = [], [], 0, 0
    all_masks = masks(data, causal)
    prefixes, places = items(data)
    for number, (queries, length) in enumerate(zip(data.queries, data.lengths)):
        qs = q[row:row + queries].transpose(0, 1)
        ks, vs = (x[token:token + length].repeat_interleave(c.heads // c.kv_heads, 1).transpose(0, 1) for x in (k, v))
        at.config, at.gates = c, gates(data).view(-1, c.heads)[row:row + queries]
        if variant.query:
            qs = variant.query(qs, at).to(gpu.DTYPES[c.dtype][0]).double()
        if variant.turn:
            dtype = turned_dtype or (torch.float16 if c.kv_dtype else gpu.DTYPES[c.dtype][0])
            qs = turned(qs.transpose(0, 1), length - queries, dtype, *variant.turn).transpose(0, 1)
            # What is stored turns, and is rounded; then it is scaled.
            scale = data.scales[0].double().repeat_interleave(c.heads // c.kv_heads)[:, None, None] if c.kv_dtype else 1.0
            ks = turned((ks / scale).transpose(0, 1), 0, dtype, *variant.turn).transpose(0, 1) * scale
        x = qs @ ks.transpose(1, 2) / math.sqrt(c.dim)
        at.q, at.k = torch.arange(queries, device="cuda")[:, None], torch.arange(length, device="cuda")[None]
        at.position, at.mask = at.q + length - queries, all_masks[number]
        at.prefix, at.places = prefixes[number], places[number]
        if variant.shape:
            x = variant.shape(x, at)
        if causal and variant.causal:
            x = x.masked_fill((at.k > at.position)[None], -math.inf)
        if variant.sinks:
            x = torch.cat([x, sink[:, None, None].expand(-1, queries, 1)], 2)
        lse = torch.logsumexp(x, -1) if x.shape[2] else torch.full((c.heads, queries), -math.inf, device="cuda", dtype=torch.float64)
        weights = torch.where(lse[..., None] == -math.inf, torch.zeros_like(x), torch.exp(x - lse[..., None]))[..., :length]
        output = weights @ vs
        outputs.append((variant.output(output, lse, at) if variant.output else output).transpose(0, 1))
        lses.append(lse.transpose(0, 1) * LOG2E)
        row, token = row + queries, token + length
    return torch.cat(outputs), torch.cat(lses)


BATCHES = [([1, 63, 64, 129, 200, 5, 353], [1, 63, 65, 128, 300, 77, 1000], 1.0), ([175, 177, 31, 0, 1], [176, 640, 0, 50, 2097], 6.0), ([1300], [2049], 1.0)]


def check_kernel(kernel, config, variant, parts=(1, 3), blocks=(None, 3)):
    worst, worst_lse, faults = 0.0, 0.0, []
    for number, (queries, lengths, rising) in enumerate(BATCHES):
        data = Data(config, queries, lengths, seed=number, rising=rising)
        data.holes, data.item = 5, 41
        for causal in (True, False):
            if variant.window is not None and not causal:
                continue
            arguments, kept = variant.arguments(data, causal)
            wanted, wanted_lse = oracle(variant, data, causal)
            o, lse = data.sets[0][5:7]
            for cut in parts:
                for grid in blocks:
                    o.fill_(math.nan)
                    lse.fill_(math.nan)
                    launch = Launch(kernel, data, 0, causal and variant.causal, cut, grid, arguments=arguments, window=variant.window)
                    launch()
                    torch.cuda.synchronize()
                    error = ((o.double() - wanted).norm() / wanted.norm()).item()
                    nothing = wanted_lse == -math.inf
                    away = (lse.double() - wanted_lse)[~nothing].abs().max().item()
                    wrong = (~(lse[nothing] == -math.inf)).sum().item() + (o[nothing] != 0).sum().item()
                    worst, worst_lse = max(worst, error if error == error else math.inf), max(worst_lse, away)
                    # An element that is turned or scaled onto the border of two 16-bit numbers goes to one here and to the other there.
                    near = 1e-3 * wanted_lse[~nothing].abs().max().item() if variant.turn or variant.query else 0.0
                    if not error < (6e-3 if config.dtype == "bf16" else 2e-3) or not away < max(1e-2, near) or wrong:
                        faults.append(f"batch {number} {'causal' if causal else 'full'} parts {cut} blocks {grid}: error {error:.2e}, lse off by {away:.2e}, {wrong} wrong of hidden rows")
    return worst, worst_lse, faults


def parse_cases(text):
    """heads/kvHeads x headDim [p pageSize] [f for fp16] [: type of a quantised cache]"""
    found = []
    for case in text.split(","):
        case, _, kv_dtype = case.partition(":")
        heads, rest = case.split("x")
        half = rest.endswith("f")
        dim, _, page = rest.rstrip("f").partition("p")
        h, k = map(int, heads.split("/"))
        found.append(Config(h, k, int(dim), int(dim), page=int(page or 0), dtype="f16" if half else "bf16", kv_dtype=kv_dtype))
    return found


def with_variant(config, name):
    return replace(config, variant=VARIANTS[name].text)


def run_check(options):
    versions = versions_of(options.version)
    names = options.names.split(",") if options.names else [n for n in VARIANTS]
    jobs = [(c, n) for c in parse_cases(options.cases) for n in names]
    kernels = compile_configs([with_variant(c, n) for c, n in jobs], versions, options.arch)
    failed = 0
    for version in versions:
        for c, n in jobs:
            config = with_variant(c, n)
            worst, away, faults = check_kernel(kernels[version, config], config, VARIANTS[n], blocks=(None,) if options.quick else (None, 3))
            failed += len(faults)
            print(f"{'FAILED' if faults else 'ok    '} {version} {config.name} {n}: error {worst:.2e}, of lse {away:.1e}", *faults[:3], sep="\n  " if faults else "", flush=True)
    print(f"{len(kernels)} kernels checked, {failed} failures")
    return failed


def run_time(options):
    versions = versions_of(options.version)
    names = options.names.split(",") if options.names else list(VARIANTS)
    names = ["none"] + [n for n in names if n != "none"]
    cases = parse_cases(options.cases)
    kernels = compile_configs([with_variant(c, n) for c in cases for n in names], versions, options.arch)
    rows = []
    for c in cases:
        for length in map(int, options.lengths.split(",")):
            batch = max(1, LAUNCH_TOKENS // length)
            data = Data(c, [length] * batch, [length] * batch, sets=2)
            flops = data.flops(True)
            times = max(1, math.ceil(GRAPH_US / (flops / 5e8) / 2))
            graphs, kept = {}, []
            for n in names:
                variant = VARIANTS[n]
                arguments, tensors = variant.arguments(data, True)
                kept.append(tensors)
                for version in versions if n != "none" else list(versions)[:1]:
                    launches = [Launch(kernels[version, with_variant(c, n)], data, i, True, arguments=arguments, window=variant.window)
                                for i in range(2)]
                    graphs[version, n] = gpu.capture(launches * times)
            us = gpu.time_in_turn(graphs, options.rounds)
            plain = us[list(versions)[0], "none"]
            print(f"{c.name} {batch}x{length} causal: none {plain:.1f} us, {flops / plain / 1e6:.0f} TFLOP/s", flush=True)
            for n in names[1:]:
                print(f"  {n:12s}" + "  ".join(f"{v} {us[v, n]:7.1f} {us[v, n] / plain:.3f}" for v in versions), flush=True)
            rows += [(v, n, c, batch, length, t, plain) for (v, n), t in us.items()]
            del graphs, kept
            torch.cuda.empty_cache()
    if options.out:
        write(options, rows)
    return 0


def write(options, rows):
    result = {**gpu.device(), "date": datetime.date.today().isoformat(), "commit": options.commit,
              "note": "benchmarks/lab/variants.py: kernels without the library around them, variants in turn in one process, by graph replay. "
                      "Masks are causal ones, and walk the blocks of causal attention.",
              "ceilings": {}, "rows": []}
    for version, name, c, batch, length, us, plain in rows:
        result["rows"].append({
            "bench": "prefill", "case": f"{c.name} causal batch={batch} length={length} {name}",
            "params": {"variant": name, "version": version, "dtype": {"bf16": "BFloat16", "f16": "Float16"}[c.dtype], "heads": c.heads, "kvHeads": c.kv_heads,
                       "headDim": c.dim, **({"pageSize": c.page} if c.page else {}), "batch": batch, "qoLen": length, "kvLen": length, "causal": True,
                       "layout": "Nhd" if c.page else "Ragged"},
            "us": round(us, 2), "peer": "the same kernel without a variant", "ratioToPeer": round(plain / us, 4)})
    gpu.add_rows(options.out, result)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["check", "time"])
    parser.add_argument("--version", action="append", metavar="NAME=FOLDER[:MACRO,...]")
    parser.add_argument("--arch", default="sm_90a")
    parser.add_argument("--cases", default="32/8x128")
    parser.add_argument("--names", help="of variants; all if left out")
    parser.add_argument("--lengths", default="4096")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--quick", action="store_true", help="check: one grid only")
    parser.add_argument("--out", help="a results file to write, or add rows to")
    parser.add_argument("--commit", default="", help="what --out says of the versions")
    options = parser.parse_args()
    torch.manual_seed(1)
    return run_check(options) if options.what == "check" else run_time(options)


if __name__ == "__main__":
    sys.exit(main())
