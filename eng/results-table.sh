#!/usr/bin/env bash
# Prints the tables of docs/performance.md for a results file, beside the quoted figures of benchmarks/peers/flashinfer.json. Needs jq.
#
#   eng/results-table.sh benchmarks/results/FILE.json
set -euo pipefail
jq -r --slurpfile quoted "$(dirname "$0")/../benchmarks/peers/flashinfer.json" '
  def number($digits): pow(10; $digits) as $p | . * $p | round / $p | tostring;
  def table($bench; $head; row): [.rows[] | select(.bench == $bench)]
    # Rows stand in the order of measuring, which is not that of the lengths; behind them what is held against rows of our own.
    | (if $bench == "prefill" then sort_by(if .peer and (.peer | startswith("own") | not)
        then .params | [.variant != "default", .headDim != 128, .kvHeads, .headDim, .dtype, .causal == false, .kvLen] else [true, true] end) else . end)
    | if length > 0 then "", $head, ($head | gsub("[^|]+"; "---")), (.[] | row) else empty end;
  def percent: if . then "\(. * 100 | number(1)) %" else "" end;
  def time: "\(.us | number(2))\(if .spread then " ± \(.spread * 50 | number(1)) %" else "" end)";
  def rate: "\(time) | \(.gbps | round) | \(.fractionOfCeiling | percent)";
  def times($what): if . then "\(. * 1000 | round / 1000) of \($what)" else "" end;
  def quoted: $quoted[0] as $q
    | (if .tflops and $q.tflops[.case] then .tflops / $q.tflops[.case] elif $q.us[.case] then $q.us[.case] / .us else null end)
    | if . then number(2) else "" end;
  def error: if .relError then .relError * 1000 | number(2) + "e-3" else "" end;
  "\(.device), driver for CUDA \(.driver), NVRTC \(.nvrtc), \(.date), commit \(.commit). Ceilings of the same run: "
    + "read \(.ceilings.readGBps | round) GB/s, copy \(.ceilings.copyGBps | round) GB/s (read + write)"
    + (if .ceilings.matmulTflops then ", product of matrices \(.ceilings.matmulTflops | round) TFLOP/s." else "." end),
  table("decode"; "| decode | µs | GB/s | of the read ceiling | of FlashInfer (quoted) | relative error |";
    "| \(.case) | \(rate) | \(quoted) | \(error) |"),
  table("prefill"; "| prefill | µs | TFLOP/s | of the matrix product | against | of our ragged | of FlashInfer (quoted) | relative error |";
    "| \(.case) | \(time) | \(.tflops | round) | \(.fractionOfCeiling | percent) | \(.peer as $peer | .ratioToPeer | times($peer)) | \(.ratioToRagged | percent) | \(quoted) | \(error) |"),
  table("append"; "| append | µs | GB/s | of the copy ceiling | of FlashInfer (quoted) |"; "| \(.case) | \(rate) | \(quoted) |"),
  table("merge"; "| merge | µs | GB/s | of the copy ceiling |"; "| \(.case) | \(rate) |"),
  table("cascade"; "| cascade | µs | against | relative error |"; "| \(.case) | \(time) | \(.peer as $peer | .ratioToPeer | times($peer)) | \(error) |"),
  table("single"; "| one sequence, no plan | µs | against | relative error |"; "| \(.case) | \(time) | \(.peer as $peer | .ratioToPeer | times($peer)) | \(error) |"),
  table("options"; "| options | µs | against |"; "| \(.case) | \(time) | \(.peer as $peer | .ratioToPeer | times($peer)) |"),
  table("plan"; "| host | µs | allocated |"; "| \(.case) | \(.us | number(1)) | \(.allocatedBytes) B |"),
  table("compile"; "| compile | ms |"; "| \(.case) | \(.us / 1000 | number(1)) |")
' "$1"
