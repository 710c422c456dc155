//! The threads that gather blocks into mapped memory, and find out which.

use crate::{Error, Result};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use web_time::{Duration, Instant};

/// Threads besides the caller's: five write 30 GB/s across an H100's link, more no faster.
const MOST: usize = 4;

/// How long a thread stays awake for work that is announced, or a caller for threads that are about to end theirs. Waking
/// up costs about 50 us, as much as writing 1 MB.
const AWAKE: Duration = Duration::from_micros(500);

/// A few threads that share work with the one that calls them.
pub struct Gatherers {
    pool: rayon::ThreadPool,
    /// Whether the work that was announced has come.
    is_called: Arc<AtomicBool>,
}

impl Gatherers {
    /// As many as are of use, and as this machine runs beside the caller.
    ///
    /// # Errors
    /// [`Error::Gpu`] when there are no threads to be had.
    pub fn new() -> Result<Self> {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get() - 1);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.clamp(1, MOST))
            .thread_name(|i| format!("gather {i}"))
            .build()
            .map_err(|e| Error::Gpu(format!("threads to gather blocks: {e}")))?;
        Ok(Self { pool, is_called: Arc::default() })
    }

    /// How many threads work, the caller's included.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads() + 1
    }

    /// Announces work that comes within microseconds, so that no thread has to be woken up for it.
    pub fn stand_by(&self) {
        self.is_called.store(false, Ordering::Release);
        let (is_called, began) = (self.is_called.clone(), Instant::now());
        self.pool.spawn_broadcast(move |_| {
            while !is_called.load(Ordering::Acquire) && began.elapsed() < AWAKE {
                std::hint::spin_loop();
            }
        });
    }

    /// Does `work` for each of these, while the caller does something `beside` and then helps; what that comes to.
    ///
    /// # Errors
    /// One that an item answers.
    pub fn run<T: Sync, U>(
        &self,
        items: &[T],
        work: impl Fn(&T) -> Result<()> + Sync,
        beside: impl FnOnce() -> U,
    ) -> Result<U> {
        self.is_called.store(true, Ordering::Release);
        let (next, ended) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let failed = Mutex::new(None);
        let share = || {
            while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(error) = work(item) {
                    *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                }
                ended.fetch_add(1, Ordering::Release);
            }
        };
        let made = self.pool.in_place_scope(|scope| {
            for _ in 1..self.threads().min(items.len()) {
                scope.spawn(|_| share());
            }
            let made = beside();
            share();
            // Else the scope sleeps until the last has ended.
            let began = Instant::now();
            while ended.load(Ordering::Acquire) < items.len() && began.elapsed() < AWAKE {
                std::hint::spin_loop();
            }
            made
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(made),
        }
    }

    /// What `work` makes of each of these, in their order; threads share it as by [`Gatherers::run`].
    pub fn map<T: Send, U: Send>(
        &self,
        items: impl Iterator<Item = T>,
        work: impl Fn(T) -> U + Sync,
    ) -> Vec<U> {
        let items: Vec<_> = items.map(|item| Mutex::new((Some(item), None))).collect();
        let one = |item: &Mutex<(Option<T>, Option<U>)>| {
            let (item, made) = &mut *item.lock().unwrap_or_else(PoisonError::into_inner);
            *made = item.take().map(&work);
            Ok(())
        };
        // No item answers an error.
        let _ = self.run(&items, one, || ());
        let made = items.into_iter().map(|item| item.into_inner());
        made.filter_map(|item| item.unwrap_or_else(PoisonError::into_inner).1).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_comes_in_order() {
        let gatherers = Gatherers::new().unwrap();
        for count in [0, 1, 3, 100] {
            let mut numbers: Vec<usize> = (0..count).collect();
            let made = gatherers.map(numbers.iter_mut(), |number| {
                *number += 1;
                2 * *number
            });
            assert_eq!(made, (1..=count).map(|number| 2 * number).collect::<Vec<_>>());
            assert_eq!(numbers, (1..=count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn everything_is_done_once_and_an_error_is_told() {
        let gatherers = Gatherers::new().unwrap();
        for count in [0, 1, 2, 50] {
            let done = Mutex::new(Vec::new());
            let items: Vec<usize> = (0..count).collect();
            gatherers.stand_by();
            let work = |&item: &usize| {
                done.lock().unwrap().push(item);
                if item == 30 { Err(Error::Gpu("the thirty-first".into())) } else { Ok(()) }
            };
            let all = gatherers.run(&items, work, || count);
            let mut done = done.into_inner().unwrap();
            done.sort_unstable();
            assert_eq!(done, items);
            assert_eq!(all.ok(), (count <= 30).then_some(count));
        }
    }
}
