#!/usr/bin/env bash
# A command's worth of work on a GPU that is lent for minutes and has no network: see docs/gpu.md. Each step ends within
# ten minutes, takes what `python -m benchmarks rehearse` has packed, and leaves eight files at most in OUT.
set -u

usage() {
  cat << 'TEXT'
usage: benchmarks/gpu/borrowed_gpu.sh STEP [OUT]

  works    does every kernel run, and is it right? every kernel once, then the self-test (triton.tgz)
  memory   right by luck? memcheck, racecheck and synccheck (triton.tgz)
  tests    those that need a GPU, then those that one adds something to (triton.tgz, tests.tgz)
  figures  benchmark of networks, of channels and of what auto compares, profiles (triton.tgz)
  peers    a training step of the pooling beside every other implementation, and exact roots (triton.tgz, packages.tgz)
  training a step of ResNet-50 and MobileNetV2 with each pooling, then the reproduction on mnist, which goes on where
           training.tgz of an earlier OUT, put beside the archives, ended (triton.tgz, packages.tgz)
  tuning   the forms that are most used, and tensors beyond 2^31 elements (triton.tgz, tune.tgz)

OUT is the folder whose files are brought back, new or empty, by default $OUT. CARRIED has the archives (.gpu), PYTHON is the
interpreter (python3), TRITON_CACHE_DIR where the archives are unpacked (/tmp/tc).
TEXT
}

CARRIED=${CARRIED:-.gpu}
PYTHON=${PYTHON:-python3}

# The archives that are here, into Triton's cache: it is kept from step to step, as long as the machine is.
unpack() {
  local name
  mkdir -p "$TRITON_CACHE_DIR"
  for name in "$@"; do
    if [[ -f $CARRIED/$name ]]; then
      tar xzf "$CARRIED/$name" -C "$TRITON_CACHE_DIR"
    else
      echo "$CARRIED/$name is not here: kernels that it has are compiled"
    fi
  done
  # Triton's cache names files by whole paths, those of /tmp/tc: anywhere else all would be compiled again.
  find "$TRITON_CACHE_DIR" -name '__grp__*.json' -exec \
    sed -i "s#\"/[^\"]*/\([^/\"]*/[^/\"]*\)\"#\"$TRITON_CACHE_DIR/\1\"#g" {} +
  carried=$(kernels_in_cache)
}

# Packages that the machine lacks, for this step alone.
with_packages() {
  mkdir "$work/packages"
  if [[ -f $CARRIED/packages.tgz ]]; then
    tar xzf "$CARRIED/packages.tgz" -C "$work/packages"
    export PYTHONPATH="$work/packages${PYTHONPATH:+:$PYTHONPATH}"
  else
    echo "$CARRIED/packages.tgz is not here: there may be no mnist, and no pytorchcv to compare with"
  fi
}

kernels_in_cache() {
  find "$TRITON_CACHE_DIR" -mindepth 1 -maxdepth 1 | wc -l
}

# Parts of gpu-check, their limits being a share of so many minutes; results into OUT.
check() {
  "$PYTHON" -m benchmarks gpu-check --python "$PYTHON" --minutes "$1" --only "$2" --pack "$out" "$work" &
  child=$!
  wait "$child"
}

# What a step has measured, in one archive.
pack() {
  [[ -z $(ls -A "$work/results") ]] || tar czf "$out/$step.tgz" -C "$work/results" .
}

# Whoever ends the step ends what it has started, waits until that has packed what it found, and has the rest too.
interrupted() {
  trap - INT TERM
  [[ -z $child ]] || { kill "$child" 2> /dev/null && wait "$child"; }
  pack
  exit 130
}

# A command under a limit of seconds, its output at the end of a file of OUT; says how it ended.
into() {
  local file=$1 limit=$2
  shift 2
  timeout --kill-after=10 "$limit" "$@" >> "$out/$file" 2>&1 &
  child=$!
  wait "$child"
  echo "$file: exit status $?, at $SECONDS s"
}

works() {
  unpack triton.tgz
  check 25 build,info,kernels,selftest
}

memory() {
  unpack triton.tgz
  check 19 build,memcheck,racecheck
  into synccheck.txt 100 "$PYTHON" -m benchmarks sanitize --tool synccheck --only C=100 --jobs 4
  grep -hE '^FAILED|SUMMARY' "$out/synccheck.txt" | sort | uniq -c | head -n 20
}

