//! Finding metadata and tensors by name.

/// The order of a list's items by name.
///
/// A sorted list of positions rather than a hash map: half the memory, and no names to copy.
pub(super) struct Names(Vec<usize>);

impl Names {
    /// Orders `items`; the error is the position of one whose name an earlier one has.
    pub(super) fn new<T>(items: &[T], name: fn(&T) -> &str) -> Result<Self, usize> {
        let mut order: Vec<usize> = (0..items.len()).collect();
        order.sort_unstable_by_key(|&index| (name(&items[index]), index));
        match order.windows(2).find(|pair| name(&items[pair[0]]) == name(&items[pair[1]])) {
            Some(pair) => Err(pair[1]),
            None => Ok(Self(order)),
        }
    }

    /// The item called `wanted` in the `items` that were ordered.
    pub(super) fn find<'a, T>(
        &self,
        items: &'a [T],
        name: fn(&T) -> &str,
        wanted: &str,
    ) -> Option<&'a T> {
        let place = self.0.binary_search_by_key(&wanted, |&index| name(&items[index])).ok()?;
        Some(&items[self.0[place]])
    }
}
