#!/usr/bin/env bash
# Puts NVRTC, CUDA's run-time compiler, into a folder: no root, no GPU, no driver, nothing installed system-wide. With it every
# kernel is compiled to a cubin for any supported sm on a plain CI machine.
#
#   eng/install-nvrtc.sh DIR            libnvrtc.so.12 and its builtins                     -> DIR/lib  (18 MB to download)
#   eng/install-nvrtc.sh DIR --tools    also ptxas, cuobjdump and nvdisasm, to read cubins  -> DIR/bin  (90 MB more)
#
# The tests look in artifacts/nvrtc/lib, so in this repository DIR is artifacts/nvrtc. Prints the folder that holds the library
# and does nothing when everything is there already; a run after an interrupted one starts over. Other files in DIR are left alone.
#
# The packages are Debian's (component non-free), fetched from the archive that this machine's own apt sources name, with package
# lists of its own: neither the system's lists nor its installed packages are touched. Needs Debian on x86-64 with apt and dpkg.
# FLASHINFER_DEBIAN_SUITE overrides the suite (default: trixie, which has NVRTC 12.4), FLASHINFER_DEBIAN_MIRROR the archive.
set -euo pipefail

fail() {
  echo "install-nvrtc: $*" >&2
  exit 1
}

# The first plain Debian archive (not the security one) of the one-line and deb822 source files.
archive_of_this_machine() {
  local sources=(/etc/apt/sources.list /etc/apt/sources.list.d)
  { grep -rhE '^(URIs:|deb )' "${sources[@]}" 2>/dev/null || true; } |
    grep -oE 'https?://[^ ]+/debian/?( |$)' | tr -d ' ' | head -n 1
}

[[ $# -ge 1 && $# -le 2 && ${2:---tools} == --tools && $1 != -* ]] || fail "usage: install-nvrtc.sh DIR [--tools]"
target=$1
with_tools=${2:+yes}
tools=(ptxas cuobjdump nvdisasm)
suite=${FLASHINFER_DEBIAN_SUITE:-trixie}

# What is looked for here is what is moved there last, so an interrupted run is not taken for a finished one.
if compgen -G "$target/lib/libnvrtc.so.??" >/dev/null && [[ -z $with_tools || -x $target/bin/${tools[-1]} ]]; then
  echo "$target/lib"
  exit 0
fi

for program in apt-get dpkg-deb; do
  command -v "$program" >/dev/null || fail "$program is not here; on other systems take NVRTC 12 or 13 from the CUDA toolkit and set FLASHINFER_NVRTC to its folder"
done
[[ $(dpkg --print-architecture) == amd64 ]] || fail "only x86-64 is supported; set FLASHINFER_NVRTC to the folder of an NVRTC for this machine"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[[ -e $keyring ]] || fail "$keyring is missing; install the package debian-archive-keyring"
archive=${FLASHINFER_DEBIAN_MIRROR:-$(archive_of_this_machine)}
[[ -n $archive ]] || fail "this machine's apt sources name no Debian archive; give one in FLASHINFER_DEBIAN_MIRROR"

# Inside the target, so that the last step is a rename within one file system.
mkdir -p "$target/lib"
work=$(mktemp -d "$(cd "$target" && pwd)/.install.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{lists,archives}/partial "$work"/{sources,packages,content,bin}

cat >"$work/sources/debian.sources" <<EOF
Types: deb
URIs: $archive
Suites: $suite
Components: main non-free
Signed-By: $keyring
EOF
apt=(apt-get -qq
  -o Dir::Etc::sourcelist=/dev/null
  -o Dir::Etc::sourceparts="$work/sources"
  -o Dir::State::Lists="$work/lists"
  -o Dir::Cache::Archives="$work/archives"
  -o Dir::Cache::pkgcache="" -o Dir::Cache::srcpkgcache=""
  -o APT::Sandbox::User="" -o Acquire::Retries=3)
"${apt[@]}" update

# The builtins package carries the minor version in its name and has to match the library exactly: take the one it depends on.
builtins=$(apt-cache "${apt[@]:2}" depends libnvrtc12 | grep -oE 'libnvrtc-builtins[0-9.]+' | head -n 1)
[[ -n $builtins ]] || fail "suite $suite of $archive has no libnvrtc12"
packages=(libnvrtc12 "$builtins")
[[ -z $with_tools ]] || packages+=(nvidia-cuda-toolkit)
(cd "$work/packages" && "${apt[@]}" download "${packages[@]}")
for package in "$work"/packages/*.deb; do
  dpkg-deb -x "$package" "$work/content"
done

if [[ -n $with_tools ]]; then
  mkdir -p "$target/bin"
  for tool in "${tools[@]}"; do
    found=$(find "$work/content" -path '*/bin/*' -name "$tool" | head -n 1)
    [[ -n $found ]] || fail "$tool is not in the package nvidia-cuda-toolkit"
    cp -L "$found" "$work/bin/$tool"
    mv -f "$work/bin/$tool" "$target/bin/$tool"
  done
fi

# Builtins, then the library, then the link by which it is found.
libraries=$work/content/usr/lib/x86_64-linux-gnu
mv -f "$libraries"/libnvrtc-builtins.so.* "$target/lib/"
mv -f "$libraries"/libnvrtc.so.??.* "$target/lib/"
mv -f "$libraries"/libnvrtc.so.?? "$target/lib/"
echo "$target/lib"
