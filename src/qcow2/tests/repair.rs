//! Repairs: what they set right, what they leave alone, and that nothing becomes worse, whatever was damaged and
//! wherever the power goes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::sound::*;
use super::support::*;
use crate::qcow2::{Access, Image, Pointers, Withheld, repair};
use crate::storage::Medium;
use crate::storage::memory::MemoryMedium;
use crate::units::Bytes;

#[test]
fn leaks_after_a_kill_are_given_back() {
    for (cluster, size) in [(65536, 12 << 20), (4096, 12 << 20), (512, 3 << 20)] {
        let mut image = open(image_file(&options(size, size / 12, cluster)));
        image.map(Bytes(0), Bytes(100_000)).unwrap();
        image.refill(Bytes(4 << 20)).unwrap();
        let killed = (**image.storage()).clone();
        image.release().unwrap();
        let closed = (**image.storage()).clone();
        let leaks = check(&killed).unwrap().leaks;
        assert!(leaks > 0);
        let (mended, report) = mend(&killed, Pointers::Report);
        assert_eq!((report.leaks_returned, report.left.leaks, report.left.errors), (leaks, 0, 0));
        assert_eq!(report.bytes_cut, killed.len().unwrap().0 - mended.len().unwrap().0);
        // What a clean end would have left; a refcount block that only the reservation needed may stay.
        assert!(mended.len().unwrap().0 <= closed.len().unwrap().0);
        assert_eq!(contents(&mended), contents(&killed));
        assert_eq!(qemu_check(&mended), Some((0, table_clusters(&mended))));
        let (again, report) = mend(&mended, Pointers::Settle);
        assert!(again == mended && report.left.errors == 0, "a clean image is not touched");
    }
}

#[test]
fn much_damage_that_can_be_repaired_is_all_repaired() {
    let bases = bases();
    for seed in 0..200 {
        let mut seeded = Seeded(seed);
        let (name, base) = &bases[seed as usize % bases.len()];
        let anatomy = Anatomy::of(base);
        let file = base.clone();
        let done: Vec<String> = (0..1 + seeded.below(6))
            .map(|_| anatomy.repairable_damage(&file, seeded.below(REPAIRABLE), &mut seeded))
            .collect();
        let when = format!("seed {seed}, {name}, {done:?}");
        let budget = [1, 2, usize::MAX][seeded.below(3) as usize];
        let repaired = repair_makes_nothing_worse(&file, Pointers::Report, budget, &when);
        let (mended, report) = repaired.unwrap_or_else(|| panic!("{when}: refused"));
        assert_eq!(report.left.errors, 0, "{when}: {report:?}");
        assert_eq!(contents(&mended), contents(base), "{when}");
    }
}

#[test]
fn a_table_whose_clusters_were_freed_is_counted_again() {
    for (name, base) in bases() {
        let anatomy = Anatomy::of(&base);
        for value in [0, 2] {
            let file = base.clone();
            anatomy.set_refcount(&file, anatomy.zonedmeta_at / anatomy.cluster, value);
            let (mended, report) = mend(&file, Pointers::Report);
            assert_eq!(report.left.errors, 0, "{name}: {report:?}");
            assert!(mended == base, "{name}");
            if value == 0 {
                // With a wrong pointer nothing says that this is the table.
                anatomy.set_pointer(&file, 3, 7);
                assert!(survey(&file).unwrap_err().contains("has refcount 0: expected 1"), "{name}");
                assert!(repair(&Arc::new(file), Pointers::Settle).is_err(), "{name}");
            }
        }
    }
}

#[test]
fn missing_refcount_blocks_are_made_again() {
    for (name, base) in bases() {
        let file = base.clone();
        let table = read_u64(&file, 48);
        let blocks = Anatomy::of(&base).refcounts.blocks();
        for index in 0..blocks {
            write(&file, table + index * 8, &[0; 8]);
        }
        let (mended, report) = mend(&file, Pointers::Report);
        assert!(report.refcount_blocks_added > 0 && report.left.errors == 0, "{name}: {report:?}");
        assert_eq!(contents(&mended), contents(&base), "{name}");
        assert_eq!(qemu_check(&mended), Some((0, table_clusters(&mended))), "{name}");
    }
}

