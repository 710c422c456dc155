//! The one call that an answer has to be, whatever the family: JSON by the schema that [`Tools::forced`] makes.

use super::{Begins, Format, read_json};
#[cfg(doc)]
use crate::server::tools::Tools;

pub(super) const FORMAT: Format =
    Format { words: &[], begins: Begins::Answer("{"), ends: None, marks: &[], read: read_json };
