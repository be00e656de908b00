# For decode_lab.py: kernels from before a unit could have several KV heads, whose map had the heads before the tokens.
edits = []
promotion = None


def kv_map(case, strip, strips, heads, token, head, page_bytes, pages):
    return [case.kv_heads, case.page, pages, strips], [head, token, page_bytes, strip], [1, 16, 1, strips]
