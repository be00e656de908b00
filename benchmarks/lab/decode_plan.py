"""DecodePlanner.cs and ChunkChooser.cs once more, so that the lab can plan without .NET, and plans that they would not make."""
import math
import struct
from collections import namedtuple

TILE = 16
Limits = namedtuple("Limits", "blocks units teams clusters merge_cost part_cost min_chunk", defaults=(0, 32, 64))  # clusters: {2: n, 4: n, 8: n}
Plan = namedtuple("Plan", "items count cluster team chunk slots")


def round_up(tokens):
    return (tokens + TILE - 1) // TILE * TILE


def parts_of(length, chunk):
    return 1 if length <= chunk else -(-length // chunk)


def make(lengths, limits, page_size, query_tokens=1, chunk=None, cluster=None, team=None, tail=None):
    """The planner's plan, or one with this chunk, cluster or team, or with a tail: sequences from one on, and their chunk."""
    total, longest, busy = sum(lengths), max(lengths), sum(1 for n in lengths if n)
    whole = round_up(max(1, longest))
    if team is None:
        team = chunk is None and limits.teams > 1 and longest <= 256 and busy * limits.units >= limits.blocks * limits.teams
    if cluster is None:
        cluster = 1 if team or chunk else choose_cluster(total, longest, busy, limits)
    if chunk is None:
        chunk = whole if team or cluster > 1 or longest <= limits.min_chunk else choose_chunk(lengths, total, longest, busy, limits)
    if tail is None:
        tail = (len(lengths), 0) if team or cluster > 1 or chunk < longest else choose_tail(lengths, total, longest, busy, limits)
    return emit(lengths, chunk, cluster, team, page_size, query_tokens, tail)


def choose_cluster(total, longest, busy, limits):
    units, mean = busy * limits.units, total // max(1, busy)
    if not units or longest > mean + mean // 8 or mean < 256 or (mean < 512 and 3 * units > limits.blocks):
        return 1
    cluster = 8 if mean >= 512 and 2 * units <= limits.clusters[8] else 4 if 2 * units <= limits.clusters[4] else 2
    while cluster <= 8:
        if units <= limits.clusters[cluster] and mean <= 256 * cluster:
            return cluster
        cluster *= 2
    return 2 if units >= limits.blocks // 4 - 1 and units <= limits.clusters[2] and mean <= 8192 else 1


def choose_chunk(lengths, total, longest, busy, limits):
    whole, mean = round_up(longest), total * limits.units // limits.blocks
    if longest <= mean // 32:
        return whole
    classes = classify(lengths, longest)
    one = max(1, limits.blocks // limits.units)
    rounds = max(1, -(-busy * limits.units // limits.blocks))
    candidates = [smallest(classes, total, (rounds + i) * limits.blocks // limits.units, 1) for i in range(3)]
    candidates += [smallest(classes, longest, one, 0), smallest(classes, longest, 2 * one, 0)]
    candidates += [round_up(mean * 5 // 4), round_up(mean), round_up(mean // 2), round_up(mean // 4), round_up(mean * 2), round_up(mean * 4)]
    slots = 8 * max(1, -(-limits.blocks // limits.units))
    best, best_cost = whole, cost(classes, whole, limits)
    for chunk in dict.fromkeys(max(limits.min_chunk, c) for c in candidates):
        if chunk < whole and sum(n * parts_of(t, chunk) for t, n, _ in classes if t > chunk) <= slots:
            price = cost(classes, chunk, limits)
            if price < best_cost:
                best, best_cost = chunk, price
    return best


def classify(lengths, longest):
    shift = max(0, longest.bit_length() - 4)
    classes = {}
    for n in lengths:
        tokens, count, together = classes.get(n >> shift, (0, 0, 0))
        classes[n >> shift] = (max(tokens, n), count + 1, together + n)
    return [classes[at] for at in sorted(classes, reverse=True) if classes[at][0]]


def smallest(classes, total, most, uncut):
    high = round_up(classes[0][0]) // TILE
    low = min(max(total // max(1, most) // TILE, 1), high)
    while low < high:
        middle = (low + high) // 2
        chunk = middle * TILE
        items = sum(n * (uncut if t <= chunk else parts_of(t, chunk)) for t, n, _ in classes)
        low, high = (low, middle) if items <= most else (middle + 1, high)
    return low * TILE


def cost(classes, chunk, limits):
    total, units, splits = 0.0, 0, False
    loads, taken, pair = [0.0] * 17, [0] * 17, 2 * limits.blocks
    for tokens, count, together in classes:
        parts = parts_of(tokens, chunk)
        expanded = count * parts * limits.units
        size = together / (count * parts) + 16 + (limits.part_cost if parts > 1 else 0)
        units += expanded
        splits |= parts > 1
        total += expanded * size
        pairs, rest = divmod(units, pair)
        for i in range(17):
            block = i * (limits.blocks - 1) // 16
            takes = 2 * pairs + (rest > block) + (rest > pair - 1 - block)
            loads[i] += (takes - taken[i]) * size
            taken[i] = takes
    loads.sort()
    time = done = 0.0
    for i, load in enumerate(loads):
        time += (load - done) * max((17 - i) / 17, 1 / 3.1)
        done = load
    time += 0.3 * max(0, loads[-1] - total / limits.blocks) + (max(64, limits.merge_cost * parts_of(classes[0][0], chunk)) if splits else 0)
    idle = max(0, limits.blocks - units) / limits.blocks
    return time * 1.1 if 0.11 < idle < 0.48 else time


def choose_tail(lengths, total, longest, busy, limits):
    mean, rounds = total // max(1, busy), busy * limits.units // limits.blocks
    left = busy - rounds * limits.blocks // limits.units
    if rounds == 0 or left == 0 or longest > mean + mean // 8:
        return len(lengths), 0
    slots = 8 * max(1, -(-limits.blocks // limits.units))
    best, best_cost = (len(lengths), 0), longest * max(1.2 * left * limits.units / limits.blocks, 1 / 2.3)
    for more in (1, 2):
        parts = min(more * limits.blocks // (left * limits.units), slots // left, longest // limits.min_chunk)
        price = longest * more / max(1, parts) + (more + 2) * limits.part_cost
        if parts > more and price < best_cost:
            best, best_cost = (len(lengths) - left, round_up(-(-longest // parts))), price
    return best


def emit(lengths, chunk, cluster, team, page_size, query_tokens, tail):
    shift = max(0, chunk.bit_length() - 8)
    bucket = lambda length, parts: min(255, length // parts >> shift)
    items, row, page, slots = [], 0, 0, 0
    for i, length in enumerate(lengths):
        parts, begin, tiles = parts_of(length, chunk if i < tail[0] else tail[1]), 0, -(-length // TILE)
        for part in range(parts):
            end = length if part == parts - 1 else tiles * (part + 1) // parts * TILE
            words = struct.pack("<5i4Hi", row, begin, end, page, slots, part, parts, query_tokens, 0, length - query_tokens + 1)
            items.append((-bucket(length, parts), words))
            begin = end
        row += query_tokens
        page += -(-length // page_size)
        slots += parts if parts > 1 else 0
    items.sort(key=lambda item: item[0])
    return Plan(b"".join(words for _, words in items), len(items), cluster, team, chunk, slots)