#[test]
fn a_refcount_table_that_cannot_count_what_is_used_moves() {
    let file = foreign_file(9, 6, 1 << 20, 256 << 10);
    // 64 blocks count 64 clusters each; the cluster of this entry is past all of them.
    file.set_len(Bytes(5000 * 512)).unwrap();
    let mut image = open(file.clone());
    image.map(Bytes(0), Bytes(512)).unwrap();
    image.release().unwrap();
    let file = (**image.storage()).clone();
    let table = read_u64(&file, read_u64(&file, 40)) & OFFSET;
    file.set_len(Bytes(file.len().unwrap().0 + 9000 * 512)).unwrap();
    let last = file.len().unwrap().0 - 512;
    write(&file, table + 8, &(COPIED | last).to_be_bytes());
    write(&file, last, &[7; 512]);
    let (mended, report) = mend(&file, Pointers::Report);
    assert!(report.refcounts_raised >= 1 && report.left.errors == 0 && report.left.leaks == 0, "{report:?}");
    assert_eq!(contents(&mended), contents(&file));
    assert_eq!(qemu_check(&mended), Some((0, 1)));
}

#[test]
fn what_may_belong_to_somebody_is_not_given_back() {
    let (_, base) = bases().swap_remove(2);
    let anatomy = Anatomy::of(&base);
    let table = anatomy.tables[0];
    let entry = read_u64(&base, table);
    // An entry that cannot be read, the same cluster twice, and a pointer that contradicts its zone: what each was
    // before looks leaked.
    let cases: [(u64, u64); 3] = [(table, entry | 1 << 57), (table, read_u64(&base, table + 8)), (0, 0)];
    for (at, value) in cases {
        let file = base.clone();
        if at == 0 {
            anatomy.set_pointer(&file, 5, 77 << 20);
            anatomy.set_refcount(&file, anatomy.clusters + 1, 1);
        } else {
            write(&file, at, &value.to_be_bytes());
        }
        anatomy.set_refcount(&file, read_u64(&file, table + 16) % COPIED / anatomy.cluster, 0);
        let leaks = survey(&file).unwrap().leaks;
        assert_eq!(leaks, 1);
        let (_, report) = mend(&file, Pointers::Report);
        assert_eq!((report.withheld, report.left.leaks, report.bytes_cut), (Some(Withheld::Leaks), 1, 0));
        assert_eq!((report.refcounts_raised, report.dirty_bit_cleared), (1, false), "raising is always safe");
        assert!(report.left.errors > 0);
    }
    let file = base.clone();
    write(&file, table, &(COPIED | anatomy.refcounts.table[0]).to_be_bytes());
    anatomy.set_refcount(&file, anatomy.clusters + 1, 1);
    let (mended, report) = mend(&file, Pointers::Settle);
    assert_eq!(report.withheld, Some(Withheld::Everything));
    assert!(mended == file);
}

#[test]
fn a_flag_is_set_only_where_there_is_one_owner_and_the_table_is_one() {
    let (_, base) = bases().swap_remove(2);
    let table = Anatomy::of(&base).tables[0];
    let entry = |index: u64| read_u64(&base, table + index * 8);
    // The second entry lacks its flag; the first leads to the same cluster, or cannot be read at all.
    for first in [entry(1), COPIED | 1 << 57 | entry(0)] {
        let file = base.clone();
        write(&file, table, &first.to_be_bytes());
        write(&file, table + 8, &(entry(1) & !COPIED).to_be_bytes());
        let (mended, report) = mend(&file, Pointers::Report);
        assert_eq!(report.copied_flags_set, 0);
        assert!(mended == file);
    }
}

#[test]
fn the_dirty_bit_goes_when_the_refcounts_are_right_and_not_before() {
    let (_, base) = bases().swap_remove(2);
    let anatomy = Anatomy::of(&base);
    let file = base.clone();
    write(&file, 72, &(read_u64(&file, 72) | DIRTY).to_be_bytes());
    let (mended, report) = mend(&file, Pointers::Report);
    assert!(report.dirty_bit_cleared && mended == base);
    // A wrong pointer is no matter of refcounts.
    anatomy.set_pointer(&file, 3, (3 << 20) + 100);
    let (mended, report) = mend(&file, Pointers::Report);
    assert!(report.dirty_bit_cleared && report.left.errors == 1);
    assert!(open_error(mended, Access::ReadWrite).starts_with("the write pointer of zone 3"));
    write(&file, anatomy.tables[0], &(COPIED | 1 << 40).to_be_bytes());
    let (mended, report) = mend(&file, Pointers::Settle);
    assert!(!report.dirty_bit_cleared && open_error(mended, Access::ReadWrite).contains("dirty bit"));
    // The corrupt bit is not a repair's to clear.
    write(&file, 79, &[0x23]);
    let error = repair(&Arc::new(file), Pointers::Settle).unwrap_err();
    assert!(error.to_string().contains("corrupt bit"), "{error}");
}

