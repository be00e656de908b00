"""Edits for decode_lab.py: the decode kernel with its plan, its boxes and its ring, which reads all keys and values and does nothing else: the roof of a case."""

NOTHING = ""

edits = [
    ("attention/decode.cuh", old, NOTHING)
    for old in (
        """          accumulator.attend(loader.stage_address(stage), query, unit.item.begin + tile * Shape::kTileTokens,
                             unit.item.end, crew.lane);
""",
        "        accumulator.store(merge.warp_output(crew.warp), merge.warp_state(crew.warp), unit.head_columns(), crew.lane);\n",
        "      query.fetch(params, following, crew, cursor.scale);  // travels during the merge, in O's registers\n",
        "        merge.finish(unit, value_scale);\n",
        """        query.put(merge.warp_output(crew.index() * Shape::kCrewWarps), crew);
        crew.sync();  // and the place to merge in and the verdict may be overwritten
        query.take(merge.warp_output(crew.warp), unit, crew.lane);
""",
        "      const FloatVector<Shape::kUnitHeads> value_scale = query.value_scale;\n",
    )
]
