//! Instead of object stores, in a build that has none.

use crate::{Error, Result};
use std::io;
use std::time::Duration;

/// There is none.
pub(super) enum Objects {}

impl Objects {
    pub(super) fn check(url: &str) -> Result<()> {
        let limit = "this program was built without the feature object-store";
        Err(Error::argument("the prefix bucket", url, limit))
    }

    pub(super) fn open(url: &str) -> Result<Self> {
        Self::check(url).map(|()| unreachable!("it is refused"))
    }

    pub(super) fn wait<T>(&self, _: impl Future<Output = T>) -> T {
        match *self {}
    }

    pub(super) fn sleep(&self, _: Duration) -> impl Future<Output = ()> + Unpin + use<> {
        match *self {}
        #[expect(unreachable_code)]
        futures::future::ready(())
    }

    pub(super) async fn contains(&self, _: &str) -> io::Result<bool> {
        match *self {}
    }

    pub(super) async fn get(&self, _: &str, _: usize) -> io::Result<Option<Vec<u8>>> {
        match *self {}
    }

    pub(super) async fn put(&self, _: &str, _: Vec<u8>) -> io::Result<()> {
        match *self {}
    }

    pub(super) async fn remove(&self, _: &str) -> io::Result<()> {
        match *self {}
    }
}
