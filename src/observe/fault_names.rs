//! What rules for faults are called, as a trace has it: a name is longer than a record, so it comes in parts.
//!
//! Parts are cut between characters, so that each is text, and are written behind one another. A name holds for its number from
//! where it stands until the next of that number. The writer's death can leave a first part without the rest, which says nothing.

use std::collections::HashMap;

/// The longest name of a rule, in bytes.
pub const LONGEST_NAME: usize = 64;

/// Bytes of a part at most.
pub(super) const PART_BYTES: usize = 42;

/// Parts of a name at most: up to three bytes of each are left over where the next character has four.
pub(super) const MAX_PARTS: u8 = LONGEST_NAME.div_ceil(PART_BYTES - 3) as u8;

/// A part of what a rule for faults is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePart {
    /// When that was written: nanoseconds since 1970.
    pub time_ns: u64,
    /// The rule's number, which requests that it has refused have.
    pub number: u16,
    pub(super) part: u8,
    pub(super) parts: u8,
    pub(super) text: String,
}

impl NamePart {
    /// All of a name.
    pub(super) fn all(time_ns: u64, number: u16, name: &str) -> Vec<Self> {
        let mut texts = vec![String::new()];
        for character in name.chars() {
            match texts.last_mut().filter(|text| text.len() + character.len_utf8() <= PART_BYTES) {
                Some(text) => text.push(character),
                None => texts.push(character.into()),
            }
        }
        let parts = u8::try_from(texts.len()).unwrap_or(u8::MAX);
        (0..parts).zip(texts).map(|(part, text)| Self { time_ns, number, part, parts, text }).collect()
    }
}

/// What rules for faults are called, at the place to which a reader of a trace has come.
#[derive(Debug, Default)]
pub struct FaultNames {
    known: HashMap<u16, String>,
    /// Of a name whose next part is to come: the number, that part, the text before it.
    begun: Option<(u16, u8, String)>,
}

impl FaultNames {
    /// Takes the next part that the trace has. True where a name is whole with it.
    pub fn take(&mut self, part: &NamePart) -> bool {
        let before = match self.begun.take() {
            _ if part.part == 0 => String::new(),
            Some((number, next, before)) if (number, next) == (part.number, part.part) => before,
            _ => return false,
        };
        let (name, next) = (before + &part.text, part.part + 1);
        let is_whole = next == part.parts;
        match is_whole {
            true => _ = self.known.insert(part.number, name),
            false => self.begun = Some((part.number, next, name)),
        }
        is_whole
    }

    /// What the rule of a number is called.
    pub fn get(&self, number: u16) -> Option<&str> {
        self.known.get(&number).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_holds_from_where_it_is_whole_until_the_next_of_its_number() {
        let long = |letter: &str| letter.repeat(LONGEST_NAME);
        let mut names = FaultNames::default();
        // What comes, whether a name is whole with it, and what rule 1 is called then.
        let of = |number, name: &str| NamePart::all(0, number, name);
        let steps = [
            (of(1, "one").remove(0), true, Some("one".to_owned())),
            (of(2, "two").remove(0), true, Some("one".to_owned())),
            (of(1, &long("a")).remove(1), false, Some("one".to_owned())),
            (of(1, &long("b")).remove(0), false, Some("one".to_owned())),
            (of(1, &long("c")).remove(0), false, Some("one".to_owned())),
            (of(1, &long("c")).remove(1), true, Some(long("c"))),
            (of(1, &long("d")).remove(0), false, Some(long("c"))),
            (of(2, &long("d")).remove(1), false, Some(long("c"))),
            (of(1, &long("d")).remove(1), false, Some(long("c"))),
            (of(1, "again").remove(0), true, Some("again".to_owned())),
        ];
        for (at, (part, is_whole, name)) in steps.into_iter().enumerate() {
            assert_eq!(names.take(&part), is_whole, "step {at}");
            assert_eq!(names.get(1), name.as_deref(), "step {at}");
        }
        assert_eq!((names.get(2), names.get(3)), (Some("two"), None));
    }
}
