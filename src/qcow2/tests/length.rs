//! Files longer than offsets of qcow2 reach.

use std::sync::Arc;

use super::support::*;
use crate::qcow2::{Access, Image, Pointers, repair};
use crate::storage::Medium;
use crate::units::Bytes;

/// As far as 56 bits reach.
const REACH: u64 = 1 << 56;

#[test]
fn a_file_of_any_length_is_the_same_to_all_who_open_it_and_one_that_is_too_long_can_be_cut() {
    for (len, sound) in [(REACH, true), (REACH + 512, false), (1 << 60, false), (i64::MAX as u64 - 4095, false)] {
        let file = Arc::new(image_file(&small()));
        let usual = file.len().unwrap();
        file.set_len(Bytes(len)).unwrap();
        let opened = [
            Image::open(Arc::clone(&file), Access::ReadOnly).err(),
            Image::open(Arc::clone(&file), Access::ReadWrite).err(),
            Image::open_to_look(Arc::clone(&file)).err(),
        ];
        for refused in opened.map(|refused| refused.map(|error| error.to_string())) {
            let words = format!(
                "the length of the file is {len}: expected at most {REACH}, as far as offsets of qcow2 reach; check \
                 --repair cuts it"
            );
            assert_eq!(refused, (!sound).then_some(words));
        }
        let repaired = repair(&file, Pointers::Report).unwrap();
        assert_eq!((repaired.left.errors, repaired.bytes_cut), (0, len - usual.0), "{len}");
        assert_eq!(file.len().unwrap(), usual);
        assert!(check(&file).is_ok_and(|report| report.errors == 0 && report.leaks == 0));
    }
}