tests() {
  unpack triton.tgz tests.tgz
  check 13 build
  check 34 gpu,tests
}

figures() {
  unpack triton.tgz
  # Not into OUT, which has enough files. The extension was carried along: this sees that it can be loaded.
  "$PYTHON" -m benchmarks gpu-check --python "$PYTHON" --minutes 11 --only build "$work"
  into table.txt 170 "$PYTHON" -m benchmarks run --output "$work/results/benchmark" --group network --group channels \
    --provider gcp_kernels --provider autograd --provider average --budget 110
  into auto.txt 160 "$PYTHON" -m benchmarks run --output "$work/results/auto" --group auto --budget 130
  profile cuda 256
  profile cuda 64
  profile triton 256 --positions 49
  tail -n 75 "$out/table.txt"
}

# Both kernels of a pass, after one that compiled them: the report, what it says in words, and its samples instruction by
# instruction, which python -m benchmarks predict --profile reads.
profile() {
  local name=$1$2 kernels='regex:^isqrt_pool_(positions_|)(on_chip_|persistent_|)(forward|backward)_kernel'
  into profiles.txt 40 ncu --clock-control none --set full --import-source no -k "$kernels" -s 2 -c 2 \
    -f -o "$out/$name" "$PYTHON" -m benchmarks gpu-profile "$1" "$2" bfloat16 fast "${@:3}"
  into profiles.txt 10 ncu --import "$out/$name.ncu-rep" --page details
  mkdir -p "$work/results/profiles"
  timeout --kill-after=10 10 ncu --import "$out/$name.ncu-rep" --page source --csv > "$work/results/profiles/$name.csv"
}

peers() {
  unpack triton.tgz
  with_packages
  "$PYTHON" -m benchmarks gpu-check --python "$PYTHON" --minutes 11 --only build "$work"
  # Code is compiled for each shape, which the budget does not end: the limit is later, and what is done stays.
  into table.txt 520 "$PYTHON" -m benchmarks run --output "$work/results/peers" --group network --group exact --budget 420
}

training() {
  local form
  unpack triton.tgz
  with_packages
  "$PYTHON" -m benchmarks gpu-check --python "$PYTHON" --minutes 11 --only build "$work"
  for form in "" --drop-stride; do
    into steps.txt 70 "$PYTHON" -m benchmarks end-to-end --network resnet50 mobilenet_v2 --dtype bfloat16 \
      --channels-last ${form:+"$form"} --output "$work/results/steps$form"
  done
  [[ ! -f $CARRIED/training.tgz ]] || tar xzf "$CARRIED/training.tgz" -C "$work/results" ./reproduction
  into reproduction.txt 380 "$PYTHON" -m experiments reproduce --data mnist --device cuda \
    --jobs "$((cores < 8 ? cores : 8))" --output "$work/results/reproduction"
}

tuning() {
  local kernel only
  unpack triton.tgz tune.tgz
  for kernel in persistent-backward persistent-forward on-chip-forward; do
    # Of tiles those of 64 rows: the others would take the time of all.
    [[ $kernel == on-chip* ]] && only=() || only=(--only 'block=64,')
    into tuning.txt 150 "$PYTHON" -m benchmarks tune "$kernel" --precision fast --jobs "$cores" "${only[@]}" \
      --output "$out/$kernel.py"
  done
  check 30 large
}

main() {
  case ${1:-} in
    works | memory | tests | figures | peers | training | tuning) step=$1 ;;
    -h | --help) usage && exit 0 ;;
    *) usage >&2 && exit 2 ;;
  esac
  out=${2:-${OUT:-}}
  [[ -n $out ]] || { echo "borrowed_gpu: OUT is not set, and no folder was named" >&2 && exit 2; }
  [[ ! -d $out || -z $(ls -A "$out") ]] || { echo "borrowed_gpu: $out is not empty: one OUT for each step" >&2 && exit 2; }
  mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
  cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 2
  work=$(mktemp -d) && mkdir "$work/results"
  cores=$(nproc)
  child=''
  trap interrupted INT TERM
  export OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-/tmp/tc}
  "$step"
  status=$?
  pack
  # Launchers are compiled where the driver is. More than some forty new entries: kernels were compiled that should
  # have been carried.
  echo "Triton's cache: ${carried} entries carried, $(kernels_in_cache) now; $SECONDS s"
  return "$status"
}

main "$@"
