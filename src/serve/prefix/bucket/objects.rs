//! Objects by their names: in storage that speaks S3, or in a folder.

use crate::{Error, Result};
use futures::FutureExt;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientConfigKey, Error as Problem, ObjectStore, ObjectStoreExt, RetryConfig,
};
use std::io;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

const FORMS: &str = "it is s3://BUCKET/FOLDER, or file:///FOLDER";

/// How often a request is tried again, and for how long.
const AGAIN: usize = 3;
const AGAIN_FOR: Duration = Duration::from_secs(20);

/// How long it may take to tell whether an object is there, for which a prompt waits, and to bring one or to remove it.
const ASKED: Duration = Duration::from_secs(3);
const BROUGHT: Duration = Duration::from_secs(60);

/// Objects whose names begin with a folder.
pub(super) struct Objects {
    store: Box<dyn ObjectStore>,
    folder: Path,
    /// What requests run on; none while it ends.
    runtime: Option<Runtime>,
}

impl Drop for Objects {
    fn drop(&mut self) {
        // Who drops it may be a task of another runtime, which must not wait.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What an address names.
enum Address<'u> {
    S3 { bucket: &'u str, folder: Path },
    Folder(&'u str),
}

impl<'u> Address<'u> {
    fn parse(url: &'u str) -> Result<Self> {
        match url.split_once("://") {
            Some(("s3", rest)) => {
                let (bucket, folder) = rest.split_once('/').unwrap_or((rest, ""));
                let is_of_name = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
                if bucket.is_empty() || !bucket.chars().all(is_of_name) {
                    return Err(refused(url, FORMS));
                }
                let folder = Path::parse(folder).map_err(|problem| refused(url, problem))?;
                Ok(Self::S3 { bucket, folder })
            }
            Some(("file", folder)) if folder.starts_with('/') && folder.len() > 1 => {
                Ok(Self::Folder(folder))
            }
            _ => Err(refused(url, FORMS)),
        }
    }
}

fn refused(url: &str, limit: impl ToString) -> Error {
    Error::argument("the prefix bucket", url, limit.to_string())
}

// What an address names, and the folder in it; nothing is asked of another machine.
fn store(url: &str) -> Result<(Box<dyn ObjectStore>, Path)> {
    Ok(match Address::parse(url)? {
        Address::S3 { bucket, folder } => {
            let store = s3(bucket)?.build().map_err(|problem| refused(url, problem))?;
            (Box::new(store), folder)
        }
        Address::Folder(folder) => {
            // It is not made: what is not mounted would fill the disk that it is mounted on.
            let there = std::fs::read_dir(folder);
            there.map_err(|source| Error::Io { path: folder.into(), source })?;
            let store = LocalFileSystem::new_with_prefix(folder);
            (Box::new(store.map_err(|problem| refused(url, problem))?), Path::default())
        }
    })
}

impl Objects {
    /// Refuses what cannot be opened, as far as it can be told without asking another machine.
    pub(super) fn check(url: &str) -> Result<()> {
        store(url).map(drop)
    }

    pub(super) fn open(url: &str) -> Result<Self> {
        let failed = |source| Error::Io { path: "the thread of the prefix bucket".into(), source };
        let (store, folder) = store(url)?;
        let mut runtime = Builder::new_multi_thread();
        runtime.worker_threads(1).thread_name("prefix bucket").enable_all();
        let runtime = Some(runtime.build().map_err(failed)?);
        Ok(Self { store, folder, runtime })
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it has not ended")
    }

    /// Waits on a thread that may for what requests make.
    pub(super) fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime().block_on(work)
    }

    /// Ends after a time, whoever waits for it.
    pub(super) fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Unpin + use<> {
        self.runtime().spawn(async move { tokio::time::sleep(time).await }).map(drop)
    }

    fn path(&self, name: &str) -> Path {
        name.split('/').fold(self.folder.clone(), |path, part| path.join(part))
    }

    /// Whether there is an object.
    pub(super) async fn contains(&self, name: &str) -> io::Result<bool> {
        let path = self.path(name);
        Ok(there(within(ASKED, self.store.head(&path)).await)?.is_some())
    }

    /// An object, if there is one; nothing of one that has another size.
    pub(super) async fn get(&self, name: &str, size: usize) -> io::Result<Option<Vec<u8>>> {
        let path = self.path(name);
        let get = async {
            let found = self.store.get(&path).await?;
            if found.meta.size != size as u64 {
                return Ok(Vec::new());
            }
            found.bytes().await.map(Vec::from)
        };
        there(within(BROUGHT, get).await)
    }

    /// Puts an object there, whole or not at all.
    pub(super) async fn put(&self, name: &str, bytes: Vec<u8>) -> io::Result<()> {
        let path = self.path(name);
        within(BROUGHT, self.store.put(&path, bytes.into())).await?.map(drop).map_err(said)
    }

    /// Removes an object, if there is one.
    pub(super) async fn remove(&self, name: &str) -> io::Result<()> {
        let path = self.path(name);
        there(within(BROUGHT, self.store.delete(&path)).await).map(drop)
    }
}

// What came of a request, or that nothing did in so long. Its crate panics at requests that HTTP cannot have, such as those that are signed
// by a key with a line break in it.
async fn within<T>(time: Duration, request: impl Future<Output = T>) -> io::Result<T> {
    let request = AssertUnwindSafe(request).catch_unwind();
    match tokio::time::timeout(time, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(io::Error::other("what the environment has for it makes no request")),
        Err(_) => Err(io::Error::other(format!("nothing came in {} s", time.as_secs()))),
    }
}

// What is not there is no problem.
fn there<T>(answer: io::Result<object_store::Result<T>>) -> io::Result<Option<T>> {
    match answer? {
        Ok(answer) => Ok(Some(answer)),
        Err(Problem::NotFound { .. }) => Ok(None),
        Err(problem) => Err(said(problem)),
    }
}

// A problem in one line, down to what it came from.
fn said(problem: Problem) -> io::Error {
    let mut words = problem.to_string();
    let mut cause: &dyn std::error::Error = &problem;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let last = cause.to_string();
    if !words.contains(&last) {
        words = format!("{words}: {last}");
    }
    io::Error::other(words.split_whitespace().collect::<Vec<_>>().join(" "))
}

// A bucket, with keys and region as the environment has them for all programs that speak S3.
fn s3(bucket: &str) -> Result<AmazonS3Builder> {
    // Others in this program may have chosen theirs.
    let _ = rustls::crypto::ring::default_provider().install_default();
    for (name, value) in std::env::vars_os() {
        let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
        if name.starts_with("AWS_") && value.chars().any(char::is_control) {
            let limit = "no request can have that in it: look how it was read from its file";
            return Err(Error::argument(name, "a text with a line break or the like", limit));
        }
    }
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
    for name in ["AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AWS_ENDPOINT_URL_S3"] {
        let Ok(endpoint) = std::env::var(name) else { continue };
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            return Err(Error::argument(name, endpoint, "it begins with http:// or https://"));
        }
        // Who names one without TLS wants it.
        builder = builder.with_allow_http(endpoint.starts_with("http://"));
    }
    if std::env::var_os("AWS_TIMEOUT").is_none() {
        let key = AmazonS3ConfigKey::Client(ClientConfigKey::Timeout);
        builder = builder.with_config(key, format!("{} s", BROUGHT.as_secs()));
    }
    let retry = RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: AGAIN,
        retry_timeout: AGAIN_FOR,
    };
    // Not all storage has requests for many objects.
    Ok(builder.with_disable_bulk_delete(true).with_retry(retry))
}
