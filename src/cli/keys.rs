//! The keys typed, and text pasted, while an answer is made.
//!
//! While nobody reads it, the terminal would be as shells leave it: it gathers a line of at most 4,095 characters, cuts the
//! rest, and shows it amid the answer. While this lives it keeps keys as they come, unseen, until the editor reads them, and
//! marks what is pasted. Ctrl-C stays what it is.

#[cfg(unix)]
pub use unix::{Keys, restore};

#[cfg(not(unix))]
pub use other::Keys;

#[cfg(unix)]
mod unix {
    use nix::libc;
    use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
    use std::fs::{File, OpenOptions};
    use std::io::Write;
    use std::sync::Mutex;

    /// The terminal, and how it was found.
    static FOUND: Mutex<Option<(File, Termios)>> = Mutex::new(None);

    /// A terminal that keeps its keys.
    pub struct Keys(());

    impl Keys {
        /// From now on, where there is a terminal that can be told so.
        pub fn keep() -> Option<Self> {
            let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty").ok()?;
            let found = tcgetattr(&terminal).ok()?;
            let mut keeping = found.clone();
            keeping.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
            let mut place = FOUND.lock().ok()?;
            // However the program ends, by a signal that it listens to as well.
            // SAFETY: the function takes nothing and is there as long as the program.
            if unsafe { libc::atexit(restore_at_exit) } != 0 {
                return None;
            }
            tcsetattr(&terminal, SetArg::TCSANOW, &keeping).ok()?;
            *place = Some((terminal, found));
            drop(place);
            let keys = Self(());
            keys.mark_pastes();
            Some(keys)
        }

        /// Has what is pasted marked, which the editor ends with each question.
        pub fn mark_pastes(&self) {
            if let Ok(Some((terminal, _))) = FOUND.lock().as_deref_mut() {
                let _ = terminal.write_all(b"\x1b[?2004h");
            }
        }
    }

    impl Drop for Keys {
        fn drop(&mut self) {
            restore();
        }
    }

    extern "C" fn restore_at_exit() {
        restore();
    }

    /// Leaves the terminal as it was found. Takes no memory and waits for nothing: handlers of signals may call it.
    pub fn restore() {
        // Whoever ends the program does not wait for anybody.
        let Ok(mut place) = FOUND.try_lock() else { return };
        if let Some((mut terminal, found)) = place.take() {
            let _ = terminal.write_all(b"\x1b[?2004l");
            let _ = tcsetattr(&terminal, SetArg::TCSANOW, &found);
        }
    }
}

#[cfg(not(unix))]
mod other {
    /// Nothing is to be done elsewhere.
    pub struct Keys(());

    impl Keys {
        /// Never.
        pub fn keep() -> Option<Self> {
            None
        }

        /// Nothing.
        pub fn mark_pastes(&self) {}
    }
}
