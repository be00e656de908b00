#!/usr/bin/env bash
# Puts everything that a GPU machine needs into one archive: the GPU tests, the benchmark, the tool with an
# assembly to use it on, both samples, and the .NET runtime itself.
# The GPU machine needs NVIDIA's driver and NVRTC, nothing else. Run it there with eng/gpu-run.sh.
#
#   eng/gpu-publish.sh [MODEL_DIR]     -> artifacts/gpu/flashinfer-gpu.tar.xz  (MODEL_DIR: a llama2.c checkpoint for the Stories sample)
set -euo pipefail
cd "$(dirname "$0")/.."
model=${1:-}
out=artifacts/gpu
stage=$out/stage
rm -rf "$out" && mkdir -p "$stage"

publish() { dotnet publish "$1" -c Release -o "$stage/$2" --nologo -v quiet "${@:3}"; }
publish tests/FlashInfer.Gpu.Tests tests
publish benchmarks/FlashInfer.Benchmarks bench
publish src/FlashInfer.Tool tool
publish tests/FlashInfer.GenerationSandbox configs
publish samples/Stories stories
publish samples/Quickstart quickstart-aot -r linux-x64 -p:CppCompilerAndLinker="${NATIVE_LINKER:-gcc}"
rm -f "$stage"/*/*.dbg "$stage"/*/*.pdb

# The runtime that this machine's SDK would use: the archive then runs where no .NET is installed.
root=$(dirname "$(readlink -f "$(command -v dotnet)")")
version=$(dotnet --list-runtimes | awk '$1 == "Microsoft.NETCore.App" && $2 ~ /^10\./ { print $2 }' | sort -V | tail -n 1)
mkdir -p "$stage/dotnet/shared/Microsoft.NETCore.App"
cp "$root/dotnet" "$stage/dotnet/"
cp -r "$root/host" "$stage/dotnet/"
cp -r "$root/shared/Microsoft.NETCore.App/$version" "$stage/dotnet/shared/Microsoft.NETCore.App/"

if [[ -n $model ]]; then mkdir -p "$stage/model" && cp "$model"/* "$stage/model/"; fi
git rev-parse --short HEAD >"$stage/commit"
tar -C "$stage" -cf - . | xz -T0 -2 >"$out/flashinfer-gpu.tar.xz"
rm -rf "$stage"
ls -l "$out/flashinfer-gpu.tar.xz"
