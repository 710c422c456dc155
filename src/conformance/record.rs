//! What a case did, for who explains its result: the kernels that ran, on what, and what was not as its twin has it.

use crate::gpu::ShaderSpec;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;

/// What a case did.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// Whether the data of dispatches are kept too, which may be many bytes.
    keeps_data: bool,
    /// The kernels that ran, in order.
    pub(super) specs: Vec<ShaderSpec>,
    /// What they ran on, where that is kept.
    pub(super) dispatches: Vec<Dispatch>,
    /// The last comparison that did not agree.
    pub(super) difference: Option<Difference>,
    /// Texts that stand in for shaders of these names: mutants.
    sources: &'static [(&'static str, &'static str)],
}

/// A kernel that ran.
#[derive(Clone, Debug)]
pub(super) struct Dispatch {
    pub(super) spec: ShaderSpec,
    pub(super) grid: (u32, u32, u32),
    /// Variable, its words before, and after where they were read back.
    pub(super) bindings: Vec<(&'static str, Vec<u32>, Vec<u32>)>,
}

/// A comparison that did not agree.
#[derive(Clone, Debug)]
pub(super) struct Difference {
    pub(super) worst: Worst,
    /// The words that were compared, as numbers of these types.
    pub(super) got: Vec<u32>,
    pub(super) want: Vec<f64>,
    pub(super) tolerance: Vec<f64>,
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

/// Adds a dispatch; its data are made only where they are kept.
pub(super) fn note_dispatch(spec: &ShaderSpec, dispatch: impl FnOnce() -> Dispatch) {
    note(|record| {
        record.specs.push(spec.clone());
        if record.keeps_data {
            record.dispatches.push(dispatch());
        }
    });
}

/// The kernel as the case that runs has it: of other texts, where it has any.
pub(super) fn of_case(spec: &ShaderSpec) -> ShaderSpec {
    let sources = CURRENT.with_borrow(|record| record.as_ref().map_or(&[][..], |r| r.sources));
    let sources = if sources.is_empty() { spec.sources } else { sources };
    ShaderSpec { sources, ..spec.clone() }
}

/// Runs a case and records what it does.
pub(super) async fn recorded<T>(keeps_data: bool, case: impl Future<Output = T>) -> (T, Record) {
    record_in(Record { keeps_data, ..Record::default() }, case).await
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
        let dispatch = |file| {
            let spec = ShaderSpec::new(file);
            note_dispatch(&spec, || Dispatch {
                spec: spec.clone(),
                grid: (1, 1, 1),
                bindings: vec![],
            });
        };
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
        let both = join(recorded(true, case("a")), recorded(false, case("b")));
        let (((), a), ((), b)) = pollster::block_on(both);
        assert_eq!(a.specs.iter().map(|spec| spec.file).collect::<Vec<_>>(), ["a", "a"]);
        assert_eq!(b.specs.iter().map(|spec| spec.file).collect::<Vec<_>>(), ["b", "b"]);
        assert_eq!((a.dispatches.len(), b.dispatches.len()), (2, 0));
        // Nobody records now.
        dispatch("c");
    }
}
