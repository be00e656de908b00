#!/usr/bin/env bash
# Prints the tables of docs/performance.md for a results file. Needs jq.
#
#   eng/results-table.sh benchmarks/results/FILE.json
set -euo pipefail
jq -r '
  def number($digits): pow(10; $digits) as $p | . * $p | round / $p | tostring;
  def table($bench; $head; row): "", $head, ($head | gsub("[^|]+"; "---")), (.rows[] | select(.bench == $bench) | row);
  def rate: "\(.us | number(2))\(if .spread then " ± \(.spread * 50 | number(1)) %" else "" end) | \(.gbps | round) | \(.fractionOfCeiling * 100 | number(1)) %";
  "\(.device), driver for CUDA \(.driver), NVRTC \(.nvrtc), \(.date), commit \(.commit). Ceilings of the same run: "
    + "read \(.ceilings.readGBps | round) GB/s, copy \(.ceilings.copyGBps | round) GB/s (read + write).",
  table("decode"; "| decode | µs | GB/s | of the read ceiling | relative error |";
    "| \(.case) | \(rate) | \(if .relError then .relError * 1000 | number(2) + "e-3" else "" end) |"),
  table("append"; "| append | µs | GB/s | of the copy ceiling |"; "| \(.case) | \(rate) |"),
  table("plan"; "| host | µs | allocated |"; "| \(.case) | \(.us | number(1)) | \(.allocatedBytes) B |"),
  table("compile"; "| compile | ms |"; "| \(.case) | \(.us / 1000 | number(1)) |")
' "$1"
