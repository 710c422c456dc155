//! The one call that an answer has to be, whatever the family: JSON by the schema that `Tools::forced` makes.

use super::{Begins, Format, read_json};

pub(super) const FORMAT: Format =
    Format { words: &[], begins: Begins::Answer("{"), ends: None, marks: &[], read: read_json };
