//! An allocator that knows the most memory that a piece of code held at once.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The global allocator of the test binary.
pub struct PeakMemory;

// Per thread, since other tests run meanwhile; constant, so that touching them does not allocate.
thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

// SAFETY: Every request is passed on to the system's allocator; `realloc` is left to the default, which uses these two.
unsafe impl GlobalAlloc for PeakMemory {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.set(HELD.get().saturating_add_unsigned(layout.size()));
        PEAK.set(PEAK.get().max(HELD.get()));
        // SAFETY: The caller keeps the promises that this function asks for, which are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        HELD.set(HELD.get().saturating_sub_unsigned(layout.size()));
        // SAFETY: As above, and the memory came from the system's allocator.
        unsafe { System.dealloc(place, layout) }
    }
}

/// What `work` returns, and by how many bytes this thread's memory grew at most while it ran.
pub fn measure<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    PEAK.set(before);
    let result = work();
    (result, usize::try_from(PEAK.get() - before).unwrap_or(0))
}
