#!/usr/bin/env bash
# Plants bugs in the order of things, one at a time, and sees that the simulations find each. Works on a copy under
# target/. Takes some minutes. Usage: tests/mutations.sh [NAME...]
set -euo pipefail
cd "$(dirname "$0")/.."

copy=$PWD/target/mutations
export CARGO_TARGET_DIR=$copy/target
# Those of the order of things, and those that know what a power cut may leave.
readonly ORDER='--lib --test store --test recover --test crash' POWER='--test power_cuts'
found=0
missed=0
wanted=" $* "

# The tree as it is, but for what the mutation before has changed.
renew() {
    mkdir -p "$copy"
    for part in src tests benches examples fuzz Cargo.toml Cargo.lock; do
        rm -rf "${copy:?}/$part"
        cp -r "$part" "$copy/$part"
    done
}

# plant NAME FILE OLD NEW: replaces the only place where OLD stands, and runs the tests of the order of things.
plant() { plant_for "$ORDER" "$@"; }

# plant_power NAME FILE OLD NEW: the same with those of power cuts.
plant_power() { plant_for "$POWER" "$@"; }

# plant_for TESTS NAME FILE OLD NEW
plant_for() {
    local tests name=$2 file=$3
    read -ra tests <<<"$1"
    [[ $wanted == "  " || $wanted == *" $name "* ]] || return 0
    renew
    OLD=$4 NEW=$5 perl -0777 -pi -e '
        my $count = () = /\Q$ENV{OLD}\E/g;
        die "expected one place to change, found $count\n" if $count != 1;
        s/\Q$ENV{OLD}\E/$ENV{NEW}/;
    ' "$copy/$file"
    (cd "$copy" && cargo test --quiet --locked --no-run "${tests[@]}" 2>"$copy/build.log") || { cat "$copy/build.log"; exit 1; }
    if (cd "$copy" && timeout 600 cargo test --quiet --locked "${tests[@]}" >"$copy/$name.log" 2>&1); then
        missed=$((missed + 1))
        echo "MISSED $name"
    else
        found=$((found + 1))
        echo "found $name: $(grep -A1 -m1 'panicked at' "$copy/$name.log" | tail -n 1 | cut -c 1-150)"
    fi
}

plant pointer-before-data src/store/write.rs \
    'if self.mapped(zone, start, end, segments) {' \
    'if self.mapped(zone, start, end, segments) { let _ = self.table.store(zone, end);'
plant answer-before-pointer src/store/write.rs \
    'landed.map(|end| self.table.store(index, end))' \
    'landed.map(|end| if end.0 % 3 == 0 { Ok(()) } else { self.table.store(index, end) })'
plant punch-before-reset-is-durable src/store/clear.rs \
    'let durable = self.table.flush().is_ok();' \
    'let durable = true;'
plant write-before-hole-is-durable src/store/clear.rs \
    'let durable = self.storage.sync_ranges(&holes).is_ok();' \
    'let durable = true;'
plant reset-zone-not-cleared src/store/manage.rs \
    'if self.hold_resets { Clearing::InDoubt } else { Clearing::Asked };' \
    'if self.hold_resets { Clearing::InDoubt } else { Clearing::Clean };'
plant empty-zone-trusted-at-open src/store/mod.rs \
    'State::Empty => Clearing::AtOpen,' \
    'State::Empty => Clearing::Clean,'
plant tail-trusted-at-open src/store/mod.rs \
    'State::Closed if !image.ended_orderly() => Clearing::AtOpen,' \
    ''
plant end-called-orderly-while-serving src/qcow2/open.rs \
    'let cleared = self.storage.write_at(field, &[0; 8]);' \
    'let cleared: std::io::Result<()> = Ok(());'
plant end-called-orderly-with-tails-in-doubt src/store/mod.rs \
    'let orderly = self.tails_in_doubt().next().is_none();' \
    'let orderly = true;'
plant tail-of-failure-trusted src/store/write.rs \
    'inner.clearing = Clearing::InDoubt;' \
    ''
plant reset-amid-a-clearing src/store/manage.rs \
    '!waits && inner.traffic()' \
    'inner.traffic()'
plant unmapped-zone-trusted-after-reset src/store/clear.rs \
    'if reset {' \
    'if false {'
plant flush-does-nothing src/store/mod.rs \
    'Ok(Step::Io(Ticket { tag, work: Work::Flush }))' \
    'Ok(Step::Done(Ok(Reply::Done)))'
plant failed-flush-forgotten src/store/fuse.rs \
    'if !self.blown.swap(true, Ordering::AcqRel) {' \
    'if !self.blown.load(Ordering::Acquire) {'
plant failure-not-rolled-back src/store/write.rs \
    'inner.zone.roll_back();' \
    ''
plant failed-write-acknowledged src/store/zones.rs \
    '(Flight::Failed, Some(failed)) => return Some(failed),' \
    '(Flight::Failed, Some(_)) => end = Some(write.end),'
plant mapping-before-refcount src/qcow2/alloc.rs \
    'self.sync(&changed)
    }' \
    'Ok(())
    }'
plant refcounts-not-durable src/qcow2/alloc.rs \
    'changed.extend(filled.map_err(MapError::io("write refcounts"))?);' \
    'filled.map_err(MapError::io("write refcounts"))?;'
plant refcount-table-not-durable src/qcow2/alloc.rs \
    'changed.push((at, Bytes(8)));' \
    'let _ = &mut changed;'
