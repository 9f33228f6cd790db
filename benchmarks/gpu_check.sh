#!/usr/bin/env bash
# Everything that only a GPU can show, in one run of at most half an hour, into one folder: see docs/gpu.md.
# Clocks, power limits and MIG are read and never set; nothing is downloaded.
set -u

usage() {
  cat << 'TEXT'
usage: benchmarks/gpu_check.sh [options] [FOLDER]

Checks and measures gcp_kernels on the GPU of this machine. FOLDER is made for the logs, tables and plots; by default
gpu_check_<GPU>_<date>. Its summary.txt has a line for each part: passed, FAILED or skipped, and the seconds. The exit
status is 0 when every part passed or was skipped by an option, 1 when one failed, 2 when nothing could begin.

Parts, in this order:
  build      the extension, in place, for this GPU's architecture alone; one that is there and newer than its sources is
             taken as it is
  info       python -m gcp_kernels info: which backend serves what, and why not
  kernels    python -m benchmarks first-contact: every kernel in every form once, in processes that may crash
  selftest   python -m gcp_kernels selftest: every backend against the float64 reference
  memcheck   python -m benchmarks sanitize: every kernel on few samples under compute-sanitizer's memcheck
  racecheck  the same under its racecheck
  gpu        the tests that need a GPU
  tests      the others that a GPU adds something to (--all-tests: every one)
  large      tests of tensors beyond 2^31 elements, one at a time
  benchmark  python -m benchmarks run, the standard set, in the time that is left
  plots      python -m benchmarks plot

options:
  --only A,B       only these parts; if you like into a FOLDER that is there already and does not have them
  --skip A,B       all parts but these
  --minutes N      for the whole run (30); the limit of every part is a share of it
  --processes N    for tests and kernels (one for each core and 6 GiB of the GPU, at most 12); compute-sanitizer gets
                   eight at most
  --all-tests      also the tests that a GPU adds nothing to: they take about an hour, so give --minutes
  --pack DIR       at the end, also when interrupted: what matters most, and an archive of everything, in seven files at
                   most, for a machine from which only a few files can be brought
  --python FILE    the interpreter (PYTHON if set, else python3, else python), which has torch
  --list           print the parts, and end
TEXT
}

PARTS=(build info kernels selftest memcheck racecheck gpu tests large benchmark plots)
# Parts that a machine without a GPU can run.
WITHOUT_GPU=" info selftest plots "

# Seconds that a part may take; together they are the whole run. An H100 with 16 cores, and a cache of Triton's kernels
# that was carried along, took 27 s for kernels, 17 s for selftest and 29 s for memcheck; of racecheck's eight processes
# two had ended after 144 s. What is not used is left to the benchmark, which begins no measurement after its share.
declare -A LIMIT=([build]=200 [info]=40 [kernels]=160 [selftest]=120 [memcheck]=120 [racecheck]=420 [gpu]=120
  [tests]=300 [large]=60 [benchmark]=230 [plots]=30)
RUN_MINUTES=30
# What a part that is stopped has for ending in order: processes of tests are waited for, summaries are written.
GRACE=20
LEAST_BENCHMARK=60

GPU_FIELDS=name,driver_version,memory.total,clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit,temperature.gpu
GPU_FIELDS+=,mig.mode.current,persistence_mode

# Tests that show the same without a GPU are marked so: continuous integration runs them.
# Of the others, what runs on a GPU or compiles for one: by the parameters and files that tests are named for. Kernels
# of torch itself are its own affair.
WITH_A_GAIN='(cuda or triton or gpu) and not torch-cuda'

fail_early() {
  printf 'gpu_check: %s\n' "$1" >&2
  exit 2
}

is_part() {
  local part
  for part in "${PARTS[@]}"; do
    [[ $part == "$1" ]] && return 0
  done
  return 1
}

# The parts in a list such as "build,tests", with a space on either side of each.
parts_in() {
  local part listed=()
  IFS=, read -r -a listed <<< "$2"
  for part in "${listed[@]}"; do
    is_part "$part" || fail_early "$1: there is no part '$part', but ${PARTS[*]}"
  done
  printf ' %s ' "${listed[@]}"
}

positive() {
  [[ $2 =~ ^[1-9][0-9]{0,4}$ ]] || fail_early "$1 takes a number from 1, got '$2'"
}

