#!/usr/bin/env bash
# Fuzzes what bytes of others reach: every target in fuzz/ for SECONDS (default 60), FUZZ_AT_ONCE (environment) at once or
# as many as there are processors, from the seeds in fuzz/seeds and from what earlier runs have found (target/fuzz/corpus). Fails on a crash, on a hang and on too much memory; the input
# is then in target/fuzz/crashes, and `cargo fuzz run --target-dir target/fuzz TARGET FILE` runs it again. Installs
# cargo-fuzz into the target folder, and needs no toolchain but the stable one.
# Usage: tests/fuzz.sh [SECONDS] [TARGET...]
#        tests/fuzz.sh --seeds      makes fuzz/seeds anew from what was found: some of it, from small to large
set -euo pipefail
cd "$(dirname "$0")/.."

readonly VERSION=0.13.2
readonly TARGETS=(image request ring messages inflight)
readonly SEEDS=60
work=$PWD/target/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
# The sanitizers are options of the compiler that the stable one has and hides.
export RUSTC_BOOTSTRAP=1 PATH=$work/tools/bin:$PATH
export ASAN_OPTIONS=detect_odr_violation=0:detect_leaks=0

build() {
    if ! cargo fuzz --version 2>/dev/null | grep -qF "$VERSION"; then
        env -u RUSTC_BOOTSTRAP cargo install --locked --quiet cargo-fuzz --version "$VERSION" --root "$work/tools"
    fi
    cargo fuzz build --target-dir "$work"
}

# run TARGET SECONDS: prints how often the target was run.
run() {
    local target=$1 seconds=$2 log=$work/$1.log
    mkdir -p "$work/corpus/$target" "$work/crashes"
    if ! "$work/$host/release/$target" -max_total_time="$seconds" -max_len=512 -len_control=0 -timeout=20 \
        -rss_limit_mb=1024 -malloc_limit_mb=256 -artifact_prefix="$work/crashes/$target-" \
        "$work/corpus/$target" "fuzz/seeds/$target" >"$log" 2>&1; then
        grep -A 3 -E 'panicked|ERROR|SUMMARY|Test unit' "$log" >&2 || tail -n 20 "$log" >&2
        printf '%-10s failed; all of it is in %s\n' "$target" "$log"
        return 1
    fi
    printf '%-10s %s\n' "$target" "$(sed -n 's/^Done \([0-9]*\) runs in \([0-9]*\) second.*/\1 executions in \2 s/p' "$log")"
}

seeds() {
    local target total
    for target in "${TARGETS[@]}"; do
        rm -rf "$work/merged"
        mkdir -p "$work/merged" "fuzz/seeds/$target"
        "$work/$host/release/$target" -merge=1 -max_len=512 "$work/merged" "$work/corpus/$target" \
            "fuzz/seeds/$target" >"$work/merge.log" 2>&1
        rm -f "fuzz/seeds/$target"/*
        total=$(find "$work/merged" -type f -size +0 | wc -l)
        find "$work/merged" -type f -size +0 -printf '%s %p\n' | sort -n | cut -d ' ' -f 2- |
            awk -v step="$(((total + SEEDS - 1) / SEEDS))" 'NR % step == 0' |
            xargs -r -d '\n' cp -t "fuzz/seeds/$target"
        printf '%-10s %s seeds\n' "$target" "$(find "fuzz/seeds/$target" -type f | wc -l)"
    done
}

build
if [ "${1:-}" = --seeds ]; then
    seeds
    exit
fi
seconds=${1:-60}
shift || true
pids=()
for target in "${@:-${TARGETS[@]}}"; do
    while (($(jobs -rp | wc -l) >= ${FUZZ_AT_ONCE:-$(nproc)})); do sleep 0.2; done
    run "$target" "$seconds" &
    pids+=($!)
done
failed=0
for pid in "${pids[@]}"; do
    wait "$pid" || failed=1
done
exit "$failed"
