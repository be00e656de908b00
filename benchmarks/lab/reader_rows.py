"""Edits for decode_lab.py: reader.py, which also reads the query and writes as much output: the roof of a case with many query heads."""
import os
import runpy

_reader = runpy.run_path(os.path.join(os.path.dirname(os.path.abspath(__file__)), "reader.py"))["edits"]
_FETCH = "      query.fetch(params, following, crew, cursor.scale);  // travels during the merge, in O's registers\n"
_FINISH = "        merge.finish(unit, value_scale);\n"
_ROWS = """{
          const i64 at = %s.item.row * params.%s_row_stride + %s.kv_head() * Config::kHeads / Shape::kKvHeads * params.%s_head_stride;
          for (int i = crew.thread(); i < Shape::kUnitHeads * (Config::kHeads / Shape::kKvHeads) * Shape::kHeadDim / 8; i += Shape::kCrewThreads) {
            %s
          }
        }
"""
_READ = """int4 v;
            asm volatile("ld.global.v4.s32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(params.query + at + i * 8));"""
_WRITE = "reinterpret_cast<int4*>(params.output + at)[i] = int4{i, 0, 0, 0};"

edits = [edit for edit in _reader if edit[1] not in (_FETCH, _FINISH)]
edits += [
    ("attention/decode.cuh", _FETCH, "      if (following.valid) " + _ROWS % ("following", "query", "following", "query", _READ)),
    ("attention/decode.cuh", _FINISH, _ROWS % ("unit", "output", "unit", "output", _WRITE)),
    # One column a KV head: keys and values are read once.
    ("attention/decode_work.cuh", "  static constexpr int kHeads = Config::kHeads;\n", "  static constexpr int kHeads = Config::kKvHeads;\n"),
]