parse() {
  only='' skip='' folder='' pack='' minutes=$RUN_MINUTES processes='' all_tests=0 python=${PYTHON:-}
  while (($#)); do
    case $1 in
      -h | --help) usage && exit 0 ;;
      --list) printf '%s\n' "${PARTS[@]}" && exit 0 ;;
      --all-tests) all_tests=1 ;;
      --only | --skip | --minutes | --processes | --python | --pack)
        [[ -n ${2:-} ]] || fail_early "$1 needs a value"
        case $1 in
          --only) only=$(parts_in "$1" "$2") || exit 2 ;;
          --skip) skip=$(parts_in "$1" "$2") || exit 2 ;;
          --minutes) positive "$1" "$2" && minutes=$2 ;;
          --processes) positive "$1" "$2" && processes=$2 ;;
          --python) python=$2 ;;
          --pack) pack=$2 ;;
        esac
        shift
        ;;
      -*) fail_early "there is no option $1; --help lists them" ;;
      *)
        [[ -z $folder ]] || fail_early "one FOLDER, got '$folder' and '$1'"
        folder=$1
        ;;
    esac
    shift
  done
}

# Why a part does not run; empty where it does.
skipped_because() {
  if [[ -n $only && $only != *" $1 "* ]]; then
    echo "not in --only"
  elif [[ $skip == *" $1 "* ]]; then
    echo "--skip"
  fi
}

# Asks torch for the GPU: architecture as TORCH_CUDA_ARCH_LIST wants it, name, and GiB of free memory, a line each.
ask_torch() {
  "$python" - << 'TEXT'
import sys
try:
    import torch
except ImportError as error:
    sys.exit(f"torch cannot be imported by {sys.executable}: {error}; name another interpreter with --python")
if not torch.cuda.is_available():
    sys.exit(f"no GPU that torch {torch.__version__} (CUDA {torch.version.cuda or 'not built in'}) can use")
major, minor = torch.cuda.get_device_capability()
print(f"{major}.{minor}", torch.cuda.get_device_name(), torch.cuda.mem_get_info()[0] >> 30, sep="\n")
TEXT
}

