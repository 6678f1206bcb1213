//! The version of all JSON that is printed or answered. docs/json.md has the fields.

use serde::{Deserialize, Serialize};

/// Grows when a field goes or changes its meaning. A field that is added changes nothing for those who read the others.
pub const SCHEMA_VERSION: u32 = 1;

/// An object with the version of its fields, which every JSON output is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versioned<T> {
    schema_version: u32,
    #[serde(flatten)]
    /// It without the version.
    pub content: T,
}

/// This, which has fields, with their version.
pub fn versioned<T: Serialize>(content: T) -> Versioned<T> {
    Versioned { schema_version: SCHEMA_VERSION, content }
}