/// Damage of every kind that a repair sets right, at once: with wrong pointers, or with refcount blocks missing. Not
/// both, as nothing may then say which clusters are the table.
fn much_damage(base: &MemoryMedium, pointers: bool) -> MemoryMedium {
    let anatomy = Anatomy::of(base);
    let file = base.clone();
    for seed in 0..30 {
        let mut seeded = Seeded(seed);
        anatomy.repairable_damage(&file, seeded.below(REPAIRABLE), &mut seeded);
    }
    // The leaks of a reservation are at the end, some of them past it.
    for cluster in anatomy.clusters..anatomy.clusters + 40 {
        anatomy.set_refcount(&file, cluster, 1);
    }
    file.set_len(Bytes((anatomy.clusters + 30) * anatomy.cluster)).unwrap();
    if pointers {
        anatomy.set_refcount(&file, anatomy.zonedmeta_at / anatomy.cluster, 1);
        anatomy.set_pointer(&file, 3, (3 << 20) + 700);
        anatomy.set_pointer(&file, 4, 1 << 40);
        anatomy.set_pointer(&file, 11, 1 << 40);
    } else {
        let table = read_u64(&file, 48);
        (0..anatomy.refcounts.blocks()).step_by(2).for_each(|index| write(&file, table + index * 8, &[0; 8]));
    }
    write(&file, 72, &(read_u64(&file, 72) | DIRTY).to_be_bytes());
    file
}

#[test]
fn a_repair_that_dies_at_any_step_can_be_repeated() {
    let mut states = 0;
    for ((name, base), pointers) in bases().into_iter().flat_map(|base| [(base.clone(), true), (base, false)]) {
        let damaged = much_damage(&base, pointers);
        let before = survey(&damaged).unwrap_or_else(|error| panic!("{name}: {error}"));
        let shown = contents(&damaged);
        let mut dies_at = 0;
        loop {
            let storage = Arc::new(Powered::new(&damaged));
            storage.dies_at.store(dies_at, Ordering::Relaxed);
            let ended = repair(&storage, Pointers::Settle).is_ok();
            let mut files = vec![storage.after_kill()];
            files.extend((0..6).map(|loss| storage.after_power_loss(&mut Seeded(loss * 1000 + dies_at as u64))));
            for (number, file) in files.iter().enumerate() {
                let when = format!("{name}, dead at step {dies_at}, state {number}");
                states += 1;
                let between = survey(file).unwrap_or_else(|error| panic!("{when}: {error}"));
                assert!(between.errors <= before.errors, "{when}: {:?}", between.findings);
                let dirty = read_u64(file, 72) & DIRTY != 0;
                assert!(dirty || (between.errors == 0 && between.leaks == 0), "{when}: not dirty too early");
                let (mended, report) = mend(file, Pointers::Settle);
                assert_eq!((report.left.errors, report.left.leaks), (0, 0), "{when}: {report:?}");
                let is = contents(&mended);
                assert!(shown.iter().zip(&is).all(|(was, is)| was.is_none() || was == is), "{when}: contents");
                assert_eq!(is, contents(&base), "{when}");
                assert!(Image::open(Arc::new(mended), Access::ReadWrite).is_ok(), "{when}");
            }
            if ended {
                break;
            }
            dies_at += 1;
        }
    }
    println!("{states} states");
}

#[test]
fn a_repair_whose_storage_fails_says_so_and_can_be_repeated() {
    let (_, base) = bases().swap_remove(2);
    let damaged = much_damage(&base, true);
    for left in 0.. {
        let storage = Failing { inner: damaged.clone(), left: left.into(), failures: 1.into(), ..Failing::default() };
        let storage = Arc::new(storage);
        let failed = repair(&storage, Pointers::Settle).is_err();
        if storage.failures.load(Ordering::Relaxed) == 1 {
            assert!(!failed);
            break;
        }
        assert!(failed, "change {left} failed and nothing was said");
        let report = repair(&storage, Pointers::Settle).unwrap();
        assert_eq!((report.left.errors, report.left.leaks), (0, 0));
        assert_eq!(contents(&storage.inner), contents(&base));
    }
}
