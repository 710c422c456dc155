//! Work on a template, on a stack that is deep enough for any.

use std::panic::resume_unwind;
use std::thread::{Builder, scope};

use crate::{Error, Result};

/// Bytes of the stack. Compiling recurses as deep as expressions are nested, and values as deep as lists are: what the
/// longest template and all of its fuel can nest takes less than half of this. What is not used takes no memory.
const STACK: usize = 256 << 20;

/// Runs it.
///
/// # Errors
/// [`Error::Model`] where the system refuses a thread.
pub fn run<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    scope(|scope| {
        let builder = Builder::new().name("chat template".into()).stack_size(STACK);
        let thread = builder.spawn_scoped(scope, work).map_err(|error| {
            Error::Model(format!("the chat template: no thread for it can be started: {error}"))
        })?;
        thread.join().map_err(|panic| resume_unwind(panic))
    })
}