plant a-hole-forgotten src/store/clear.rs \
    'keeper.rounds.add_holes(holes);' \
    'keeper.rounds.add_holes(&holes[holes.len().min(1)..]);'
plant file-not-extended src/qcow2/alloc.rs \
    'self.storage.set_len(Bytes(end.0)).map_err(MapError::io(EXTEND))?;' \
    ''
plant cluster-given-out-twice src/qcow2/alloc.rs \
    'front.start = end;' \
    'front.start = if end % 7 == 0 { front.start } else { end };'
plant range-not-noted src/store/write.rs \
    'self.note(tag, Note::Reserved(Reserved { zone: index, start, end, append }));' \
    'let _ = Note::Reserved(Reserved { zone: index, start, end, append });'
plant reset-not-noted src/store/manage.rs \
    'self.note(tag, if of_all { Note::ResetUpTo(zone) } else { Note::Resets(zone) });' \
    ''
plant finish-not-noted src/store/manage.rs \
    'self.note(tag, Note::Finishes(zone));' \
    ''
plant landed-write-begun-anew src/store/journal.rs \
    'if end <= pointer {' \
    'if end < pointer {'
plant lost-place-in-zone src/store/journal.rs \
    '_ if start == next => {' \
    '_ if start == next && start == pointer => {'

# Between the ring and the store.
plant a-lost-wake-up src/device/router.rs \
    'let first = waiting.len() == 1;' \
    'let first = waiting.len() == 3;'
plant an-answer-twice src/device/requests.rs \
    'push(head, written);' \
    'push(head, written); if written == 21 { push(head, written); }'
plant a-completion-dropped src/device/requests.rs \
    'in completions.drain(..) {' \
    'in completions.drain(..).filter(|done| done.token != 6 << 32) {'
plant a-flush-that-covers-too-much src/device/flushes.rs \
    'self.waiting.push(answer);' \
    'if self.covered.is_empty() { self.waiting.push(answer) } else { self.covered.push(answer) }'
plant memory-used-after-a-change src/device/requests.rs \
    'self.mem = mem;' \
    'drop(mem);'
plant a-slot-used-twice src/device/requests.rs \
    'u64::from(head) << 32' \
    'u64::from(head % 48) << 32'
plant a-kick-missed src/vhost/queue.rs \
    'let more = !matches!(come, Ok(false));' \
    'let more = come.is_err();'
plant a-stale-ring-index src/vhost/ring.rs \
    'wrapping_add(behind.len() as u16)' \
    'wrapping_add((behind.len() / 2) as u16)'
plant a-parked-request-forgotten src/device/requests.rs \
    'Event::Retry { tag } => self.retry(tag.slot),' \
    'Event::Retry { tag } => (tag.slot != 12).then(|| self.retry(tag.slot)).unwrap_or(()),'
plant an-error-answered-ok src/device/flushes.rs \
    'failed => Answer::new(answer.head, failed, 1),' \
    '_ => answer,'

# What a power cut leaves.
plant_power a-pointer-below-what-is-stable src/power/rules.rs \
    'let mut left = Left { pointer: self.stable,' \
    'let mut left = Left { pointer: self.stable.saturating_sub(4096).max(self.span.start),'
plant_power a-pointer-beyond-what-was-accepted src/power/rules.rs \
    'left.pointer += whole * len;' \
    'left.pointer = (left.pointer + whole * len + 4096 * u64::from(whole < count)).min(self.span.end);'
plant_power bytes-of-two-lives src/power/history.rs \
    'if self.ends_in_reset() {
            self.keep_reset();
        }
        if start < self.pointer' \
    'if start < self.pointer'
plant_power a-block-torn-inside src/power/rules.rs \
    'torn: second % blocks * block }' \
    'torn: second % blocks * block + 512 }'
plant_power a-block-of-no-version src/power/choice.rs \
    'old.push((at, content.to_vec()));' \
    'old.push((at, content.iter().map(|byte| byte ^ 1).collect()));'
plant_power a-full-zone-that-never-loses src/power/choice.rs \
    'let chosen = self.place(cut, *zone, steps)?;' \
    'let chosen = if steps.pointer() == steps.span.end { Place { operations: steps.operations(), torn: 0 } } else { self.place(cut, *zone, steps)? };'
plant_power a-zone-never-flushed-that-never-loses src/power/choice.rs \
    'let chosen = self.place(cut, *zone, steps)?;' \
    'let chosen = if steps.stable == steps.span.start { Place { operations: steps.operations(), torn: 0 } } else { self.place(cut, *zone, steps)? };'
plant_power a-reset-always-kept src/power/choice.rs \
    'let kept = !self.below.can_take_back(zone);' \
    'let kept = zone.0 < u32::MAX;'
plant_power active-zones-beyond-the-limit src/power/rules.rs \
    'if active + others <= limit {' \
    'if active + others <= limit.max(u64::MAX) {'
plant_power an-answer-after-the-cut src/power/switch.rs \
    'if then == Then::Fail { Power::Failing }' \
    'if then != Then::Exit { Power::Failing }'
plant_power a-failed-flush-counted src/power/cache.rs \
    'if outcome.is_ok() {' \
    'if outcome.is_ok() || outcome.is_err() {'
plant_power two-states-of-one-seed src/power/choice.rs \
    'let number = |which| chance(*seed, [' \
    'let number = |which| chance(*seed ^ std::process::id() as u64, ['

echo "$found found, $missed missed"
[[ $missed -eq 0 ]]
