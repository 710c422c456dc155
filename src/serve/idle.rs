//! Conversations that nobody is answered in: what others may begin with.

use super::prefix::Chain;
use crate::engine::Session;

/// Sessions of requests that ended or wait again, the one used last at the end.
#[derive(Debug, Default)]
pub(super) struct Idle {
    kept: Vec<Kept>,
}

/// A session that is kept.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) session: Session,
    /// The first tokens of it that were computed as a prompt.
    pub(super) read: u32,
    /// The keys of its blocks.
    pub(super) chain: Chain,
}

impl Idle {
    /// Keeps a session that holds anything.
    pub(super) fn keep(&mut self, kept: Kept) {
        if !kept.session.is_empty() {
            self.kept.push(kept);
        }
    }

    /// Those that are kept.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Kept> {
        self.kept.iter()
    }

    /// The same, to be changed.
    pub(super) fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut Kept> {
        self.kept.iter_mut()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    /// Takes one out.
    pub(super) fn take(&mut self, place: usize) -> Kept {
        self.kept.remove(place)
    }

    /// One that is used now.
    pub(super) fn touch(&mut self, place: usize) -> &mut Kept {
        let kept = self.kept.remove(place);
        self.kept.push(kept);
        self.kept.last_mut().expect("just put there")
    }

    /// Forgets the one that was used the longest ago; false where there is none.
    pub(super) fn forget(&mut self) -> bool {
        let some = !self.kept.is_empty();
        if some {
            self.kept.remove(0);
        }
        some
    }
}
