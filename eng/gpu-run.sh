#!/usr/bin/env bash
# Runs on a GPU machine what eng/gpu-publish.sh packed: GPU tests, compute-sanitizer, samples, the tool, benchmark. Builds nothing.
# Full logs and the results file go to OUT; a short table is printed last.
#
#   eng/gpu-run.sh ARCHIVE OUT [tests|sanitizer|samples|tool|bench|prefill ...]      (default: all)
#
# tool writes what a user sees of doctor, modules, aot, warmup, cache and bench to tool.log, and bench's results beside it.
# prefill is the benchmark of prefill. It measures PyTorch in turn with us where python3 has it.
# TEST_METHODS, a regular expression, makes tests run only those methods of the attention tests.
set -uo pipefail
archive=$(readlink -f "$1")
mkdir -p "$2"
out=$(readlink -f "$2")
shift 2
steps=${*:-tests sanitizer samples tool bench prefill}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tar -C "$work" -xJf "$archive"
export DOTNET_ROOT=$work/dotnet PATH=$work/dotnet:$PATH DOTNET_gcServer=0
export CUDA_CACHE_DISABLE=1 FLASHINFER_CACHE_DIR=$work/cache FLASHINFER_REQUIRE_GPU=1 FLASHINFER_TEST_DATA=$work/model
export summary=$out/summary.txt
: >"$summary"
rows=$work/rows
: >"$rows"
export tests="dotnet $work/tests/FlashInfer.Gpu.Tests.dll -noLogo -noColor"
export tool=$work/tool/flashinfer.dll configs=$work/configs/FlashInfer.GenerationSandbox.dll out
bench=(dotnet "$work/bench/FlashInfer.Benchmarks.dll" --out "$out" --commit "$(cat "$work/commit")")

# step NAME COMMAND...: logs the command, notes how it ended and how long it took.
step() {
  local name=$1 start=$SECONDS rc=0
  shift
  timeout "${STEP_TIMEOUT:-600}" "$@" >"$out/$name.log" 2>&1 || rc=$?
  printf '%-22s %s (%d s)  %s\n' "$name" "$([[ $rc -eq 0 ]] && echo ok || echo "FAILED rc=$rc")" $((SECONDS - start)) \
    "$(grep -vE '^\s*$' "$out/$name.log" | tail -n 1 | cut -c1-150)" | tee -a "$summary"
}

export -f step
nvidia-smi >"$out/nvidia-smi.txt" 2>&1
for s in $steps; do
  case $s in
    tests)
      # A method compiles all its kernels at once, on all cores, and then checks them, on one. So many processes take methods of the
      # attention tests, one after the other, the longest first; not more of them: pools of freed memory add up, and eight ran out of it.
      start=$SECONDS
      [[ -n ${TEST_METHODS:-} ]] || step tests-cuda $tests -namespace FlashInfer.Gpu.Tests.Cuda \
        -namespace FlashInfer.Gpu.Tests.Variants &
      $tests -list methods | grep '\.Attention\.' | grep -E "${TEST_METHODS:-.}" |
        awk '{ print (/VariantTests/ ? 0 : /Random|GridTests|Every|Usual|sample/ ? 1 : 2), $0 }' | sort -s -k1,1n | cut -d' ' -f2 |
        xargs -P $(($(nproc) > 6 ? 6 : $(nproc))) -I{} bash -c 'step "tests-$(cut -d. -f5- <<<"$1")" $tests -method "$1"' _ {}
      wait
      # Which class to look at when they take too long; methods run at the same time.
      sed -nE 's/^tests-([A-Za-z]+).*\(([0-9]+) s\) .*/\1 \2/p' "$summary" | awk -v wall=$((SECONDS - start)) '
        { sum[$1] += $2; count[$1]++ }
        END { for (c in sum) printf "%-22s %5d s in %d methods\n", c, sum[c], count[c]; printf "%-22s %5d s\n", "tests, in all", wall }' |
        sort | tee -a "$summary" ;;
    sanitizer)
      # They do not slow each other down either: what takes long is the host's side of it.
      for tool in memcheck racecheck; do
        step "$tool" compute-sanitizer --tool $tool --error-exitcode 9 --target-processes all \
          $tests -trait Sanitizer=yes &
      done
      wait ;;
    samples)
      for how in cold warm; do
        step quickstart-$how "$work/quickstart-aot/Quickstart" --gpu --time
        ms=$(awk '$1 == "time" { print $2 }' "$out/quickstart-$how.log")
        echo "ROW|quickstart|NativeAOT, $how kernel cache, process start to the result|${ms}000|" >>"$rows"
      done
      if [[ -d $work/model ]]; then
        step stories-f16 dotnet "$work/stories/Stories.dll" --gpu --model "$work/model" --temperature 0 --tokens 256 --dtype f16
        step stories-bf16 dotnet "$work/stories/Stories.dll" --gpu --model "$work/model" --temperature 0 --tokens 256 --dtype bf16
      fi ;;
    tool)
      # As a user types it, one after the other: the first that fails ends it.
      step tool bash -c '
        show() { printf "\n$ flashinfer %s\n" "$*"; dotnet "$tool" "$@" 2>&1; }
        show doctor &&
          show modules "$configs" --kernels ShortDecode --architecture sm_90a &&
          show aot "$configs" --kernels ShortDecode --architecture sm_90a &&
          show warmup "$configs" --kernels ShortDecode &&
          show cache verify &&
          show bench --output "$out"
      ' ;;
    bench)
      cat "$out"/tests-*.log 2>/dev/null | grep '^ROW|' >>"$rows"
      step bench "${bench[@]}" --bench compile,decode,append,plan,cascade --rows "$rows" ;;
    prefill) step prefill "${bench[@]}" --bench prefill,single,options --python "$(command -v python3 || echo python3)" --budget "${PREFILL_BUDGET:-200}" ;;
    *) echo "gpu-run: unknown step '$s'" >&2; exit 2 ;;
  esac
done
for log in tool bench prefill; do
  if [[ -f $out/$log.log ]]; then cat "$out/$log.log"; fi
done
grep -hA 6 '\[FAIL\]' "$out"/tests-*.log 2>/dev/null
echo "--- summary"
cat "$summary"
! grep -q FAILED "$summary"