find_gpu() {
  local answer reason part gpu_parts=()
  if [[ -z $python ]]; then
    python=$(command -v python3 || command -v python) || fail_early "there is no python3; name one with --python"
  fi
  command -v "$python" > /dev/null || fail_early "there is no '$python'; name an interpreter with --python"
  python=$(command -v "$python")
  [[ $python == /* ]] || python=$PWD/$python
  command -v timeout > /dev/null || fail_early "there is no 'timeout' (GNU coreutils)"
  architecture='' gpu='' gibibytes=0
  if answer=$(ask_torch 2>&1); then
    # The last lines: what is before them is a warning.
    { read -r architecture && read -r gpu && read -r gibibytes; } <<< "$(tail -n 3 <<< "$answer")"
    return
  fi
  reason=$(tail -n 1 <<< "$answer")
  for part in "${PARTS[@]}"; do
    [[ -n $(skipped_because "$part") || $WITHOUT_GPU == *" $part "* ]] || gpu_parts+=("$part")
  done
  ((${#gpu_parts[@]} == 0)) || fail_early "$reason; without one only${WITHOUT_GPU}can run, not ${gpu_parts[*]}"
}

make_folder() {
  local part
  if [[ -z $folder ]]; then
    folder=gpu_check_${gpu:-no GPU}_$(date +%Y-%m-%d)
    folder=${folder//[^A-Za-z0-9_.-]/-}
  fi
  if [[ -z $only && -d $folder && -n $(ls -A "$folder") ]]; then
    fail_early "$folder is not empty; results of two runs would mix (--only adds parts to a folder)"
  fi
  # Plots can be drawn again from what is there; what was measured is gone once it is measured again.
  for part in $only; do
    [[ $part == plots || ! -e $folder/$part.log ]] || fail_early "$folder has the part $part already; name a new FOLDER"
  done
  # A later part of the same run packs all again.
  if [[ -n $pack && -e $pack/everything.tgz && ! -e $folder/summary.txt ]]; then
    fail_early "--pack: $pack has the results of another run"
  fi
  mkdir -p "$folder" || fail_early "$folder cannot be made"
  folder=$(cd "$folder" && pwd) || exit 2
  summary=$folder/summary.txt
  [[ -n $pack ]] || return 0
  mkdir -p "$pack" || fail_early "--pack: $pack cannot be made"
  pack=$(cd "$pack" && pwd) || exit 2
  [[ $pack/ != "$folder"/* ]] || fail_early "--pack: $pack is the FOLDER, or in it"
}

commit() {
  git describe --always --dirty 2> /dev/null || echo unknown
}

# What the figures must be read with. Nothing is set.
record_machine() {
  {
    echo "commit     $(commit)"
    echo "system     $(uname -srm), $(count_cores) cores"
    echo "python     $("$python" --version 2>&1), $python"
    echo "nvcc       $(nvcc --version 2> /dev/null | tail -n 2 | head -n 1 || true)"
    "$python" -m pip list 2> /dev/null | grep -iE '^(torch|triton|numpy|pytest|pytest-xdist|matplotlib|pytorchcv) '
    echo
    nvidia-smi || echo "nvidia-smi is not here"
    echo
    nvidia-smi --format=csv --query-gpu="$GPU_FIELDS"
  } > "$folder/machine.txt" 2>&1
}

# Says in the summary and on the terminal how a part ended: its name, verdict, seconds and a remark.
report() {
  printf '%-10s %-8s %5s s  %s\n' "$1" "$2" "$3" "$4" | sed 's/ *$//' | tee -a "$summary"
}

# Runs the function of a part under its limit, into its log.
run_part() {
  local part=$1 log=$folder/$1.log limit=$((LIMIT[$1] * minutes / RUN_MINUTES)) begun=$SECONDS status remark=''
  if [[ $part == benchmark ]]; then
    limit=$(benchmark_seconds)
    # A measurement that has begun ends, and so does the table.
    limit=$((limit + 60))
  fi
  : > "$log"
  "part_$part" "$limit" >> "$log" 2>&1
  status=$?
  if ((status == 0)); then
    [[ $part == benchmark ]] && remark=$(benchmark_remark)
    report "$part" passed "$((SECONDS - begun))" "$remark"
    return
  fi
  failures=$((failures + 1))
  remark="exit status $status"
  ((status != 124 && status != 137)) || remark="stopped at the limit of $limit s; --minutes raises it"
  report "$part" FAILED "$((SECONDS - begun))" "$remark; see $part.log"
  grep -av '^[[:space:]]*$' "$log" | tail -n 12 | sed 's/^/    | /'
}

# A command under a limit of seconds: what is still running then is asked to end, and GRACE seconds later made to. In the
# background, so that an interrupt reaches this script at once.
limited() {
  local limit=$1
  shift
  printf '$'
  printf ' %q' "$@"
  printf '\n'
  timeout --kill-after="$GRACE" "$limit" "$@" &
  child=$!
  wait "$child"
}

# Whether the interpreter has a module; says what to install where it has not.
has_module() {
  "$python" -c "import $1" 2> /dev/null && return 0
  printf '%s is missing: %s -m pip install %s\n' "$1" "$python" "$2"
  return 1
}

part_build() {
  local missing=0
  if limited "$1" "$python" -m benchmarks extension-file "$architecture"; then
    return 0
  fi
  has_module pip pip || missing=1
  "$python" -c 'import setuptools, sys; sys.exit(int(setuptools.__version__.split(".")[0]) < 77)' 2> /dev/null || {
    printf 'setuptools 77 or newer is missing: %s -m pip install "setuptools>=77"\n' "$python"
    missing=1
  }
  ((missing == 0)) || return 1
  has_module ninja ninja || echo "without it the sources are compiled one after another"
  # The build runs in this environment, with the torch that is here, and pip looks nowhere else.
  GCP_KERNELS_CUDA=1 TORCH_CUDA_ARCH_LIST=$architecture PIP_DISABLE_PIP_VERSION_CHECK=1 limited "$1" \
    "$python" -m pip install --verbose --no-index --no-build-isolation --no-deps --editable .
}

part_info() {
  limited "$1" "$python" -m gcp_kernels info
}

part_selftest() {
  limited "$1" "$python" -m gcp_kernels selftest
}

part_kernels() {
  # It ends by itself before the limit, and names what was not begun.
  limited "$1" "$python" -m benchmarks first-contact --jobs "$processes" --seconds "$(($1 * 9 / 10))" \
    --output "$folder/kernels.jsonl"
}

part_memcheck() {
  limited "$1" "$python" -m benchmarks sanitize --tool memcheck --jobs "$((processes < 8 ? processes : 8))"
}

part_racecheck() {
  limited "$1" "$python" -m benchmarks sanitize --tool racecheck --jobs "$((processes < 8 ? processes : 8))"
}

# pytest under a limit, in as many processes as there are for it.
run_pytest() {
  local limit=$1 options=(-q -ra -p no:cacheprovider --durations=15)
  shift
  has_module pytest pytest || return 1
  if has_module pytest_timeout pytest-timeout; then
    # Of a test that hangs the stacks are printed, and the others go on.
    options+=(--timeout 150 --timeout-method thread)
  else
    echo "without it a test that hangs takes the time of all others"
  fi
  if has_module xdist pytest-xdist; then
    # Neighbours share compiled kernels, and most stay together.
    options+=(-n "$processes" --dist worksteal)
  else
    echo "without it the tests run one after another"
  fi
  limited "$limit" "$python" -m pytest "${options[@]}" "$@" tests
}

# Without a search for configurations, and without the checks, which were parts of their own.
part_gpu() {
  run_pytest "$1" --junit-xml "$folder/gpu.xml" -m "gpu and not slow and not own_part"
}

part_tests() {
  local options=(--junit-xml "$folder/tests.xml")
  if ((all_tests == 0)); then
    echo "left out, because a GPU adds nothing to them (--all-tests runs them): tests that are marked same_without_gpu,"
    echo "and tests not named for a GPU or Triton"
    options+=(-m "not slow and not gpu and not same_without_gpu" -k "$WITH_A_GAIN")
  else
    options+=(-m "not gpu")
  fi
  echo "tests that need a GPU are the part 'gpu', those of tensors beyond 2^31 elements the part 'large'"
  run_pytest "$1" "${options[@]}"
}

part_large() {
  has_module pytest pytest || return 1
  limited "$1" "$python" -m pytest -q -ra -p no:cacheprovider --durations=9 --junit-xml "$folder/large.xml" \
    -m "gpu and slow" tests
}

# What is left of the run, less the plots, but never less than shows something.
benchmark_seconds() {
  local left=$((60 * minutes - SECONDS - LIMIT[plots] / 2)) least=$((LEAST_BENCHMARK * minutes / RUN_MINUTES))
  echo $((left > least ? left : least))
}

part_benchmark() {
  # The limit has a minute for what has begun.
  limited "$1" "$python" -m benchmarks run --set standard --device cuda --output "$folder/benchmark" \
    --budget "$(($1 - 60))"
}

benchmark_remark() {
  local left
  left=$(grep -ac 'not begun within' "$folder/benchmark.log")
  ((left == 0)) || echo "$left rows were left out for time; --minutes has more"
}

part_plots() {
  has_module matplotlib matplotlib || return 1
  [[ -d $folder/benchmark ]] || {
    echo "there is no benchmark in $folder to draw"
    return 1
  }
  limited "$1" "$python" -m benchmarks plot "$folder/benchmark"
}

# nproc itself would heed what is set for the threads of each process.
count_cores() {
  env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc
}

choose_processes() {
  local cores
  [[ -z $processes ]] || return
  cores=$(count_cores)
  # A process on the GPU takes about a GiB before its tests do, and some tests take several more.
  processes=$((cores < gibibytes / 6 ? cores : gibibytes / 6))
  processes=$((processes > 12 ? 12 : processes < 1 ? 1 : processes))
}

# What is read first, as it is, and everything in an archive; seven files, in no folder of their own. After each part:
# who ends this script at once still has what was found by then.
pack_results() {
  local file
  [[ -n $pack ]] || return 0
  for file in summary.txt machine.txt kernels.log gpu.log tests.log benchmark/table.txt; do
    [[ ! -f $folder/$file ]] || cp "$folder/$file" "$pack/${file/\//-}"
  done
  tar czf "$pack/everything.tgz" -C "$folder" . || echo "$pack/everything.tgz cannot be written"
}

interrupted() {
  trap - INT TERM
  [[ -z $child ]] || kill "$child" 2> /dev/null
  report "$part" FAILED - "interrupted"
  pack_results
  exit 130
}

main() {
  local reason
  parse "$@"
  find_gpu
  make_folder
  cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
  # Set for a machine without a GPU, this would have the kernels interpreted here too.
  unset TRITON_INTERPRET
  # What a part has printed before its limit is in its log.
  export PYTHONUNBUFFERED=1
  choose_processes
  child='' failures=0 part=build
  trap interrupted INT TERM
  echo "gpu_check of $(commit), $(date '+%Y-%m-%d %H:%M'): ${gpu:-no GPU}, $minutes minutes" | tee "$summary"
  record_machine
  for part in "${PARTS[@]}"; do
    reason=$(skipped_because "$part")
    if [[ -n $reason ]]; then
      report "$part" skipped 0 "$reason"
    else
      run_part "$part"
      pack_results
    fi
  done
  if ((failures == 0)); then
    echo "nothing failed, in $SECONDS s" | tee -a "$summary"
  else
    echo "$failures of ${#PARTS[@]} parts FAILED, in $SECONDS s" | tee -a "$summary"
  fi
  pack_results
  echo "written to $folder${pack:+, packed into $pack}"
  ((failures == 0))
}

main "$@"
