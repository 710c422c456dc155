//! What a case did, for who explains its result: the kernels that ran, on what, and what was not as its twin has it.

use super::script::Script;
use crate::gpu::ShaderSpec;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;

/// What a case did.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// The kernels that ran, in order.
    pub(super) specs: Vec<ShaderSpec>,
    /// The last comparison that did not agree.
    pub(super) worst: Option<Worst>,
    /// Texts that stand in for shaders of these names: mutants.
    sources: &'static [(&'static str, &'static str)],
    /// What the case would do, where it is not run.
    script: Option<Script>,
}

/// The element that is farthest from what it should be, as a multiple of its tolerance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Worst {
    /// The part of the result that it is in, such as a row or a head.
    pub part: String,
    /// Its place in that part.
    pub index: usize,
    /// The twin's value; none where it is not finite.
    pub expected: Option<f64>,
    /// The kernel's value; none where it is not finite, or was not written.
    pub actual: Option<f64>,
    /// How far the one may be from the other.
    pub tolerance: Option<f64>,
    /// Why so far.
    pub derivation: String,
    /// How many elements of the part are farther from theirs than they may be.
    pub wrong: usize,
    /// Elements of the part.
    pub of: usize,
}

/// A number as JSON has it: none where it is not finite.
pub(super) fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

thread_local! {
    // Of the case that this thread polls.
    static CURRENT: RefCell<Option<Record>> = const { RefCell::new(None) };
}

/// Adds to the record of the case that runs, if it is recorded.
pub(super) fn note(add: impl FnOnce(&mut Record)) {
    CURRENT.with_borrow_mut(|record| {
        if let Some(record) = record {
            add(record);
        }
    });
}

/// Adds to the script of the case, where it is written down instead of run.
pub(super) fn scripted<T>(add: impl FnOnce(&mut Script) -> T) -> Option<T> {
    CURRENT.with_borrow_mut(|record| record.as_mut()?.script.as_mut().map(add))
}

/// The kernel as the case that runs has it: of other texts, where it has any.
pub(super) fn of_case(spec: &ShaderSpec) -> ShaderSpec {
    let sources = CURRENT.with_borrow(|record| record.as_ref().map_or(&[][..], |r| r.sources));
    let sources = if sources.is_empty() { spec.sources } else { sources };
    ShaderSpec { sources, ..spec.clone() }
}

/// Runs a case and records what it does.
pub(super) async fn recorded<T>(case: impl Future<Output = T>) -> (T, Record) {
    record_in(Record::default(), case).await
}

/// Writes down what a case would do; nothing runs.
pub(super) async fn script_of<T>(case: impl Future<Output = T>) -> (T, Script) {
    let script = Some(Script::default());
    let (result, record) = record_in(Record { script, ..Record::default() }, case).await;
    (result, record.script.unwrap_or_default())
}

/// Runs a case with these texts instead of the shaders of their names.
#[cfg(test)]
pub(super) async fn mutated<T>(
    sources: &'static [(&'static str, &'static str)],
    case: impl Future<Output = T>,
) -> (T, Record) {
    record_in(Record { sources, ..Record::default() }, case).await
}

async fn record_in<T>(mut record: Record, case: impl Future<Output = T>) -> (T, Record) {
    let mut case = pin!(case);
    // The thread's record is this case's only while it is polled, whatever thread that is.
    let result = poll_fn(|context| {
        CURRENT.set(Some(std::mem::take(&mut record)));
        let polled = case.as_mut().poll(context);
        record = CURRENT.take().unwrap_or_default();
        polled
    })
    .await;
    (result, record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::join;

    #[test]
    fn cases_that_take_turns_have_records_of_their_own() {
        let dispatch = |file| note(|record| record.specs.push(ShaderSpec::new(file)));
        let case = async |file| {
            dispatch(file);
            let mut waits = true;
            poll_fn(|context| {
                context.waker().wake_by_ref();
                if std::mem::take(&mut waits) { std::task::Poll::Pending } else { ().into() }
            })
            .await;
            dispatch(file);
        };
        let both = join(recorded(case("a")), recorded(case("b")));
        let (((), a), ((), b)) = pollster::block_on(both);
        assert_eq!(a.specs.iter().map(|spec| spec.file).collect::<Vec<_>>(), ["a", "a"]);
        assert_eq!(b.specs.iter().map(|spec| spec.file).collect::<Vec<_>>(), ["b", "b"]);
        // Nobody records now.
        dispatch("c");
    }
}
